"""Groups that mix units: general linear, orthogonal, complex numbers per rotary plane.

A block of units can be mixed by a matrix when every operator that touches it treats its units alike: dense weights absorb
any matrix, contractions pair a block with its dual, norms admit orthogonal ones, a gain before dense readers conjugates, and so
does one behind dense writers (the scale of a residual branch).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.hashing import runs, unique_pairs
from symdisc.families.links import Link, Links

__all__ = ["Finder", "Space", "find_spaces"]

Gain = tuple[str, float, bool] | None  # parameter, constant added to it, whether the units stand in front of it


@dataclass
class Space:
    """Classes mixed by one matrix each: ``family`` is gl, o, o1 (fixes 1) or complex (size 2, one matrix per plane).

    For class ``classes[j]``: ``element[j]`` is its coordinate (for rotary planes the number of the plane), ``dual[j]`` says
    that it carries the inverse transposed, ``gain[j]`` indexes ``gains``, the diagonal by which the matrix is conjugated: D g D^-1
    behind a gain that the block passes, D^-1 g D in front of one whose products are the block.
    """

    size: int
    family: str
    blocks: int = 1
    plane: bool = False
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    element: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    dual: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    gain: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gains: list[Gain] = field(default_factory=lambda: [None])


class Finder:
    """Grows spaces from blocks of units of one colour."""

    def __init__(self, classes: Classes, links: Links) -> None:
        self.classes, self.links = classes, links
        self.dead, self.turned = classes.killed, classes.rotated
        self.spaces: list[Space] = []
        n = classes.count
        self.taken = np.zeros(n, dtype=bool)
        self.element, self.gain = np.full(n, -1), np.zeros(n, dtype=np.int64)
        self.dual = np.zeros(n, dtype=bool)
        self._sides()

    def _sides(self) -> None:
        """Which classes are written, read or carried by dense weights, and which stand at links that conjugated units may not meet."""
        n = self.classes.count
        self.written, self.read, self.carried, self.no_behind, self.no_front = (np.zeros(n, dtype=bool) for _ in range(5))
        for use in self.classes.facts.dense:
            if use.outs is not None:
                self.written[self.classes(use.outs)] = True
            if use.ins is not None:
                self.read[self.classes(use.ins)] = True
            for vec in (use.outs, use.ins):
                if vec is not None:
                    self.carried[self.classes(vec)] = True
        for link in self.links.all:
            self.no_front[link.right] = True
            if link.kind != "gain":
                self.no_front[link.left] = True
            if link.kind != "copy":  # a common factor keeps what stands behind a gain
                self.no_behind[link.left] = True
                self.no_behind[link.right] |= link.kind != "gain"
        self.shift_pairs = []
        self.shifts_of: dict[int, list[int]] = {}
        for k, shift in enumerate(self.classes.facts.shifts):
            units = self.classes(shift.units)
            pairs = unique_pairs(self.classes.coordinates(shift, shift.axis), units)
            apart = len(np.unique(pairs[0])) == pairs.shape[1]  # else the biases of stacked experts: entry by entry
            self.shift_pairs.append(pairs if apart else np.stack([shift.elements, units]))
            for c in np.unique(units).tolist():
                self.shifts_of.setdefault(c, []).append(k)

    def run(self) -> list[Space]:
        colours = self.links.colours
        doubled = self.links.doubled()
        free = np.flatnonzero(~self.dead & (colours != 0))
        planes = free[doubled[free]]
        plain = free[~doubled[free] & ~self.turned[free]]
        for members, plane in ((planes, True), (plain, False)):  # what a norm makes of planes looks plain by itself
            _, groups = runs(colours[members])
            for group in sorted((members[g] for g in groups), key=self._turn):
                if not self.taken[group[0]] and (plane or len(group) > 1):
                    self.grow(group, plane)
        return sorted(self.spaces, key=lambda s: s.plane)

    def _turn(self, group: np.ndarray) -> tuple[bool, int]:
        """In their order, but what only enters a gain comes last: it is conjugated where the gain's products are a block."""
        return not (self.read[group] | self.no_front[group]).any(), int(group[0])

    def grow(self, members: np.ndarray, plane: bool) -> None:
        """Follow the links from a block; keep the space if nothing forbids it."""
        space = Space(2, "complex", len(members), True) if plane else Space(len(members), "gl")
        alive = True
        self._place(members, np.arange(len(members)), False, 0)
        touched, frontier = [members], [(members, False, 0)]
        while frontier:
            chunk, dual, gain = frontier.pop()
            incidences, owner = self.links.at(chunk)
            mine = chunk[owner]
            forward = self.links.left[incidences] == mine
            partner = np.where(forward, self.links.right[incidences], self.links.left[incidences])
            keys, groups = runs(self.links.number[incidences] * 2 + forward)
            for key, rows in zip(keys.tolist(), groups, strict=True):
                if self._ends_at(self.links.all[key // 2], dual, gain, bool(key % 2)):
                    continue
                place = self._across(space, self.links.all[key // 2], dual, gain, bool(key % 2))
                there, e = partner[rows], self.element[mine[rows]]
                usable = ~(self.dead[there] | self.taken[there])
                if place is None or not usable.all():
                    alive = False
                if place is not None:
                    new, agrees = self._visit(space, there[usable], e[usable], *place)
                    alive = alive and agrees
                    if len(new):
                        touched.append(new)
                        frontier.append((new, *place))
        self._close(space, np.concatenate(touched), alive)

    def _place(self, there: np.ndarray, element: np.ndarray, dual: bool, gain: int) -> None:
        self.element[there], self.dual[there], self.gain[there] = element, dual, gain

    def _visit(self, space: Space, there: np.ndarray, element: np.ndarray, dual: bool, gain: int) -> tuple[np.ndarray, bool]:
        """Place classes seen for the first time; the others must agree with where they stand."""
        known = self.element[there] >= 0
        old = there[known]
        agrees = bool((self.element[old] == element[known]).all() and (self.gain[old] == gain).all())
        if bool((self.dual[old] != dual).any()):
            agrees = agrees and not space.plane
            space.family = "o" if space.family == "gl" else space.family
        new = there[~known]
        self._place(new, element[~known], dual, gain)
        agrees = agrees and bool((self.element[new] == element[~known]).all())
        return np.unique(new), agrees

    def _ends_at(self, link: Link, dual: bool, gain: int, forward: bool) -> bool:
        """The link sees nothing of what the group does; for the groups of this class none does."""
        return False

    def _across(self, space: Space, link: Link, dual: bool, gain: int, forward: bool) -> tuple[bool, int] | None:
        """(dual, gain) of the partner classes, or None where the link cannot be crossed."""
        if link.kind in ("norm", "norm1"):
            if gain and (forward or space.plane):
                return None
            if space.plane:  # only turns keep the length
                space.family = "o"
                return (dual, gain) if link.kind == "norm" else None
            space.family = "o1" if link.kind == "norm1" or space.family == "o1" else "o"
            return dual, gain
        if link.kind == "gain":
            name: Gain = (link.gain or "", link.offset, not forward)
            if not gain:
                if name not in space.gains:
                    space.gains.append(name)
                return dual, space.gains.index(name)
            back: Gain = (link.gain or "", link.offset, forward)
            return (dual, 0) if space.gains[gain] == back else None
        if gain and (link.kind == "dual" or space.gains[gain][2]):  # type: ignore[index]
            return None
        return dual != (link.kind == "dual"), gain

    def _close(self, space: Space, members: np.ndarray, alive: bool) -> None:
        space.classes = members
        space.element, space.dual, space.gain = self.element[members], self.dual[members], self.gain[members]
        alive = alive and (space.plane or not self.turned[members].any())  # constants of their own: a norm's outputs lead here, too
        alive = alive and self._complete(space) and self._movable(space)
        self.element[members] = -1
        self.taken[members] = True
        if alive:
            self.spaces.append(space)

    def _complete(self, space: Space) -> bool:
        """Every element is present on each side, norms see the whole block, once or several times, gains end in readers."""
        if space.family == "o1":
            whole = list(range(space.size))
            for link in self.links.all:
                element = self.element[link.left] if link.kind == "norm1" else np.zeros(0)
                if (element >= 0).any() and any(sorted(element[k:k + space.size].tolist()) != whole
                                                for k in range(0, len(element), space.size)):
                    return False
        in_front = np.array([gain is not None and gain[2] for gain in space.gains])[space.gain]
        front, behind = space.classes[in_front], space.classes[(space.gain > 0) & ~in_front]
        if self.no_behind[behind].any():
            return False  # what leaves a conjugating gain is read and written by dense weights alone
        if (self.read | self.no_front | self.turned)[front].any():
            return False  # what enters one is written by them alone; constants of a BatchNorm on the way would conjugate too
        expected = space.blocks if space.plane else space.size
        _, sides = runs(space.gain * 2 + space.dual)
        return all(len(np.unique(space.element[rows])) == expected for rows in sides)

    def _movable(self, space: Space) -> bool:
        """Some weight carries the block, and every shift on it has one position per unit (two for a rotary plane)."""
        copies = 2 if space.plane else 1
        for k in {k for c in space.classes.tolist() for k in self.shifts_of.get(c, ())}:
            where, units = self.shift_pairs[k]
            mine = self.element[units] >= 0
            places, units = where[mine], units[mine]
            if len(np.unique(places)) != len(places) or len(places) != copies * len(np.unique(units)):
                return False
        return bool(self.carried[space.classes].any())


def find_spaces(classes: Classes, links: Links) -> list[Space]:
    """All blocks of two or more units (and rotary planes) that a matrix group may mix."""
    return Finder(classes, links).run()
