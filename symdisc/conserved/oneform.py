"""One-forms of generators, exactly, on a miniature: closed? an integrating factor? a potential?

The form of a generator is omega_a = <X_a(theta), d theta>. It has a potential where d omega = 0, a potential after
multiplication by an integrating factor where omega ^ d omega = 0 (Frobenius), and is of contact type otherwise.

The miniature keeps at most two positions (three for rotations that fix 1) of every axis that the moves touch and two of
all other axes together. It is the restriction of the form to a coordinate subspace, and restrictions of integrable
forms are integrable, so a "no" found on the miniature is a "no" for the network. A potential is only claimed where the
miniature is the whole thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import sympy as sp

from symdisc.conserved.algebra import EQUATIONS, sums_to_zero
from symdisc.conserved.pairing import pairing
from symdisc.errors import Undecided
from symdisc.moves import Index, Move, Through

__all__ = ["FormVerdict", "Miniature", "analyse", "miniature", "planar_potential"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Miniature:
    """Coordinates (trained entries that occur), algebra unknowns and the components X_i, linear in the unknowns."""

    coordinates: tuple[sp.Symbol, ...]
    unknowns: tuple[sp.Symbol, ...]
    field: tuple[sp.Expr, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class FormVerdict:
    """``closed``: dimension of the closed part of the algebra; ``integrable``: Frobenius for a generic element."""

    closed: int
    dimension: int
    integrable: bool
    witness: str


def _axes(moves: Sequence[Move], shapes: Shapes) -> dict[str, list[int]]:
    """Axes of each parameter that some move, gain or contraction singles out."""
    used: dict[str, set[int]] = {}

    def note(name: str, axis: int) -> None:
        used.setdefault(name, set()).add(0 if axis == -1 and len(shapes.get(name, (1,))) <= 1 else axis)

    for move in moves:
        note(move.parameter, move.axis)
        if move.kind == "centred":
            note(move.parameter, move.axis)
        for name in (move.gain, *move.extra):
            if name:
                note(name, 0 if len(shapes.get(name, (1,))) <= 1 else -1)
        for step in move.through:
            if step.parameter and step.kind == "dense":
                note(step.parameter, step.axis)
                note(step.parameter, step.keep)
            else:
                for name in step.reads:
                    note(name, -1)
    return {name: sorted(axes) for name, axes in used.items()}


def _least(family: str) -> int:
    """The size at which a family has an element: rotations that fix 1 begin in three dimensions."""
    return 3 if family == "o1" else 2


def _mini_shape(name: str, axes: list[int], shapes: Shapes, most: int) -> tuple[tuple[int, ...], dict[int, int]]:
    """The small shape and where each singled-out axis went."""
    shape = shapes.get(name, (most,))
    if axes == [-1] or not shape:
        return (min(most, prod(shape)),), {-1: -1, 0: 0}
    if -1 in axes:
        raise Undecided(f"{name} is moved along one axis and as a flat vector; the miniature has no room for both")
    rest = prod(s for a, s in enumerate(shape) if a not in axes)
    small = tuple(min(most, shape[a]) for a in axes) + ((min(2, rest),) if rest > 1 else ())
    return small, {**{a: k for k, a in enumerate(axes)}, -1: -1}


def miniature(
    family: str, shape: tuple[int, ...], moves: Sequence[Move], shapes: Shapes, trained: frozenset[str]
) -> Miniature:
    """The field of a symmetry on small symbolic parameters; constants become distinct numbers."""
    most, moves = _least(family), [_plain(m) for m in moves]
    shapes = {**_constants(moves, shapes), **shapes}
    layout = {name: _mini_shape(name, axes, shapes, most) for name, axes in _axes(moves, shapes).items()}
    state, coordinates, names = {}, [], []
    for k, (name, (small, _)) in enumerate(sorted(layout.items())):
        if name in trained:
            symbols = [sp.Symbol(f"p{k}_{e}", positive=True) for e in range(prod(small))]
            coordinates += symbols
            names += [name] * len(symbols)
            state[name] = np.array(symbols, dtype=object).reshape(small)
        else:
            # Squares, so that an inverse square root of a running variance stays rational.
            state[name] = np.array([sp.Integer((e + k + 2) ** 2) for e in range(prod(small))], dtype=object).reshape(
                small
            )
    d = {c: sp.Symbol(f"d{c.name}") for c in coordinates}
    mu: Any = 0
    small_moves = [_shrink(m, layout, family in EQUATIONS) for m in moves]
    array = _algebra_shape(family, shape, small_moves, state)
    for move, _ in small_moves:
        if move.parameter not in trained:
            continue
        y = state[move.parameter]
        x = np.array([d.get(v, 0) for v in y.ravel()], dtype=object).reshape(y.shape)
        mu = mu + pairing(move, x, y, state, array)
    unknowns, element = _generic(family, array)
    form = sp.expand(
        sum(_exact(sp.sympify(m)) * a for m, a in zip(np.ravel(np.asarray(mu, dtype=object)), element, strict=True))
    )
    field = tuple(sp.diff(form, d[c]) for c in coordinates)
    kept = [i for i, f in enumerate(field) if f != 0 or any(g.has(coordinates[i]) for g in field)]
    return Miniature(
        tuple(coordinates[i] for i in kept), unknowns, tuple(field[i] for i in kept), tuple(names[i] for i in kept)
    )


def _constants(moves: Sequence[Move], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Lengths of what is read and not trained (running statistics, eps): those of the vectors beside them."""
    found: dict[str, tuple[int, ...]] = {}
    for move in moves:
        beside = next((shapes[n] for n in (move.gain, move.parameter) if n and len(shapes.get(n, ())) == 1), None)
        if beside:
            found.update({n: tuple(beside) for n in move.extra if n})
        for step in move.through:
            if step.index is not None and step.kind != "dense":
                found.update({n: (step.index.blocks * step.index.size,) for n in step.reads})
    return found


