"""A factor as a reader sees it: the action on every parameter by its name, layers as an index, laws of training beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import sympy as sp

from symdisc.catalog import Catalog
from symdisc.entries import notation
from symdisc.entries.factors import Key, Places, Range, Symbolic, ends
from symdisc.entries.polynomials import Sizes, evaluate, interpolate
from symdisc.entries.slots import Slots
from symdisc.entries.training import Members, laws
from symdisc.entry import Acting, Factor, Law
from symdisc.report.action import steps
from symdisc.report.content import place, relabel, row_of
from symdisc.report.grouping import Group, spans
from symdisc.symmetry import WITHIN, Discrete, Symmetry

__all__ = ["Family", "floors", "shown"]

_INTEGER = re.compile(r"\d+")
MATRICES = ("gl", "o", "o1", "complex", "shear")


@dataclass(frozen=True)
class Family:
    """What is known of all members: sizes, catalogs, factors by member, and the member (checked, proved) that formulas are read from."""

    points: tuple[Sizes, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    members: tuple[Mapping[Key, Places], ...]
    slots: Slots
    centre: Catalog
    centre_factors: Mapping[Key, Places]

    def spans(self) -> dict[str, str]:
        """Spans of layers at the first point, as a report writes them, to the same in symbolic sizes."""
        found: dict[str, set[str]] = {}
        for prefix in sorted({p for names in self.shapes for n in names for p in self.slots.counted(n)}):
            rows = [sorted({self.slots.counted(n)[prefix] for n in names if prefix in self.slots.counted(n)})
                    for names in self.shapes]
            span = ends(self.points, rows)
            if span.first is not None and span.last is not None and span.step == 1 and len(rows[0]) > 1:
                found.setdefault(spans(rows[0]), set()).add(f"{_said(span.first)}…{_said(span.last)}")
        return {shown: both.pop() for shown, both in found.items() if len(both) == 1}


def shown(factor: Symbolic, family: Family, spans_: Mapping[str, str]) -> Factor:
    """The record of one factor: read off a member's symmetry that belongs to it, its sizes put in symbols."""
    places = [m.get(factor.key, Places()) for m in family.members]
    at_centre = family.centre_factors.get(factor.key)
    s = at_centre.found[0] if at_centre else next(p.found[0] for p in places if p.found)
    names, legend = _names(s, factor.ranges, family.slots)
    first = row_of(s, Group(names, (0,)), family.centre.parameters | family.centre.buffers, ())
    short = _relabelling(s, names)

    def written(text: str) -> str:
        for span, symbolic in spans_.items():
            text = text.replace(f"[{span}]", f"[{symbolic}]")
        return floors(text)

    trained: tuple[Law, ...] = ()
    if isinstance(s, Symmetry) and (s.counts or s.note.startswith(WITHIN)) and at_centre:
        members = Members(family.points, family.shapes, places, factor.dimension)
        trained = laws(s, family.centre.parameters, members, lambda text: written(short(text)))
    parts = _parts(family, places)

    def part(parameter: str) -> str:
        old = next((p for p in parts if parameter.endswith(p)), "")
        return parameter.removesuffix(old) + parts[old] if old else parameter

    record = Factor(
        name=s.name, family=s.family, group=notation.group(factor), discrete=factor.discrete, counted=factor.counted,
        where=written(first.where), legend=legend, places=_poly(factor.places), dimension=_poly(factor.dimension), status=s.status,
        condition=s.condition if isinstance(s, Symmetry) else "", element=_element(factor, places, first.element),
        actions=tuple(Acting(part(written(a.parameter)), written(a.latex), written(a.letters)) for a in first.actions),
        assumptions=s.assumptions if isinstance(s, Symmetry) else (), note=written(s.note), laws=trained, trouble=factor.trouble)
    if at_centre is None and family.centre_factors:
        record = replace(record, note="; ".join(filter(None, (record.note, "not at the sizes at which the families were run"))))
    return record


def floors(formula: str) -> str:
    """The eps of a norm as a letter: members have a large one, at which a rank tells that it breaks a scale."""
    from symdisc.torchside.miniature import EPSILON

    return re.sub(rf"(?<![\d.]){re.escape(str(EPSILON))}(?!\d)", r"\\epsilon", formula)


def _parts(family: Family, places: Sequence[Places]) -> dict[str, str]:
    """Parts of tensors as the centre shows them, ``[0:4]``, to the same in symbolic sizes; those that are no polynomials are left out."""
    there = [(p, [t.part for t in steps(at.found[0], shapes)]) for p, at, shapes in
             zip(family.points, places, family.shapes, strict=True) if at.found]
    if len({len(found) for _, found in there}) != 1:
        return {}
    new: dict[str, set[str]] = {}
    for column in zip(*(found for _, found in there), strict=True):
        pieces = [_INTEGER.split(text) for text in column]
        numbers = [[int(n) for n in _INTEGER.findall(text)] for text in column]
        fits = [interpolate([p for p, _ in there], values).polynomial for values in zip(*numbers, strict=False)]
        if column[0] and None not in fits and len({tuple(p) for p in pieces}) == 1:
            text = "".join(a + b for a, b in zip(pieces[0], [*(_said(f) for f in fits), ""], strict=True))
            new.setdefault(column[0], set()).add(text)
    return {old: texts.pop() for old, texts in new.items() if len(texts) == 1}


def _said(p: sp.Expr) -> str:
    return str(sp.expand(p)).replace("**2", "²").replace("**3", "³").replace("*", " ").replace(" - ", "−").replace(" + ", "+")


def _element(factor: Symbolic, places: Sequence[Places], shown_: str) -> str:
    """An element as a formula: of one copy for groups of matrices, else as at one size where no size stands in it."""
    if factor.integers is None:
        return ""
    one = replace(factor, copies=sp.Integer(1))
    if factor.key.family in MATRICES:
        return rf"g_b \in {notation.group(one)}"
    if factor.key.family == "permutation":
        return rf"P \in {notation.group(one)}"
    if factor.key.family in ("scale", "sign"):
        return r"c_u > 0" if factor.key.family == "scale" else r"\varepsilon_u = \pm 1"
    return "" if re.search(r"\d", shown_) else shown_


def _poly(p: object) -> notation.Poly | None:
    return None if p is None else notation.poly(p)


def _names(s: Symmetry | Discrete, ranges: Sequence[Range], slots: Slots) -> tuple[tuple[str, ...], str]:
    """(names with an index for the layer, what the index ranges over); a factor of the whole network keeps its names."""
    names = place(s).names
    relative, base = slots.relative(names)
    patterns: dict[str, set[str]] = {}
    for name in names:
        patterns.setdefault(slots.pattern(name), set()).add(name)
    if any(len(alike) > 1 for alike in patterns.values()) or not base:
        return names, ""
    fixed = {slots.letters[k]: base[k] for k, r in enumerate(ranges) if r.single is not None}
    return tuple(Slots.fixed(n, fixed) for n in relative), notation.legend(ranges, slots.letters)


def _relabelling(s: Symmetry | Discrete, names: Sequence[str]) -> Callable[[str], str]:
    """Names inside a formula shortened against the site and with the index of the layer."""
    table = dict(zip(place(s).names, names, strict=True))
    return lambda text: relabel(text, {a: b for a, b in table.items() if a}, re.sub(r"\.$", "", names[0]))


def at(polynomial: object, sizes: Sizes) -> int | None:
    """The value of a polynomial at sizes, None where there is none or it is no integer there."""
    try:
        return None if polynomial is None else evaluate(polynomial, sizes)
    except ValueError:
        return None
