"""Scalings: every unit has an unknown log-scale, operators give linear relations, the solutions are the group."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from symdisc.families.classes import Classes, components
from symdisc.spaces import DenseUse, GainUse, ShiftUse

__all__ = ["Torus", "solve_torus"]

Equation = dict[int, float]


@dataclass(frozen=True)
class Torus:
    """Independent scalings: class c scales with the powers ``solved[of[c]]`` of the free variables.

    Most classes follow one variable, kept in arrays: ``single`` (the variable or -1) and ``power``; those that follow
    several (-2 in ``single``) stand in ``many``.
    """

    free: np.ndarray
    of: np.ndarray
    single: np.ndarray
    power: np.ndarray
    many: dict[int, Equation]
    count: int

    def expand(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(positions in ``classes``, variables, powers) of everything that scales."""
        v = self.of[classes]
        at = np.flatnonzero(self.single[v] >= 0)
        found = [(at, self.single[v[at]], self.power[v[at]])]
        for p in np.flatnonzero(self.single[v] == -2).tolist():
            terms = self.many[int(v[p])]
            found.append((np.full(len(terms), p), np.array(list(terms), dtype=np.int64), np.array(list(terms.values()))))
        owner, variables, powers = (np.concatenate(x) for x in zip(*found, strict=True))
        return owner, variables, powers


class _System:
    """Linear relations between log-scales, contracted, then eliminated with lazy substitution."""

    def __init__(self, classes: Classes, frozen: np.ndarray) -> None:
        self.classes = classes
        pairs = [(classes(a), classes(b)) for a, b, p in classes.facts.powers if p == 1.0]
        self.of = components(classes.count, pairs)
        self.variables = int(self.of.max()) + 1
        self.zero = np.zeros(self.variables, dtype=bool)
        self.zero[self.of[classes.fixed]] = True
        self.zero[self.of[frozen]] = True
        self.pivots: dict[int, Equation] = {}

    def variable(self, units: np.ndarray) -> np.ndarray:
        return np.asarray(self.of[self.classes(units)])

    def settle_sums(self) -> list[Equation]:
        """Relations of the facts; those decided by frozen variables are settled at once, in bulk."""
        rows = [np.stack([self.variable(o), self.variable(a), self.variable(b)]) for o, a, b, _ in self.classes.facts.sums]
        signs = [np.full(len(o), p) for o, _, _, p in self.classes.facts.sums]
        for a, b, p in self.classes.facts.powers:
            if p != 1.0:
                va, vb = self.variable(a), self.variable(b)
                rows.append(np.stack([vb, np.full(len(va), self.of[self.classes.data]), va]))
                signs.append(np.full(len(va), p))
        if not rows:
            return []
        table, sign = np.concatenate(rows, axis=1), np.concatenate(signs)
        while True:
            self._settle_single(table, sign)
            merged = self._contract(table, sign)
            if merged is None:
                break
            table = merged
        o, a, b = table
        empty = ((o == a) & self.zero[b]) | ((o == b) & self.zero[a] & (sign == 1.0))
        keep = (~self.zero[table]).any(0) & ~empty
        columns = np.unique(np.concatenate([table[:, keep], sign[None, keep]]), axis=1).T
        return [_merge([(int(o), -1.0), (int(a), 1.0), (int(b), float(p))]) for o, a, b, p in columns.tolist()]

    def _settle_single(self, table: np.ndarray, sign: np.ndarray) -> None:
        """A variable that stands alone in some relation, with a nonzero coefficient, vanishes; until none does."""
        while True:
            open_ = ~self.zero[table]
            v = np.where(open_[0], table[0], np.where(open_[1], table[1], table[2]))
            alone = open_.any(0) & (~open_ | (table == v)).all(0)
            coefficient = (table[1] == v) * 1.0 - (table[0] == v) + sign * (table[2] == v)
            hit = v[alone & (coefficient != 0)]
            if not len(hit):
                return
            self.zero[hit] = True

    def _contract(self, table: np.ndarray, sign: np.ndarray) -> np.ndarray | None:
        """Relations that say no more than that two variables are equal make them one; None when there are none left."""
        open_, (o, a, b) = ~self.zero[table], table
        pairs = []
        for other, rest, fits in ((a, open_[2], open_[1]), (b, open_[1], open_[2] & (sign == 1.0))):
            equal = open_[0] & fits & ~rest & (o != other)
            pairs.append((o[equal], other[equal]))
        if not any(len(x) for x, _ in pairs):
            return None
        merged = components(self.variables, pairs)
        zero = np.zeros(int(merged.max()) + 1, dtype=bool)
        zero[merged[self.zero]] = True
        self.of, self.zero, self.variables = merged[self.of], zero, len(zero)
        return np.asarray(merged[table])

    def add(self, equation: Equation) -> None:
        reduced = self.reduce(equation)
        if not reduced:
            return
        pivot = max(reduced)
        scale = -reduced.pop(pivot)
        self.pivots[pivot] = {v: c / scale for v, c in reduced.items()}

    def reduce(self, equation: Equation) -> Equation:
        result: Equation = defaultdict(float)
        stack = list(equation.items())
        while stack:
            v, c = stack.pop()
            if v < self.variables and self.zero[v]:
                continue
            if v in self.pivots:
                stack.extend((w, c * d) for w, d in self.pivots[v].items())
            else:
                result[v] += c
        return {v: c for v, c in result.items() if abs(c) > 1e-12}


def _merge(terms: list[tuple[int, float]]) -> Equation:
    out: Equation = defaultdict(float)
    for v, c in terms:
        out[v] += c
    return {v: c for v, c in out.items() if c != 0.0}


