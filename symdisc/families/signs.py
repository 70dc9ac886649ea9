"""Sign flips: every unit has an unknown sign, odd and even operators give relations modulo 2, the solutions are (Z_2)^k."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from symdisc.families.charts import ODD
from symdisc.families.classes import Classes
from symdisc.families.dense import Space
from symdisc.families.emit import emit_torus
from symdisc.families.proof import operator_equivariance
from symdisc.families.torus import Torus
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Discrete

__all__ = ["find_signs"]

MOST = 50_000  # classes: the relations are followed one by one
# What forbids mixing but lets a sign pass: factors, sums and centring are linear.
SIGNED = frozenset({"constant factor per unit", "running statistics", "summed over units", "mean subtracted", "product",
                    "aten.matmul", "aten.bmm", "aten.mm", "computed factor", "constant added", ODD})


class _Signs:
    """Union-find over classes with a root of all that cannot change sign."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.parent = np.arange(classes.count)
        self.zero = int(classes.data)

    def find(self, c: int) -> int:
        while self.parent[c] != c:
            self.parent[c] = self.parent[self.parent[c]]
            c = int(self.parent[c])
        return c

    def same(self, a: np.ndarray, b: np.ndarray) -> bool:
        changed = False
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            x, y = self.find(x), self.find(y)
            if x != y:
                keep, drop = (x, y) if x == self.find(self.zero) else (y, x)
                self.parent[drop] = keep
                changed = True
        return changed

    def fix(self, a: np.ndarray) -> None:
        self.same(a, np.full(a.shape, self.zero))


def find_signs(classes: Classes, spaces: list[Space]) -> list[Discrete]:
    """Independent sign flips of units that no continuous group mixes (those hold their signs already)."""
    if classes.count > MOST:
        return []
    signs = _Signs(classes)
    for space in spaces:
        signs.fix(space.classes.ravel())
    handled = _operators(signs)
    for reasons, harmless in ((classes.facts.fixed, handled), (classes.facts.killed, handled | SIGNED)):
        for units, why in reasons:
            if why not in harmless:
                signs.fix(np.unique(classes(units[units >= 0])))
    operators = {(int(i[0]), int(o[0])) for i, o, _ in classes.facts.elementwise if len(i)}  # their signs are dealt with: |x| is even
    for a, b, p in classes.facts.powers:
        if p == 1.0 and not (len(a) and (int(a[0]), int(b[0])) in operators):
            signs.same(classes(a), classes(b))
    _parameters(signs)
    _products(signs)
    return _emit(signs)


def _operators(signs: _Signs) -> set[str]:
    """Relations of the elementwise operators; returns the packets that are dealt with."""
    classes, graph = signs.classes, signs.classes.graph
    handled = set()
    for ins, outs, name in classes.facts.elementwise:
        op = graph.by_name[name]
        handled.add(op.packet)
        i, o = classes(ins), classes(outs)
        found = operator_equivariance(op)
        flips = [d for d in (found.discrete if found is not None else ()) if d.kind == "sign"]
        if not flips or flips[0].status != "proved":
            signs.fix(i)
            signs.fix(o)
        elif flips[0].value("b") == -1:
            signs.same(i, o)
        else:
            signs.fix(o)
    return handled


def _parameters(signs: _Signs) -> None:
    """Every use of a parameter asks for the same signs along its axes (one sign for all, which a tie would allow, is left out)."""
    for parameter, uses in signs.classes.uses.items():
        seen: dict[object, np.ndarray] = {}
        for use in uses:
            if parameter in signs.classes.facts.signed:
                _keep(signs, use)
            for key, units in _axes(use):
                units = signs.classes(units)
                if key in seen and len(seen[key]) == len(units):
                    signs.same(seen[key], units)
                elif key in seen:
                    signs.fix(units)
                    signs.fix(seen[key])
                seen.setdefault(key, units)


def _keep(signs: _Signs, use: DenseUse | GainUse | ShiftUse) -> None:
    """The weight itself changes no sign: a gain passes them on, whatever else reads it has none."""
    if isinstance(use, GainUse):
        signs.same(signs.classes(use.ins), signs.classes(use.outs))
    else:
        for _, units in _axes(use):
            signs.fix(signs.classes(units))


def _axes(use: DenseUse | GainUse | ShiftUse) -> list[tuple[object, np.ndarray]]:
    if isinstance(use, DenseUse):
        sides = ((use.out_axis, use.outs), (use.in_axis, use.ins))
        return [((use.rows, axis, "dense"), units) for axis, units in sides if units is not None]
    if isinstance(use, ShiftUse):
        return [(("shift", int(e)), np.array([u])) for e, u in zip(use.elements, use.units, strict=True)]
    return [(("gain", side, int(e)), np.array([u])) for side, units in (("in", use.ins), ("out", use.outs))
            for e, u in zip(use.elements, units, strict=True)]


def _products(signs: _Signs) -> None:
    """o = a b: once one of the three cannot change, the others change together; what stays open keeps its first factor."""
    triples = [tuple(np.stack([signs.classes(v) for v in (o, a, b)], 1).tolist()) for o, a, b, _ in signs.classes.facts.sums]
    rows = sorted({tuple(r) for t in triples for r in t})
    while True:
        changed = False
        for row in rows:
            roots = [signs.find(c) for c in row]
            still = [r for r in roots if r != signs.find(signs.zero)]
            if len(still) == 1:
                changed |= signs.same(np.array(still), np.array([signs.zero]))
            elif len(still) == 2 and still[0] != still[1]:
                changed |= signs.same(np.array(still[:1]), np.array(still[1:]))
            elif len(still) == 3 and len(set(still)) < 3:
                lone = roots[0] if roots[1] == roots[2] else roots[1] if roots[0] == roots[2] else roots[2]
                changed |= signs.same(np.array([lone]), np.array([signs.zero]))
        if not changed:
            open_ = next((row for row in rows if all(signs.find(c) != signs.find(signs.zero) for c in row)
                          and len({signs.find(c) for c in row}) == 3), None)
            if open_ is None:
                return
            signs.fix(np.array([open_[1]]))


def _emit(signs: _Signs) -> list[Discrete]:
    count = signs.classes.count
    roots = np.array([signs.find(c) for c in range(count)])
    free = np.unique(roots[roots != signs.find(signs.zero)])
    if not len(free):
        return []
    single = np.full(count, -1, dtype=np.int64)
    single[free] = free
    torus = Torus(free, roots, single, np.ones(count), {}, count)
    found: dict[tuple[int, ...], list[Discrete]] = defaultdict(list)
    for s in emit_torus(signs.classes, torus):
        n = s.shape[0]
        group = "Z_2" if n == 1 else f"(Z_2)^{n}"
        latex = r"\mathbb{Z}_2" if n == 1 else rf"(\mathbb{{Z}}_2)^{{{n}}}"
        found[s.shape].append(Discrete("sign flips of units", group, "sign", s.site, s.parameters, 2**n, s.shape, s.moves, latex, "proved"))
    return [d for group in found.values() for d in group]
