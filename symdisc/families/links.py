"""Which positions of which vectors of units correspond: contractions, copies, norms, gains, tied weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.hashing import add_to, mix, unique_pairs
from symdisc.spaces import DenseUse, GainUse, ShiftUse

__all__ = ["Link", "Links", "ranks"]

ROUNDS = 3  # of refinement of colours along the links: a gain, a norm and a contraction are at most three links apart


@dataclass
class Link:
    """Positions of one vector correspond to those of another; ``kind`` copy, dual, norm, norm1, gain."""

    kind: str
    left: np.ndarray
    right: np.ndarray
    gain: str | None = None
    offset: float = 0.0
    group: str = ""  # links of one group are rows of one fact: the heads of one contraction
    ranks: tuple[np.ndarray, np.ndarray] | None = None  # of the units on both sides


def ranks(classes: Classes, units: np.ndarray) -> np.ndarray:
    """For each position of a vector, the place of its unit among the units of the same class: the two of a rotary plane differ."""
    distinct, inverse = np.unique(units, return_inverse=True)
    kind = classes(distinct)
    order = np.argsort(kind, kind="stable")
    first = np.searchsorted(kind[order], kind[order])
    place = np.empty(len(distinct), dtype=np.int64)
    place[order] = np.arange(len(distinct)) - first
    return np.asarray(place[inverse.reshape(-1)])


def _links(classes: Classes) -> list[Link]:
    links = []
    for dual in classes.facts.duals:
        links += [Link("dual", a, b, group=dual.op)
                  for a, b in zip(classes(dual.left), classes(dual.right), strict=True)]
    for k, (a, b) in enumerate(classes.facts.copies):
        links += [Link("copy", x, y, group=f"copies {k}")
                  for x, y in zip(classes(a), classes(b), strict=False)] if a.shape == b.shape else []
    for norm in classes.facts.norms:
        links.append(Link("norm1" if norm.centred else "norm", classes(norm.ins), classes(norm.outs),
                          ranks=(ranks(classes, norm.ins), ranks(classes, norm.outs))))
    for use in classes.facts.gains:
        scalar = len(use.elements) > 1 and int(use.elements.min()) == int(use.elements.max())
        links.append(Link("copy" if scalar else "gain", classes(use.ins), classes(use.outs), use.parameter, use.offset,
                          ranks=(ranks(classes, use.ins), ranks(classes, use.outs))))
    return links + _ties(classes)


def _ties(classes: Classes) -> list[Link]:
    """A weight used twice must be moved in the same way by both uses, axis by axis."""
    links = []
    for uses in classes.uses.values():
        shifts = [u for u in uses if isinstance(u, ShiftUse)]
        rows: dict[tuple[int, int] | None, list[DenseUse]] = defaultdict(list)
        for use in uses:
            if isinstance(use, DenseUse):
                rows[use.rows].append(use)
        for first, *others in rows.values():
            for other in others:
                for axis in (0, 1):
                    a, out_a = _axis(first, axis)
                    b, out_b = _axis(other, axis)
                    known = a if a is not None else b
                    if known is None:
                        continue
                    left = np.full(len(known), classes.data) if a is None else classes(a)
                    right = np.full(len(known), classes.data) if b is None else classes(b)
                    links.append(Link("copy" if out_a == out_b else "dual", left, right))
        for other_shift in shifts[1:]:
            _, here, there = np.intersect1d(shifts[0].elements, other_shift.elements, return_indices=True)
            if len(here):
                links.append(Link("copy", classes(shifts[0].units[here]), classes(other_shift.units[there])))
    return links


def _axis(use: DenseUse, axis: int) -> tuple[np.ndarray | None, bool]:
    out = use.out_axis == axis
    return (use.outs if out else use.ins), out


class Links:
    """All links as flat arrays, with the incidences of each class found by one look-up."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.all = _links(classes)
        sizes = [len(link.left) for link in self.all]
        self.number = np.repeat(np.arange(len(self.all)), sizes)
        none = np.zeros(0, dtype=np.int64)
        self.left = np.concatenate([link.left for link in self.all] or [none])
        self.right = np.concatenate([link.right for link in self.all] or [none])
        both = np.concatenate([self.left, self.right[self.right != self.left]])
        where = np.concatenate([np.arange(len(self.left)), np.flatnonzero(self.right != self.left)])
        order = np.argsort(both, kind="stable")
        self._where = where[order]
        self._start = np.searchsorted(both[order], np.arange(classes.count + 1))

    def at(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(incidences, the index into ``members`` that each belongs to)."""
        first, last = self._start[members], self._start[members + 1]
        counts = last - first
        owner = np.repeat(np.arange(len(members)), counts)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._where[np.repeat(first, counts) + offset], owner

    def doubled(self) -> np.ndarray:
        """Boolean per class: it fills exactly two places of each dual vector, or of each normed one, that holds it (a rotary plane)."""
        dual, norm = (self._twice([link.kind == kind for link in self.all]) for kind in ("dual", "norm"))
        return np.asarray(dual | (norm & self.classes.rotated))

    def _twice(self, chosen: list[bool]) -> np.ndarray:
        """Boolean per class: exactly two places of each side of the chosen links that holds it."""
        count = self.classes.count
        least, most = np.full(count, 1 << 30), np.zeros(count, dtype=np.int64)
        use = np.array(chosen, dtype=bool)[self.number] if len(self.all) else np.zeros(0, dtype=bool)
        for side in (self.left, self.right):
            keys, n = np.unique(self.number[use] * count + side[use], return_counts=True)
            np.minimum.at(least, keys % count, n)
            np.maximum.at(most, keys % count, n)
        return np.asarray((least == 2) & (most == 2))

    @cached_property
    def colours(self) -> np.ndarray:
        """A number per class, equal for classes that every vector treats alike (up to ROUNDS links away); 0: unmarked."""
        classes, facts = self.classes, self.classes.facts
        h = np.zeros(classes.count, dtype=np.uint64)
        number = 0

        def mark(vec: np.ndarray, side: int) -> None:
            add_to(h, vec, mix(np.array(number), side))

        for use in facts.dense:
            if use.op not in classes.depthwise:
                for side, vec in ((0, use.outs), (1, use.ins)):
                    number += 1
                    if vec is not None:
                        mark(classes(vec), side)
        for conv in classes.depthwise.values():
            for side, units in ((0, conv.outs), (1, conv.ins)):
                number += 1
                mark(classes(units), side)
        for shift in facts.shifts:
            number += 1
            mark(np.unique(classes(shift.units)), 2)
        for ins, outs, _ in facts.elementwise:
            number += 1
            mark(np.unique(classes(ins)), 3)
            mark(np.unique(classes(outs)), 4)
        for vectors in facts.sums:
            number += 1
            for side in range(3):
                mark(np.unique(classes(vectors[side])), 5 + side)  # type: ignore[arg-type]
        for stat in facts.statistics:
            number += 1
            mark(np.unique(classes(stat.outs)), 15)
        for alike in facts.alike:
            for row in range(len(alike.ins)):
                number += 1
                mark(classes(alike.ins[row]), 16)
                mark(classes(alike.outs[row]), 17)
        add_to(h, self.left, mix(self.number, 8))
        add_to(h, self.right, mix(self.number, 9))
        marked = h != 0
        pairs = self.pairs()
        for _ in range(ROUNDS):
            h = self._refine(h, pairs)
        h[~marked] = 0
        return h

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(relation number, class, class) of everything that ties units one by one."""
        classes, facts = self.classes, self.classes.facts
        found = [(self.number, self.left, self.right)]
        n = len(self.all)
        for ins, outs, _ in facts.elementwise:
            found.append((np.full(len(ins), n), classes(ins), classes(outs)))
            n += 1
        for alike in facts.alike:
            found.append((np.full(alike.ins.size, n), classes(alike.ins.ravel()), classes(alike.outs.ravel())))
            n += 1
        for a, b, _ in (*facts.totals, *facts.weighted):
            found.append((np.full(len(a), n), classes(a), classes(b)))
            n += 1
        for conv in classes.depthwise.values():
            found.append((np.full(len(conv.ins), n), classes(conv.ins), classes(conv.outs)))
            n += 1
        for entries, units in self.shared:  # those of an entry in a circle, none of them the first
            _, first, count = np.unique(entries, return_index=True, return_counts=True)
            after = np.arange(1, len(units) + 1)
            after[first + count - 1] = first
            found.append((np.full(len(units), n), units, units[after]))
            n += 1
        for out, a, b, _ in facts.sums:
            found += [(np.full(len(out), n), classes(out), classes(a)), (np.full(len(out), n + 1), classes(out), classes(b))]
            n += 2
        numbers, left, right = (np.concatenate(x) for x in zip(*found, strict=True))
        return numbers, left, right

    @cached_property
    def shared(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(entries, classes) of each gain, or statistic, of which an entry multiplies several classes."""
        uses: dict[str, list[GainUse]] = defaultdict(list)
        for use in (*self.classes.facts.gains, *self.classes.facts.statistics):
            uses[use.parameter].append(use)
        found = []
        for mine in uses.values():
            pairs = unique_pairs(np.concatenate([u.elements for u in mine]), self.classes(np.concatenate([u.outs for u in mine])))
            distinct = len(np.unique(pairs[0]))
            if 1 < distinct < pairs.shape[1]:
                found.append((pairs[0], pairs[1]))
        return found

    @staticmethod
    def _refine(h: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        numbers, left, right = pairs
        with np.errstate(over="ignore"):
            around = mix(mix(numbers, 10) + mix(h[left], 11) + mix(h[right], 12))
            new = mix(h, 13)
        add_to(new, left, around)
        other = left != right
        add_to(new, right[other], mix(around[other], 14))
        return new
