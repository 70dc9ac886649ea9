"""Discrete affine elements of hidden units: f(c x + t) = b f(x) + s with c = -1 (reflections) or c = 1 (periods and shifts).

The element itself comes from the operator's solved equivariance. The unit's row absorbs c, one bias absorbs t, its columns absorb
b, and the translation s goes on to the next biases as any translation does. What needs a linear path around f (gelu, softplus:
f(-x) = f(x) - x) is not proposed.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from symdisc.equivariance.record import Discrete as Element
from symdisc.families.classes import Classes
from symdisc.families.naming import common_path
from symdisc.families.proof import operator_equivariance
from symdisc.families.translations import Translations
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Discrete

__all__ = ["find_affine"]


def find_affine(classes: Classes) -> list[Discrete]:
    """Reflections and periods of all units of an elementwise operator that stands between dense weights."""
    candidates = [(ins, outs, name, elements) for ins, outs, name in classes.facts.elementwise
                  if (elements := _affine_elements(classes, name))]
    if not candidates:
        return []
    found = []
    translations = Translations(classes)
    roles = _roles(classes)
    for ins, outs, name, elements in candidates:
        i, o = classes(ins), classes(outs)
        if len(np.unique(i)) < len(i) or not _plain(classes, roles, i, o):
            continue
        for kind in (("reflection",), ("shift", "period")):  # the first of the shifts is the shortest: it generates the others
            one = next((e for e in elements if e.kind in kind), None)
            factor = None if one is None else _factor(classes, translations, name, i, o, one)
            if factor is not None:
                found.append(factor)
    return found


def _affine_elements(classes: Classes, name: str) -> list[Element]:
    """Reflections and shifts that the operator ``name`` is proved to have."""
    solved = operator_equivariance(classes.graph.by_name[name])
    kinds = ("reflection", "shift", "period")
    return [] if solved is None else [e for e in solved.discrete if e.status == "proved" and e.kind in kinds]


def _roles(classes: Classes) -> Counter[tuple[str, int]]:
    """How often a class stands in facts of each kind."""
    facts, found = classes.facts, Counter[tuple[str, int]]()

    def note(kind: str, units: np.ndarray) -> None:
        found.update((kind, c) for c in np.unique(classes(units)).tolist())

    for use in facts.dense:
        for kind, vec in (("written", use.outs), ("padded" if use.padded else "read", use.ins)):
            if vec is not None:
                note(kind, vec)
    for shift in facts.shifts:
        note("shifted", shift.units)
        if (offsets := facts.offsets.get(shift.parameter)) is not None:
            note("other", shift.units[offsets[shift.elements] != 0])
    for ins, outs, _ in facts.elementwise:
        note("into", ins)
        note("out of", outs)
    others = [u for pair in facts.copies for u in pair] + [u for row in (*facts.totals, *facts.weighted) for u in row[:2]]
    others += [v for row in facts.sums for v in row[:3]]
    others += [v for d in facts.duals for v in (d.left, d.right)]
    others += [v for n in facts.norms for v in (n.ins, n.outs)] + [v for a in facts.alike for v in (a.ins, a.outs)]
    others += [v for g in (*facts.gains, *facts.statistics) for v in (g.ins, g.outs)] + facts.rigid + [u for _, u, _ in facts.marked]
    others += [u for u, why in facts.fixed if why == "output"]
    for units in others:
        note("other", units[units >= 0])
    return found


def _plain(classes: Classes, roles: Counter[tuple[str, int]], i: np.ndarray, o: np.ndarray) -> bool:
    """The inputs are written once and read by the operator alone, the outputs are read by dense weights alone."""
    if classes.data in i or classes.data in o:
        return False
    before = all(roles["written", c] == 1 and roles["into", c] == 1
                 and not any(roles[k, c] for k in ("read", "padded", "out of", "other")) for c in i.tolist())
    return before and all(roles["out of", c] == 1 and (roles["read", c] or roles["padded", c]) and not any(
        roles[k, c] for k in ("written", "into", "shifted", "other")) for c in o.tolist())


def _constant_factor(classes: Classes, name: str) -> float:
    """What the entries of the operator's input were multiplied by since they were written: sin(30 x) has shifts pi / 30."""
    graph, factor = classes.graph, 1.0
    op = graph.by_name.get(graph.by_name[name].inputs[0])
    while op is not None and len(op.inputs) == 1 and op.packet in ("aten.mul", "aten.div", "aten.neg", "aten.view", "aten.clone"):
        number = op.args[1] if op.packet in ("aten.mul", "aten.div") and len(op.args) > 1 else -1.0 if op.packet == "aten.neg" else 1.0
        factor *= 1.0 / float(number) if op.packet == "aten.div" else float(number)
        op = graph.by_name.get(op.inputs[0])
    return factor


