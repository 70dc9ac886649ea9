"""Names that a formula may use, and exact numbers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import sympy as sp

from symdisc.errors import FormulaError

__all__ = ["CONSTANTS", "FUNCTIONS", "exact_number", "known", "variable"]


def _gelu_tanh(x: sp.Expr) -> sp.Expr:
    return x * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (x + sp.Rational(44715, 10**6) * x**3))) / 2


FUNCTIONS: dict[str, Callable[..., sp.Expr]] = {
    "exp": sp.exp,
    "log": sp.log,
    "ln": sp.log,
    "sqrt": sp.sqrt,
    "expm1": lambda u: sp.exp(u) - 1,
    "log1p": lambda u: sp.log(1 + u),
    "rsqrt": lambda u: 1 / sp.sqrt(u),
    "sin": sp.sin,
    "cos": sp.cos,
    "tan": sp.tan,
    "asin": sp.asin,
    "acos": sp.acos,
    "atan": sp.atan,
    "arctan": sp.atan,
    "sinh": sp.sinh,
    "cosh": sp.cosh,
    "tanh": sp.tanh,
    "asinh": sp.asinh,
    "acosh": sp.acosh,
    "atanh": sp.atanh,
    "arcsinh": sp.asinh,
    "arctanh": sp.atanh,
    "sech": lambda u: 1 / sp.cosh(u),
    "erf": sp.erf,
    "erfc": lambda u: 1 - sp.erf(u),
    "abs": sp.Abs,
    "Abs": sp.Abs,
    "sign": sp.sign,
    "max": sp.Max,
    "Max": sp.Max,
    "min": sp.Min,
    "Min": sp.Min,
    "relu": lambda u: sp.Max(u, 0),
    "sigmoid": lambda u: 1 / (1 + sp.exp(-u)),
    "silu": lambda u: u / (1 + sp.exp(-u)),
    "softplus": lambda u: sp.log(1 + sp.exp(u)),
    "gelu": lambda u: u * (1 + sp.erf(u / sp.sqrt(2))) / 2,
    "gelu_tanh": _gelu_tanh,
    "mish": lambda u: u * sp.tanh(sp.log(1 + sp.exp(u))),
    "clamp": lambda u, a, b: sp.Min(sp.Max(u, a), b),
    "hardtanh": lambda u: sp.Min(sp.Max(u, -1), 1),
    "swish": lambda u: u / (1 + sp.exp(-u)),
    "softsign": lambda u: u / (1 + sp.Abs(u)),
    "logsigmoid": lambda u: -sp.log(1 + sp.exp(-u)),
    "relu6": lambda u: sp.Min(sp.Max(u, 0), 6),
    "hardsigmoid": lambda u: sp.Min(sp.Max(u + 3, 0), 6) / 6,
    "hardswish": lambda u: u * sp.Min(sp.Max(u + 3, 0), 6) / 6,
    "tanhshrink": lambda u: u - sp.tanh(u),
    "elu": lambda u: sp.Piecewise((u, u > 0), (sp.exp(u) - 1, True)),
    "leaky_relu": lambda u: sp.Max(u, 0) + sp.Min(u, 0) / 100,
    "square": lambda u: u**2,
    "heaviside": lambda u: sp.Piecewise((1, u > 0), (0, True)),
    "Heaviside": lambda u: sp.Piecewise((1, u > 0), (0, True)),
    "sgn": sp.sign,
    "arcsin": sp.asin,
    "arccos": sp.acos,
    "arccosh": sp.acosh,
}
CONSTANTS: dict[str, sp.Expr] = {"pi": sp.pi, "E": sp.E}


def variable(name: str) -> sp.Symbol:
    """The real variable of that name."""
    return sp.Symbol(name, real=True)


def exact_number(value: int | float) -> sp.Rational:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise FormulaError("a number in a formula is too large")
        exact = Fraction(repr(value))
        return sp.Rational(exact.numerator, exact.denominator)
    return sp.Integer(value)


def known() -> str:
    return ", ".join(sorted(FUNCTIONS))
