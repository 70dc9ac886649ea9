"""Operators given only as a callable: the same linear systems from samples in float64. Evidence, not proof.

Each element found is also tried as a finite transformation, so that a function that jumps (whose derivative says
nothing about the jumps) is not given symmetries that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import sympy as sp
from scipy.linalg import expm

from symdisc.equivariance.discrete import element, permutation
from symdisc.equivariance.naming import name_families
from symdisc.equivariance.record import WITNESSED, Discrete, Equivariance, Pair
from symdisc.equivariance.system import Layout, Sample, Space, equations
from symdisc.equivariance.units import fixed_points, name_unit, total_dimension, unit_pairs
from symdisc.equivariance.vector import solve_system
from symdisc.errors import BadInput, Undecided
from symdisc.exact import echelon, null_space, rational

__all__ = ["solve_callable"]

_TRY = 0.15  # size of the finite elements tried


class Sampler(Protocol):
    """What is asked of a probe (``symdisc.torchside.probe.Probe``)."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def arity(self) -> int: ...
    def __call__(self, *inputs: np.ndarray) -> np.ndarray: ...
    def is_elementwise(self, seed: int = 0) -> bool: ...
    def slopes(self, *inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]: ...
    def jacobian(self, *inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]: ...
    def borders(self) -> list[float]: ...


def solve_callable(probe: Sampler, size: int | None) -> Equivariance:
    """The equivariance of a callable: per unit when it is elementwise and no size is given. Raises BadInput,
    Undecided.
    """
    elementwise = _elementwise(probe, size)
    if elementwise:
        return _unit(probe, size)
    if size is None:
        raise BadInput(
            f"{probe.name} is not elementwise; give the feature size, as in equivariance({probe.name}, size=4)"
        )
    return _whole(probe, size)


def _elementwise(probe: Sampler, size: int | None) -> bool:
    try:
        return probe.is_elementwise()
    except BadInput:
        if size is None:
            raise
        return False  # a callable that takes vectors of one size only


def _points(probe: Sampler, seed: int) -> list[np.ndarray]:
    """Inputs that reach small, usual and far values; independent for several inputs."""
    rng = np.random.default_rng(seed)
    if probe.arity == 1:
        near = np.linspace(-7.93, 8.07, 331) + rng.uniform(-0.02, 0.02, 331)
        return [np.concatenate([near, *(rng.uniform(-r, r, 60) for r in (0.5, 30, 300, 3000))])]
    return [rng.standard_normal(400) * rng.choice([0.3, 1.5, 4.0], 400) for _ in range(probe.arity)]


def _unit(probe: Sampler, size: int | None) -> Equivariance:
    x = _points(probe, 0)
    y, slopes, good = probe.slopes(*x)
    good &= np.abs(y) < 1e8
    if good.sum() < 20:
        raise BadInput(
            f"{probe.name} has finite, smooth values at {int(good.sum())} of {len(good)} sample points: too few"
        )
    x, y, slopes = [v[good] for v in x], y[good], [d[good] for d in slopes]
    columns = [c for v, d in zip(x, slopes, strict=True) for c in (v * d, d)]
    rows = np.stack([*columns, -y, -np.ones_like(y)], axis=1)
    borders = probe.borders() if probe.arity == 1 else []
    if borders:
        rows = np.vstack([rows, [[p, 1.0, 0.0, 0.0] for p in borders]])
    basis, gap = solve_system(rows)
    inputs = probe.inputs
    names = ("c", "t", "b", "s") if probe.arity == 1 else (*(f"{k}_{v}" for v in inputs for k in "ct"), "b", "s")
    vectors = [[_number(v) for v in row] for row in echelon(basis)[0]] if basis.shape[1] else []
    kind = "generic" if borders else _kind(x, y)  # affine as far as the samples reach, but not beyond: far clamps, overflow
    for vector in vectors:
        _try_unit(probe, vector, x)
    dimension = total_dimension(kind, len(vectors), probe.arity, size)
    families = name_unit(kind, names, vectors, inputs, size)
    discrete = _discrete(probe, x, y, vectors) if kind == "generic" else ()
    return Equivariance(
        probe.name,
        "",
        dimension,
        families,
        discrete,
        WITNESSED,
        True,
        inputs,
        size,
        pairs=unit_pairs(names, vectors, [False] * len(vectors)),
        evidence={"gap": gap, "samples": len(y), "borders": borders[:20], "kind": kind, "arithmetic": "float64"},
    )


