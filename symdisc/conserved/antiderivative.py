"""Antiderivatives that are proved by differentiation, or None; never a search that may run for minutes."""

from __future__ import annotations

import sympy as sp

__all__ = ["antiderivative", "shorter"]

_HYPERBOLIC = (sp.exp, sp.tanh, sp.sinh, sp.cosh)


def antiderivative(ratio: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    """I with I' = ``ratio``, proved by simplification, real logarithms with absolute values; None where none was found.

    Functions of e^x are integrated in u = e^x, where they are rational or a polynomial in log(1 + u) over u. Error
    functions and mixtures of x with e^x (GELU, SiLU) are not attempted: sympy searches without end there and finds
    nothing elementary.
    """
    if ratio.has(sp.erf, sp.erfc):
        return None
    found = _through_exponential(ratio, x) if ratio.has(*_HYPERBOLIC) else sp.integrate(ratio, x)
    if found is None or found.has(sp.Integral):
        return None
    found = shorter(found)
    if not _vanishes(sp.diff(found, x) - ratio):
        return None
    return found.replace(sp.log, lambda a: sp.log(a if a.is_positive else sp.Abs(a)))


def shorter(expr: sp.Expr) -> sp.Expr:
    """The simplified form where it is simpler: sympy likes to gather logarithms into powers."""
    return min(expr, sp.simplify(expr), key=sp.count_ops)


def _through_exponential(ratio: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    u = sp.Symbol("u", positive=True)
    rewritten = sp.powsimp(sp.expand(sp.together(ratio.rewrite(sp.exp))))

    def power(argument: sp.Expr) -> sp.Expr:
        order = sp.expand(argument / x)
        return u**order if order.is_number else sp.exp(argument)

    in_u = rewritten.replace(sp.exp, power)
    if in_u.has(x):
        return None
    integrand = in_u / u
    integrand = sp.expand(sp.simplify(integrand)) if integrand.has(sp.log) else sp.apart(sp.together(integrand), u)
    found = sp.integrate(integrand, u)
    return found.subs(sp.exp_polar(sp.I * sp.pi), -1).subs(u, sp.exp(x))


def _vanishes(difference: sp.Expr) -> bool:
    expanded = sp.expand_func(difference)
    return bool(sp.simplify(expanded) == 0 or sp.simplify(expanded.rewrite(sp.exp)) == 0)
