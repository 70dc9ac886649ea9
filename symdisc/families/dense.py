"""Groups that mix units: general linear, orthogonal, complex numbers per rotary plane.

A block of units can be mixed by a matrix when every operator that touches it treats its units alike: dense weights absorb
any matrix, contractions pair a block with its dual, norms admit orthogonal ones, a gain before dense readers conjugates.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from symdisc.families.classes import Classes
from symdisc.spaces import DenseUse, ShiftUse

__all__ = ["Place", "Space", "find_spaces"]


@dataclass(frozen=True)
class Place:
    """Where a class sits in a space: element number, dual or not, and the gain that conjugates it."""

    element: int
    dual: bool
    gain: str | None = None
    offset: float = 0.0


@dataclass
class Space:
    """A set of classes mixed by one matrix. ``family`` is gl, o, o1 (fixes 1) or complex (size 2)."""

    size: int
    family: str
    places: dict[int, Place] = field(default_factory=dict)
    plane: bool = False


@dataclass
class _Link:
    """Positions of one vector correspond to those of another; ``kind`` copy, dual, norm, norm1, gain."""

    kind: str
    left: np.ndarray
    right: np.ndarray
    gain: str | None = None
    offset: float = 0.0


def _links(classes: Classes) -> list[_Link]:
    links = []
    for dual in classes.facts.duals:
        links += [_Link("dual", a, b) for a, b in zip(classes(dual.left), classes(dual.right), strict=True)]
    for a, b in classes.facts.copies:
        links += [_Link("copy", x, y) for x, y in zip(classes(a), classes(b), strict=False)] if a.shape == b.shape else []
    for norm in classes.facts.norms:
        links.append(_Link("norm1" if norm.centred else "norm", classes(norm.ins), classes(norm.outs)))
    for use in classes.facts.gains:
        scalar = len(np.unique(use.elements)) == 1 and len(use.elements) > 1
        links.append(_Link("copy" if scalar else "gain", classes(use.ins), classes(use.outs), use.parameter, use.offset))
    return links + _ties(classes)


def _ties(classes: Classes) -> list[_Link]:
    """A weight used twice must be moved in the same way by both uses, axis by axis."""
    links = []
    for uses in classes.uses.values():
        dense = [u for u in uses if isinstance(u, DenseUse)]
        shifts = [u for u in uses if isinstance(u, ShiftUse)]
        for group in _same_rows(dense):
            for other in group[1:]:
                for axis in (0, 1):
                    a, out_a = _axis(group[0], axis)
                    b, out_b = _axis(other, axis)
                    if a is None and b is None:
                        continue
                    size = len(a) if a is not None else len(b)  # type: ignore[arg-type]
                    left = np.full(size, classes.data) if a is None else classes(a)
                    right = np.full(size, classes.data) if b is None else classes(b)
                    links.append(_Link("copy" if out_a == out_b else "dual", left, right))
        for other_shift in shifts[1:]:
            links.append(_Link("copy", classes(shifts[0].units), classes(other_shift.units)))
    return links


def _same_rows(uses: list[DenseUse]) -> list[list[DenseUse]]:
    groups: dict[tuple[int, int] | None, list[DenseUse]] = defaultdict(list)
    for use in uses:
        groups[use.rows].append(use)
    return list(groups.values())


def _axis(use: DenseUse, axis: int) -> tuple[np.ndarray | None, bool]:
    out = use.out_axis == axis
    return (use.outs if out else use.ins), out


class _Finder:
    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.links = _links(classes)
        self.at: dict[int, list[tuple[int, int]]] = defaultdict(list)  # class -> (link, position), both sides
        self.dead = set(classes.killers)
        self.spaces: list[Space] = []
        self.assigned: dict[int, int] = {}
        for i, link in enumerate(self.links):
            for p, (a, b) in enumerate(zip(link.left.tolist(), link.right.tolist(), strict=True)):
                self.at[a].append((i, p))
                if b != a:
                    self.at[b].append((i, p))

    def colours(self) -> dict[int, int]:
        """Classes that every vector treats alike get one colour; refined through the links a few times."""
        marks: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        number = 0
        for use in self.classes.facts.dense:
            for side, vec in ((0, use.outs), (1, use.ins)):
                number += 1
                for c in () if vec is None else self.classes(vec).tolist():
                    marks[c].append((number, side))
        for shift in self.classes.facts.shifts:
            number += 1
            for c in np.unique(self.classes(shift.units)).tolist():
                marks[c].append((number, 2))
        for i, link in enumerate(self.links):
            for side, vec in ((3, link.left), (4, link.right)):
                for c in vec.tolist():
                    marks[c].append((i, side))
        colour = _number({c: tuple(sorted(m)) for c, m in marks.items()})
        for _ in range(3):
            refined = {}
            for c in colour:
                around = sorted((i, colour[self.links[i].left[p]], colour[self.links[i].right[p]]) for i, p in self.at.get(c, ()))
                refined[c] = (colour[c], tuple(around))
            colour = _number(refined)
        return colour

    def run(self) -> list[Space]:
        blocks: dict[int, list[int]] = defaultdict(list)
        planes: dict[int, None] = {}
        doubled = self._doubled()
        for c, k in self.colours().items():
            if c in self.dead or c in self.assigned:
                continue
            if c in doubled:
                planes[c] = None
            elif not self.classes.rotated[c]:
                blocks[k].append(c)
        for members in blocks.values():
            if members[0] not in self.assigned and len(members) > 1:
                self.grow(members)
        for c in planes:
            if c not in self.assigned:
                self.grow([c], plane=True)
        return self.spaces

    def _doubled(self) -> set[int]:
        """Classes that fill exactly two places of each dual vector that holds them: rotary planes."""
        counts: dict[int, set[int]] = defaultdict(set)
        for link in self.links:
            if link.kind == "dual":
                for side in (link.left, link.right):
                    for c, n in zip(*np.unique(side, return_counts=True), strict=True):
                        counts[int(c)].add(int(n))
        return {c for c, n in counts.items() if n == {2}}

    def grow(self, members: list[int], plane: bool = False) -> None:
        """Follow the links from a block; keep the space if nothing forbids it."""
        space = Space(2 if plane else len(members), "complex" if plane else "gl", plane=plane)
        space.places = {c: Place(e, False) for e, c in enumerate(members)}
        frontier, alive = list(members), True
        while frontier:
            c = frontier.pop()
            for i, p in self.at.get(c, ()):
                link = self.links[i]
                partner, forward = (int(link.right[p]), True) if int(link.left[p]) == c else (int(link.left[p]), False)
                place = self._across(space, link, space.places[c], forward)
                if place is None or partner in self.dead or partner in self.assigned:
                    alive = False
                    continue
                known = space.places.get(partner)
                if known is None:
                    space.places[partner] = place
                    frontier.append(partner)
                elif known.element != place.element or (known.gain, known.offset) != (place.gain, place.offset):
                    alive = False
                elif known.dual != place.dual:
                    if plane:
                        alive = False
                    space.family = "o" if space.family == "gl" else space.family
        number = len(self.spaces)
        alive = alive and self._complete(space) and self._movable(space)
        for c in space.places:
            self.assigned[c] = number if alive else -1
        if alive:
            self.spaces.append(space)

    def _across(self, space: Space, link: _Link, place: Place, forward: bool) -> Place | None:
        """The place of the partner class, or None where the link cannot be crossed."""
        if link.kind in ("norm", "norm1"):
            if space.plane or (place.gain and forward):
                return None
            space.family = "o1" if link.kind == "norm1" or space.family == "o1" else "o"
            return place
        if link.kind == "gain":
            if forward and place.gain is None:
                return Place(place.element, place.dual, link.gain, link.offset)
            if not forward and place.gain == link.gain:
                return Place(place.element, place.dual)
            return None
        if place.gain is not None:
            return None
        return Place(place.element, place.dual != (link.kind == "dual"))

    def _complete(self, space: Space) -> bool:
        """Every element is present on each side the same number of times, and norms see the whole block."""
        if space.family == "o1":
            for link in self.links:
                if link.kind == "norm1" and int(link.left[0]) in space.places and len(link.left) != space.size:
                    return False
        if any(p.gain for p in space.places.values()) and not self._gains_end_in_readers(space):
            return False
        by_side: dict[tuple[bool, str | None], list[int]] = defaultdict(list)
        for place in space.places.values():
            by_side[(place.dual, place.gain)].append(place.element)
        expected = 1 if space.plane else space.size
        return all(len(set(elements)) == expected for elements in by_side.values())

    def _gains_end_in_readers(self, space: Space) -> bool:
        """What comes out of a conjugating gain is read by dense weights alone, and written by nothing else but shifts."""
        outs = {c for c, p in space.places.items() if p.gain}
        for use in self.classes.facts.dense:
            if use.outs is not None and outs & set(self.classes(use.outs).tolist()):
                return False
        for link in self.links:
            side = set(link.left.tolist()) if link.kind == "gain" else set(link.left.tolist()) | set(link.right.tolist())
            if outs & side:
                return False
        return True

    def _movable(self, space: Space) -> bool:
        """Some weight carries the block, and every shift on it has one position per unit."""
        carried = False
        for use in self.classes.facts.dense:
            for vec in (use.outs, use.ins):
                if vec is not None and set(self.classes(vec).tolist()) & set(space.places):
                    carried = True
        for shift in self.classes.facts.shifts:
            units = self.classes(shift.units)
            mine = np.array([c in space.places for c in units.tolist()])
            if mine.any():
                where = self.classes.coordinates(shift, shift.axis)[mine]
                pairs = {(int(w), int(c)) for w, c in zip(where, units[mine], strict=True)}
                copies = 2 if space.plane else 1
                if len({w for w, _ in pairs}) != len(pairs) or len(pairs) != copies * len({c for _, c in pairs}):
                    return False
        return carried


def _number(keys: dict[int, tuple]) -> dict[int, int]:  # type: ignore[type-arg]
    table: dict[tuple, int] = {}  # type: ignore[type-arg]
    return {c: table.setdefault(k, len(table)) for c, k in keys.items()}


def find_spaces(classes: Classes) -> list[Space]:
    """All blocks of two or more units (and rotary planes) that a matrix group may mix."""
    return _Finder(classes).run()
