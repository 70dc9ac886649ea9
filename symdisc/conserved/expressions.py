"""Scalar formulas as text in known symbols, read by the whitelisted parser: nothing is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from symdisc.errors import FormulaError
from symdisc.formula import free_names, parse

__all__ = ["parse_scalar"]


def parse_scalar(text: str, symbols: Mapping[str, sp.Expr]) -> sp.Expr:
    """The formula with the given symbols; raises FormulaError for other names and for what is outside the grammar."""
    unknown = sorted(free_names(text) - set(symbols))
    if unknown:
        raise FormulaError(
            f"{unknown[0]!r} in {text!r} is not known here; symbols: {', '.join(sorted(symbols)) or 'none'}"
        )
    return parse(text, symbols)
