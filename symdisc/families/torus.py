"""Scalings: every unit has an unknown log-scale; operators give linear relations; the solutions are the scaling group."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from symdisc.families.classes import Classes, components
from symdisc.spaces import DenseUse, ShiftUse

__all__ = ["Torus", "solve_torus"]

Equation = dict[int, float]


@dataclass(frozen=True)
class Torus:
    """Independent scalings: ``exponents[class]`` maps a free variable to the power with which it scales that class."""

    free: tuple[int, ...]
    exponents: dict[int, dict[int, float]]


class _System:
    """Linear relations between log-scales, contracted, then eliminated with lazy substitution."""

    def __init__(self, classes: Classes, frozen: set[int]) -> None:
        self.classes = classes
        pairs = [(classes(a), classes(b)) for a, b, p in classes.facts.powers if p == 1.0]
        self.of = components(classes.count, pairs)
        self.variables = int(self.of.max()) + 1
        self.zero = np.zeros(self.variables, dtype=bool)
        self.zero[self.of[classes.fixed]] = True
        self.zero[self.of[sorted(frozen)]] = True
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
            open_ = ~self.zero[table]
            distinct = np.stack([open_[0], open_[1] & (table[1] != table[0]), open_[2] & (table[2] != table[0])])
            single = distinct.sum(0) == 1
            tied = (table[1] == table[2]) & (sign == -1.0)
            hit = np.unique(table[:, single & ~tied][distinct[:, single & ~tied]])
            if not len(hit) or self.zero[hit].all():
                break
            alone = [v for v in hit.tolist() if not self.zero[v]]
            self._zero_single(table, sign, alone)
        keep = (~self.zero[table]).any(0)
        columns = np.unique(np.concatenate([table[:, keep], sign[None, keep]]), axis=1).T
        return [_merge([(int(o), -1.0), (int(a), 1.0), (int(b), float(p))]) for o, a, b, p in columns.tolist()]

    def _zero_single(self, table: np.ndarray, sign: np.ndarray, alone: list[int]) -> None:
        """Variables that stand alone in some relation with a nonzero coefficient vanish."""
        wanted = set(alone)
        before = int(self.zero.sum())
        for o, a, b, p in zip(*table.tolist(), sign.tolist(), strict=True):
            if not ({o, a, b} & wanted):
                continue
            equation = {v: c for v, c in _merge([(o, -1.0), (a, 1.0), (b, p)]).items() if not self.zero[v]}
            if len(equation) == 1:
                self.zero[next(iter(equation))] = True
        if int(self.zero.sum()) == before:
            self.zero[alone] = False

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


def solve_torus(classes: Classes, frozen: set[int]) -> Torus:
    """All scalings of classes outside ``frozen`` (those already mixed by a larger group)."""
    system = _System(classes, frozen)
    equations = system.settle_sums() + list(_parameter_relations(classes, system))
    for equation in equations:
        system.add(equation)
    exponents: dict[int, dict[int, float]] = {}
    used: dict[int, None] = {}
    solved: dict[int, Equation] = {}
    for c in range(classes.count):
        v = int(system.of[c])
        if system.zero[v]:
            continue
        if v not in solved:
            solved[v] = system.reduce({v: 1.0})
        if solved[v]:
            exponents[c] = solved[v]
            used.update(dict.fromkeys(solved[v]))
    return Torus(tuple(used), exponents)


def _parameter_relations(classes: Classes, system: _System):  # type: ignore[no-untyped-def]
    """Shared gain elements, shared shifts, weights used twice (with one extra unknown per further use)."""
    extra = system.variables
    for uses in classes.uses.values():
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
