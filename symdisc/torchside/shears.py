"""Kernels of shears: S = exp(t 1 l^T / sum(l)) with l = 1/gamma, which a vector gamma n, n orthogonal to 1, does not feel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from symdisc.moves import Move
from symdisc.torchside.operands import Array, compute, inverse_gain, positions, tensor, wide

__all__ = ["shear", "shear_bias"]


def _leaning(move: Move, x: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """l / sum(l) with l = 1/gamma, [n]; of ones where no gain is named."""
    n = move.index.size
    l = torch.ones(n, dtype=torch.float64, device=x.device) if move.gain is None else inverse_gain(move, state)
    return (l / l.sum()).to(x.dtype)


def shear(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    """S = exp(t 1 l^T), l of sum 1, on vectors, about a centre where one is named; or S^-T."""
    t, l = tensor(wide(array), x).reshape(()), _leaning(move, x, state)
    moved = x.movedim(axis, 0)
    for copy in positions(move, x):
        places = copy.reshape(-1)
        part = moved[places].flatten(1) if x.dim() > 1 else moved[places][:, None]
        if move.rep == "g":
            centre = compute(state[move.extra[0]]).to(x.dtype).reshape(-1, 1) if move.extra else 0.0
            part = part + torch.expm1(t) * (l @ (part - centre))
        else:
            part = part + torch.expm1(-t) * l[:, None] * part.sum(0)
        moved = moved.index_copy(0, places, part.reshape(len(places), *moved.shape[1:]))
    return moved.movedim(0, axis)


def shear_bias(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    """What W - W S^-1 makes of the centre is added."""
    t, l, (name, centre) = tensor(wide(array), x).reshape(()), _leaning(move, x, state), move.extra
    sums = compute(state[name]).to(x.dtype).sum(move.inner[0].axis)
    return x - torch.expm1(-t) * (l @ compute(state[centre]).to(x.dtype).reshape(-1)) * sums
