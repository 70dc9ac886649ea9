"""What one catalog has that another lacks, beside the features in which the two operator graphs differ.

Symmetries of like layers are one line. Lines are matched in three steps: equal ones, those that act alike at another place,
those that move much the same tensors with another group. What is left stands on one side only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from symdisc.report import unicode
from symdisc.report.content import WHOLE, magnitude, number, order_of, place
from symdisc.report.features import features
from symdisc.report.grouping import merge
from symdisc.symmetry import Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Change", "Difference", "Line", "Trait", "difference", "lines"]

OVERLAP = 0.3  # of the tensors moved, for two lines to be one that changed


@dataclass(frozen=True)
class Line:
    """One symmetry at one place or at ``count`` like layers; ``dimension`` is that of all of them, 0 for discrete ones."""

    name: str
    family: str
    group: str
    where: str
    count: int
    each: int
    order: int
    moved: tuple[str, ...]

    @property
    def dimension(self) -> int:
        return self.each * self.count

    @property
    def size(self) -> str:
        if self.order == 1:
            return f"dim {number(self.dimension)}"
        return f"order {magnitude(order_of(self.order) * self.count)}" if self.order else "of infinite order"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "order": hex(self.order), "dimension": self.dimension}


@dataclass(frozen=True)
class Trait:
    """A feature in which the graphs differ; ``touches`` numbers the changes (in order) that move the same tensors."""

    name: str
    first: str
    second: str
    touches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Change:
    """A line of one side (the other is None), or one that is different on the two sides; ``traits`` number the features."""

    first: Line | None
    second: Line | None
    traits: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"first": self.first and self.first.to_dict(), "second": self.second and self.second.to_dict(), "traits": self.traits}


@dataclass(frozen=True)
class Difference:
    """``common`` lines are the same in both. ``traits`` is None where a catalog came without its operator graph."""

    names: tuple[str, str]
    dimensions: tuple[int, int]
    common: int
    changes: tuple[Change, ...]
    traits: tuple[Trait, ...] | None

    def to_dict(self) -> dict[str, Any]:
        return {"names": self.names, "dimensions": self.dimensions, "common": self.common,
                "changes": [c.to_dict() for c in self.changes],
                "features": None if self.traits is None else [asdict(t) for t in self.traits]}


def difference(first: Catalog, second: Catalog) -> Difference:
    """Symmetries and graph features of ``first`` and ``second`` that are not the same."""
    left, right = _all_lines(first), _all_lines(second)
    total = len(left)
    for key in (_exactly, _alike):
        _drop_pairs(left, right, key)
    common = total - len(left)
    changes = [Change(a, b) for a, b in _changed(left, right)]
    changes += [Change(a, None) for a in left] + [Change(None, b) for b in right]
    traits = _traits(first, second)
    if traits is not None:
        changes, traits = _joined(changes, traits)
    return Difference((first.architecture, second.architecture), (first.group_dimension, second.group_dimension), common,
                      tuple(changes), None if traits is None else tuple(t for t, _ in traits))


# --- symmetries -----------------------------------------------------------------------------------------------------------
def _all_lines(cat: Catalog) -> list[Line]:
    found: list[Line] = []
    for records in (cat.symmetries, cat.discrete):
        for group in merge([place(s) for s in records]):
            members = [records[m] for m in group.members]
            s: Symmetry | Discrete = members[0]
            each, order = (s.dimension if s.counts else 0, 1) if isinstance(s, Symmetry) else (0, s.order)
            moved = tuple(dict.fromkeys(p for m in members for p in m.parameters))
            found.append(Line(s.name, s.family, s.group_latex or rf"\mathrm{{{s.group}}}", group.spread(group.names[0]) or WHOLE,
                              group.count, each, order, moved))
    return found


def _exactly(line: Line) -> Hashable:
    return (*_alike(line), line.where, frozenset(line.moved))  # type: ignore[misc]


def _alike(line: Line) -> Hashable:
    return line.name, line.family, line.group, line.count, line.each, line.order


def _drop_pairs(left: list[Line], right: list[Line], key: Callable[[Line], Hashable]) -> None:
    """Remove lines with equal keys from both lists, one for one."""
    for a in list(left):
        b = next((b for b in right if key(a) == key(b)), None)
        if b is not None:
            left.remove(a)
            right.remove(b)


def _changed(left: list[Line], right: list[Line]) -> list[tuple[Line, Line]]:
    """Pairs that move much the same tensors, best first; taken out of both lists, in order of the first."""
    scored = sorted(((_likeness(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(right)), key=lambda x: (-x[0], x[1], x[2]))
    pairs: dict[int, int] = {}
    for score, i, j in scored:
        if score >= OVERLAP and i not in pairs and j not in pairs.values():
            pairs[i] = j
    found = [(left[i], right[j]) for i, j in sorted(pairs.items())]
    left[:] = [a for i, a in enumerate(left) if i not in pairs]
    right[:] = [b for j, b in enumerate(right) if j not in pairs.values()]
    return found


def _likeness(a: Line, b: Line) -> float:
    """Share of tensors moved by both, layer numbers aside; the same kind of symmetry counts more. 0 across continuous and discrete."""
    if (a.order == 1) != (b.order == 1) or _kind(a) != _kind(b):
        return 0.0
    x, y = (frozenset(re.sub(r"\d+", "n", p) for p in line.moved) for line in (a, b))
    return len(x & y) / max(len(x | y), 1) + (0.25 if a.family == b.family and x & y else 0.0)


def _kind(line: Line) -> str:
    """A change of basis may become another matrix group, a translation another translation."""
    return {"gl": "matrix", "o": "matrix", "o1": "matrix", "complex": "matrix"}.get(line.family, line.name)


# --- features -------------------------------------------------------------------------------------------------------------
def _traits(first: Catalog, second: Catalog) -> list[tuple[Trait, frozenset[str]]] | None:
    if first.graph is None or second.graph is None:
        return None
    return [(Trait(a.name, a.value, b.value), a.parameters | b.parameters)
            for a, b in zip(features(first.graph), features(second.graph), strict=True) if a != b]


def _joined(changes: Sequence[Change], traits: Sequence[tuple[Trait, frozenset[str]]]) -> tuple[list[Change], list[Any]]:
    """Changes and features that concern the same tensors, numbered into each other."""
    moved = [frozenset(p for line in (c.first, c.second) if line for p in line.moved) for c in changes]
    meet = {(c, t) for c, m in enumerate(moved) for t, (_, met) in enumerate(traits) if m & met}
    return ([replace(c, traits=tuple(t for t in range(len(traits)) if (k, t) in meet)) for k, c in enumerate(changes)],
            [(replace(t, touches=tuple(c for c in range(len(changes)) if (c, k) in meet)), met) for k, (t, met) in enumerate(traits)])


# --- as text --------------------------------------------------------------------------------------------------------------
def lines(found: Difference, labels: tuple[str, str] = ("A", "B")) -> list[str]:
    """The difference as plain lines."""
    a, b = labels
    text = [f"A  {a}   group dimension {number(found.dimensions[0])}", f"B  {b}   group dimension {number(found.dimensions[1])}",
            f"{found.common} lines of symmetries are the same"]
    text += _feature_lines(found)
    for title, chosen in (
            ("different in A and B", [c for c in found.changes if c.first and c.second]),
            ("only in A", [c for c in found.changes if not c.second]), ("only in B", [c for c in found.changes if not c.first])):
        text += ["", title] if chosen else []
        for c in chosen:
            text += _change_lines(found, c)
    return text if found.changes else [*text, "", "no symmetry is different"]


def _feature_lines(found: Difference) -> list[str]:
    if found.traits is None:
        return ["", "features not compared: a catalog read from a file has no operator graph; give both as sources"]
    if not found.traits:
        return ["", "the graphs have the same features"]
    wide = max(len(t.name) for t in found.traits)
    return ["", "features that differ", *(f"  {t.name:<{wide}}   A: {t.first}   B: {t.second}" for t in found.traits)]


def _change_lines(found: Difference, c: Change) -> list[str]:
    text = []
    for mark, line in (("A", c.first), ("B", c.second)):
        if line is not None:
            places = f" × {line.count} layers" if line.count > 1 else ""
            side = f"{mark}: " if c.first and c.second else ""
            text.append(f"  {side}{unicode.from_latex(line.group)}   {line.name}, {line.size}, at {line.where}{places}")
    if found.traits and c.traits:
        text.append(f"      moves tensors that these features concern: {', '.join(found.traits[t].name for t in c.traits)}")
    return text
