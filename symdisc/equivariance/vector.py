"""Operators on whole feature spaces, from a rule or an indexed formula: solve, rationalise, name, prove."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import flint
import numpy as np
import sympy as sp

from symdisc.equivariance.balls import Ball, NoValue, evaluate, working_precision
from symdisc.equivariance.branches import all_branches, resolve
from symdisc.equivariance.jumps import refuse_jumps
from symdisc.equivariance.naming import name_families
from symdisc.equivariance.record import PROVED, WITNESSED, Discrete, Family, Pair
from symdisc.equivariance.system import Layout, Sample, Space, equations
from symdisc.equivariance.zero import is_zero
from symdisc.errors import FormulaError, Undecided
from symdisc.exact import echelon, null_space, rational, spans_equal
from symdisc.formula import IndexedFormula, variable

__all__ = ["Operator", "VectorAlgebra", "operator", "solve_system", "solve_vector"]

_VALUES = tuple(
    Fraction(n, 229)
    for n in (-383, 157, 311, -97, 241, -199, 67, -283, 331, 29, -149, 197, 103, -251, 359, -41, 173, 283, -317)
)
_MOST_UNKNOWNS = 400


@dataclass(frozen=True)
class Operator:
    """A formula at concrete sizes: variables [data, feature] per input, results [data, feature]."""

    layout: Layout
    variables: tuple[np.ndarray, ...]
    results: np.ndarray


@dataclass(frozen=True)
class VectorAlgebra:
    """The null space of an operator on feature spaces, named; which parts are proved."""

    dimension: int
    families: tuple[Family, ...]
    remainder: np.ndarray
    pairs: tuple[Pair, ...]
    upper_proved: bool
    gap: float
    samples: int

    @property
    def proved(self) -> bool:
        return self.upper_proved and all(p.status == PROVED for p in self.pairs)


def operator(
    formula: IndexedFormula,
    inputs: Mapping[str, Sequence[str]],
    data: Sequence[str],
    sizes: Mapping[str, int],
    symbols: Mapping[str, sp.Expr],
) -> Operator:
    """The formula at the given sizes, with data axes first and the feature axes of each tensor as one."""
    spaces, arrays, tables = [], [], {}
    for name, axes in inputs.items():
        shape = tuple(sizes[a] for a in axes)
        table = {at: variable("_".join([name, *map(str, at)])) for at in itertools.product(*map(range, shape))}
        tables[name] = table
        space, array = _arranged(name, axes, data, sizes, table)
        spaces.append(space)
        arrays.append(array)
    entries = formula.expand(sizes, tables, symbols)
    out, results = _arranged(formula.result.name, formula.result.indices, data, sizes, entries)
    layout = Layout(tuple(spaces), out)
    if layout.unknowns > _MOST_UNKNOWNS:
        raise FormulaError(f"{layout.unknowns} unknowns are too many to solve at once; take a smaller size")
    return Operator(layout, tuple(arrays), results)


def _arranged(
    name: str,
    axes: Sequence[str],
    data: Sequence[str],
    sizes: Mapping[str, int],
    table: Mapping[tuple[int, ...], sp.Expr],
) -> tuple[Space, np.ndarray]:
    order = [i for i, a in enumerate(axes) if a in data] + [i for i, a in enumerate(axes) if a not in data]
    whole = np.empty(tuple(sizes[a] for a in axes), dtype=object)
    for at, value in table.items():
        whole[at] = value
    parts = tuple(sizes[a] for a in axes if a not in data)
    feature = int(np.prod(parts, dtype=int))
    return Space(name, whole.size // feature, feature, parts), whole.transpose(order).reshape(-1, feature)


def solve_vector(op: Operator) -> VectorAlgebra:
    """The equivariance algebra of an operator given by formulas: null space, names, proofs. Raises Undecided."""
    with working_precision():
        samples = list(_samples(op))
        rows = np.vstack([equations(op.layout, s) for s in samples])
        basis, gap = solve_system(rows.astype(float) if rows.dtype != object else _floats(rows))
        upper = _rank_proved(rows, op.layout.unknowns - basis.shape[1])
    vectors = _rationalised(basis)
    families, remainder = name_families(op.layout, basis)
    pairs = tuple(_proved_pair(op, v) for v in vectors)
    return VectorAlgebra(basis.shape[1], families, remainder, pairs, upper, gap, len(samples))


def solve_system(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Null space [unknowns, k] of the float system and the gap of its singular values; rows and columns are
    balanced.
    """
    size = np.abs(rows).max(axis=1, keepdims=True)
    balanced = rows / np.where(size > 0, size, 1)
    found = null_space(balanced, what="equivariance system")
    return found.basis, found.gap


def _floats(rows: np.ndarray) -> np.ndarray:
    return np.array([[float(v.mid()) if isinstance(v, flint.arb) else float(v) for v in row] for row in rows])


def _samples(op: Operator) -> list[Sample]:
    """Enough points for the unknowns, of several sizes so that small constants such as eps show."""
    symbols = [s for array in op.variables for s in array.reshape(-1)]
    derivatives: dict[tuple[int, sp.Expr], list[sp.Expr]] = {}
    points: list[dict[sp.Symbol, Fraction]] = []
    needed = 2 + (3 * op.layout.unknowns) // (2 * op.results.size)
    found = []
    for trial in range(6 * needed):
        scale = (Fraction(1), Fraction(1, 2), Fraction(1, 60))[trial % 3]
        point = {
            s: scale
            * (_VALUES[(7 * trial + 5 * i + trial * i * i) % len(_VALUES)] + Fraction(trial * (i + 3) % 101, 997))
            for i, s in enumerate(symbols)
        }
        sample = _sample(op, point, symbols, derivatives)
        if sample is not None:
            found.append(sample)
            points.append(point)
        if len(found) >= needed:
            for entry in op.results.reshape(-1):
                refuse_jumps(entry, points)
            return found
    raise FormulaError("the formula has too few real values to sample: check its domain")


