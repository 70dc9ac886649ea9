"""Where a translation may start: the units that a parameter is added to, each at a position of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from symdisc.families.classes import Classes
from symdisc.spaces import ShiftUse

__all__ = ["EXTREMES", "Origins"]

EXTREMES = frozenset(("aten.amax", "aten.amin", "aten.max", "aten.min"))


class Origins:
    """What each added parameter writes, as (positions along its axis, classes), and the parts of it with a fate of their own."""

    def __init__(self, classes: Classes) -> None:
        self.classes, self.facts = classes, classes.facts

    def parts(self, vec: np.ndarray) -> list[np.ndarray]:
        """Positions grouped by the kinds of vectors that the classes take part in, and by the layers that read them."""
        classes, roles = self.roles
        first, last = np.searchsorted(classes, vec), np.searchsorted(classes, vec, side="right")
        groups: dict[bytes, list[int]] = defaultdict(list)
        for p in range(len(vec)):
            groups[roles[first[p]:last[p]].tobytes()].append(p)
        return [np.array(g) for g in groups.values()] if len(groups) > 1 else []

    @cached_property
    def roles(self) -> tuple[np.ndarray, np.ndarray]:
        """(class, number of a role), sorted: a side of an operator, heads not told apart; a layer that reads it, blocks not told apart."""
        numbers: dict[tuple[str, int], int] = {}
        pairs = [np.zeros(0, dtype=np.int64)]
        for key, units in self._seen():
            pairs.append(self.classes(units).reshape(-1) << 32 | numbers.setdefault(key, len(numbers)))
        both = np.unique(np.concatenate(pairs))
        return both >> 32, both & 0xFFFFFFFF

    def _seen(self) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        """Vectors of units, and the role that they all play."""
        for dual in self.facts.duals:
            yield (dual.op, 0), dual.left
            yield (dual.op, 1), dual.right
        for ins, outs, op in self.facts.elementwise:
            yield (op, 0), np.concatenate([ins, outs])
        for _, a, b, _ in self.facts.sums:
            yield ("product", 2), a
            yield ("product", 3), b
        for use in self.facts.dense:
            if use.ins is not None:
                yield (use.op, 4), use.ins

    def pieces(self, vec: np.ndarray) -> np.ndarray | None:
        """The number of the unit of which each class is a piece, where all are pieces of one maximum."""
        for ins, _ in self.rows.values():
            if np.array_equal(np.sort(ins, axis=None), np.sort(vec)):
                owner = np.repeat(np.arange(len(ins)), ins.shape[1])[np.argsort(ins, axis=None)]
                return np.asarray(owner[np.searchsorted(np.sort(ins, axis=None), vec)])
        return None

    @cached_property
    def rows(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Maxima of several units: (pieces [units, pieces], the unit [units] made of them), by operator."""
        found = {}
        for alike in self.facts.alike:
            ins, outs = self.classes(alike.ins), self.classes(alike.outs)
            chooses = self.classes.graph.by_name[alike.op].packet in EXTREMES and bool((outs == outs[:, :1]).all())
            if chooses and len(np.unique(ins)) == ins.size and len(np.unique(outs[:, 0])) == len(outs):
                found[alike.op] = ins, outs[:, 0]
        return found

    def writer(self, shift: ShiftUse) -> tuple[np.ndarray, np.ndarray] | None:
        """(positions along the axis, classes), if every unit sits at one position and every position is written."""
        where = self.classes.coordinates(shift, shift.axis)
        pairs = np.unique(np.stack([where, self.classes(shift.units)]), axis=1)
        shape = self.classes.shape(shift.parameter)
        whole = bool(shape) and pairs.shape[1] == shape[shift.axis]
        if not whole or len(np.unique(pairs[0])) != pairs.shape[1] or len(np.unique(pairs[1])) != pairs.shape[1]:
            return None
        return pairs[0], pairs[1]

    def entries(self, shift: ShiftUse) -> tuple[np.ndarray, np.ndarray] | None:
        """(entries, classes) of a whole parameter of several axes, a unit for each entry: biases of heads stored [heads, size]."""
        vec = self.classes(shift.units)
        whole = len(vec) == int(np.prod(self.classes.shape(shift.parameter))) == len(np.unique(vec))
        return (shift.elements, vec) if whole and self.classes.data not in vec else None

    def apart(self, shift: ShiftUse) -> tuple[np.ndarray, np.ndarray] | None:
        """The same for those positions whose unit is written nowhere else: of a bias of rotary heads what is not rotated."""
        where, vec = self.classes.coordinates(shift, shift.axis), self.classes(shift.units)
        if len(self.classes.shape(shift.parameter)) != 1 or len(np.unique(where)) != len(where):
            return None
        alone = np.flatnonzero((np.bincount(vec)[vec] == 1) & (vec != self.classes.data))
        return (where[alone], vec[alone]) if len(alone) else None
