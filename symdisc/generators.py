"""Linear symmetries without a name: affine vector fields on parameters with constant coefficients, and their exponentials.

A generator moves each parameter W by ``sum_a A_a W + T``, with a matrix A_a along each axis and a constant tensor T. Matrices
along different axes commute, so the finite element is ``W -> exp(A_0) x ... x exp(A_n) W``, with a constant part worked out in
one dimension more. Entries are rational where small fractions fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import expm

from symdisc.exact import rational

__all__ = ["Candidates", "Generator", "Part", "exponentiate", "tidy"]

Layout = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """What a generator does to one parameter: along ``axis`` entries (i, j, value) of a matrix; on axis -1 entries
    (flat index, 0, value) of a constant tensor."""

    parameter: str
    axis: int
    entries: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Generator:
    """An affine vector field on the parameters with constant coefficients."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.parameter for p in self.parts))

    @property
    def constant(self) -> bool:
        """Moves everything by constants."""
        return all(p.axis == -1 for p in self.parts)

    def to_dict(self) -> list[Any]:
        return [[p.parameter, p.axis, [list(e) for e in p.entries]] for p in self.parts]

    @classmethod
    def from_dict(cls, d: list[Any]) -> Generator:
        return cls(tuple(Part(n, a, tuple((int(i), int(j), float(v)) for i, j, v in e)) for n, a, e in d))


@dataclass(frozen=True)
class Candidates:
    """All fields of the form above for parameters of given shapes, numbered: matrix entries axis by axis, then constants."""

    layout: dict[str, tuple[int, ...]]

    def slots(self) -> list[tuple[str, int, int]]:
        """(parameter, axis, number of unknowns) in order; axis -1 for the constants."""
        out = []
        for name, shape in self.layout.items():
            out += [(name, a, n * n) for a, n in enumerate(shape)]
            out.append((name, -1, int(np.prod(shape))))
        return out

    @property
    def count(self) -> int:
        return sum(n for _, _, n in self.slots())

    @property
    def points(self) -> int:
        """Weights at which a field must be seen before none but the zero field can vanish at all of them."""
        return max((-(-(sum(n * n for n in s) + int(np.prod(s))) // max(int(np.prod(s)), 1)) for s in self.layout.values()), default=1)

    def fields(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every candidate evaluated at ``state``, as columns [D, count]."""
        size = sum(int(np.prod(s)) for s in self.layout.values())
        columns = np.zeros((size, self.count))
        row = at = 0
        for name, shape in self.layout.items():
            w, n = np.asarray(state[name]).reshape(shape), int(np.prod(shape))
            for axis, k in enumerate(shape):
                block = np.zeros((*shape, k, k))
                moved = np.moveaxis(block, axis, 0)  # [k, rest..., k, k]
                rows = np.moveaxis(w, axis, 0)
                for i in range(k):
                    moved[i, ..., i, :] = np.moveaxis(rows, 0, -1)
                columns[row:row + n, at:at + k * k] = block.reshape(n, k * k)
                at += k * k
            columns[row:row + n, at:at + n] = np.eye(n)
            at, row = at + n, row + n
        return columns

    def generator(self, coefficients: np.ndarray) -> Generator:
        """The field with the given coefficients [count]."""
        parts, at = [], 0
        for name, axis, n in self.slots():
            values = coefficients[at:at + n]
            at += n
            found = np.nonzero(values)[0]
            if len(found):
                k = 1 if axis == -1 else self.layout[name][axis]
                parts.append(Part(name, axis, tuple((int(f) // k, int(f) % k, float(values[f])) for f in found)))
        return Generator(tuple(parts))


def tidy(rows: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Entries replaced by the small fraction that they are within ``tolerance`` of, where there is one."""
    out = rows.copy()
    for index in np.argwhere(np.abs(rows) > 0):
        fraction = rational(float(rows[tuple(index)]), max_denominator=24, tolerance=tolerance)
        if fraction is not None:
            out[tuple(index)] = float(fraction)
    return out


def exponentiate(generators: Sequence[Generator], coefficients: np.ndarray, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """exp(sum_k c_k X_k) applied to ``state``: new float64 arrays for the parameters that move."""
    out = {}
    for name in dict.fromkeys(n for g in generators for n in g.parameters):
        w = np.asarray(state[name], dtype=np.float64)
        matrices: dict[int, np.ndarray] = {}
        constant = np.zeros(w.size)
        for g, c in zip(generators, coefficients, strict=True):
            for part in g.parts:
                if part.parameter != name:
                    continue
                if part.axis == -1:
                    for i, _, v in part.entries:
                        constant[i] += c * v
                    continue
                a = matrices.setdefault(part.axis, np.zeros((w.shape[part.axis],) * 2))
                for i, j, v in part.entries:
                    a[i, j] += c * v
        out[name] = _act(w, matrices, constant)
    return out


def _act(w: np.ndarray, matrices: dict[int, np.ndarray], constant: np.ndarray) -> np.ndarray:
    if constant.any() and matrices:
        # exp of [[L, t], [0, 0]] with L the sum of the axes' matrices on the flattened parameter
        n = w.size
        whole = np.zeros((n + 1, n + 1))
        for axis, a in matrices.items():
            before, after = int(np.prod(w.shape[:axis])), int(np.prod(w.shape[axis + 1:]))
            whole[:n, :n] += np.kron(np.kron(np.eye(before), a), np.eye(after))
        whole[:n, n] = constant
        return np.asarray((expm(whole) @ np.append(w.ravel(), 1.0))[:n].reshape(w.shape))
    for axis, a in matrices.items():
        w = np.moveaxis(np.tensordot(expm(a), w, (1, axis)), 0, axis)
    return np.asarray(w + constant.reshape(w.shape))
