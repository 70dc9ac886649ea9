"""Formulas, text to sympy and back, by a whitelisted parser: nothing is ever evaluated as Python."""

from symdisc.formula.functions import CONSTANTS, FUNCTIONS, variable
from symdisc.formula.parser import IndexedFormula, free_names, is_indexed, parse, parse_indexed
from symdisc.formula.text import check_expression, to_text

__all__ = [
    "CONSTANTS",
    "FUNCTIONS",
    "IndexedFormula",
    "check_expression",
    "free_names",
    "is_indexed",
    "parse",
    "parse_indexed",
    "to_text",
    "variable",
]