def _index(n: int, full: Index, units: bool) -> Index:
    """One block on ``n`` positions: of elements, or of ``units`` of one; of a single number, spread over many entries, as many copies."""
    count = min(n, full.blocks * full.size)
    places = np.arange(n - n % count).reshape(-1, count)
    return Index.of(places[:, :, None] if units else places[:, None, :])


def _shrink(move: Move, layout: Mapping[str, tuple[tuple[int, ...], dict[int, int]]], matrix: bool) -> tuple[Move, int]:
    """The move on the miniature, and how many numbers of an element it takes."""
    small, where = layout[move.parameter]
    axis = where.get(move.axis, 0) if len(small) > 1 or move.axis != -1 else -1
    full = replace(move.index, blocks=1) if matrix else move.index
    scale = move.kind in ("scale", "log_scale", "affine_scale", "recentre", "bn_shift")
    index = _index(small[axis if axis >= 0 else 0], full, scale)
    through, count = [], index.blocks * index.size
    for step in reversed(move.through):
        if step.parameter:
            step, count = _shrink_step(step, *layout[step.parameter], count)
        through.append(step)
    return replace(move, axis=axis, index=index, rows=None, offset=0, through=tuple(reversed(through))), count


def _shrink_step(step: Through, small: tuple[int, ...], where: Mapping[int, int], count: int) -> tuple[Through, int]:
    """The step on the miniature where ``count`` numbers leave it, and how many enter."""
    if step.kind == "dense" and step.index is not None:
        index = _index(small[where[step.axis]], step.index, False)
        return replace(step, axis=where[step.axis], keep=where[step.keep], offset=0, rows=None, index=index), index.size
    if step.index is not None:
        places = step.index.positions().reshape(-1)
        one = (places == places[0]).all() and step.index.blocks * step.index.size > 1
        positions = np.full(count, min(places[0], small[0] - 1)) if one else np.arange(count)
        step = replace(step, index=Index.of(positions[None, None, :]))
    return replace(step, offset=0), 1 if step.kind in ("each", "per", "spread") else count


def _plain(move: Move) -> Move:
    """On tensors in the shape in which it sees them, and on one tap of a kernel for all."""
    return replace(move, views=(), through=tuple(t for t in move.through if t.kind != "taps"))


