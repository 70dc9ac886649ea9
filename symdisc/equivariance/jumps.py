"""Jumps and edges of the domain: a flow that is a symmetry leaves each of them where it is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import sympy as sp

from symdisc.equivariance.balls import Ball, NoValue, constant, evaluate
from symdisc.equivariance.branches import breakpoints, resolve
from symdisc.equivariance.zero import is_zero
from symdisc.errors import Undecided

__all__ = ["borders_that_stay", "may_jump", "refuse_jumps"]

_STEP = Fraction(1, 10**7)


def borders_that_stay(
    f: sp.Expr, variables: Sequence[sp.Symbol], points: Sequence[Mapping[sp.Symbol, Fraction]]
) -> list[list[Ball]]:
    """Rows of the linear system that say c p + t = 0 at every jump or edge p of a formula in one variable.

    A kink needs no row: where f is continuous the identity almost everywhere integrates to the finite one. Raises
    Undecided for a formula of several variables that jumps.
    """
    if len(variables) > 1:
        refuse_jumps(f, points)
        return []
    x = variables[0]
    breaks = breakpoints(f, x)
    places: list[Ball] = []
    for p in breaks.points:
        if _stays(f, x, p):
            places.append(constant(p))
    if not breaks.complete:
        places += _scanned(f, x, points)
    return [[p, Ball(1), Ball(0), Ball(0)] for p in places]


def _side(f: sp.Expr, x: sp.Symbol, at: Fraction) -> sp.Expr | None:
    try:
        smooth = resolve(f, {x: at})
        evaluate(smooth, {x: at})
    except NoValue:
        return None
    return smooth


def _stays(f: sp.Expr, x: sp.Symbol, p: sp.Expr) -> bool:
    """f jumps at p, or is defined on one side only. Poles are left to the identity on both sides."""
    near = Fraction(float(p))
    left, right = _side(f, x, near - _STEP), _side(f, x, near + _STEP)
    if left is None and right is None:
        return False
    if left is None or right is None:
        return True
    if left == right and _has_value(left, x, p):
        return False
    if not may_jump(f) and _has_value(left, x, p) and _has_value(right, x, p):
        return False  # abs, max and min of continuous functions
    values = [_limit(side, x, p, sign) for side, sign in ((left, "-"), (right, "+"))]
    if any(v is None for v in values):
        return False
    return not is_zero(values[0] - values[1])  # type: ignore[operator]


def _has_value(side: sp.Expr, x: sp.Symbol, p: sp.Expr) -> bool:
    try:
        evaluate(side, {x: constant(p)})
    except NoValue:
        return False
    return True


def _limit(side: sp.Expr, x: sp.Symbol, p: sp.Expr, sign: str) -> sp.Expr | None:
    """The finite limit from one side, or None."""
    if _has_value(side, x, p):
        return side.subs(x, p)
    try:
        value = sp.limit(side, x, p, sign)
    except (NotImplementedError, ValueError, TypeError):
        return None
    return value if value.is_finite else None


def _scanned(f: sp.Expr, x: sp.Symbol, points: Sequence[Mapping[sp.Symbol, Fraction]]) -> list[Ball]:
    """Jumps found between samples, for formulas with borders that have no closed form."""
    found = []
    grid = sorted(p[x] for p in points)
    for a, b in itertools.pairwise(grid):
        left, right = _side(f, x, a), _side(f, x, b)
        if left is None or right is None or left == right:
            continue
        low, high = a, b
        while high - low > Fraction(1, 2**200):
            middle = (low + high) / 2 + (high - low) / 4099
            inside = _side(f, x, middle)
            if inside is None:
                break
            low, high, right = (middle, high, right) if inside == left else (low, middle, inside)
        if abs(evaluate(left, {x: low}) - evaluate(right, {x: high})) > 1e-20:
            middle = (low + high) / 2
            found.append(Ball(Ball(middle.numerator) / Ball(middle.denominator)))
    return found


def may_jump(f: sp.Expr) -> bool:
    """Only switches of value, poles and switches beside poles can make a formula of the grammar jump."""
    return f.has(sp.sign, sp.Piecewise, sp.tan) or any(p.exp.is_negative for p in f.atoms(sp.Pow))


def refuse_jumps(f: sp.Expr, points: Sequence[Mapping[sp.Symbol, Fraction]]) -> None:
    """Raises Undecided when a formula of several variables jumps between some of the points."""
    if not (may_jump(f) and f.has(sp.sign, sp.Piecewise, sp.Abs, sp.Max, sp.Min)):
        return
    ordered = list(points)
    for a, b in itertools.pairwise(ordered):
        if _jumps_between(f, a, b):
            raise Undecided("a formula of several variables that jumps is not decided; write it with max, min or abs")


def _jumps_between(f: sp.Expr, a: Mapping[sp.Symbol, Fraction], b: Mapping[sp.Symbol, Fraction]) -> bool:
    try:
        left, right = resolve(f, a), resolve(f, b)
        low, high = dict(a), dict(b)
        for _ in range(60):
            middle = {v: (low[v] + high[v]) / 2 for v in low}
            inside = resolve(f, middle)
            if inside == left:
                low = middle
            else:
                high, right = middle, inside
        return left != right and bool(abs(evaluate(left, low) - evaluate(right, high)) > 1e-9)
    except NoValue:
        return False
