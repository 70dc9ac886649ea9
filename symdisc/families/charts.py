"""Weights that the network makes from stored tensors (weight normalisation): families are found on the weight and written back.

The families see the weight W alone. Where W = g v / |v|, slice by slice, every W without a zero slice is reached, so whatever acts
on W acts on (g, v): permutations, signs and scales of whole slices as they are, the rest through ``Move`` kind "charted". What W does
not see is a symmetry of its own: the length of v.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from symdisc.curves import curve
from symdisc.families.naming import describe_torus
from symdisc.moves import Chart, Index, Move, parameters_of
from symdisc.spaces import Facts
from symdisc.symmetry import Discrete, Symmetry

__all__ = ["ODD", "Family", "freeze", "lengths", "lift", "reflections"]

Family = TypeVar("Family", Symmetry, Discrete)
ODD = "odd function of a weight"  # lets a sign pass
NO_ZERO = "no slice of a normalised weight is zero"


def freeze(facts: Facts, charts: Sequence[Chart]) -> None:
    """A weight that is only known to commute with permutations: nothing else may move it, so a factor passes scales alone."""
    names = {c.weight for c in charts if c.kind in ("map", "exp", "curve")}
    scaled = {c.weight for c in charts if c.kind in ("exp", "curve")}  # no way through but for scales, which they take themselves
    odd = {c.weight for c in charts if _odd(c)}
    facts.signed |= scaled - odd
    for gain in (g for g in facts.gains if g.parameter in names):
        facts.killed += [(gain.ins, "computed factor"), (gain.outs, "computed factor")]
        if gain.parameter in scaled and gain.offset == 0:
            continue
        if (gain.ins == 0).any():  # a factor of raw data writes units of its own
            facts.fixed.append((gain.outs, "computed factor"))
        facts.powers.append((gain.ins, gain.outs, 1.0))
    touched = [(shift.parameter, shift.units) for shift in facts.shifts if shift.parameter in names]
    touched += [(d.parameter, u) for d in facts.dense if d.parameter in names for u in (d.outs, d.ins) if u is not None]
    for name, units in touched:
        if name not in scaled:
            facts.fixed.append((units[units >= 0], "computed weight"))
        facts.killed.append((units[units >= 0], ODD if name in odd else "computed weight"))


def lift(families: Sequence[Family], charts: Sequence[Chart]) -> list[Family]:
    """The families as actions on what is stored; those that a chart has no image for are left out."""
    if not charts:
        return list(families)
    by_weight = {c.weight: c for c in charts if c.kind != "matrix"}
    shapes = {c.weight: c.shape for c in charts if c.kind == "matrix"}
    made = ((s, _lifted([_viewed(m, shapes) for m in s.moves], by_weight)) for s in families)
    return [_moved(s, moves) for s, moves in made if moves is not None and _in_range(moves) is not None]


def _viewed(move: Move, shapes: Mapping[str, tuple[int, ...]]) -> Move:
    """The move on tensors as they are stored, those of ``shapes`` read as matrices."""
    views = tuple((n, shapes[n]) for n in dict.fromkeys((move.parameter, *_reads(move))) if n in shapes)
    return replace(move, views=views) if views else move


def _moved(family: Family, moves: tuple[Move, ...]) -> Family:
    """The family with these moves in place of its own."""
    if moves == family.moves:
        return family
    changes: dict[str, Any] = {"moves": moves, "parameters": parameters_of(moves)}
    if isinstance(family, Symmetry):
        asked: tuple[str | None, ...] = (NO_ZERO if any(m.charts for m in moves) else "", _in_range(moves))
        changes["assumptions"] = (*family.assumptions, *(a for a in asked if a))
    return replace(family, **changes)


def _lifted(moves: Sequence[Move], charts: dict[str, Chart]) -> tuple[Move, ...] | None:
    """Plain moves where the action keeps the lengths of slices or scales them, "charted" ones elsewhere; None where there is no way."""
    found: list[Move] = []
    written: dict[str, list[Move]] = {}
    for move in moves:
        if move.parameter in charts:
            written.setdefault(move.parameter, []).append(move)
            continue
        read = [charts[n] for n in _reads(move) if n in charts]
        if any(c.kind != "norm" for c in read):
            return None
        found.append(_charted(move.parameter, (move,), read) if read else move)
    for name, mine in written.items():
        plain = _plain(mine, charts)
        if plain is None and charts[name].kind != "norm":
            return None
        if plain is None:
            read = list(dict.fromkeys([charts[name], *(charts[n] for m in mine for n in _reads(m) if n in charts)]))
            if any(c.kind != "norm" for c in read):
                return None
            plain = [_charted(p, tuple(mine), read) for p in charts[name].stored]
        found += plain
    return tuple(found)


def _reads(move: Move) -> tuple[str, ...]:
    return tuple(n for n in (move.gain, *(n for t in move.through for n in t.reads), *move.extra) if n)


def _charted(parameter: str, inner: tuple[Move, ...], charts: Sequence[Chart]) -> Move:
    made = {c.weight for c in charts}
    read = (*(n for c in charts for n in c.stored), *(n for m in inner for n in _reads(m) if n not in made))
    return Move("charted", parameter, -1, Index(1, 1, 1), extra=tuple(dict.fromkeys(n for n in read if n != parameter)), inner=inner,
                charts=tuple(dict.fromkeys(charts)))


def _plain(moves: Sequence[Move], charts: dict[str, Chart]) -> list[Move] | None:
    """Moves on what is stored, if each of ``moves`` is an exchange, a permutation, or a sign or scale of whole slices."""
    found: list[Move] = []
    for move in moves:
        part = _exchanged(move, charts) if move.kind == "exchange" else _sliced(move, charts[move.parameter])
        if part is None:
            return None
        found += part
    return found


def _exchanged(move: Move, charts: dict[str, Chart]) -> list[Move] | None:
    """Whole weights change places: so does all that they are made of."""
    here = [charts.get(n) for n in move.extra]
    if any(c is None or (c.kind, c.dim) != (charts[move.parameter].kind, charts[move.parameter].dim) for c in here):
        return None
    stored = zip(*(c.stored for c in here if c is not None), strict=True)
    return [replace(move, parameter=names[move.index.start], extra=tuple(names)) for names in stored]


def _sliced(move: Move, chart: Chart) -> list[Move] | None:
    """A permutation, or a factor, along one axis, which norms over the other axes do not feel."""
    if move.kind == "permute":
        if chart.kind in ("map", "exp", "curve"):
            return [replace(move, parameter=chart.direction)] if move.rows is None else None
        if move.axis < 0 or (move.rows is not None and move.axis == chart.dim != 0):
            return None
        both = move.axis == chart.dim
        return [replace(move, parameter=n) for n in (chart.stored if both else chart.stored[:1])]
    if move.kind == "scale" and chart.kind == "exp":
        return [replace(move, kind="log_scale", parameter=chart.direction, power=move.power / chart.rate)]
    if move.kind == "scale" and chart.kind == "curve":
        return [replace(move, kind="curved_scale", parameter=chart.direction, rep=chart.formula)]
    if move.kind == "parity" and _odd(chart):
        return [replace(move, parameter=chart.direction)]
    if move.kind in ("scale", "parity") and chart.kind == "norm" and move.axis == chart.dim and chart.dim is not None:
        return [replace(move, parameter=chart.size)] if move.rows is None or chart.dim == 0 else None
    return None


def _odd(chart: Chart) -> bool:
    """A sign of the weight is one of what it is made of."""
    found = curve(chart.formula) if chart.kind == "curve" else None
    return found is not None and found.odd


def _in_range(moves: Sequence[Move]) -> str | None:
    """What keeps curved scales in the range of their functions, "" for nothing; None where two of them ask for opposite elements."""
    found = [(m, curve(m.rep)) for m in moves if m.kind == "curved_scale"]
    sides = {c.side * (1 if m.power > 0 else -1) for m, c in found if c is not None and c.side}
    if len(sides) > 1:
        return None
    said = dict.fromkeys(str(c.sigma) for _, c in found if c is not None and c.side)
    return f"elements that keep {' and '.join(said)} in range" if said else ""


def lengths(name: str, axis: int | None, size: int, whole: int) -> Symmetry:
    """The scale of each of the ``size`` slices of a tensor along ``axis`` (of all ``whole`` entries, if None) that nothing sees."""
    index = Index.of(np.arange(whole)[:, None, None] if axis is None else np.arange(size)[None, :, None])
    move = Move("scale", name, -1 if axis is None else axis, index)
    module = name.rsplit(".parametrizations.", 1)[0] if ".parametrizations." in name else name.rpartition(".")[0]
    found = describe_torus(1 if axis is None else size, (move,), (name,), [module], False)
    return replace(found, name="scale without effect", condition=r"W(c v) = W(v),\; c > 0")


def reflections(charts: Sequence[Chart], shapes: dict[str, tuple[int, ...]]) -> list[Discrete]:
    """(-g)(-v)/|v| = g v/|v|, slice by slice."""
    found = []
    for c in charts:
        if c.kind == "norm":
            s = lengths(c.direction, c.dim, 1 if c.dim is None else shapes[c.direction][c.dim], int(np.prod(shapes[c.direction])))
            n = s.shape[0]
            axis = -1 if c.dim is None or len(shapes[c.size]) <= c.dim else c.dim
            size = Move("scale", c.size, axis, Index.of(np.arange(n)[None, :, None]))
            group, latex = ("Z_2", r"\mathbb{Z}_2") if n == 1 else (f"(Z_2)^{n}", rf"(\mathbb{{Z}}_2)^{{{n}}}")
            found.append(Discrete("signs of size and direction", group, "sign", s.site, (c.direction, c.size), 2**n, (n,),
                                  (*s.moves, size), latex))
    return found