def _number(value: float) -> sp.Expr:
    near = rational(float(value), tolerance=1e-7)
    return sp.Float(float(value)) if near is None else sp.Rational(near.numerator, near.denominator)


def _kind(x: Sequence[np.ndarray], y: np.ndarray) -> str:
    design = np.stack([*x, np.ones_like(y), y], axis=1)
    size = np.abs(design).max(axis=0)
    if null_space(design / np.where(size > 0, size, 1), what="affine test").dimension == 0:
        return "generic"
    return "constant" if np.ptp(y) <= 1e-12 * (1 + np.abs(y).max()) else "affine"


def _flow(a: float, shift: float) -> np.ndarray:
    return expm(_TRY * np.array([[a, shift], [0.0, 0.0]]))


def _try_unit(probe: Sampler, vector: Sequence[sp.Expr], x: Sequence[np.ndarray]) -> None:
    """f after the finite input element equals the finite output element after f."""
    v = [float(e) for e in vector]
    largest = max(map(abs, v))
    v = [e / largest for e in v]
    moved = []
    for a, values in enumerate(x):
        g = _flow(v[2 * a], v[2 * a + 1])
        moved.append(g[0, 0] * values + g[0, 1])
    h = _flow(v[-2], v[-1])
    _demand(probe, probe(*moved), h[0, 0] * probe(*x) + h[0, 1])


def _demand(probe: Sampler, left: np.ndarray, right: np.ndarray) -> None:
    both = np.isfinite(left) & np.isfinite(right)
    error = np.abs(left - right)[both] / (1e-6 + np.abs(right[both]))
    if not both.any() or error.max() > 1e-5:
        raise Undecided(
            f"{probe.name}: its derivatives allow an element that its values refuse; it jumps, or its backward pass is "
            "not its derivative: give a formula"
        )


def _discrete(
    probe: Sampler, x: Sequence[np.ndarray], y: np.ndarray, vectors: Sequence[Sequence[sp.Expr]]
) -> tuple[Discrete, ...]:
    found = [permutation(probe.arity > 1)]
    if probe.arity > 1:
        return tuple(found)
    half = sp.Rational(1, 2)
    centres = [sp.Integer(0), *fixed_points(vectors), *(k * half for k in range(-6, 7) if k)]
    reflections = (_relation(probe, x[0], y, -1, 2 * p) for p in centres)
    hits = [r for r in reflections if r is not None]
    found += sorted(hits, key=lambda r: r.needs_linear_path)[:1]
    if any(v[0] == 0 and v[1] != 0 for v in vectors):
        return tuple(found)  # translations are in the continuous part
    for t in (sp.pi / 4, half, sp.pi / 2, sp.Integer(1), sp.Integer(2), sp.pi, 2 * sp.pi, 4 * sp.pi):
        shift = _relation(probe, x[0], y, 1, t)
        if shift is not None and not shift.needs_linear_path:  # a square has those for every t
            found.append(shift)
            if shift.value("b") != -1:
                break
    return tuple(found)


def _relation(probe: Sampler, x: np.ndarray, y: np.ndarray, c: int, t: sp.Expr) -> Discrete | None:
    moved = probe(c * x + float(t))
    if not np.isfinite(moved).all():
        return None
    weight = 1 / (1 + np.abs(y) + np.abs(moved))
    design = np.stack([y, np.ones_like(y), x], axis=1) * weight[:, None]
    b, s, l = np.linalg.lstsq(design, moved * weight, rcond=None)[0]
    if np.abs(design @ np.array([b, s, l]) - moved * weight).max() > 1e-10 or abs(b) < 1e-9:
        return None
    b, s, l = (_number(v) if abs(v) > 1e-9 else sp.Integer(0) for v in (b, s, l))
    return element(sp.Integer(c), t, b, s, l, WITNESSED)


