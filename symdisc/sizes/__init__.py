"""Sizes as expressions: which axis lengths of a traced network are one number, products or sums of smaller ones."""

from symdisc.sizes.atoms import Sizes, Unexplained
from symdisc.sizes.infer import Inferred, infer_sizes
from symdisc.sizes.shrink import shrink_sizes

__all__ = ["Inferred", "Sizes", "Unexplained", "infer_sizes", "shrink_sizes"]