def _algebra_shape(
    family: str, shape: tuple[int, ...], moves: Sequence[tuple[Move, int]], state: Mapping[str, np.ndarray]
) -> tuple[int, ...]:
    if family in EQUATIONS:
        return (1, min(_least(family), shape[1]), min(_least(family), shape[1]))
    first, _ = moves[0]
    sizes = []
    for m, count in moves:
        p = state[m.parameter]
        if m.kind == "outer_bias" and len(moves) > 1:
            continue  # it takes sums of the element over the taps of a kernel
        if m.kind in ("outer", "outer_bias") and prod(shape) == 1:
            sizes.append(1)  # all rows of a weight move alike
        elif m.kind in ("outer", "outer_bias"):
            sizes.append(p.size if m.axis == -1 or m.kind == "outer_bias" else p.size // p.shape[m.axis])
        else:
            sizes.append(count)
    if len(set(sizes)) != 1:
        raise Undecided(f"the moves of {first.parameter} and its partners do not agree on the size of a small element")
    return (sizes[0],)


def _generic(family: str, array: tuple[int, ...]) -> tuple[tuple[sp.Symbol, ...], list[sp.Expr]]:
    """Free unknowns and the generic element of the algebra, flat."""
    n = prod(array)
    entries = list(sp.symbols(f"a:{n}"))
    equations: list[sp.Expr] = []
    if family in EQUATIONS:
        a = sp.Matrix(array[1], array[2], entries)
        equations = [e for eq in EQUATIONS[family] for e in eq(a)]
    elif sums_to_zero(family) and n > 1:
        equations = [sum(entries)]
    solution = sp.solve(equations, entries, dict=True)[0] if equations else {}
    element = [sp.sympify(solution.get(e, e)) for e in entries]
    free = tuple(e for e in entries if any(x.has(e) for x in element))
    return free, element


# --- verdicts ---------------------------------------------------------------------------------------------------------
def analyse(mini: Miniature) -> FormVerdict:
    """Closed part of the algebra by exact linear algebra; Frobenius at a rational point for a generic element."""
    pairs = list(combinations(range(len(mini.coordinates)), 2))
    curl = {
        (i, j): sp.diff(mini.field[j], mini.coordinates[i]) - sp.diff(mini.field[i], mini.coordinates[j])
        for i, j in pairs
    }
    closed = len(mini.unknowns) - _curl_rank(mini, curl)
    point = _point(mini, 0)
    point.update({u: sp.Integer(2 * k + 1) for k, u in enumerate(mini.unknowns)})
    omega = [_exact(f.subs(point)) for f in mini.field]
    d = {ij: _exact(v.subs(point)) for ij, v in curl.items()}
    for i, j, k in combinations(range(len(omega)), 3):
        value = omega[i] * d[j, k] - omega[j] * d[i, k] + omega[k] * d[i, j]
        if value != 0:
            return FormVerdict(closed, len(mini.unknowns), False, f"omega ^ d omega = {value} at a rational point")
    return FormVerdict(closed, len(mini.unknowns), True, "omega ^ d omega = 0")


def _point(mini: Miniature, k: int) -> dict[sp.Symbol, sp.Expr]:
    return {c: sp.Rational(i + 2 + k, 2 * i + 3 + k * k) for i, c in enumerate(mini.coordinates)}


def _curl_rank(mini: Miniature, curl: Mapping[tuple[int, int], sp.Expr]) -> int:
    """Rank of the map from algebra elements to d omega: at rational points if full there, else by coefficients."""
    rows = []
    for k in range(2):
        point = _point(mini, k)
        rows += [[_exact(sp.diff(v, u).subs(point)) for u in mini.unknowns] for v in curl.values() if v != 0]
    if rows and sp.Matrix(rows).rank() == len(mini.unknowns):
        return len(mini.unknowns)
    rows = []
    for value in curl.values():
        numerator = sp.expand(sp.fraction(sp.together(value))[0])
        for coefficient in sp.Poly(numerator, *mini.coordinates).coeffs() if numerator != 0 else ():
            rows.append([coefficient.coeff(u) for u in mini.unknowns])
    return sp.Matrix(rows).rank() if rows else 0


def _exact(value: sp.Expr) -> sp.Expr:
    """Floats, which stand for powers and offsets of moves, as rationals."""
    return sp.nsimplify(value) if value.has(sp.Float) else value


def planar_potential(x: sp.Symbol, y: sp.Symbol, fx: sp.Expr, fy: sp.Expr) -> sp.Expr | None:
    """A function with gradient along (fx, fy), proved by differentiation; None when no factor of the kinds tried fits.

    Tried are 1, factors of one variable alone, the common denominator, 1/r^2 and 1/<theta, X>.
    """
    for factor in _factors(x, y, fx, fy):
        a, b = sp.simplify(factor * fx), sp.simplify(factor * fy)
        if sp.simplify(sp.diff(b, x) - sp.diff(a, y)) != 0:
            continue
        first = sp.integrate(a, x)
        found = sp.simplify(first + sp.integrate(sp.simplify(b - sp.diff(first, y)), y))
        if found.has(sp.Integral):
            continue
        if sp.simplify(sp.diff(found, x) - a) == 0 and sp.simplify(sp.diff(found, y) - b) == 0:
            return found
    return None


def _factors(x: sp.Symbol, y: sp.Symbol, fx: sp.Expr, fy: sp.Expr) -> Iterator[sp.Expr]:
    yield sp.Integer(1)
    curl = sp.diff(fx, y) - sp.diff(fy, x)
    # mu(x) fx dx + mu(x) fy dy is closed iff mu'/mu = curl/fy, which must then be free of y; likewise with x and y
    # exchanged.
    for variable, other, slope in ((x, y, curl / fy), (y, x, -curl / fx)):
        slope = sp.simplify(slope)
        if not slope.has(other):
            yield sp.simplify(sp.exp(sp.integrate(slope, variable)))
    yield sp.lcm(sp.fraction(sp.together(fx))[1], sp.fraction(sp.together(fy))[1])
    yield 1 / (x**2 + y**2)
    radial = sp.simplify(x * fx + y * fy)
    if radial != 0:
        yield 1 / radial
