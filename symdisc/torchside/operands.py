"""Elements, weights and gains as the tensors that kernels work on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from symdisc.moves import Move, Through

__all__ = ["Array", "along", "compute", "inverse_gain", "positions", "tensor", "wide"]

Array = np.ndarray | Tensor


def compute(t: Tensor) -> Tensor:
    """In float32 at least."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def tensor(array: Array, like: Tensor) -> Tensor:
    """An element in the type and on the device of a weight; whole numbers as they are."""
    if isinstance(array, Tensor):
        return array.to(like)
    return torch.as_tensor(array, device=like.device).to(like.dtype) if array.dtype.kind != "i" else torch.as_tensor(array)


def wide(array: Array) -> Array:
    """An element in float64, or the tensor that it is."""
    return array if isinstance(array, Tensor) else np.asarray(array, dtype=np.float64)


def positions(move: Move, like: Tensor) -> Tensor:
    """Where a move acts along its axis, [copies, blocks, size]."""
    return torch.as_tensor(move.index.positions(), device=like.device)


def along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector shaped to meet ``x`` along one axis."""
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def inverse_gain(move: Move | Through, state: Mapping[str, Tensor]) -> Tensor:
    """min|gamma| / gamma in float64, largest entry 1: trained gains come as small as 1e-33, and 1 / gamma would drown the weight."""
    assert move.gain is not None
    gain = state[move.gain].double().reshape(-1) + move.offset
    return gain.abs().min() / gain
