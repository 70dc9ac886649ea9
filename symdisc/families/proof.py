"""Which named families are proved: every nonlinear operator that touches their spaces has a formula whose equivariance
algebra sympy proved, and the pair that the family uses is in it.

What is affine in each operand (products, contractions, sums) needs no proof beyond linear algebra. The remaining claims are
witnessed: they were run on the network, not derived from a formula.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import sympy as sp

from symdisc.archgraph import known_linear
from symdisc.equivariance import Equivariance, equivariance
from symdisc.errors import SymdiscError
from symdisc.families.classes import Classes
from symdisc.formula import parse
from symdisc.moves import Move
from symdisc.opgraph import Op
from symdisc.rulebook import Rule, rulebook
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Discrete, Symmetry

__all__ = ["Judge", "operator_equivariance", "operator_formula"]

Claim = TypeVar("Claim", Symmetry, Discrete)

SOFTPLUS_LINEAR = 20.0  # where torch's softplus goes over to the identity, its formula is the identity to 1e-9
EVEN = 4  # the size at which vector operators are solved and proved; rotary heads need an even one


class Judge:
    """Says which symmetries are proved: those that only operators with a proved formula touch."""

    def __init__(self, classes: Classes) -> None:
        self.classes, self.powers = classes, _powers(classes)
        self.operators, self.touched, self.by = _touching(classes)

    def __call__(self, symmetries: Sequence[Claim]) -> list[Claim]:
        """The same symmetries with ``status`` "proved" or "witnessed", and the operators without a proof in the note."""
        judged = []
        for s in symmetries:
            names = (self.operators[k] for k in np.unique(self.by[_moved(self.classes, s)[self.touched]]).tolist())
            lacking = [op for op in names if not _proved(self.classes.graph.by_name[op], self.powers.get(op))]
            packets = sorted({self.classes.graph.by_name[op].packet for op in lacking})
            note = s.note if not packets else "; ".join(t for t in (s.note, f"no proof from a formula for {', '.join(packets)}") if t)
            judged.append(replace(s, status="witnessed" if packets else "proved", note=note))
        return judged


def operator_equivariance(op: Op) -> Equivariance | None:
    """The solved algebra of the operator's rule, or None where there is no rule for it."""
    return _of_rule(*_called(op))


def operator_formula(op: Op) -> sp.Expr | None:
    """What an elementwise operator computes, with the numbers of this call; None where no rule says it."""
    target, numbers, approximate = _called(op)
    if target == "aten.pow.Tensor_Scalar":
        return parse(_power(numbers[0]))
    rule = _rule(target, approximate)
    text = None if rule is None or not rule.elementwise else _at(rule, numbers)
    if rule is None or text is None:
        return None
    return rule.expression() if text == rule.name else parse(text)


def _called(op: Op) -> tuple[str, tuple[float, ...], object]:
    numbers = tuple(a for a in op.args if isinstance(a, (int, float)) and not isinstance(a, bool))
    return op.target, numbers, dict(op.kwargs).get("approximate", "none")


def _power(exponent: float) -> str:
    return f"x**{int(exponent) if float(exponent).is_integer() else exponent}"


def _rule(target: str, approximate: object) -> Rule | None:
    if target == "aten.gelu.default" and approximate == "tanh":
        return rulebook().get("gelu_tanh")
    return next((r for r in rulebook() if target in r.torch), None)


@lru_cache(maxsize=256)
def _of_rule(target: str, numbers: tuple[float, ...], approximate: object) -> Equivariance | None:
    if target == "aten.pow.Tensor_Scalar":
        return equivariance(_power(numbers[0]))
    rule = _rule(target, approximate)
    if rule is None:
        return None
    try:
        if not rule.elementwise:
            return equivariance(rule.name, size=EVEN)
        formula = _at(rule, numbers)
        return None if formula is None else equivariance(formula)
    except SymdiscError:
        return None


def _at(rule: Rule, numbers: tuple[float, ...]) -> str | None:
    """The rule with the numbers of this call: hardtanh between 0 and 6 is not odd, between -1 and 1 it is.

    None where the call has numbers that the formula does not know.
    """
    if not rule.symbols or not numbers:
        return rule.name
    if rule.name == "softplus" and len(numbers) == 2 and numbers[1] >= SOFTPLUS_LINEAR:
        numbers = numbers[:1]
    if len(numbers) > len(rule.symbols):
        return None
    formula = rule.formula
    for k, (symbol, usual) in enumerate(rule.symbols):
        value = repr(float(numbers[k])) if k < len(numbers) else str(usual)
        formula = re.sub(rf"\b{re.escape(symbol)}\b", f"({value})", formula)
    return formula


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


def _touching(classes: Classes) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(operators that read or make classes of units, those classes, for each the number of the operator)."""
    facts = classes.facts
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for ins, outs, op in facts.elementwise:
        found[op] += [ins, outs]
    for norm in facts.norms:
        found[norm.op].append(norm.ins)
    for dual in facts.duals:
        found[dual.op] += [dual.left.ravel(), dual.right.ravel()]
    units = [np.unique(classes(np.concatenate([u[u >= 0] for u in parts]))) for parts in found.values()]
    numbers = np.repeat(np.arange(len(units)), [len(u) for u in units])
    return list(found), np.concatenate([*units, np.zeros(0, dtype=np.int64)]), numbers


def _powers(classes: Classes) -> dict[str, float]:
    """Elementwise operator -> the degree that folding used for it."""
    degree = {(int(a[0]), int(b[0])): p for a, b, p in classes.facts.powers if len(a)}
    return {op: degree[(int(i[0]), int(o[0]))] for i, o, op in classes.facts.elementwise
            if len(i) and (int(i[0]), int(o[0])) in degree}


def _moved(classes: Classes, s: Symmetry | Discrete) -> np.ndarray:
    """[classes] True where the moves of a symmetry act on the units of a class."""
    found = np.zeros(classes.count, dtype=bool)
    for move in s.moves:
        for use in classes.uses.get(move.parameter, []):
            for units in _units(use, move):
                found[classes(units[units >= 0])] = True
    found[classes.data] = False
    return found


def _units(use: DenseUse | GainUse | ShiftUse, move: Move) -> list[np.ndarray]:
    if isinstance(use, DenseUse):
        whole = move.kind == "exchange"
        return [v for v, a in ((use.outs, use.out_axis), (use.ins, use.in_axis)) if v is not None and (whole or a == move.axis)]
    return [use.units] if isinstance(use, ShiftUse) else [use.ins, use.outs]
