"""Is an expression identically zero? Decided by replacing transcendental parts by independent letters.

If an identity holds with exp(m), log(u), erf(u), roots ... replaced by letters bound only by polynomial relations, it
holds. The converse may fail, so "not shown" is the other answer, never "not zero".
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from symdisc.equivariance.rational import vanishes

__all__ = ["is_zero"]

_HYPERBOLIC = (sp.sinh, sp.cosh, sp.tanh, sp.coth, sp.sech, sp.csch)


def is_zero(expr: sp.Expr, *, hard: bool = True) -> bool:
    """True when ``expr`` is proved to vanish identically; ``hard`` also tries sympy's simplify."""
    if expr == 0:
        return True
    letters = _Letters()
    written = letters.write(_prepared(expr))
    if vanishes(written, letters.relations):
        return True
    return bool(hard and sp.count_ops(expr) < 200 and sp.simplify(expr) == 0)


def _prepared(expr: sp.Expr) -> sp.Expr:
    if expr.has(*_HYPERBOLIC):
        expr = expr.rewrite(sp.exp)
    if expr.has(sp.acos):
        expr = expr.replace(sp.acos, lambda u: sp.pi / 2 - sp.asin(u))
    if expr.has(sp.tan):
        expr = expr.replace(sp.tan, lambda u: sp.sin(u) / sp.cos(u))
    return expr


class _Letters:
    """Transcendental subexpressions and the letters that stand for them."""

    def __init__(self) -> None:
        self.names: dict[Any, sp.Symbol] = {}
        self.relations: list[tuple[sp.Expr, sp.Symbol, int]] = []  # (value, letter, power): letter**power = value

    def write(self, expr: Any) -> Any:
        """``expr`` with every transcendental part replaced."""
        if expr.is_Symbol or expr.is_Number:
            return expr
        if isinstance(expr, sp.exp):
            return self._exponential(expr.args[0])
        if expr.is_Pow and not expr.exp.is_Integer:
            return self._root(expr.base, expr.exp)
        if isinstance(expr, (sp.sin, sp.cos)):
            return self._circular(expr)
        if expr.is_Add or expr.is_Mul or expr.is_Pow:
            return expr.func(*(self.write(a) if not a.is_Integer else a for a in expr.args))
        if not expr.args or not all(isinstance(a, sp.Expr) for a in expr.args):
            return self._letter(expr)
        return self._letter(expr.func(*(sp.cancel(sp.together(a)) if a.free_symbols else a for a in expr.args)))

    def _letter(self, key: Any, positive: bool = False) -> sp.Symbol:
        if key not in self.names:
            self.names[key] = sp.Dummy(f"T{len(self.names)}", positive=positive or None)
        return self.names[key]

    def _exponential(self, exponent: sp.Expr) -> sp.Expr:
        product = sp.Integer(1)
        for term in sp.Add.make_args(sp.expand(exponent)):
            coefficient, rest = term.as_coeff_Mul()
            if not coefficient.is_Rational:
                coefficient, rest = sp.Integer(1), term
            if isinstance(rest, sp.log) and coefficient.is_Integer:
                product *= self.write(rest.args[0]) ** coefficient
                continue
            # one letter for exp(rest / 12): the halves, thirds and quarters that occur are whole powers of it
            power = coefficient * 12
            letter = self._letter(("exp", rest if power.is_Integer else term), positive=True)
            product *= letter ** (power if power.is_Integer else 12)
        return product

    def _root(self, base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        written = self.write(base)
        if not exponent.is_Rational:
            whole = sum((a for a in sp.Add.make_args(exponent) if a.is_Integer), sp.Integer(0))
            if base.is_positive and base.is_number:
                return (
                    self._exponential(exponent * sp.log(base))
                    if not exponent.is_number
                    else self._letter(base**exponent)
                )
            return written**whole * self._letter((sp.expand(base), exponent - whole), positive=True)
        key = ("root", sp.expand(base), int(exponent.q))
        new = key not in self.names
        letter = self._letter(key, positive=True)
        if new:
            self.relations.append((written, letter, int(exponent.q)))
        return letter ** int(exponent.p)  # also where negative: a power of a letter is the simplest denominator

    def _circular(self, expr: Any) -> sp.Expr:
        opened = sp.expand_trig(expr.func(sp.expand(expr.args[0])))
        if not isinstance(opened, (sp.sin, sp.cos)):
            return self.write(opened)
        argument = opened.args[0]
        sine, cosine = self._letter(("sin", argument)), self._letter(("cos", argument))
        if not any(letter is sine for _, letter, _ in self.relations):
            self.relations.append((1 - cosine**2, sine, 2))
        return sine if isinstance(opened, sp.sin) else cosine
