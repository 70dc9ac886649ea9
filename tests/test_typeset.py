"""Formulas as LaTeX sets them: what is long can be broken into lines, and means the same."""

from __future__ import annotations

import pytest

from symdisc.report.typeset import from_latex


@pytest.mark.parametrize("formula, wanted", [
    (r"\frac{\left(a_1 + b_1 - 2\right) \left(a_1 + b_1 + c_1 - 1\right)}{2}",
     r"$\tfrac{1}{2}\,\left( a_{1}+b_{1}-2\right) \allowbreak \left( a_{1}+b_{1}+c_{1}-1\right) $"),
    (r"\frac{\alpha \beta \gamma \delta \eta + \theta \kappa \lambda}{2}",  # half of a sum is no fraction times its first term
     r"$\tfrac{\alpha \beta \gamma \delta \eta +\theta \kappa \lambda }{2}$"),
    (r"\texttt{norm.running\_var}_{1}", r"$\texttt{norm.}\allowbreak \texttt{running\_}\allowbreak \texttt{var}_{1}$"),
    (r"\texttt{0.weight}_{1}", r"$\texttt{0.weight}_{1}$"),
])
def test_what_is_long_in_a_formula_can_be_broken(formula: str, wanted: str) -> None:
    assert from_latex(formula) == [wanted]