def _sample(
    op: Operator,
    point: Mapping[sp.Symbol, Fraction],
    symbols: Sequence[sp.Symbol],
    derivatives: dict[tuple[int, sp.Expr], list[sp.Expr]],
) -> Sample | None:
    flat = op.results.reshape(-1)
    try:
        smooth = [resolve(e, point) for e in flat]
        for i, e in enumerate(smooth):
            if (i, e) not in derivatives:
                derivatives[i, e] = [e.diff(s) for s in symbols]
        values = np.array([evaluate(e, point) for e in smooth], dtype=object).reshape(op.results.shape)
        slopes = np.array([[evaluate(d, point) for d in derivatives[i, e]] for i, e in enumerate(smooth)], dtype=object)
    except NoValue:
        return None
    inputs = [np.array([[evaluate(s, point) for s in row] for row in array], dtype=object) for array in op.variables]
    jacobians, at = [], 0
    for array in op.variables:
        jacobians.append(slopes[:, at : at + array.size].reshape(*op.results.shape, *array.shape))
        at += array.size
    return Sample(inputs, values, jacobians)


def _rank_proved(rows: np.ndarray, rank: int) -> bool:
    """A minor of the proposed rank whose ball excludes zero: no more symmetry than proposed."""
    from scipy.linalg import qr

    if rank == 0:
        return True
    floats = _floats(rows)
    floats /= np.maximum(np.abs(floats).max(axis=1, keepdims=True), 1e-300)
    columns = qr(floats, mode="economic", pivoting=True)[2][:rank]
    chosen = qr(floats[:, columns].T, mode="economic", pivoting=True)[2][:rank]
    minor = flint.arb_mat([[Ball(rows[i, j]) for j in columns] for i in chosen])
    return not minor.det().contains(0)


def _rationalised(basis: np.ndarray) -> list[list[sp.Expr]]:
    """The echelon form with exact entries where they are simple fractions, else as numbers."""
    if basis.shape[1] == 0:
        return []
    rows, _ = echelon(basis)
    exact = [
        [
            sp.Float(v)
            if (r := rational(float(v), tolerance=1e-8)) is None
            else sp.Rational(r.numerator, r.denominator)
            for v in row
        ]
        for row in rows
    ]
    if not spans_equal(np.array([[float(v) for v in row] for row in exact]).T, basis, tolerance=1e-6):
        raise Undecided("the rationalised null space differs from the measured one")
    return exact


def _proved_pair(op: Operator, vector: Sequence[sp.Expr]) -> Pair:
    entries = tuple((op.layout.entry(i), v) for i, v in enumerate(vector) if v != 0)
    exact = not any(isinstance(v, sp.Float) for v in vector)
    status = PROVED if exact and _is_symmetry(op, vector) else WITNESSED
    return Pair(entries, status)


def _is_symmetry(op: Operator, vector: Sequence[sp.Expr]) -> bool:
    """Every output entry satisfies the condition identically."""
    field: dict[sp.Symbol, sp.Expr] = {}
    for space, array in zip(op.layout.inputs, op.variables, strict=True):
        a, b = op.layout.offsets[space.name]
        matrix = np.array(vector[a:b], dtype=object).reshape(space.feature, -1)
        moved = array @ matrix.T + np.array(vector[b : b + space.feature], dtype=object)
        field.update({s: v for s, v in zip(array.reshape(-1), moved.reshape(-1), strict=True) if v != 0})
    a, b = op.layout.offsets[op.layout.output.name]
    g = op.layout.output.feature
    out = op.results @ np.array(vector[a:b], dtype=object).reshape(g, g).T + np.array(vector[b : b + g], dtype=object)
    return all(_vanishes(e, field, right) for e, right in zip(op.results.reshape(-1), out.reshape(-1), strict=True))


def _vanishes(e: sp.Expr, field: Mapping[sp.Symbol, sp.Expr], right: sp.Expr) -> bool:
    try:
        branches = all_branches(sp.Tuple(e, sp.sympify(right)))
    except NoValue:
        return False
    for pair in branches:
        left = sp.Add(*(v * pair[0].diff(s) for s, v in field.items() if s in pair[0].free_symbols))
        if not is_zero(left - pair[1], hard=False):
            return False
    return True


def discrete_of(op: Operator) -> tuple[Discrete, ...]:
    """Renumberings of the units and the sign of one input, where input and output have one feature axis of one size."""
    layout = op.layout
    if len(layout.inputs) != 1:
        return ()
    space, array = layout.inputs[0], op.variables[0]
    found = []
    if space.feature == layout.output.feature and space.feature > 1:
        cycle, swap = np.roll(np.arange(space.feature), 1), np.array([1, 0, *range(2, space.feature)])
        if all(_same(op, array[:, p], op.results[:, p]) for p in (cycle, swap)):
            found.append(Discrete("permutation", rf"f(P{space.name}) = P f({space.name}),\ P \in S_n", PROVED, 0))
    for sign in (1, -1):
        if _same(op, -array, sign * op.results):
            found.append(Discrete("sign", rf"f(-{space.name}) = {'-' if sign < 0 else ''}f({space.name})", PROVED))
    return tuple(found)


def _same(op: Operator, moved: np.ndarray, expected: np.ndarray) -> bool:
    change = dict(zip(op.variables[0].reshape(-1), moved.reshape(-1), strict=True))
    pairs = zip(op.results.reshape(-1), expected.reshape(-1), strict=True)
    return all(is_zero(e.subs(change, simultaneous=True) - right, hard=False) for e, right in pairs)
