"""Symmetries of normalised weights W = g v/|v|: which of their elements are gradient fields in (g, v), and the charges of those.

A diagonal element that multiplies each slice of W by one number moves the size alone, dg = c g, dv = 0: linear and symmetric. One
that scales part of a slice, entry j by 1 + e, moves dg = g n_j^2 and dv = |v| n_j (1_j - n_j n) with n = v/|v|. Along the flow |v| stays
(a scale that W does not see), and what is left, n_j^2 d(g^2/2) beside forms in other variables, is not closed: d(n_j^2) ^ d(g^2/2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from symdisc.conserved import reasons
from symdisc.conserved.linear import equation
from symdisc.conserved.orthogonal import orthogonality
from symdisc.conserved.pairing import lay_out
from symdisc.errors import Undecided
from symdisc.generators import Generator, Part
from symdisc.moves import Chart, Move

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["charted_answer"]

DIAGONAL = ("gl", "scale")  # families that hold all diagonal elements: one unit of s for each entry of the diagonal
Edge = tuple[int, int, float]  # s_second = ratio * s_first
NOTHING = -1  # an entry that the symmetry leaves alone, as if a unit with s = 0 moved it


def charted_answer(deriver: Deriver) -> ConservedQuantity:
    """1/2 <theta, M theta> for each independent element that keeps the directions of all slices, or why there is none."""
    told, left = equation(deriver.local, (2,)), orthogonality(deriver.local)
    if told is None:
        return deriver.none(reasons.CHARTED + "; the flow's decay or metric acts on it besides", left)
    status, law, rate = told
    try:
        found = list(_generators(deriver))
    except Undecided as error:
        return deriver.none(f"{reasons.CHARTED_OTHER} ({error})", left)
    if not found:
        return deriver.none(reasons.CHARTED, left)
    rest = len(found) < deriver.symmetry.dimension
    shapes = tuple((n, tuple(deriver.parameters[n])) for n in dict.fromkeys(n for g in found for n in g.parameters))
    return deriver.make(status, "entries", "linear", (), dimension=len(found), law=law, rate=rate,
                        generators=tuple(found), shapes=shapes, reason=reasons.CHARTED if rest else "",
                        constraint=left if rest else "")


def _generators(deriver: Deriver) -> Iterator[Generator]:
    s = deriver.symmetry
    if s.family not in DIAGONAL:
        raise Undecided("it holds no diagonal elements")
    plain = [m for m in s.moves if not m.charts]
    sizes = {c.size: c for m in s.moves for c in m.charts if m.parameter == c.size}
    inner = {m.parameter: m.inner for m in s.moves if m.charts}
    if any(m.kind not in ("scale", "matmul") or m.rows is not None for m in plain) or any(
            m.kind not in ("scale", "matmul") or m.parameter != c.weight for size, c in sizes.items() for m in inner[size]):
        raise Undecided("it moves more than multiples")
    slices = {size: _slices(c, inner[size], tuple(deriver.parameters[c.direction])) for size, c in sizes.items()}
    edges, zeros = _equations(slices)
    for scale in _solutions(int(np.prod(s.shape[:2])), edges, zeros):
        parts = [_part(m, scale, deriver) for m in plain]
        parts += [_size(c, slices[size], scale, tuple(deriver.parameters[size])) for size, c in sizes.items()]
        weighted = (Part(p.parameter, p.axis, tuple((i, j, v * float(deriver.scale() / deriver.local[p.parameter].precondition))
                                                    for i, j, v in p.entries)) for p in parts)
        yield Generator(tuple(p for p in weighted if p.entries))


def _units(move: Move) -> np.ndarray:
    """The unit at each position of the index, flat."""
    return np.tile(np.arange(move.index.blocks * move.index.size), move.index.copies)


def _power(move: Move) -> float:
    """X = power * s * y."""
    return move.power if move.kind == "scale" else (1.0 if move.rep == "g" else -1.0)


def _slices(chart: Chart, moves: Sequence[Move], shape: tuple[int, ...]) -> list[list[tuple[int, float]]]:
    """Per slice the pairs (unit, power) that occur in it, (NOTHING, 1) for entries that stay."""
    units, powers = np.full(shape, NOTHING), np.ones(shape)
    places = np.arange(units.size).reshape(shape)
    for move in moves:
        at = lay_out(move, places)[move.index.positions().reshape(-1)]  # [positions, rest]
        if (units.reshape(-1)[at] != NOTHING).any():
            raise Undecided("an entry is multiplied along two axes")
        units.reshape(-1)[at] = _units(move)[:, None]
        powers.reshape(-1)[at] = _power(move)
    rows = [units.reshape(1, -1), powers.reshape(1, -1)]
    if chart.dim is not None:
        rows = [np.moveaxis(a, chart.dim, 0).reshape(shape[chart.dim], -1) for a in (units, powers)]
    return [sorted(set(zip(u.tolist(), p.tolist(), strict=True))) for u, p in zip(*rows, strict=True)]


def _equations(slices: Mapping[str, list[list[tuple[int, float]]]]) -> tuple[list[Edge], set[int]]:
    """What makes every slice a multiple of itself: ratios between units, and units that may not move."""
    edges: set[Edge] = set()
    zeros: set[int] = set()
    for pairs in {tuple(p) for found in slices.values() for p in found}:
        if any(u == NOTHING for u, _ in pairs):
            zeros |= {u for u, _ in pairs if u != NOTHING}
        edges |= {(u, w, p / q) for (u, p), (w, q) in pairwise(pairs) if u != NOTHING and w != NOTHING}
    return sorted(edges), zeros


def _solutions(units: int, edges: Sequence[Edge], zeros: set[int]) -> Iterator[np.ndarray]:
    """A basis of the s [units] that the equations allow: one vector for each set of units that hang together without contradiction."""
    beside: dict[int, list[tuple[int, float]]] = {}
    for u, w, ratio in edges:
        beside.setdefault(u, []).append((w, ratio))
        beside.setdefault(w, []).append((u, 1 / ratio))
    seen: set[int] = set()
    for first in range(units):
        if first in seen:
            continue
        value, todo, fits = {first: 1.0}, [first], True
        while todo:
            u = todo.pop()
            for w, ratio in beside.get(u, ()):
                if w not in value:
                    value[w] = value[u] * ratio
                    todo.append(w)
                fits &= value[w] == value[u] * ratio
        seen |= set(value)
        if fits and not zeros & set(value):
            scale = np.zeros(units)
            scale[list(value)] = list(value.values())
            yield scale


def _part(move: Move, scale: np.ndarray, deriver: Deriver) -> Part:
    shape = deriver.parameters[move.parameter]
    if move.axis == -1 and len(shape) != 1:
        raise Undecided("a tensor is moved as a flat vector")
    values = scale[_units(move)] * _power(move)
    at = move.index.positions().reshape(-1)
    return Part(move.parameter, max(move.axis, 0), tuple((int(i), int(i), float(v)) for i, v in zip(at, values, strict=True) if v))


def _size(chart: Chart, slices: Sequence[Sequence[tuple[int, float]]], scale: np.ndarray, shape: tuple[int, ...]) -> Part:
    """The factor of each slice, which all its pairs agree on."""
    axis = next((a for a, n in enumerate(shape or (1,)) if n == len(slices)), None)  # a single number counts as one entry
    if axis is None:
        raise Undecided("the size of a single slice has no axis")
    values = [0.0 if pairs[0][0] == NOTHING else scale[pairs[0][0]] * pairs[0][1] for pairs in slices]
    return Part(chart.size, axis, tuple((i, i, float(v)) for i, v in enumerate(values) if v))
