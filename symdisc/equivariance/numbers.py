"""Closed forms of numbers known to many digits: rationals first, then rational multiples of constants of the
formula.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import mpmath
import sympy as sp

from symdisc.equivariance.balls import Ball, constant

__all__ = ["closed_form", "constants_of"]

_DENOMINATOR = 10**12  # with 60 digits known, a fraction this simple is not met by accident


def constants_of(f: sp.Expr) -> tuple[sp.Expr, ...]:
    """Numbers in a formula that are not rational, their products and quotients; pi among them."""
    atoms: list[sp.Expr] = [sp.pi, sp.E, sp.sqrt(2)]
    for node in sp.preorder_traversal(f):
        if (
            isinstance(node, sp.Expr)
            and node.is_number
            and not node.is_Rational
            and not node.is_Symbol
            and node.is_real
        ):
            atoms.append(node)
        if isinstance(node, sp.Pow) and node.base.is_Rational and node.base.is_positive and node.base != 1:
            atoms.append(sp.log(node.base))
        if isinstance(node, sp.log) and node.args[0].is_Pow:
            atoms.append(sp.log(node.args[0].base))
    atoms = list(dict.fromkeys(atoms))[:8]
    pairs = [a * b for a, b in itertools.combinations_with_replacement(atoms, 2)]
    quotients = [a / b for a, b in itertools.permutations(atoms, 2)]
    inverse = [1 / a for a in atoms]
    return tuple(dict.fromkeys([*atoms, *inverse, *quotients, *pairs]))


def closed_form(value: Ball, constants: Sequence[sp.Expr] = ()) -> sp.Expr:
    """The exact number, or a Float of 30 digits when no closed form is recognised."""
    exact = _rational(value)
    if exact is not None:
        return exact
    for known in constants:
        ratio = _rational(value / constant(known))
        if ratio is not None:
            return ratio * known
    return _sum(value, constants[:4]) or sp.Float(value.str(30, radius=False), 30)


def _sum(value: Ball, constants: Sequence[sp.Expr]) -> sp.Expr | None:
    """A rational plus a rational multiple of one constant, found by an integer relation (PSLQ)."""
    with mpmath.workdps(55):
        number = mpmath.mpf(value.str(55, radius=False))
        for known in constants:
            other = mpmath.mpf(str(sp.N(known, 55)))
            relation = mpmath.pslq([number, mpmath.mpf(1), other], maxcoeff=10**4, maxsteps=2000)
            if relation and relation[0]:
                return -(sp.Rational(relation[1], relation[0]) + sp.Rational(relation[2], relation[0]) * known)
    return None


def _rational(value: Ball) -> sp.Rational | None:
    if abs(value) < 1e-40:
        return sp.Integer(0)
    man, exponent = value.mid().man_exp()
    exact = Fraction(int(man)) * Fraction(2) ** int(exponent)
    near = exact.limit_denominator(_DENOMINATOR)
    # relative to the size; 1e-35 leaves room for the rounding of the elimination
    if near != 0 and abs(near - exact) < abs(exact) * Fraction(1, 10**35):
        return sp.Rational(near.numerator, near.denominator)
    return None