def _whole(probe: Sampler, size: int) -> Equivariance:
    rng = np.random.default_rng(0)
    first = probe.jacobian(*(rng.standard_normal(size) for _ in range(probe.arity)))
    names = probe.inputs
    layout = Layout(tuple(Space(n, 1, size, (size,)) for n in names), Space("out", 1, len(first[0]), (len(first[0]),)))
    rows = _rows(probe, layout, rng, 4 + 2 * layout.unknowns // len(first[0]))
    for more in (3, 10, None):
        basis, gap = solve_system(rows)
        fresh = [[rng.standard_normal(size) for _ in names] for _ in range(60)]
        try:
            for vector in basis.T:
                _try_whole(probe, layout, vector, fresh)
            break
        except Undecided:  # a function of many pieces needs samples on all of them
            if more is None:
                raise
            rows = np.vstack([rows, _rows(probe, layout, rng, more * layout.unknowns)])
    families, remainder = name_families(layout, basis)
    pairs = _pairs(layout, basis)
    return Equivariance(
        probe.name,
        "",
        basis.shape[1],
        families,
        _whole_discrete(probe, fresh),
        WITNESSED,
        False,
        names,
        size,
        pairs=pairs,
        remainder=tuple(tuple(map(float, r)) for r in remainder.T),
        evidence={"gap": gap, "samples": len(rows) // len(first[0]), "arithmetic": "float64"},
    )


def _rows(probe: Sampler, layout: Layout, rng: np.random.Generator, needed: int) -> np.ndarray:
    """The linear system at random points of several sizes."""
    rows = []
    for k in range(needed):
        x = [rng.standard_normal(s.feature) * (1.0, 0.4, 0.05, 3.0)[k % 4] for s in layout.inputs]
        y, jacobians = probe.jacobian(*x)
        if np.isfinite(y).all() and all(np.isfinite(j).all() for j in jacobians):
            rows.append(
                equations(layout, Sample([v[None] for v in x], y[None], [j[None, :, None, :] for j in jacobians]))
            )
    if len(rows) < needed // 2:
        raise BadInput(f"{probe.name} has finite values at {len(rows)} of {needed} sample points: too few")
    return np.vstack(rows)


def _pairs(layout: Layout, basis: np.ndarray) -> tuple[Pair, ...]:
    if basis.shape[1] == 0:
        return ()
    rows = echelon(basis)[0]
    return tuple(
        Pair(tuple((layout.entry(i), _number(v)) for i, v in enumerate(row) if v != 0), WITNESSED) for row in rows
    )


def _affine_flow(layout: Layout, name: str, vector: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    a, b = layout.offsets[name]
    f = layout.space(name).feature
    block: Any = np.zeros((f + 1, f + 1))
    block[:f, :f], block[:f, f] = vector[a:b].reshape(f, f), vector[b : b + f]
    g = expm(_TRY * block)
    return lambda x: g[:f, :f] @ x + g[:f, f]


def _try_whole(probe: Sampler, layout: Layout, vector: np.ndarray, points: Sequence[Sequence[np.ndarray]]) -> None:
    acts = [_affine_flow(layout, s.name, vector) for s in layout.inputs]
    out = _affine_flow(layout, layout.output.name, vector)
    left = [probe(*(g(v) for g, v in zip(acts, x, strict=True))).reshape(-1) for x in points]
    right = [out(probe(*x).reshape(-1)) for x in points]
    scale = np.abs(right).max() + 1e-300
    _demand(probe, np.array(left) / scale + 1, np.array(right) / scale + 1)


def _whole_discrete(probe: Sampler, points: Sequence[Sequence[np.ndarray]]) -> tuple[Discrete, ...]:
    if probe.arity > 1:
        return ()
    found, some = [], [x[0] for x in points[:8]]
    values = [probe(x) for x in some]
    orders = (
        [np.roll(np.arange(len(some[0])), 1), np.array([1, 0, *range(2, len(some[0]))])] if len(some[0]) > 1 else []
    )
    same = all(v.shape == x.shape for v, x in zip(values, some, strict=True))
    if (
        same
        and orders
        and all(np.allclose(probe(x[p]), v[p], rtol=1e-10) for p in orders for x, v in zip(some, values, strict=True))
    ):
        found.append(Discrete("permutation", r"f(Px) = P f(x),\ P \in S_n", WITNESSED, 0))
    for sign in (1, -1):
        if all(np.allclose(probe(-x), sign * v, rtol=1e-10, atol=1e-13) for x, v in zip(some, values, strict=True)):
            found.append(Discrete("sign", rf"f(-x) = {'-' if sign < 0 else ''}f(x)", WITNESSED))
    return tuple(found)