def solve_torus(classes: Classes, frozen: np.ndarray) -> Torus:
    """All scalings of classes outside ``frozen`` (those already mixed by a larger group)."""
    system = _System(classes, frozen)
    equations = system.settle_sums() + list(_parameter_relations(classes, system))
    for equation in equations:
        system.add(equation)
    single, power = np.full(system.variables, -1), np.zeros(system.variables)
    many: dict[int, Equation] = {}
    used: set[int] = set()
    solved = _shortened({v: system.reduce({v: 1.0}) for v in system.pivots if v < system.variables and not system.zero[v]})
    plain = np.setdiff1d(np.flatnonzero(~system.zero), np.array(list(solved), dtype=np.int64))
    single[plain], power[plain] = plain, 1.0
    for v, terms in solved.items():
        if v >= system.variables:  # of a weight used twice, no unit's
            continue
        used.update(terms)
        if len(terms) == 1:
            single[v], power[v] = next(iter(terms.items()))
        elif terms:
            single[v], many[v] = -2, terms
    free = np.union1d(plain, np.array(sorted(used), dtype=np.int64)).astype(np.int64)
    return Torus(free, system.of, single, power, many, max(system.variables, int(free.max(initial=-1)) + 1))


def _shortened(solved: dict[int, Equation]) -> dict[int, Equation]:
    """The same solutions by free variables that make them shorter: an expression that several variables share (the scale of a
    sum over the states of a recurrence) becomes free in place of one of its terms, so that what is alike looks alike."""
    while True:
        shared: dict[frozenset[tuple[int, float]], list[int]] = defaultdict(list)
        for v, terms in solved.items():
            if len(terms) > 1:
                shared[frozenset(terms.items())].append(v)
        for v in (min(vs) for vs in sorted(shared.values(), key=len, reverse=True) if len(vs) > 1):
            changes = (_exchanged(solved, v, free) for free in sorted(solved[v], reverse=True))
            better = next((new for new in changes if _terms(new) < _terms({w: solved[w] for w in (v, *new) if w in solved})), None)
            if better is not None:
                solved = {w: terms for w, terms in {**solved, **better}.items() if w != v}
                break
        else:
            return solved


def _terms(solved: dict[int, Equation]) -> int:
    return sum(map(len, solved.values()))


def _exchanged(solved: dict[int, Equation], v: int, free: int) -> dict[int, Equation]:
    """What becomes of all that follow ``free`` when ``v`` is free in its place."""
    whole = {**{w: -c / solved[v][free] for w, c in solved[v].items() if w != free}, v: 1.0 / solved[v][free]}
    new = {w: _merge([*((u, c) for u, c in terms.items() if u != free), *((u, terms[free] * c) for u, c in whole.items())])
           for w, terms in solved.items() if free in terms and w != v}
    return {**new, free: whole}


def _parameter_relations(classes: Classes, system: _System):  # type: ignore[no-untyped-def]
    """Shared gain elements, shared shifts, weights used twice (with one extra unknown per further use)."""
    extra = system.variables
    for uses in classes.uses.values():
        if len(uses) == 1 and _plain(uses[0]):
            continue
        dense: dict[object, list[DenseUse]] = defaultdict(list)
        elements: dict[int, list[tuple[int, int]]] = defaultdict(list)
        shifted: dict[int, set[int]] = defaultdict(set)
        kinds = {type(u) for u in uses}
        for use in uses:
            if isinstance(use, DenseUse):
                dense[use.rows].append(use)
            elif isinstance(use, ShiftUse):
                for e, v in zip(use.elements.tolist(), system.variable(use.units).tolist(), strict=True):
                    shifted[e].add(v)
            else:
                for e, i, o in zip(use.elements.tolist(), system.variable(use.ins).tolist(),
                                   system.variable(use.outs).tolist(), strict=True):
                    elements[e].append((i, o))
        for pairs in elements.values():
            for i, o in pairs[1:]:
                yield _merge([(o, 1.0), (i, -1.0), (pairs[0][1], -1.0), (pairs[0][0], 1.0)])
        for variables in shifted.values():
            first, *rest = sorted(variables)
            for v in rest:
                yield {first: 1.0, v: -1.0}
        if len(kinds) > 1:
            for use in uses:
                for vec in ([use.units] if isinstance(use, ShiftUse) else [use.outs, use.ins]):
                    for v in set(() if vec is None else system.variable(vec[vec >= 0]).tolist()):
                        yield {v: 1.0}
        for group in dense.values():
            for other in group[1:]:
                yield from _tie(system, group[0], other, extra)
                extra += 1


def _plain(use: DenseUse | GainUse | ShiftUse) -> bool:
    """A single use in which every element of the parameter stands once asks for nothing."""
    return isinstance(use, DenseUse) or len(np.unique(use.elements)) == len(use.elements)


def _tie(system: _System, a: DenseUse, b: DenseUse, kappa: int):  # type: ignore[no-untyped-def]
    for axis, sign in ((0, 1.0), (1, -1.0)):
        left, right = _scales(system, a, axis), _scales(system, b, axis)
        size = max(len(left), len(right))
        for k in range(size):
            terms = [(v, c) for v, c in (left[k:k + 1] or [])] + [(v, -c) for v, c in (right[k:k + 1] or [])]
            equation = _merge([*terms, (kappa, sign)])
            if equation:
                yield equation


def _scales(system: _System, use: DenseUse, axis: int) -> list[tuple[int, float]]:
    out = use.out_axis == axis
    vec = use.outs if out else use.ins
    return [] if vec is None else [(v, 1.0 if out else -1.0) for v in system.variable(vec).tolist()]
