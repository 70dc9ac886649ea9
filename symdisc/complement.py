"""Directions of a space that no writer reaches, from the weights that write it: what the "blind" moves act along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from symdisc.moves import Move, Through

__all__ = ["complement", "unseen"]


def complement(move: Move, size: int, state: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(orthonormal basis [d, size] of what the columns of ``move.through`` leave, the constant [d] that is written).

    ``state`` holds arrays of numpy or torch. The basis depends on the weights that write alone, so it is the same before and after a
    blind move. A "blind" move that names constants has no bias to take them: its basis is orthogonal to their sum as well.
    """
    columns, constant = [], np.zeros(1)
    for k, step in enumerate(move.through):
        if step.kind == "centred parts":
            columns.append(_centred_parts(step, state))
            constant = constant + (_array(state[move.extra[0]]).reshape(-1) if move.extra else 0.0)
            continue
        weight = _array(state[step.parameter])
        part = np.moveaxis(weight if step.rows is None else weight[step.rows[0]:step.rows[1]], step.keep, 0)
        if step.kind == "written":
            constant = constant + part @ _array(state[move.extra[0]]).reshape(-1)
            if step.index is not None:
                constant = constant + _array(state[move.extra[1]]).reshape(-1)[step.index.positions().reshape(-1)]
            continue
        scaled = part if step.gain is None else part * (_array(state[step.gain]).reshape(-1) + step.offset)
        columns.append(scaled - scaled.mean(1, keepdims=True) if step.kind == "centred columns" else part.reshape(len(part), -1))
        shift, bias = move.extra[2 * k:2 * k + 2] or ("", "")
        constant = constant + (part @ _array(state[shift]).reshape(-1) if shift else 0.0) + (_array(state[bias]) if bias else 0.0)
    if move.kind == "blind" and any(move.extra):
        columns.append(constant[:, None])
    left = np.linalg.svd(np.concatenate(columns, 1), full_matrices=True)[0]
    return left[:, left.shape[1] - size:], constant


def _centred_parts(step: Through, state: Mapping[str, Any]) -> np.ndarray:
    """diag(gain) (1 - mean over each part), [d, d]: the directions in which a group-normed vector varies."""
    assert step.index is not None
    parts = step.index.positions()[0]
    d = parts.size
    gain = np.ones(d) if step.gain is None else _array(state[step.gain]).reshape(-1) + step.offset
    means = np.zeros((d, d))
    for part in parts:
        means[np.ix_(part, part)] = 1.0 / len(part)
    return gain[:, None] * (np.eye(d) - means)


def unseen(step: Through, size: int, state: Mapping[str, Any]) -> np.ndarray:
    """Orthonormal basis [n, size] of the vectors that a weight, read as a "dense" step reads it, turns into multiples of 1."""
    weight = np.moveaxis(_array(state[step.parameter]), (step.keep, step.axis), (0, 1))
    assert step.index is not None
    read = np.sum([weight[:, copy] for copy in step.index.positions().reshape(step.index.copies, -1)], axis=0)
    right = np.linalg.svd(read - read.mean(0), full_matrices=True)[2]
    return right[len(right) - size:].T


def _array(value: Any) -> np.ndarray:
    """float64 numbers of a numpy or torch array."""
    value = value.detach().cpu().double().numpy() if hasattr(value, "detach") else value
    return np.asarray(value, dtype=np.float64)
