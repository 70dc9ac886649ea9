"""Discrete affine elements of an elementwise operator: f(c x + t) = b f(x) + s + l x with c = -1 (reflections) or c =
1 (shifts).

Candidates come from the formula (borders, zeros of arguments, frequencies); each is solved for (b, s, l) from samples
and proved as an identity. A nonzero l is a relation that only a linear path beside f can use (gelu: f(-x) = f(x) - x).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import sympy as sp

from symdisc.equivariance.balls import Ball, NoValue, constant, eliminate, evaluate, working_precision
from symdisc.equivariance.branches import breakpoints, resolve
from symdisc.equivariance.numbers import closed_form, constants_of
from symdisc.equivariance.record import PROVED, WITNESSED, Discrete
from symdisc.equivariance.samples import points_of
from symdisc.equivariance.scalar import echelon
from symdisc.equivariance.zero import is_zero

__all__ = ["affine_elements", "element", "permutation", "several_inputs"]

_PERIODIC = (sp.sin, sp.cos, sp.tan)
_SMOOTH = (sp.exp, sp.tanh, sp.sinh, sp.cosh, sp.atan, sp.erf, sp.asinh, sp.asin, sp.acos, sp.atanh, sp.log, *_PERIODIC)
_MOST_CENTRES = 24


def affine_elements(f: sp.Expr, x: sp.Symbol, fixed: Sequence[sp.Expr] = ()) -> tuple[Discrete, ...]:
    """Reflections and shifts of y = f(x); ``fixed`` are fixed points of the continuous part, tried as centres."""
    with working_precision():
        points = [p[x] for p in points_of(f, [x])]
        found = _reflection(f, x, points, fixed)
        shifts: list[Discrete] = []
        for t in _periods(f, x):
            one = _solved(f, x, points, sp.Integer(1), t)
            if one is not None:
                shifts.append(one)
                if abs(one.value("b")) != 1 or one.value("b") == 1:
                    break  # longer ones are powers of this one
        return (*found, *shifts)


def permutation(several: bool = False) -> Discrete:
    """Units of an elementwise operator may be renumbered."""
    latex = r"f(Px, Py, \ldots) = P f(x, y, \ldots),\ P \in S_n" if several else r"f(Px) = P f(x),\ P \in S_n"
    return Discrete("permutation", latex, PROVED, 0)


def _reflection(f: sp.Expr, x: sp.Symbol, points: Sequence[Fraction], fixed: Sequence[sp.Expr]) -> list[Discrete]:
    path: Discrete | None = None
    for centre in itertools.islice(_centres(f, x, fixed), _MOST_CENTRES):
        one = _solved(f, x, points, sp.Integer(-1), 2 * centre)
        if one is not None and not one.needs_linear_path:
            return [one]
        path = path or one
    return [path] if path else []


def _centres(f: sp.Expr, x: sp.Symbol, fixed: Sequence[sp.Expr]) -> Iterator[sp.Expr]:
    seen = {sp.Integer(0): None}
    seen.update(dict.fromkeys(fixed))
    edges = breakpoints(f, x).points
    seen.update(dict.fromkeys(edges))
    arguments = [n.args[0] for n in sp.preorder_traversal(f) if isinstance(n, _SMOOTH)]
    arguments += [n.base for n in sp.preorder_traversal(f) if isinstance(n, sp.Pow) and not n.base.is_number]
    middles = [_middle(u, x) for u in [f, *arguments]]
    seen.update(dict.fromkeys(m for m in middles if m is not None))
    yield from seen
    for a, b in itertools.combinations(list(seen), 2):
        if (middle := sp.simplify((a + b) / 2)) not in seen:
            seen[middle] = None
            yield middle


def _middle(u: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    """The mean of the zeros of a polynomial: the only centre it can have."""
    if not u.is_polynomial(x):
        return None
    poly = sp.Poly(u, x)
    if poly.degree() < 1:
        return None
    top, next_ = poly.coeff_monomial(x ** poly.degree()), poly.coeff_monomial(x ** (poly.degree() - 1))
    return sp.nsimplify(-next_ / (poly.degree() * top)) if not next_.has(sp.Float) else None


def _periods(f: sp.Expr, x: sp.Symbol) -> list[sp.Expr]:
    frequencies = set()
    for node in sp.preorder_traversal(f):
        if isinstance(node, _PERIODIC) and node.args[0].is_polynomial(x) and sp.degree(node.args[0], x) == 1:
            frequencies.add(sp.Abs(sp.Poly(node.args[0], x).coeff_monomial(x)))
    periods = {sp.pi / w * k for w in frequencies for k in (sp.Rational(1, 2), 1, 2, 4, 6, 12)}
    return sorted(periods, key=float)


def _value_at(f: sp.Expr, x: sp.Symbol, at: Fraction | Ball) -> Ball:
    return evaluate(resolve(f, {x: at}), {x: at})  # type: ignore[dict-item]


def _solved(f: sp.Expr, x: sp.Symbol, points: Sequence[Fraction], c: sp.Expr, t: sp.Expr) -> Discrete | None:
    """The element x -> c x + t, if f(c x + t) is b f(x) + s + l x."""
    shift, sign = constant(t), int(c)
    rows = []
    for p in points:
        here = Ball(p.numerator) / Ball(p.denominator)
        try:
            moved = _value_at(f, x, here * sign + shift)
        except NoValue:
            if _inside(f, x, p, sign, t):
                continue
            return None  # the domain is not mapped to itself
        rows.append([_value_at(f, x, p), here, Ball(1), -moved])
    found = eliminate(rows, 4)
    basis = [v for v in echelon(found.kernel) if v[3] != 0]
    if found.nullity != 1 or not basis or found.gap < 1e15:
        return None
    rates = [sp.Poly(n.args[0], x).coeff_monomial(x) for n in f.atoms(sp.exp) if n.args[0].is_polynomial(x)]
    constants = (*(sp.exp(r * t) for r in rates if r and t), *constants_of(f))
    b, l, s = (closed_form((basis[0][i] / basis[0][3]).mid(), constants) for i in (0, 1, 2))
    if b == 0:
        return None
    proved = not any(v.has(sp.Float) for v in (b, s, l)) and _identity(f, x, c, t, b * f + s + l * x)
    return element(c, t, b, s, l, PROVED if proved else WITNESSED)


def _inside(f: sp.Expr, x: sp.Symbol, p: Fraction, sign: int, t: sp.Expr) -> bool:
    """The image of p is only a border point, not outside of the domain."""
    near = p + Fraction(1, 10**9)
    try:
        _value_at(f, x, Ball(near.numerator) / Ball(near.denominator) * sign + constant(t))
    except NoValue:
        return False
    return True


def _identity(f: sp.Expr, x: sp.Symbol, c: sp.Expr, t: sp.Expr, right: sp.Expr) -> bool:
    """f(c x + t) = right, on every piece of both sides."""
    breaks = breakpoints(f, x)
    if not breaks.complete:
        return is_zero(f.subs(x, c * x + t) - right, hard=False)
    edges = sorted({float(p) for p in breaks.points} | {float((p - t) / c) for p in breaks.points})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges) if b - a > 1e-12]
    spots = [edges[0] - 1, *middles, edges[-1] + 1] if edges else [0.37]
    for spot in spots:
        at = Fraction(spot).limit_denominator(10**9)
        moved = Ball(at.numerator) / Ball(at.denominator) * int(c) + constant(t)
        try:
            left = resolve(f, {x: moved}).subs(x, c * x + t)  # type: ignore[dict-item]
            here = resolve(right, {x: at})
            evaluate(here, {x: at})
        except NoValue:
            continue
        change: Mapping[sp.Symbol, sp.Expr] = _half_line(x, spot, edges)
        if not is_zero((left - here).subs(change)):
            return False
    return True


def _half_line(x: sp.Symbol, spot: float, edges: Sequence[float]) -> dict[sp.Symbol, sp.Expr]:
    positive = sp.Symbol("p", positive=True)
    if not any(abs(e) < 1e-12 for e in edges):
        return {}
    return {x: positive if spot > 0 else -positive}


def element(c: sp.Expr, t: sp.Expr, b: sp.Expr, s: sp.Expr, l: sp.Expr, status: str) -> Discrete:
    """The record of f(c x + t) = b f(x) + s + l x."""
    if l != 0:
        kind = "linear path"
    elif c == -1:
        kind = "sign" if t == 0 and s == 0 else "reflection"
    else:
        kind = "period" if b == 1 and s == 0 else "shift"
    x, y = sp.Symbol("x"), sp.Function("f")(sp.Symbol("x"))
    argument = sp.latex(c * x + t)
    entries = tuple((k, v) for k, v in (("c", c), ("t", t), ("b", b), ("s", s), ("l", l)) if v != 0)
    return Discrete(
        kind, rf"f\left({argument}\right) = {sp.latex(b * y + s + l * x)}", status, 2 if c == -1 else 0, entries
    )


def several_inputs(f: sp.Expr, variables: Sequence[sp.Symbol]) -> tuple[Discrete, ...]:
    """Sign flips of single inputs and of pairs, and exchanges of two inputs, of y = f(x_1, ..., x_k)."""
    found = []
    with working_precision():
        points = points_of(f, variables)
        for k in (1, 2):
            for chosen in itertools.combinations(variables, k):
                signs = {v: -v for v in chosen}
                found += _sign_of(f, points, signs, "sign", ", ".join(rf"{v} \to -{v}" for v in chosen))
        for a, b in itertools.combinations(variables, 2):
            found += _sign_of(f, points, {a: b, b: a}, "exchange", rf"{a} \leftrightarrow {b}")
    return tuple(found)


def _sign_of(
    f: sp.Expr,
    points: Sequence[Mapping[sp.Symbol, Fraction]],
    change: Mapping[sp.Symbol, sp.Expr],
    kind: str,
    latex: str,
) -> list[Discrete]:
    moved = f.subs(dict(change), simultaneous=True)
    for sign in (1, -1):
        difference = moved - sign * f
        try:
            values = [evaluate(resolve(difference, p), p) for p in points]
        except NoValue:
            return []
        if all(abs(v) < 1e-60 for v in values):
            status = PROVED if is_zero(difference, hard=False) else WITNESSED
            return [
                Discrete(kind, rf"{latex}:\ f \to {'-' if sign < 0 else ''}f", status, 2, (("b", sp.Integer(sign)),))
            ]
    return []
