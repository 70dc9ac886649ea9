"""Kernels that reach beyond the border: which of their taps meet the image, place by place, and what constants they can make."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from symdisc.exact import null_space
from symdisc.opgraph import Op, OpGraph

__all__ = ["constant_taps"]

MOST = 128  # taps of a kernel up to which they are looked at one by one


def constant_taps(graph: OpGraph, op: Op) -> tuple[np.ndarray, np.ndarray] | None:
    """(numbers [r, taps] on the taps of a convolution that make the same of a constant image at every place, what they make [r]).

    At the border some taps meet zeros: a number may stand on them only if others make up for it. None where the padding is no number.
    """
    image, kernel = graph.shape(op.inputs[0]) or (), graph.shape(op.inputs[1]) or ()
    rank = len(kernel) - 2
    if "transpose" in op.packet or rank < 1 or int(np.prod(kernel[2:])) > MOST:
        return None
    stride, padding, dilation = (_each(op, k, rank, d) for k, d in ((3, 1), (4, 0), (5, 1)))
    if stride is None or padding is None or dilation is None:
        return None
    axes = [_met(*sizes) for sizes in zip(image[-rank:], kernel[2:], stride, padding, dilation, strict=True)]
    rows = np.array([_kron(parts) for parts in product(*axes)], dtype=object)
    free = null_space(rows - rows[:1]).basis.T
    return free.astype(np.int64), (free @ rows[0]).astype(np.int64)


def _each(op: Op, position: int, rank: int, default: int) -> Sequence[int] | None:
    """An argument with a number for each spatial axis."""
    name = {3: "stride", 4: "padding", 5: "dilation"}[position]
    found = op.args[position] if len(op.args) > position else dict(op.kwargs).get(name, default)
    if isinstance(found, str):
        return None
    numbers = found if isinstance(found, tuple) else (found,)
    return numbers * rank if len(numbers) == 1 else numbers or (default,) * rank


def _met(length: int, taps: int, stride: int, padding: int, dilation: int) -> list[tuple[int, ...]]:
    """For each place along an axis of the result which taps lie within the image (1) or beyond it (0); those that differ."""
    count = (length + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    found = (tuple(int(0 <= i * stride - padding + k * dilation < length) for k in range(taps)) for i in range(count))
    return list(dict.fromkeys(found))


def _kron(parts: Sequence[tuple[int, ...]]) -> np.ndarray:
    whole = np.ones(1, dtype=np.int64)
    for part in parts:
        whole = np.kron(whole, np.array(part, dtype=np.int64))
    return whole
