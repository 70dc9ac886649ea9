"""The linear system of an operator on whole feature spaces: unknown affine pairs, one equation per sampled output
entry.

    sum_a sum_e dy[d, g]/dx_a[e, f] (M_a[f, h] x_a[e, h] + m_a[f]) = sum_h N[g, h] y[d, h] + n[g]

with d, e over data entries (tokens) and f, g, h over feature entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Layout", "Sample", "Space", "equations"]


@dataclass(frozen=True)
class Space:
    """A tensor as [data, feature]; ``parts`` are the sizes that make up the feature axis."""

    name: str
    data: int
    feature: int
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The inputs and the output of an operator, and where the entries of each unknown stand in the vector."""

    inputs: tuple[Space, ...]
    output: Space

    @cached_property
    def offsets(self) -> dict[str, tuple[int, int]]:
        """Start of the matrix and of the shift of every space."""
        found, at = {}, 0
        for space in (*self.inputs, self.output):
            found[space.name] = (at, at + space.feature**2)
            at += space.feature**2 + space.feature
        return found

    @property
    def unknowns(self) -> int:
        return sum(s.feature**2 + s.feature for s in (*self.inputs, self.output))

    @property
    def input_unknowns(self) -> int:
        return self.offsets[self.output.name][0]

    def space(self, name: str) -> Space:
        """The space of that name."""
        return next(s for s in (*self.inputs, self.output) if s.name == name)

    def vector(self, parts: Mapping[str, tuple[Any, Any]]) -> np.ndarray:
        """The vector of an element given as name -> (matrix or None, shift or None)."""
        v = np.zeros(self.unknowns)
        for name, (matrix, shift) in parts.items():
            a, b = self.offsets[name]
            f = self.space(name).feature
            if matrix is not None:
                v[a:b] = np.asarray(matrix, dtype=float).reshape(-1)
            if shift is not None:
                v[b : b + f] = np.asarray(shift, dtype=float)
        return v

    def entry(self, index: int) -> str:
        """The name of an unknown: M_q[0,1], m_q[1] of inputs; N[0,1], n[0] of the output."""
        single = len(self.inputs) == 1
        for space in (*self.inputs, self.output):
            a, b = self.offsets[space.name]
            last = space is self.output
            tail = "" if single or last else f"_{space.name}"
            if a <= index < b:
                return f"{'N' if last else 'M'}{tail}[{(index - a) // space.feature},{(index - a) % space.feature}]"
            if b <= index < b + space.feature:
                return f"{'n' if last else 'm'}{tail}[{index - b}]"
        raise IndexError(index)


@dataclass(frozen=True)
class Sample:
    """One point: inputs [data, feature], output [data, feature], derivatives [out data, out feature, data, feature]."""

    inputs: Sequence[np.ndarray]
    output: np.ndarray
    jacobians: Sequence[np.ndarray]


def equations(layout: Layout, sample: Sample) -> np.ndarray:
    """Rows [out data * out feature, unknowns] of the system at one point; entries floats or balls, as in the sample."""
    d_count, g_count = sample.output.shape
    rows = np.zeros((d_count * g_count, layout.unknowns), dtype=sample.output.dtype)
    for space, x, jacobian in zip(layout.inputs, sample.inputs, sample.jacobians, strict=True):
        a, b = layout.offsets[space.name]
        flat = jacobian.reshape(d_count * g_count, space.data, space.feature).transpose(0, 2, 1)
        rows[:, a:b] = (flat @ x).reshape(d_count * g_count, -1)
        rows[:, b : b + space.feature] = flat.sum(axis=2)
    a, b = layout.offsets[layout.output.name]
    for g in range(g_count):
        for d in range(d_count):
            row = rows[d * g_count + g]
            row[a + g * g_count : a + (g + 1) * g_count] = -sample.output[d]
            row[b + g] = row[b + g] - 1
    return rows
