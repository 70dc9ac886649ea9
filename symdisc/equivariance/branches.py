"""Piecewise formulas as smooth pieces: which branch holds near a point, and where the branches meet.

``Abs(u)``, ``sign(u)``, ``Max``, ``Min`` and ``Piecewise`` are switches. Near a point where no switching function is
zero the formula equals one smooth expression.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy as sp

from symdisc.equivariance.balls import NoValue, evaluate

__all__ = ["Breaks", "all_branches", "breakpoints", "resolve"]

_SWITCHES = (sp.Abs, sp.sign, sp.Max, sp.Min, sp.Piecewise)


def resolve(expr: sp.Expr, at: Mapping[sp.Symbol, Fraction]) -> sp.Expr:
    """The smooth expression equal to ``expr`` near the point. Raises NoValue on a border."""
    while True:
        switch = _innermost(expr)
        if switch is None:
            return expr
        expr = expr.xreplace({switch: _choice(switch, at)})


def _innermost(expr: Any) -> Any:
    for node in sp.postorder_traversal(expr):
        if isinstance(node, _SWITCHES):
            return node
    return None


def _choice(switch: Any, at: Mapping[sp.Symbol, Fraction]) -> sp.Expr:
    if isinstance(switch, sp.Piecewise):
        for value, condition in switch.args:
            if _holds(condition, at):
                return value
        raise NoValue
    if isinstance(switch, (sp.Max, sp.Min)):
        best = switch.args[0]
        for other in switch.args[1:]:
            larger = _positive(other - best, at)
            best = other if larger == isinstance(switch, sp.Max) else best
        return best
    positive = _positive(switch.args[0], at)
    if isinstance(switch, sp.sign):
        return sp.Integer(1 if positive else -1)
    return switch.args[0] if positive else -switch.args[0]


def _holds(condition: Any, at: Mapping[sp.Symbol, Fraction]) -> bool:
    if condition in (sp.true, True):
        return True
    if condition in (sp.false, False):
        return False
    if isinstance(condition, sp.And):
        return all([_holds(c, at) for c in condition.args])
    if isinstance(condition, sp.Or):
        return any([_holds(c, at) for c in condition.args])
    greater = isinstance(condition, (sp.StrictGreaterThan, sp.GreaterThan))
    return _positive(condition.lhs - condition.rhs, at) == greater


def _positive(expr: sp.Expr, at: Mapping[sp.Symbol, Fraction]) -> bool:
    if expr == 0:
        return False  # both sides are equal everywhere: either choice is the same function
    value = evaluate(expr, at)
    if value.contains(0):
        raise NoValue
    return bool(value > 0)


def _switching(expr: sp.Expr) -> Iterator[sp.Expr]:
    """Functions whose zeros are borders: of switches, and of denominators, roots, logarithms (poles, edges)."""
    for node in sp.preorder_traversal(expr):
        if isinstance(node, (sp.Abs, sp.sign, sp.log)):
            yield node.args[0]
        elif isinstance(node, (sp.Max, sp.Min)):
            yield from (a - b for a, b in itertools.combinations(node.args, 2))
        elif isinstance(node, (sp.asin, sp.acos, sp.atanh)):
            yield 1 - node.args[0] ** 2
        elif isinstance(node, sp.acosh):
            yield node.args[0] - 1
        elif isinstance(node, sp.core.relational.Relational):
            yield node.lhs - node.rhs
        elif isinstance(node, sp.Pow) and not (node.exp.is_Integer and node.exp > 0) and not node.base.is_number:
            yield node.base


@dataclass(frozen=True)
class Breaks:
    """Borders of the pieces, as exact numbers in order; ``complete`` when these are proved to be all of them."""

    points: tuple[sp.Expr, ...]
    complete: bool


@lru_cache(maxsize=512)
def breakpoints(expr: sp.Expr, x: sp.Symbol) -> Breaks:
    """All borders of a formula in one variable."""
    points: set[sp.Expr] = set()
    complete = True
    for function in set(_switching(expr)):
        if x not in function.free_symbols or _never_zero(function):
            continue
        roots = _roots(function, x)
        complete = complete and roots is not None
        points |= set(roots or ())
    return Breaks(tuple(sorted(points, key=lambda p: float(p))), complete)


def _never_zero(function: sp.Expr) -> bool:
    if function.is_positive or function.is_negative:
        return True
    if isinstance(function, sp.exp) or (isinstance(function, sp.Pow) and function.exp.is_negative):
        return True
    return function.is_Mul and all(a.is_number or _never_zero(a) for a in function.args)


def _roots(function: sp.Expr, x: sp.Symbol) -> set[sp.Expr] | None:
    if function.has(*_SWITCHES):
        found: set[sp.Expr] = set()
        for branch in all_branches(function):
            roots = set() if x not in branch.free_symbols else _roots(branch, x)
            if roots is None or branch == 0:
                return None
            found |= roots
        return found
    try:
        numerator = sp.numer(sp.together(function))
        if numerator.is_polynomial(x):
            return set(sp.real_roots(sp.Poly(numerator, x), multiple=True)) if x in numerator.free_symbols else set()
        solved = sp.solveset(function, x, sp.S.Reals)
    except (NotImplementedError, ValueError, TypeError, AttributeError):
        return None
    if not isinstance(solved, sp.FiniteSet) and solved is not sp.S.EmptySet:
        return None
    return {r for r in solved if r.is_real}


def all_branches(expr: sp.Expr, most: int = 64) -> list[sp.Expr]:
    """Every expression that some choice of all branches gives, possible at one point or not. Raises NoValue if too
    many.
    """
    todo, done = [expr], []
    while todo:
        current = todo.pop()
        switch = _innermost(current)
        if switch is None:
            if current not in done:
                done.append(current)
        else:
            todo.extend(current.xreplace({switch: option}) for option in _options(switch))
        if len(todo) + len(done) > most:
            raise NoValue
    return done


def _options(switch: Any) -> list[sp.Expr]:
    if isinstance(switch, sp.Piecewise):
        return [value for value, _ in switch.args]
    if isinstance(switch, (sp.Max, sp.Min)):
        return list(switch.args)
    if isinstance(switch, sp.sign):
        return [sp.Integer(1), sp.Integer(-1)]
    return [switch.args[0], -switch.args[0]]
