"""Which named families are proved: every nonlinear operator that touches their spaces has a formula whose equivariance
algebra sympy proved, and the pair that the family uses is in it.

What is affine in each operand (products, contractions, sums) needs no proof beyond linear algebra. The remaining claims are
witnessed: they were run on the network, not derived from a formula.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from symdisc.archgraph import known_linear
from symdisc.equivariance import Equivariance, equivariance
from symdisc.errors import SymdiscError
from symdisc.families.classes import Classes
from symdisc.moves import Move
from symdisc.opgraph import Op
from symdisc.rulebook import rulebook
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Discrete, Symmetry

__all__ = ["judge_proofs", "operator_equivariance"]

Claim = TypeVar("Claim", Symmetry, Discrete)

EVEN = 4  # the size at which vector operators are solved and proved; rotary heads need an even one


def judge_proofs(classes: Classes, symmetries: Sequence[Claim]) -> list[Claim]:
    """The same symmetries with ``status`` "proved" or "witnessed", and the operators without a proof in the note."""
    touching = _touching(classes)
    powers = _powers(classes)
    judged = []
    for s in symmetries:
        ops = {op for c in _moved(classes, s) for op in touching.get(c, ())}
        lacking = sorted({op for op in ops if not _proved(classes.graph.by_name[op], powers.get(op))})
        packets = sorted({classes.graph.by_name[op].packet for op in lacking})
        note = s.note if not packets else "; ".join(t for t in (s.note, f"no proof from a formula for {', '.join(packets)}") if t)
        judged.append(replace(s, status="witnessed" if packets else "proved", note=note))
    return judged


def operator_equivariance(op: Op) -> Equivariance | None:
    """The solved algebra of the operator's rule, or None where there is no rule for it."""
    numbers = tuple(a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool))
    return _of_rule(op.target, numbers, dict(op.kwargs).get("approximate", "none"))


@lru_cache(maxsize=256)
def _of_rule(target: str, numbers: tuple[float, ...], approximate: object) -> Equivariance | None:
    name = {r.name for r in rulebook() if target in r.torch}
    if target == "aten.pow.Tensor_Scalar":
        return equivariance(f"x**{int(numbers[0]) if float(numbers[0]).is_integer() else numbers[0]}")
    if target == "aten.gelu.default" and approximate == "tanh":
        name = {"gelu_tanh"}
    if not name:
        return None
    rule = name.pop()
    try:
        return equivariance(rule) if rulebook().get(rule).elementwise else equivariance(rule, size=EVEN)  # type: ignore[union-attr]
    except SymdiscError:
        return None


def _proved(op: Op, power: float | None) -> bool:
    if known_linear(op.packet):
        return True
    found = operator_equivariance(op)
    if found is None or found.status != "proved":
        return False
    if power is None or not found.elementwise:
        return True
    wanted = f"degree {int(power) if float(power).is_integer() else power}"
    return any(wanted in f.name for f in found.families)


def _touching(classes: Classes) -> dict[int, set[str]]:
    """Class -> names of the operators that read or make it."""
    facts = classes.facts
    found: dict[int, set[str]] = defaultdict(set)

    def note(units: np.ndarray, op: str) -> None:
        for c in np.unique(classes(units[units >= 0])).tolist():
            found[c].add(op)

    for ins, outs, op in facts.elementwise:
        note(np.concatenate([ins, outs]), op)
    for norm in facts.norms:
        note(norm.ins, norm.op)
    for dual in facts.duals:
        note(np.concatenate([dual.left.ravel(), dual.right.ravel()]), dual.op)
    found.pop(classes.data, None)
    return found


def _powers(classes: Classes) -> dict[str, float]:
    """Elementwise operator -> the degree that folding used for it."""
    degree = {(int(a[0]), int(b[0])): p for a, b, p in classes.facts.powers if len(a)}
    return {op: degree[(int(i[0]), int(o[0]))] for i, o, op in classes.facts.elementwise
            if len(i) and (int(i[0]), int(o[0])) in degree}


def _moved(classes: Classes, s: Symmetry | Discrete) -> set[int]:
    """Classes of the units that the moves of a symmetry act on."""
    found: set[int] = set()
    for move in s.moves:
        for use in classes.uses.get(move.parameter, []):
            for units in _units(use, move):
                found.update(np.unique(classes(units[units >= 0])).tolist())
    return found - {classes.data}


def _units(use: DenseUse | GainUse | ShiftUse, move: Move) -> list[np.ndarray]:
    if isinstance(use, DenseUse):
        whole = move.kind == "exchange"
        return [v for v, a in ((use.outs, use.out_axis), (use.ins, use.in_axis)) if v is not None and (whole or a == move.axis)]
    return [use.units] if isinstance(use, ShiftUse) else [use.ins, use.outs]
