"""Polynomials in sizes from values at sample sizes: exact, sparse, and only when points that were not used agree.

Each value found in a catalog (a group's size, a number of places, a dimension) is a polynomial in the sizes as long as the sizes
stay in one region (no width passes another). The smallest total degree that explains all points is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import sympy as sp

__all__ = ["HELD_OUT", "TOGETHER", "Fit", "Sizes", "evaluate", "interpolate", "symbol", "together"]

HELD_OUT = 2  # points for each coefficient: with fewer, wrong polynomials were seen to pass through all of them
TOGETHER = 3  # sizes that must change at once at some point, whichever they are: else a polynomial without their product fits as well
DENOMINATORS = (1, 2, 4)  # d(d - 1)/2 and products of two such: others come from values that are no polynomial
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Fit:
    """``polynomial`` explains all ``points``, of which ``held_out`` were more than its ansatz has coefficients; None: none does."""

    polynomial: sp.Expr | None
    points: int
    held_out: int


def symbol(name: str) -> sp.Symbol:
    """The size symbol as sympy has it: a positive integer."""
    return sp.Symbol(name, integer=True, positive=True)


def evaluate(polynomial: sp.Expr, sizes: Sizes) -> int:
    """Its value at sizes; raises ValueError where that is no integer or a symbol has no size."""
    names, terms = _terms(polynomial)
    if not set(names) <= set(sizes):
        raise ValueError(f"{polynomial} has symbols without a size in {dict(sizes)}")
    value = sum((c * math.prod(sizes[n] ** k for n, k in zip(names, e, strict=True)) for e, c in terms), Fraction(0))
    if value.denominator != 1:
        raise ValueError(f"{polynomial} is {value} at {dict(sizes)}")
    return int(value)


@lru_cache(maxsize=4096)
def _terms(polynomial: sp.Expr) -> tuple[tuple[str, ...], tuple[tuple[tuple[int, ...], Fraction], ...]]:
    """(names of the symbols, (exponents, coefficient) of each term): substitution by sympy takes a thousand times as long."""
    symbols = sorted(polynomial.free_symbols, key=str)
    terms = sp.Poly(polynomial, *symbols).terms() if symbols else [((), polynomial)]
    return tuple(s.name for s in symbols), tuple((tuple(map(int, e)), Fraction(int(c.p), int(c.q))) for e, c in terms)


def interpolate(points: Sequence[Sizes], values: Sequence[int]) -> Fit:
    """The polynomial of least total degree with these values at these points, or none.

    The first point is the centre of a star: degrees in single symbols are read along its arms. A single monomial is tried first. A
    polynomial is accepted only if it agrees with ``HELD_OUT`` points for each of its coefficients, none has a coefficient of its own,
    any ``TOGETHER`` of the sizes that matter change together at some point, and its degree in each symbol is less than the number of
    sizes of that symbol could always explain.
    """
    if len(set(values)) <= 1:
        return Fit(sp.Integer(values[0]) if values else None, len(values), max(len(values) - 1, 0))
    caps = _degrees(points, values)
    if any(cap + 1 >= len({p[s] for p in points}) for s, cap in caps.items()):
        return Fit(None, len(points), 0)
    seen = set().union(*(together(points[0], p) for p in points))
    if any(frozenset(c) not in seen for n in range(2, TOGETHER + 1) for c in itertools.combinations(caps, n)):
        return Fit(None, len(points), 0)
    names = tuple(caps)
    power = tuple(caps.values())
    ratios = {sp.Rational(v, _power(p, names, power)) for p, v in zip(points, values, strict=True)}
    if len(ratios) == 1:
        return Fit(_sum(ratios, [power], names), len(points), len(points) - 1)
    for degree in range(1, sum(caps.values()) + 1):
        monomials = [e for e in itertools.product(*(range(c + 1) for c in caps.values())) if sum(e) <= degree]
        if HELD_OUT * len(monomials) > len(points):
            break
        rows = [[_power(p, names, e) for e in monomials] for p in points]
        solution = _exact(rows, values)
        if solution is not None and all(c.q in DENOMINATORS for c in solution) and not _free(rows):
            return Fit(_sum(solution, monomials, names), len(points), len(points) - len(monomials))
    return Fit(None, len(points), 0)


def together(centre: Sizes, point: Sizes) -> set[frozenset[str]]:
    """Sets of up to TOGETHER sizes that are all changed at a point."""
    changed = sorted(s for s in centre if point[s] != centre[s])
    return {frozenset(c) for n in range(1, TOGETHER + 1) for c in itertools.combinations(changed, n)}


def _sum(coefficients: Iterable[sp.Rational], monomials: Iterable[tuple[int, ...]], names: tuple[str, ...]) -> sp.Expr:
    terms = (c * sp.prod([symbol(n) ** k for n, k in zip(names, e, strict=True)]) for c, e in zip(coefficients, monomials, strict=True))
    return sp.Add(*terms)


def _degrees(points: Sequence[Sizes], values: Sequence[int]) -> dict[str, int]:
    """For each symbol that matters, the degree of the values along the arm of the star on which it alone changes."""
    found = {}
    centre = points[0]
    for s in centre:
        arm = {p[s]: v for p, v in zip(points, values, strict=True) if all(p[t] == centre[t] for t in centre if t != s)}
        x = sp.Symbol("x")
        degree = int(sp.degree(sp.interpolate(list(arm.items()), x), x)) if len(set(arm.values())) > 1 else 0
        if degree:
            found[s] = degree
    return found


def _free(rows: Sequence[Sequence[int]]) -> bool:
    """Some point is fitted whatever its value (its leverage is 1), so that its agreement is no evidence."""
    scaled = np.array(rows, dtype=float)
    q = np.linalg.qr(scaled / np.abs(scaled).max(axis=0))[0]
    return bool((np.square(q).sum(axis=1) > 1 - 1e-9).any())


def _power(point: Sizes, names: tuple[str, ...], exponents: tuple[int, ...]) -> int:
    value = 1
    for n, k in zip(names, exponents, strict=True):
        value *= point[n] ** k
    return value


def _exact(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[sp.Rational] | None:
    """The unique rational solution of an overdetermined system, or None."""
    import flint

    width = len(rows[0])
    reduced, rank = flint.fmpq_mat(flint.fmpz_mat([[*row, v] for row, v in zip(rows, values, strict=True)])).rref()
    if rank != width or any(reduced[k, k] != 1 for k in range(width)):
        return None
    return [sp.Rational(int(q.p), int(q.q)) for q in (reduced[k, width] for k in range(width))]
