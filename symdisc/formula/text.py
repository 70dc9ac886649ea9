"""sympy to formula text, and the gate for expressions that users bring."""

from __future__ import annotations

from typing import Any

import sympy as sp

from symdisc.errors import FormulaError
from symdisc.formula.functions import CONSTANTS, FUNCTIONS, exact_number, known
from symdisc.formula.parser import parse

__all__ = ["check_expression", "to_text"]

_NAMES: dict[Any, str] = {
    sp.exp: "exp",
    sp.log: "log",
    sp.sin: "sin",
    sp.cos: "cos",
    sp.tan: "tan",
    sp.asin: "asin",
    sp.acos: "acos",
    sp.atan: "atan",
    sp.sinh: "sinh",
    sp.cosh: "cosh",
    sp.tanh: "tanh",
    sp.asinh: "asinh",
    sp.acosh: "acosh",
    sp.atanh: "atanh",
    sp.erf: "erf",
    sp.Abs: "abs",
    sp.sign: "sign",
    sp.Max: "max",
    sp.Min: "min",
}
_RECIPROCALS: dict[Any, str] = {
    sp.sec: "cos", sp.csc: "sin", sp.cot: "tan", sp.sech: "cosh", sp.csch: "sinh", sp.coth: "tanh",
}
_SIGNS: dict[Any, str] = {sp.StrictLessThan: "<", sp.LessThan: "<=", sp.StrictGreaterThan: ">", sp.GreaterThan: ">="}


def to_text(expr: sp.Expr) -> str:
    """sympy to text that ``parse`` reads back to an equal expression. Raises FormulaError outside the grammar."""
    if isinstance(expr, sp.Symbol):
        if not str(expr.name).isidentifier() or expr.name in CONSTANTS or expr.name in FUNCTIONS:
            raise FormulaError(f"{expr.name!r} is not a variable name of a formula")
        return str(expr.name)
    if isinstance(expr, sp.Float):
        return to_text(exact_number(float(expr)))
    if isinstance(expr, sp.Rational):
        return str(expr) if expr.is_Integer and expr >= 0 else f"({expr})"
    if expr == sp.pi or expr == sp.E:
        return str(expr)
    if isinstance(expr, (sp.Add, sp.Mul)):
        return "(" + (" + " if expr.is_Add else "*").join(to_text(a) for a in expr.args) + ")"
    if isinstance(expr, sp.Pow):
        return f"({to_text(expr.base)}**{to_text(expr.exp)})"
    if type(expr) in _SIGNS:
        return f"{to_text(expr.args[0])} {_SIGNS[type(expr)]} {to_text(expr.args[1])}"
    if isinstance(expr, sp.Piecewise):
        return _where(list(expr.args))
    if expr.func == sp.erfc:
        return f"(1 - erf({to_text(expr.args[0])}))"
    if expr.func == sp.Heaviside:  # its value at 0 does not matter to a symmetry
        return f"where({to_text(expr.args[0])} > 0, 1, 0)"
    if expr.func in _RECIPROCALS:
        return f"(1/{_RECIPROCALS[expr.func]}({to_text(expr.args[0])}))"
    if expr.func in _NAMES:
        return f"{_NAMES[expr.func]}({', '.join(to_text(a) for a in expr.args)})"
    raise FormulaError(f"a formula cannot contain {type(expr).__name__}; known functions: {known()}")


def _where(pairs: list[Any]) -> str:
    value, condition = pairs[0]
    if condition == sp.true:
        return to_text(value)
    if len(pairs) == 1:
        raise FormulaError("a Piecewise of a formula needs a last branch with condition True")
    return f"where({to_text(condition)}, {to_text(value)}, {_where(pairs[1:])})"


def check_expression(expr: sp.Expr) -> sp.Expr:
    """A user's sympy expression, with real variables and exact numbers; raises FormulaError outside the grammar."""
    return parse(to_text(expr))
