"""The broken law of a hidden unit: where an activation has no scaling symmetry, exactly how fast the balance drifts.

For a unit with z = <v, x> + b, h = sigma(z), read by the weights u, and any loss, gradient flow obeys

    d/dt (p/2 |u|^2 - 1/2 |v|^2 - 1/2 b^2) = - sum over samples of dL/dh (p sigma(z) - sigma'(z) z).

The integrand vanishes identically iff sigma is homogeneous of degree p on each side of zero (arXiv:2605.01288 has p = 1);
for GELU, SiLU and tanh it is the exact drift of the law that they break.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import sympy as sp

from symdisc.conserved.elementwise import X, read_activation

__all__ = ["BrokenLaw", "broken_law"]


@dataclass(frozen=True)
class BrokenLaw:
    """Q_u = p/2 |out_u|^2 - 1/2 |in_u|^2 - 1/2 b_u^2 and the ``residual`` p sigma(x) - x sigma'(x) that moves it."""

    activation: sp.Expr
    degree: sp.Expr
    residual: sp.Expr

    @property
    def holds(self) -> bool:
        """The residual is zero, so Q is conserved for every data set."""
        return bool(self.residual == 0)

    def latex(self) -> str:
        """Q and its drift (amsmath)."""
        p = "" if self.degree == 1 else sp.latex(self.degree)
        q = rf"Q_{{u}} = \tfrac{{{p or 1}}}{{2}} |U_{{:u}}|^{{2}} - \tfrac{{1}}{{2}} |V_{{u:}}|^{{2}} - \tfrac{{1}}{{2}} b_{{u}}^{{2}}"
        z = sp.Symbol("z", real=True)
        rate = "0" if self.holds else (
            rf"-\sum_{{x}} \frac{{\partial L}}{{\partial h_{{u}}}}(x) \left({sp.latex(self.residual.subs(X, z))}\right),\; z = z_{{u}}(x)")
        return rf"{q},\quad \dot Q_{{u}} = {rate}"

    def evaluate(self, outer: Any, inner: Any, bias: Any = None) -> Any:
        """Q [units] from the weights read [m, units] and the weights into them [units, n] (and biases [units])."""
        value = (outer**2).sum(0) * (float(self.degree) / 2) - (inner**2).sum(-1) / 2
        return value if bias is None else value - bias**2 / 2

    def drift(self, preactivations: Any, pull: Any) -> Any:
        """dQ/dt [units] under gradient flow, from z and dL/dh, both [samples, units], numpy or torch."""
        torch = sys.modules.get("torch")
        library: list[Any] = ["scipy", "numpy"]
        if hasattr(preactivations, "new_tensor"):
            named = {f.func.__name__ for f in self.residual.atoms(sp.Function)}
            library = [{n: getattr(torch, n) for n in named}]
        return -(pull * (sp.lambdify(X, self.residual, library)(preactivations) + 0 * preactivations)).sum(0)


def broken_law(activation: str | sp.Expr, degree: int | float | sp.Expr = 1) -> BrokenLaw:
    """The balance law of degree ``degree`` for an activation, and what breaks it.

    ``activation`` is smooth, or linear on both sides of zero: a function name ("gelu"), a formula in one variable or
    sympy. Raises FormulaError or BadInput when it is no function of one variable.
    """
    sigma, p = read_activation(activation), sp.nsimplify(degree)
    smooth = sp.piecewise_fold(sigma.rewrite(sp.Piecewise)) if sigma.has(sp.Max, sp.Min, sp.Abs, sp.sign) else sigma
    return BrokenLaw(sigma, p, sp.simplify(p * smooth - X * sp.diff(smooth, X)))
