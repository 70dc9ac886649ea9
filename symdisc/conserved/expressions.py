"""Scalar formulas as text, read by a whitelisted parser (formulas may come from a stranger: nothing is evaluated)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import sympy as sp

from symdisc.errors import FormulaError

__all__ = ["ACTIVATIONS", "parse_scalar"]

_sqrt_two = sp.sqrt(2)

# What each name computes; the laws are derived from these formulas.
ACTIVATIONS: Mapping[str, Callable[[sp.Expr], sp.Expr]] = {
    "identity": lambda x: x,
    "linear": lambda x: x,
    "relu": lambda x: sp.Piecewise((x, x > 0), (0, True)),
    "tanh": sp.tanh,
    "sigmoid": lambda x: 1 / (1 + sp.exp(-x)),
    "softplus": lambda x: sp.log(1 + sp.exp(x)),
    "silu": lambda x: x / (1 + sp.exp(-x)),
    "gelu": lambda x: x * (1 + sp.erf(x / _sqrt_two)) / 2,
    "rbf": lambda x: sp.exp(-(x**2) / 2),
    "elu": lambda x: sp.Piecewise((x, x > 0), (sp.exp(x) - 1, True)),
    "softsign": lambda x: sp.Piecewise((x / (1 + x), x > 0), (x / (1 - x), True)),
}

_FUNCTIONS: Mapping[str, Callable[[sp.Expr], sp.Expr]] = {
    **ACTIVATIONS, "exp": sp.exp, "log": sp.log, "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "sinh": sp.sinh,
    "cosh": sp.cosh, "atan": sp.atan, "erf": sp.erf, "sqrt": sp.sqrt, "abs": sp.Abs,
}
_CONSTANTS: Mapping[str, sp.Expr] = {"pi": sp.pi, "e": sp.E}
_BINARY: Mapping[type, Callable[[sp.Expr, sp.Expr], sp.Expr]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


def parse_scalar(text: str, symbols: Mapping[str, sp.Expr]) -> sp.Expr:
    """A formula with + - * / ** , numbers, pi, e, the given symbols and known functions; raises FormulaError."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise FormulaError(f"cannot read the formula {text!r}: {error}") from error
    return sp.sympify(_read(tree, symbols, text))


def _read(node: ast.expr, symbols: Mapping[str, sp.Expr], text: str) -> sp.Expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        # 0.1 in a formula means one tenth, not the nearest binary number.
        return sp.Integer(node.value) if isinstance(node.value, int) else sp.Rational(repr(node.value))
    if isinstance(node, ast.Name):
        found = symbols.get(node.id, _CONSTANTS.get(node.id))
        if found is None:
            raise FormulaError(f"{node.id!r} in {text!r} is not known here; symbols: {', '.join(sorted(symbols)) or 'none'}")
        return found
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_read(node.left, symbols, text), _read(node.right, symbols, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _read(node.operand, symbols, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is None:
            raise FormulaError(f"{node.func.id!r} in {text!r} is not a known function: {', '.join(sorted(_FUNCTIONS))}")
        values = [_read(a, symbols, text) for a in node.args]
        if len(values) != 1:
            raise FormulaError(f"{node.func.id} in {text!r} takes one argument")
        return function(values[0])
    raise FormulaError(f"{ast.unparse(node)!r} in {text!r} is outside the grammar: numbers, names, + - * / ** and known functions")