def _factor(classes: Classes, translations: Translations, op: str, i: np.ndarray, o: np.ndarray, one: Element) -> Discrete | None:
    c, t, b, s = (float(one.value(k)) for k in ("c", "t", "b", "s"))
    t /= _constant_factor(classes, op) or 1.0
    if abs(b) != 1 or (c == 1 and b == -1 and s):
        return None
    moves = _inputs(classes, i, c, t)
    outputs = _outputs(classes, o, op, b, "scale" if c == -1 else "parity")
    if moves is None or outputs is None:
        return None
    if s:
        translations.begin("", translations.order[op])
        first = Through("flip", "", offset=b * s) if c == -1 else Through("scale", "", offset=s)
        further = translations.push(op, {int(u): k for k, u in enumerate(o)}, (first,))
        if further is None:
            return None
        outputs += further
    everything, n = tuple(moves + outputs), len(i)
    site = common_path([u.module for p in parameters_of(everything) for u in classes.uses[p]])
    if c == -1:
        latex = r"\mathbb{Z}_2" if n == 1 else rf"(\mathbb{{Z}}_2)^{{{n}}}"
        return Discrete("reflections of units", "Z_2" if n == 1 else f"(Z_2)^{n}", "sign", site, parameters_of(everything), 2**n, (n,),
                        everything, latex, one.status)
    return Discrete("periods of units", "Z" if n == 1 else f"Z^{n}", "shift", site, parameters_of(everything), 0, (n,), everything,
                    r"\mathbb{Z}" if n == 1 else rf"\mathbb{{Z}}^{{{n}}}", one.status)


def _inputs(classes: Classes, i: np.ndarray, c: float, t: float) -> list[Move] | None:
    """Rows and biases of the units times c, and t added to one bias."""
    rank = {int(u): k for k, u in enumerate(i)}
    moves: list[Move] = []
    for use in classes.facts.dense:
        index = None if use.outs is None else _index(classes(use.outs), rank, np.arange(len(use.outs)))
        if index is not None:
            if len([u for u in classes.uses[use.parameter] if isinstance(u, DenseUse) and u.rows == use.rows]) > 1:
                return None  # a weight used twice
            moves += [Move("scale", use.parameter, use.out_axis, index, rows=use.rows)] if c == -1 else []
        elif use.outs is not None and np.isin(classes(use.outs), i).any():
            return None  # units written in parts (a grouped weight)
    biases = []
    for shift in classes.facts.shifts:
        index = _index(classes(shift.units), rank, shift.elements)
        if index is not None and not shift.buffer and len(classes.uses[shift.parameter]) == 1:
            biases.append(Move("scale", shift.parameter, -1, index))
        elif np.isin(classes(shift.units), i).any():
            return None
    if t and not biases:
        return None
    step = Through("flip", "", offset=t) if c == -1 else Through("scale", "", offset=t)
    first = [Move("add", biases[0].parameter, -1, biases[0].index, through=(step,))] if t else []
    return moves + (biases if c == -1 else []) + first


def _outputs(classes: Classes, o: np.ndarray, op: str, b: float, kind: str) -> list[Move] | None:
    """Columns that read the units, times b."""
    rank = {int(u): k for k, u in enumerate(o)}
    moves = []
    for use in classes.facts.dense:
        vec = None if use.ins is None else classes(use.ins.ravel())
        if vec is None or not np.isin(vec, o).any():
            continue
        index = _index(vec, rank, np.arange(len(vec)))
        if index is None or len([u for u in classes.uses[use.parameter] if isinstance(u, DenseUse) and u.rows == use.rows]) > 1:
            return None
        moves += [Move(kind, use.parameter, use.in_axis, index, rows=use.rows)] if b == -1 else []
    return moves


def _index(vec: np.ndarray, rank: dict[int, int], places: np.ndarray) -> Index | None:
    """[copies, units, 1] places of the units, if each stands there equally often."""
    at = np.array([rank.get(int(c), -1) for c in vec])
    mine = np.flatnonzero(at >= 0)
    counts = np.bincount(at[mine], minlength=len(rank))
    if not len(mine) or counts.min() != counts.max():
        return None
    order = mine[np.lexsort((places[mine], at[mine]))]
    return Index.of(places[order].reshape(len(rank), -1).T[:, :, None])

