"""Exact sample points of a formula: on every piece, close to borders and far from them, away from special values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import sympy as sp

from symdisc.equivariance.balls import NoValue, evaluate
from symdisc.equivariance.branches import breakpoints, resolve

__all__ = ["points_of"]

# Irregular positions inside an interval: symmetric or equally spaced ones would make relations that are not there.
_INSIDE = tuple(Fraction(n, 997) for n in (31, 113, 229, 347, 461, 587, 701, 859, 967))
_PLAIN = tuple(
    Fraction(n, 331)
    for n in (
        -2689,
        -2141,
        -1607,
        -1223,
        -911,
        -683,
        -467,
        -311,
        -173,
        -59,
        37,
        131,
        257,
        401,
        569,
        821,
        1093,
        1429,
        1873,
        2347,
        2753,
    )
)


def points_of(f: sp.Expr, variables: Sequence[sp.Symbol]) -> list[dict[sp.Symbol, Fraction]]:
    """Points at which the formula has a value and is smooth."""
    candidates = _line(f, variables[0]) if len(variables) == 1 else _cloud(variables)
    return [p for p in candidates if _has_value(f, p)]


def _line(f: sp.Expr, x: sp.Symbol) -> list[dict[sp.Symbol, Fraction]]:
    edges = [Fraction(float(p)).limit_denominator(10**6) for p in breakpoints(f, x).points]
    values = set(_PLAIN) | {v / 16 for v in _PLAIN}
    if edges:
        reach = 4 + max(abs(e) for e in edges) / 2
        bounds = [edges[0] - reach, *edges, edges[-1] + reach]
        for a, b in itertools.pairwise(bounds):
            values |= {a + (b - a) * t for t in _INSIDE}
    return [{x: v} for v in sorted(values)]


def _cloud(variables: Sequence[sp.Symbol]) -> list[dict[sp.Symbol, Fraction]]:
    n = len(_PLAIN)
    found = []
    for i in range(60 * len(variables)):
        # steps that share no factor with the number of values reach all combinations of signs and sizes
        found.append(
            {
                v: _PLAIN[(i * (2 * a + 5) + (i * i + a) * (3 * a + 1)) % n] / (1 + i % 3) + Fraction(i, 1009)
                for a, v in enumerate(variables)
            }
        )
    return found


def _has_value(f: sp.Expr, point: Mapping[sp.Symbol, Fraction]) -> bool:
    try:
        evaluate(resolve(f, point), point)
    except NoValue:
        return False
    return True
