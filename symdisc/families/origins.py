"""Where a translation may start: the units that a parameter is added to, each at a position of its own."""

from __future__ import annotations

from collections import defaultdict
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
        groups: dict[tuple[frozenset[tuple[str, int]], bytes], list[int]] = defaultdict(list)
        classes, layers = self.readers
        first, last = np.searchsorted(classes, vec), np.searchsorted(classes, vec, side="right")
        for p, c in enumerate(vec.tolist()):
            groups[frozenset(self.roles.get(c, ())), layers[first[p]:last[p]].tobytes()].append(p)
        return [np.array(g) for g in groups.values()] if len(groups) > 1 else []

    @cached_property
    def roles(self) -> dict[int, set[tuple[str, int]]]:
        """Class -> the operators' sides on which it appears, heads not told apart."""
        found: dict[int, set[tuple[str, int]]] = defaultdict(set)
        for dual in self.facts.duals:
            for side, units in enumerate((dual.left, dual.right)):
                for c in np.unique(self.classes(units)).tolist():
                    found[c].add((dual.op, side))
        for ins, outs, op in self.facts.elementwise:
            for c in np.unique(self.classes(np.concatenate([ins, outs]))).tolist():
                found[c].add((op, 0))
        for _, a, b, _ in self.facts.sums:
            for side, units in ((2, a), (3, b)):
                for c in np.unique(self.classes(units)).tolist():
                    found[c].add(("product", side))
        return found

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

    @cached_property
    def readers(self) -> tuple[np.ndarray, np.ndarray]:
        """(class, number of an operator whose weight reads it), sorted; the blocks of one operator not told apart."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(d.op for d in self.facts.dense))}
        pairs = [np.stack([c := np.unique(self.classes(d.ins)), np.full(len(c), numbers[d.op])])
                 for d in self.facts.dense if d.ins is not None]
        classes, layers = np.unique(np.concatenate([*pairs, np.zeros((2, 0), dtype=np.int64)], axis=1), axis=1)
        return classes, layers

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
