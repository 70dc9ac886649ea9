"""The subspace that flows orthogonal to turning fields X_a(x) = A_a x + c_a keep (see ``conserved.rigid``): its values and formulas."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from symdisc.conserved.linear import exact_entry
from symdisc.generators import Generator

if TYPE_CHECKING:
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["Shapes", "fields", "places", "projector", "section_expression", "section_latex"]

Array = Any
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

POINTS = 12  # of the subspace that are asked beside the first


def places(generators: Sequence[Generator], shapes: Shapes) -> dict[str, np.ndarray]:
    """The flat positions of each parameter that anything turns or is turned into, in order."""
    found: dict[str, np.ndarray] = {n: np.zeros(s, dtype=bool) for n, s in shapes}
    for part in (p for g in generators for p in g.parts):
        seen = found[part.parameter]
        if part.axis < 0:
            seen.reshape(-1)[[i for i, _, _ in part.entries]] = True
        else:
            np.moveaxis(seen, part.axis, 0)[sorted({k for i, j, _ in part.entries for k in (i, j)})] = True
    return {n: np.flatnonzero(seen) for n, seen in found.items()}


@lru_cache(maxsize=64)
def fields(generators: tuple[Generator, ...], shapes: Shapes, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """X_a(x) = A_a x + c_a on the entries of ``places`` one behind the other: A [generators, N, N] and c [generators, N]."""
    sizes, seen = dict(shapes), places(generators, shapes)
    where, total = {}, 0
    for n, at in seen.items():
        where[n] = np.full(prod(sizes[n]), -1)
        where[n][at] = total + np.arange(len(at))
        total += len(at)
    kind: Any = object if exact else np.float64
    matrices, constants = np.zeros((len(generators), total, total), kind), np.zeros((len(generators), total), kind)
    for k, generator in enumerate(generators):
        for part in generator.parts:
            rows = where[part.parameter].reshape(sizes[part.parameter])
            for i, j, v in part.entries:
                value: Any = exact_entry(v) if exact else v
                if part.axis < 0:
                    constants[k, rows.reshape(-1)[i]] += value
                else:
                    turned = np.moveaxis(rows, part.axis, 0)
                    matrices[k, turned[i].ravel(), turned[j].ravel()] += value
    return matrices, constants


# --- values ---------------------------------------------------------------------------------------------------------------------
def projector(q: ConservedQuantity, params: Mapping[str, Array]) -> Array:
    """1 - P [N, N] on the entries that turn, parameter by parameter in the order of ``q.shapes``; numpy or torch, differentiable.

    Where centres are shifted, another column (1 - P) theta tells which of the parallel subspaces it is.
    """
    matrices, constants = fields(q.generators, q.shapes)
    parts = [params[n].reshape(-1)[at] for n, at in places(q.generators, q.shapes).items()]
    library = np if isinstance(parts[0], np.ndarray) else sys.modules["torch"]
    theta = library.concatenate(parts)
    a, c = (matrices, constants) if library is np else (theta.new_tensor(matrices), theta.new_tensor(constants))
    away = _away(q, library, theta, a, c)
    return library.concatenate([away, (away @ theta)[:, None]], 1) if bool(constants.any()) else away


def _away(q: ConservedQuantity, library: Any, theta: Array, a: Array, c: Array) -> Array:
    size, count = len(theta), len(q.generators)
    one = a[0] * 0 + (np.eye(size) if library is np else theta.new_tensor(np.eye(size)))

    def across(x: Array) -> Array:
        basis = library.linalg.qr((a @ x + c).T)[0]  # [N, generators], independent
        return basis @ basis.T

    if count == q.dimension:
        return across(theta)
    rng = np.random.default_rng(0)

    def fixed(*shape: int) -> Array:
        noise = rng.standard_normal(shape)
        return noise if library is np else theta.new_tensor(noise)

    reached = one - across(theta)
    for _ in range(POINTS):
        reached = reached + one - across(theta + reached @ fixed(size))
    basis = library.linalg.qr(reached @ fixed(size, size - q.dimension))[0]
    return one - basis @ basis.T


# --- formulas -------------------------------------------------------------------------------------------------------------------
def section_expression(q: ConservedQuantity) -> sp.Basic:
    """T (T^T T)^-1 T^T with the independent X_a(theta) for columns; theta theta^T beside 1 where only the length is seen; else 1 - P."""
    matrices, constants = fields(q.generators, q.shapes)
    size = matrices.shape[-1]
    name, shape = q.shapes[0]
    theta = sp.MatrixSymbol(name if len(q.shapes) == 1 and prod(shape) == size else "theta", size, 1)
    if size - q.dimension == 1 and not constants.any():
        return sp.Identity(size) - theta * (theta.T * theta).inv() * theta.T
    if len(q.generators) == q.dimension:
        linear = [_exact(m) * theta for m in matrices]
        columns = [x + _exact(c[:, None]) if c.any() else x for x, c in zip(linear, constants, strict=True)]
        t = sp.BlockMatrix([columns]) if len(columns) > 1 else columns[0]
        return t * (t.T * t).inv() * t.T
    return sp.Identity(size) - sp.MatrixSymbol("P", size, size)


def _exact(values: np.ndarray) -> sp.ImmutableMatrix:
    return sp.ImmutableMatrix([[sp.nsimplify(v, rational=True) for v in row] for row in values.tolist()])


def section_latex(q: ConservedQuantity) -> str:
    """The quantity, and what its letters are."""
    _, constants = fields(q.generators, q.shapes)
    size, count = constants.shape[-1], len(q.generators)
    if size - q.dimension == 1 and not constants.any():
        return r"Q = 1 - \theta \theta^{\top} / |\theta|^{2}"
    columns = ", ".join(rf"X_{{{k}}}(\theta)" for k in ((1, 2) if count == 2 else (1,))) + (
        rf", \dots, X_{{{count}}}(\theta)" if count > 2 else "")
    told = rf"T = [{columns}]"
    if count == q.dimension:
        q_is = r"Q = T (T^{\top} T)^{-1} T^{\top}"
        return rf"{q_is},\quad {told}" + (r",\quad Q\, \theta" if constants.any() else "")
    least = r"L \ni \theta \text{ the least with } \{X_a(x)\}^{\perp} \subseteq L \text{ for generic } x \in L"
    return rf"Q = 1 - P_{{L(\theta)}},\quad {least}"
