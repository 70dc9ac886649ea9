"""Distinct units and pairs of units, fast: axes along which labels only repeat are cut to one first."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distinct_pairs", "in_order", "shrink"]


def shrink(*tensors: Tensor) -> tuple[list[Tensor], torch.Size]:
    """The tensors broadcast to one shape, then cut to size 1 along axes on which all are expanded; the full shape."""
    full = list(torch.broadcast_tensors(*tensors))
    shape = full[0].shape
    for axis in range(len(shape)):
        if shape[axis] > 1 and all(t.stride(axis) == 0 for t in full):
            full = [t.narrow(axis, 0, 1) for t in full]
    return full, shape


def distinct_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct pairs [2, n], for each place the number of its pair), of two tensors of one shape, entries >= -1."""
    packed = ((a + 1) << 32) | (b + 1)  # unit numbers stay far below 2^31
    found, inverse = torch.unique(packed, return_inverse=True)
    return torch.stack([(found >> 32) - 1, (found & 0xFFFFFFFF) - 1]), inverse


def in_order(keys: Tensor) -> Tensor:
    """The keys replaced by 0, 1, 2, ... in the order in which they first appear."""
    distinct, inverse = torch.unique(keys, return_inverse=True)
    places = torch.arange(inverse.numel())
    first = torch.full((len(distinct),), len(places)).scatter_reduce(0, inverse.reshape(-1), places, "amin")
    return torch.argsort(torch.argsort(first))[inverse]
