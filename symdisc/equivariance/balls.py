"""Values of formulas as balls (midpoint and proved radius), and ranks proved from them by a minor that excludes
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import flint
import sympy as sp
from flint import arb

__all__ = ["Ball", "Elimination", "NoValue", "constant", "eliminate", "evaluate", "working_precision"]

Ball = arb
# Pivots of independent columns fall to about 1e-12 for the formulas in use, those of dependent ones to 10^-90.
BITS = 330
CUT = 1e-40
DIGITS = 95


class NoValue(Exception):
    """The formula has no real value at the point (or none that the precision separates from the edge)."""


@contextmanager
def working_precision(bits: int = BITS) -> Iterator[None]:
    """The precision of all balls inside the block."""
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield
    finally:
        flint.ctx.prec = before


def _exact(value: Fraction) -> arb:
    return arb(value.numerator) / arb(value.denominator)


_UNARY: dict[Any, Callable[[arb], arb]] = {
    sp.exp: lambda u: u.exp(),
    sp.log: lambda u: u.log(),
    sp.sin: lambda u: u.sin(),
    sp.cos: lambda u: u.cos(),
    sp.tan: lambda u: u.tan(),
    sp.asin: lambda u: u.asin(),
    sp.acos: lambda u: u.acos(),
    sp.atan: lambda u: u.atan(),
    sp.sinh: lambda u: u.sinh(),
    sp.cosh: lambda u: u.cosh(),
    sp.tanh: lambda u: u.tanh(),
    sp.asinh: lambda u: u.asinh(),
    sp.acosh: lambda u: u.acosh(),
    sp.atanh: lambda u: u.atanh(),
    sp.erf: lambda u: u.erf(),
    sp.Abs: abs,
    sp.coth: lambda u: u.coth(),
    sp.cot: lambda u: u.cot(),
    sp.sech: lambda u: 1 / u.cosh(),
    sp.csch: lambda u: 1 / u.sinh(),
    sp.sec: lambda u: 1 / u.cos(),
    sp.csc: lambda u: 1 / u.sin(),
}


def evaluate(expr: sp.Basic, at: Mapping[sp.Symbol, Fraction | arb]) -> arb:
    """The value of a smooth formula at exact points. Raises NoValue where it has no finite real one."""
    values = {s: v if isinstance(v, arb) else _exact(v) for s, v in at.items()}
    result = _value(expr, values, {})
    if not result.is_finite() or (result.rad() > 1e-20 and result.rel_accuracy_bits() < 60):
        raise NoValue  # a value whose digits are lost is none
    return result


def constant(number: sp.Expr) -> arb:
    """The ball of an exact number; for those that balls do not know (Lambert's W), sympy's digits."""
    try:
        return evaluate(number, {})
    except NoValue:
        return arb(str(sp.N(number, DIGITS))) + arb(0, 10.0 ** (5 - DIGITS))


def _value(expr: Any, at: Mapping[Any, arb], memo: dict[Any, arb]) -> arb:
    if expr in memo:
        return memo[expr]
    memo[expr] = result = _compute(expr, at, memo)
    return result


def _compute(expr: Any, at: Mapping[Any, arb], memo: dict[Any, arb]) -> arb:
    if expr in at:
        return at[expr]
    if expr.is_Rational:
        return arb(int(expr.p)) / arb(int(expr.q))
    if expr == sp.pi:
        return arb.pi()
    if expr == sp.E:
        return arb(1).exp()
    if isinstance(expr, sp.CRootOf):
        # the digits are those of an isolating interval refined by sympy
        return _exact(Fraction(str(expr.eval_rational(n=DIGITS)))) + arb(0, 10.0 ** (3 - DIGITS))
    args = [_value(a, at, memo) for a in expr.args]
    if expr.is_Add:
        return sum(args, arb(0))
    if expr.is_Mul:
        product = arb(1)
        for a in args:
            product *= a
        return product
    if expr.is_Pow:
        return _power(args[0], expr.exp, args[1])
    if expr.func in _UNARY:
        result = _UNARY[expr.func](args[0])
        if not result.is_finite():
            raise NoValue
        return result
    raise NoValue


def _power(base: arb, exponent: Any, value: arb) -> arb:
    if exponent.is_Integer:
        if exponent < 0 and base.contains(0):
            raise NoValue
        return base ** int(exponent)
    if exponent.is_Rational and exponent.q == 2 and base > 0:
        return base.sqrt() ** int(exponent.p)
    if base > 0:
        return (base.log() * value).exp()
    raise NoValue


class Elimination:
    """Result of ``eliminate``: ``rank`` is a proved lower bound where ``proved``; ``kernel`` spans the numeric null
    space.
    """

    def __init__(self, rank: int, proved: bool, kernel: list[list[arb]], gap: float) -> None:
        self.rank, self.proved, self.kernel, self.gap = rank, proved, kernel, gap

    @property
    def nullity(self) -> int:
        return len(self.kernel)


def _middle(x: arb) -> arb:
    return x.mid()


def eliminate(rows: Sequence[Sequence[arb]], columns: int) -> Elimination:
    """Rank and null space of a matrix of balls [m, n] by elimination with full pivoting.

    The rank is proved by the ball of one minor that does not contain zero. The null space is that of the midpoints, in
    reduced echelon form with the *last* columns free where possible; it is a proposal, to be proved by other means.
    """
    scaled = [_scaled_row(r) for r in rows]
    work = [[_middle(v) for v in r] for r in scaled]
    live_rows, live_columns = list(range(len(work))), list(range(columns))
    pivots: list[tuple[int, int]] = []
    gap = float("inf")
    first = last = 1.0
    while live_rows and live_columns:
        size, i, j = max(((abs(float(work[i][j])), i, j) for i in live_rows for j in live_columns), key=lambda t: t[0])
        first = size if not pivots else first
        if size <= CUT * max(first, 1e-30):
            gap = last / max(size, 1e-300)
            break
        last = size
        pivots.append((i, j))
        live_rows.remove(i)
        live_columns.remove(j)
        for k in live_rows:
            if work[k][j] != 0:
                factor = (work[k][j] / work[i][j]).mid()
                work[k] = [(a - factor * b).mid() for a, b in zip(work[k], work[i], strict=True)]
                work[k][j] = arb(0)
    proved = _minor_excludes_zero(scaled, pivots)
    return Elimination(len(pivots), proved, _kernel(scaled, pivots, live_columns, columns), gap)


def _scaled_row(row: Sequence[arb]) -> list[arb]:
    """A row divided by a power of two, so that steep functions do not drown flat ones."""
    size = max((abs(v.mid()) for v in row), default=arb(0))
    if size == 0:
        return list(row)
    man, exponent = size.mid().man_exp()
    shift = arb((1, -int(exponent) - int(man).bit_length()))
    return [v * shift for v in row]


def _minor_excludes_zero(rows: Sequence[Sequence[arb]], pivots: Sequence[tuple[int, int]]) -> bool:
    if not pivots:
        return True
    minor = flint.arb_mat([[rows[i][j] for _, j in pivots] for i, _ in pivots])
    return not minor.det().contains(0)


def _kernel(
    rows: Sequence[Sequence[arb]], pivots: Sequence[tuple[int, int]], free: Sequence[int], columns: int
) -> list[list[arb]]:
    if not free:
        return []
    if not pivots:
        return [[arb(int(i == j)) for i in range(columns)] for j in free]
    square = flint.arb_mat([[rows[i][j].mid() for _, j in pivots] for i, _ in pivots])
    right = flint.arb_mat([[-rows[i][j].mid() for j in free] for i, _ in pivots])
    solved = square.solve(right)
    basis = []
    for k, j in enumerate(free):
        vector = [arb(0)] * columns
        vector[j] = arb(1)
        for p, (_, column) in enumerate(pivots):
            vector[column] = solved[p, k].mid()
        basis.append(vector)
    return basis
