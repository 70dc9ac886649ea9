"""The continuous part of an elementwise operator, from its formula: numbers propose, sympy disposes.

For y = f(x_1, ..., x_k) per unit the algebra is {(c_a, t_a), (b, s): sum_a (c_a x_a + t_a) d_a f = b f + s}: one linear
relation between the functions x_a d_a f, d_a f, f and 1. Sampled at exact points in ball arithmetic, one nonzero minor
proves how many relations there can be at most; each relation found is then proved as an identity on every smooth piece.

Units do not mix unless f is affine (Godfrey et al., arXiv:2205.14258, and the lemma below): for i != j the entry (i,
j) of the condition reads sum_a d_a f(x_i) M^a_ij x^a_j - N_ij f(x_j) = (a function of x_i alone); the difference of
two values of x_i gives (change of d_a f) M^a_ij = 0, hence M^a_ij = 0 where d_a f varies, and then N_ij f(x_j)
constant, so N_ij = 0. If d_a f is constant and M^a_ij is not zero, then f minus its part in x^a is constant, so f is
affine. At a jump the same holds since it may not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import sympy as sp

from symdisc.equivariance.balls import BITS, Ball, Elimination, NoValue, eliminate, evaluate, working_precision
from symdisc.equivariance.branches import all_branches, breakpoints, resolve
from symdisc.equivariance.jumps import borders_that_stay, may_jump
from symdisc.equivariance.numbers import closed_form, constants_of
from symdisc.equivariance.samples import points_of
from symdisc.equivariance.zero import is_zero
from symdisc.errors import FormulaError, Undecided

__all__ = ["ScalarAlgebra", "echelon", "names_of", "pieces_of", "relations", "solve_scalar"]


@dataclass(frozen=True)
class ScalarAlgebra:
    """Relations of one unit: ``basis`` rows over ``names`` (c, t per variable, then b, s); class of f; what is
    proved.
    """

    names: tuple[str, ...]
    basis: tuple[tuple[sp.Expr, ...], ...]
    kind: str  # 'generic', 'affine' or 'constant'
    upper_proved: bool
    lower_proved: tuple[bool, ...]
    samples: int
    rank: int

    @property
    def dimension(self) -> int:
        return len(self.basis)

    @property
    def proved(self) -> bool:
        return self.upper_proved and all(self.lower_proved)


def names_of(variables: Sequence[sp.Symbol]) -> tuple[str, ...]:
    """Names of the unknowns: c, t for one variable; c_g, t_g for each of several; b, s of the output."""
    if len(variables) == 1:
        return ("c", "t", "b", "s")
    return (*(f"{k}_{v.name}" for v in variables for k in ("c", "t")), "b", "s")


def solve_scalar(f: sp.Expr, variables: Sequence[sp.Symbol]) -> ScalarAlgebra:
    """All affine pairs of y = f(variables) for one unit, f a formula of the grammar. Raises FormulaError, Undecided."""
    found = _solve(f, variables, BITS)
    # towers of exponentials need more digits before a minor is known not to vanish
    return found if found.upper_proved else _solve(f, variables, 8 * BITS)


def _solve(f: sp.Expr, variables: Sequence[sp.Symbol], bits: int) -> ScalarAlgebra:
    names = names_of(variables)
    with working_precision(bits):
        points = points_of(f, variables)
        if len(points) < 12:
            raise FormulaError("the formula has no real values to sample: check its domain")
        rows = [r for p in points if (r := _row(f, variables, p)) is not None]
        rows += borders_that_stay(f, variables, points)
        found = eliminate(rows, len(names))
        _refuse_unclear(found, len(rows))
        basis, lower = _basis(found, f, variables)
        kind, kind_proved = _kind(f, variables, points)
    return ScalarAlgebra(names, basis, kind, found.proved and kind_proved, lower, len(rows), found.rank)


def _row(f: sp.Expr, variables: Sequence[sp.Symbol], point: Mapping[sp.Symbol, Fraction]) -> list[Ball] | None:
    try:
        smooth = resolve(f, point)
        values = [evaluate(smooth.diff(v), point) for v in variables]
        value = evaluate(smooth, point)
    except NoValue:
        return None
    row = []
    for v, d in zip(variables, values, strict=True):
        row += [d * evaluate(v, point), d]
    return [*row, -value, Ball(-1)]


def _refuse_unclear(found: Elimination, rows: int) -> None:
    if found.nullity and found.gap < 1e15:
        raise Undecided(
            f"no gap between pivots ({rows} samples): the formula is too close to a symmetric one to decide"
        )


def _basis(
    found: Elimination, f: sp.Expr, variables: Sequence[sp.Symbol]
) -> tuple[tuple[tuple[sp.Expr, ...], ...], tuple[bool, ...]]:
    borders = breakpoints(f, variables[0]).points if len(variables) == 1 else ()
    constants = (*constants_of(f), *(p for p in borders if not p.is_Rational))
    vectors = [tuple(closed_form(v, constants) for v in row) for row in echelon(found.kernel)]
    pieces = pieces_of(f, variables) if vectors else []
    if len(variables) == 1 and not breakpoints(f, variables[0]).complete and may_jump(f):
        pieces = []  # jumps were looked for between samples only
    proofs = [_is_relation(v, pieces, variables) for v in vectors]
    return tuple(vectors), tuple(proofs)


def echelon(kernel: Sequence[Sequence[Ball]]) -> list[list[Ball]]:
    """Reduced echelon form with pivots as far left as possible, so that c comes before t before b before s."""
    rows = [list(r) for r in kernel]
    done = 0
    for column in range(len(rows[0]) if rows else 0):
        best = max(range(done, len(rows)), key=lambda i: abs(float(rows[i][column])), default=None)
        if best is None or abs(float(rows[best][column])) < 1e-30:
            continue
        rows[done], rows[best] = rows[best], rows[done]
        pivot = rows[done][column]
        rows[done] = [(v / pivot).mid() for v in rows[done]]
        for i in range(len(rows)):
            if i != done and rows[i][column] != 0:
                factor = rows[i][column]
                rows[i] = [(a - factor * b).mid() for a, b in zip(rows[i], rows[done], strict=True)]
        done += 1
        if done == len(rows):
            break
    return rows


def pieces_of(f: sp.Expr, variables: Sequence[sp.Symbol]) -> list[tuple[sp.Expr, dict[sp.Symbol, sp.Expr]]]:
    """Smooth expressions that cover f, each with a substitution that tells sympy the sign of the variable there.

    Every piece of the domain is covered: by its intervals where the borders are known, else by all choices of branches.
    """
    if len(variables) == 1:
        x = variables[0]
        breaks = breakpoints(f, x)
        if breaks.complete:
            edges = [float(p) for p in breaks.points]
            middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
            spots = [edges[0] - 1, *middles, edges[-1] + 1] if edges else [0.37]
            return _interval_pieces(f, x, [Fraction(s).limit_denominator(10**9) for s in spots], edges)
    try:
        return [(branch, {}) for branch in all_branches(f)]
    except NoValue:
        return []


def _interval_pieces(
    f: sp.Expr, x: sp.Symbol, spots: Sequence[Fraction], edges: Sequence[float]
) -> list[tuple[sp.Expr, dict[sp.Symbol, sp.Expr]]]:
    positive = sp.Symbol("p", positive=True)
    found = []
    for i, spot in enumerate(spots):
        try:
            smooth = resolve(f, {x: spot})
            evaluate(smooth, {x: spot})
        except NoValue:
            continue
        left = edges[i - 1] if i else float("-inf")
        right = edges[i] if i < len(edges) else float("inf")
        change = {x: positive} if left >= 0 else {x: -positive} if right <= 0 else {}
        found.append((smooth, change))
    return found


def _is_relation(
    vector: Sequence[sp.Expr],
    pieces: Sequence[tuple[sp.Expr, dict[sp.Symbol, sp.Expr]]],
    variables: Sequence[sp.Symbol],
) -> bool:
    if not pieces or any(v.has(sp.Float) for v in vector):
        return False
    for smooth, change in pieces:
        total = -vector[-2] * smooth - vector[-1]
        for a, v in enumerate(variables):
            total += (vector[2 * a] * v + vector[2 * a + 1]) * smooth.diff(v)
        if not is_zero(total.subs(change)):
            return False
    return True


def _kind(
    f: sp.Expr, variables: Sequence[sp.Symbol], points: Sequence[Mapping[sp.Symbol, Fraction]]
) -> tuple[str, bool]:
    """Affine, constant or neither, and whether that is proved."""
    found, rows = relations([f, *variables, sp.Integer(1)], points)
    if found.nullity == 0:
        return "generic", found.proved
    pieces = pieces_of(f, variables)
    constants = constants_of(f)
    slopes = [_slope(f, v, points, constants) for v in variables]
    proved = bool(pieces) and all(
        is_zero((p.diff(v) - s).subs(change)) for p, change in pieces for v, s in zip(variables, slopes, strict=True)
    )
    return ("affine" if any(slopes) else "constant"), proved and rows > 0


def _slope(
    f: sp.Expr, v: sp.Symbol, points: Sequence[Mapping[sp.Symbol, Fraction]], constants: Sequence[sp.Expr]
) -> sp.Expr:
    for point in points:
        try:
            return closed_form(evaluate(resolve(f, point).diff(v), point).mid(), constants)
        except NoValue:
            continue
    raise Undecided("an affine formula without a derivative")


def relations(functions: Sequence[sp.Expr], points: Sequence[Mapping[sp.Symbol, Fraction]]) -> tuple[Elimination, int]:
    """Linear relations between functions, from their values at points."""
    rows = []
    for point in points:
        try:
            rows.append([evaluate(resolve(g, point), point) for g in functions])
        except NoValue:
            continue
    return eliminate(rows, len(functions)), len(rows)
