"""Scalar formulas as text in known symbols, read by the whitelisted parser: nothing is evaluated."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

from symdisc.errors import FormulaError
from symdisc.formula import free_names, parse

__all__ = ["parse_scalar", "scalar_function"]


def parse_scalar(text: str, symbols: Mapping[str, sp.Expr]) -> sp.Expr:
    """The formula with the given symbols; raises FormulaError for other names and for what is outside the grammar."""
    unknown = sorted(free_names(text) - set(symbols))
    if unknown:
        raise FormulaError(
            f"{unknown[0]!r} in {text!r} is not known here; symbols: {', '.join(sorted(symbols)) or 'none'}"
        )
    return parse(text, symbols)


@cache
def scalar_function(text: str):  # type: ignore[no-untyped-def]
    """A formula in x as a function of numpy arrays or torch tensors."""
    x = sp.Symbol("x", real=True)
    expression = parse_scalar(text, {"x": x})
    names = {node.func.__name__ for node in sp.preorder_traversal(expression) if isinstance(node, sp.Function)}

    def call(value: Any) -> Any:
        library = np if isinstance(value, (np.ndarray, float)) else sys.modules["torch"]
        table = {n: getattr(library, {"Abs": "abs"}.get(n, n)) for n in names}
        return sp.lambdify(x, expression, [table])(value)

    return call
