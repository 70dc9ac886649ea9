"""Parameters that a network reads through an invertible function sigma: multiplying sigma(theta) is theta -> sigma^-1(c sigma(theta)).

A sigmoid gate, a softplus scale, a table behind tanh. The inverse is peeled off the formula, one function at a time, so it is exact; a
formula in which the parameter stands twice, or that is not one to one on the whole line, has none. Where the range is no cone, the
action is local: ``side`` says which multiples of a value stay in the range for sure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import sympy as sp
from sympy.codegen.rewriting import expm1_opt, log1p_opt, optimize

from symdisc.formula import parse, variable

__all__ = ["Curve", "X", "curve"]

Array = Any
X, _Y = variable("x"), sp.Symbol("y", real=True)
_INVERSE: dict[type[sp.Function], Callable[[sp.Expr], sp.Expr]] = {
    sp.exp: sp.log, sp.log: sp.exp, sp.tanh: sp.atanh, sp.atanh: sp.tanh, sp.sinh: sp.asinh, sp.asinh: sp.sinh, sp.atan: sp.tan,
    sp.erf: sp.erfinv}


@dataclass(frozen=True)
class Curve:
    """sigma and its inverse, formulas in ``x``, and the open ``range`` of sigma; ``side``: 0 where all c > 0 keep the range, -1 where
    c <= 1 do, 1 where c >= 1 do."""

    sigma: sp.Expr
    back: sp.Expr
    side: int
    odd: bool
    range: tuple[float, float]

    @cached_property
    def slope(self) -> sp.Expr:
        """sigma/sigma': what the generator of c adds to theta."""
        return sp.simplify(self.sigma / sp.diff(self.sigma, X))

    def scaled(self, values: Array, factors: Array) -> Array:
        """sigma^-1(c sigma(theta)), not a number where that is out of range; numpy or torch."""
        y = self._run(self.sigma, values) * factors
        library = sys.modules["torch"] if hasattr(values, "new_tensor") else np
        with np.errstate(all="ignore"):  # the inverse may go on beyond the range, as the tangent does
            return library.where((y > self.range[0]) & (y < self.range[1]), self._run(self.back, y), np.nan)

    def pushed(self, values: Array) -> Array:
        """sigma/sigma' of the values."""
        return self._run(self.slope, values) + 0 * values

    @staticmethod
    def _run(formula: sp.Expr, values: Array) -> Array:
        return _compiled(formula, hasattr(values, "new_tensor"))(values)


@cache
def curve(formula: str) -> Curve | None:
    """The curve of a formula in ``x``; None where it is not known to be one to one, or no multiples of its values are in its range."""
    sigma = parse(formula, {"x": X})
    back, rest = _Y, sigma
    while rest != X:
        step = _peeled(rest, back)
        if step is None:
            return None
        rest, back = step
    ends = {sp.limit(sigma, X, s) for s in (sp.oo, -sp.oo)}
    if any(not e.is_extended_real for e in ends):
        return None
    low, high = min(ends), max(ends)
    if {low, high} <= {sp.Integer(0), sp.oo, -sp.oo}:
        side = 0
    elif low <= 0 <= high:
        side = -1
    elif (low > 0 and high == sp.oo) or (high < 0 and low == -sp.oo):
        side = 1
    else:
        return None
    return Curve(sigma, back.subs(_Y, X), side, sp.simplify(sigma.subs(X, -X) + sigma) == 0, (float(low), float(high)))


def _peeled(outer: sp.Expr, back: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """outer(x) = y as inner(x) = something of y: the inner formula, and ``back`` applied to y's image."""
    inverse = _INVERSE.get(outer.func)
    if inverse is not None:
        return outer.args[0], inverse(back)
    if isinstance(outer, (sp.Add, sp.Mul)):
        free = [a for a in outer.args if a.has(X)]
        if len(free) != 1:
            return None
        rest = outer.func(*(a for a in outer.args if not a.has(X)))
        if not rest.is_number or rest == 0:
            return None
        return free[0], back - rest if isinstance(outer, sp.Add) else back / rest
    if isinstance(outer, sp.Pow) and outer.exp.is_number and outer.exp.is_real and outer.exp != 0 and outer.base.is_positive:
        return outer.base, back ** (1 / outer.exp)
    return None


@cache
def _compiled(formula: sp.Expr, torch: bool) -> Callable[[Array], Array]:
    accurate = optimize(formula, (log1p_opt, expm1_opt))
    if not torch:
        return sp.lambdify(X, accurate, ["scipy", "numpy"])  # type: ignore[no-any-return]
    library = sys.modules["torch"]
    names = {f.func.__name__ for f in accurate.atoms(sp.Function)} | {"sqrt"}
    return sp.lambdify(X, accurate.evalf(17), [{n: getattr(library, n) for n in names}])  # type: ignore[no-any-return]
