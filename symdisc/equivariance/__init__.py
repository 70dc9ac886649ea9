"""Equivariance of operators: which affine changes of the inputs an operator turns into affine changes of its output."""

from symdisc.equivariance.record import Discrete, Equivariance, Family, Pair
from symdisc.equivariance.solve import equivariance

__all__ = ["Discrete", "Equivariance", "Family", "Pair", "equivariance"]
