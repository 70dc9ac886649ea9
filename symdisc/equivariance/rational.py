"""Is a rational expression in independent letters zero, given relations letter**q = value? Exact, in flint polynomials.

Sums are brought over a common denominator kept in factors, with no gcd: only whether the numerator vanishes is asked,
and denominators are not zero where the formula has values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flint
import sympy as sp

__all__ = ["vanishes"]

_MOST_TERMS = 200_000


class _TooLarge(Exception):
    pass


def vanishes(expr: sp.Expr, relations: Sequence[tuple[sp.Expr, sp.Symbol, int]]) -> bool | None:
    """True or False for the numerator reduced by the relations (newest first); None when it is too large to say."""
    symbols = set(expr.free_symbols).union(*(v.free_symbols | {letter} for v, letter, _ in relations))
    if not symbols:
        return bool(sp.simplify(expr) == 0)
    ring = _Ring(sorted(symbols, key=lambda s: (s.name, str(s.sort_key()))))
    try:
        numerator = ring.quotient(expr)[0]
        for value, letter, power in reversed(list(relations)):
            numerator = ring.lowered(numerator, letter, power, ring.quotient(value))
    except _TooLarge:
        return None
    return not numerator.to_dict()


class _Ring:
    """Polynomials in the given symbols; a quotient is a numerator and a table of denominator factors with powers."""

    def __init__(self, symbols: Sequence[sp.Symbol]) -> None:
        self.context = flint.fmpq_mpoly_ctx.get([f"v{i}" for i in range(len(symbols))], "lex")
        self.place = {s: i for i, s in enumerate(symbols)}
        self.generators = self.context.gens()
        self.factors: list[Any] = []
        self.memo: dict[Any, tuple[Any, dict[int, int]]] = {}

    def quotient(self, expr: Any) -> tuple[Any, dict[int, int]]:
        """The numerator and the denominator (factor number to power) of a rational expression."""
        if expr not in self.memo:
            self.memo[expr] = self._quotient(expr)
            if len(self.memo[expr][0]) > _MOST_TERMS:
                raise _TooLarge
        return self.memo[expr]

    def _quotient(self, expr: Any) -> tuple[Any, dict[int, int]]:
        if expr.is_Rational:
            return self.context.constant(flint.fmpq(int(expr.p), int(expr.q))), {}
        if expr.is_Symbol:
            return self.generators[self.place[expr]], {}
        if expr.is_Add:
            return self._sum([self.quotient(a) for a in expr.args])
        if expr.is_Mul:
            return self._product([self.quotient(a) for a in expr.args])
        if expr.is_Pow and expr.exp.is_Integer:
            return self._power(self.quotient(expr.base), int(expr.exp))
        raise _TooLarge

    def _sum(self, parts: Sequence[tuple[Any, dict[int, int]]]) -> tuple[Any, dict[int, int]]:
        common: dict[int, int] = {}
        for _, bottom in parts:
            for k, n in bottom.items():
                common[k] = max(n, common.get(k, 0))
        total = self.context.constant(0)
        for top, bottom in parts:
            for k, n in common.items():
                top = top * self.factors[k] ** (n - bottom.get(k, 0))
            total = total + top
        return total, common

    def _product(self, parts: Sequence[tuple[Any, dict[int, int]]]) -> tuple[Any, dict[int, int]]:
        top = self.context.constant(1)
        bottom: dict[int, int] = {}
        for t, b in parts:
            top = top * t
            for k, n in b.items():
                bottom[k] = bottom.get(k, 0) + n
        return top, bottom

    def _power(self, base: tuple[Any, dict[int, int]], n: int) -> tuple[Any, dict[int, int]]:
        top, bottom = base
        if n >= 0:
            return top**n, {k: m * n for k, m in bottom.items()}
        if top not in self.factors:
            self.factors.append(top)
        up = self.context.constant(1)
        for k, m in bottom.items():
            up = up * self.factors[k] ** (-m * n)
        return up, {self.factors.index(top): -n}

    def lowered(self, poly: Any, letter: sp.Symbol, power: int, value: tuple[Any, dict[int, int]]) -> Any:
        """The polynomial with letter**power replaced by the value, times what clears the denominators."""
        top, bottom = value[0], self.context.constant(1)
        for k, n in value[1].items():
            bottom = bottom * self.factors[k] ** n
        at = self.place[letter]
        parts: dict[int, dict[tuple[int, ...], Any]] = {}
        for exponents, coefficient in poly.to_dict().items():
            count, rest = divmod(int(exponents[at]), power)
            parts.setdefault(count, {})[(*exponents[:at], rest, *exponents[at + 1 :])] = coefficient
        total = self.context.constant(0)
        most = max(parts, default=0)
        for count, terms in parts.items():
            total = total + self.context.from_dict(terms) * top**count * bottom ** (most - count)
            if len(total) > _MOST_TERMS:
                raise _TooLarge
        return total
