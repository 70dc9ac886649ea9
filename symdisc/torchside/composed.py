"""Chains of elementwise operators as one formula in ``x``, composed from the formulas of their rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from symdisc.archgraph import known_linear
from symdisc.families.proof import operator_formula
from symdisc.formula import variable
from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["X", "composed"]

X = variable("x")
PASSED = frozenset(f"aten.{n}" for n in ("alias", "clone", "contiguous", "detach", "dropout", "to", "_to_copy", "view", "reshape"))
_TWO: dict[str, Callable[[sp.Expr, sp.Expr], sp.Expr]] = {
    "aten.mul": lambda a, b: a * b, "aten.add": lambda a, b: a + b, "aten.sub": lambda a, b: a - b, "aten.div": lambda a, b: a / b}


def composed(graph: OpGraph, op: Op, known: Mapping[str, sp.Expr]) -> sp.Expr | None:
    """What ``op`` makes entry by entry of values whose formulas are ``known``; None where no rule says it."""
    if not op.inputs or any(n not in known for n in op.inputs):
        return None
    if op.packet == "aten.neg":
        return -known[op.inputs[0]]
    if op.packet == "aten.rsub" and not op.kwargs and len(op.args) == 2 and isinstance(op.args[0], Ref) and not isinstance(op.args[1], Ref):
        return sp.nsimplify(op.args[1], rational=True) - known[op.args[0].name]
    if op.packet in PASSED:
        return known[op.inputs[0]]
    if op.packet in _TWO and not op.kwargs and len(op.args) == 2:
        a, b = (known[v.name] if isinstance(v, Ref) else sp.nsimplify(v, rational=True) for v in op.args)
        return _TWO[op.packet](a, b)
    formula = None if known_linear(op.packet) or len(op.inputs) != 1 else operator_formula(op)
    return None if formula is None or formula.free_symbols - {X} else formula.xreplace({X: known[op.inputs[0]]})
