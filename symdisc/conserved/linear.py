"""Linear symmetries without a name: which combinations of their generators are gradient fields, and the charges of those.

A generator moves W by sum_a A_a W + T with a matrix along each axis. Its matrix on the flattened parameter is symmetric
iff every A_a is: antisymmetric parts along different axes cannot cancel, as I x K + K' x I = 0 forces both to be
multiples of 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.flow import THETA, Local
from symdisc.errors import Undecided
from symdisc.generators import Generator, Part

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["charges", "equation", "expression", "linear_answer", "pairings", "tex"]

Shapes = Mapping[str, tuple[int, ...]]

DENOMINATOR = 24  # the fractions that generators are written in


def linear_answer(deriver: Deriver) -> ConservedQuantity:
    """1/2 <theta, M theta> + <c, theta> for each independent combination with symmetric M, or why there is none."""
    local = deriver.local
    degrees = {1 if part.axis == -1 else 2 for g in deriver.symmetry.generators for part in g.parts}
    told = equation(local, degrees)
    if told is None:
        return deriver.none("a linear symmetry without a name is worked out for constant metrics and one common decay only")
    status, law, rate = told
    symmetric = _symmetric(deriver.symmetry.generators)
    constraint = r"\langle \dot\theta, X_a(\theta) \rangle = 0 \;\text{for all } a"
    if not symmetric:
        return deriver.none(reasons.ANTISYMMETRIC, constraint)
    rates = {n: float(deriver.scale() / w.precondition) for n, w in local.items()}
    weighted = tuple(_combined(deriver.symmetry.generators, c, rates) for c in symmetric)
    rest = len(symmetric) < len(deriver.symmetry.generators)
    shapes = tuple((n, tuple(deriver.parameters[n])) for n in dict.fromkeys(n for g in weighted for n in g.parameters))
    return deriver.make(status, "entries", "linear", (), dimension=len(weighted), law=law, rate=rate,
                        generators=weighted, shapes=shapes, reason=reasons.ANTISYMMETRIC_PART if rest else "",
                        constraint=constraint if rest and status == "conserved" else "")


def equation(local: Mapping[str, Local], degrees: Collection[int]) -> tuple[str, str, str] | None:
    """(status, law, rate) of charges 1/2 <theta, M theta> (degree 2) or <c, theta> (1); None where no one equation tells their change.

    First order: Q' = -<rho, X>, which is -k Q for decay by one common factor. With inertia Q'' + friction Q' + k Q = <theta', M theta'>.
    """
    kinds = {w.kind for w in local.values()}
    if len(kinds) > 1 or "history" in kinds or any(not w.constant for w in local.values()):
        return None
    if len({(w.inertia, w.friction) for w in local.values()}) > 1:
        return None
    if kinds == {"fisher"} and any(w.rho != 0 for w in local.values()):
        return None  # the decay is turned by the metric
    rates = {sp.simplify(d * w.rho * w.precondition / THETA) for w in local.values() for d in degrees}
    if len(rates) != 1 or next(iter(rates)).has(THETA):
        return None
    rate, first = next(iter(rates)), next(iter(local.values()))
    if not first.inertia:
        return ("conserved", r"\dot Q = 0", "0") if rate == 0 else ("decays", rf"\dot Q = -{sp.latex(rate)}\, Q", str(rate))
    source = "0" if max(degrees) == 1 else r"\langle \dot\theta, M\dot\theta\rangle"
    held = "" if rate == 0 else rf" + {sp.latex(rate)}\,Q"
    return "driven", rf"\ddot Q + {sp.latex(first.friction)}\,\dot Q{held} = {source}", ""


def _exact(value: float) -> sp.Rational:
    near = Fraction(value).limit_denominator(DENOMINATOR)
    if abs(float(near) - value) > 1e-12:
        raise Undecided(
            f"a generator has the entry {value}, which is no small fraction: symmetry of its matrix is not decided"
        )
    return sp.Rational(near.numerator, near.denominator)


def _symmetric(generators: Sequence[Generator]) -> list[list[sp.Rational]]:
    """A basis of the combinations whose matrices are all symmetric."""
    rows: dict[tuple[str, int, int, int], list[sp.Expr]] = {}
    for k, g in enumerate(generators):
        for part in g.parts:
            for i, j, value in part.entries if part.axis >= 0 else ():
                if i != j:
                    row = rows.setdefault(
                        (part.parameter, part.axis, min(i, j), max(i, j)), [sp.Integer(0)] * len(generators)
                    )
                    row[k] += _exact(value) * (1 if i < j else -1)
    distinct = {tuple(row) for row in rows.values()}
    system = sp.Matrix([list(r) for r in distinct]) if distinct else sp.zeros(1, len(generators))
    return [list(v) for v in system.nullspace()]


def _combined(generators: Sequence[Generator], c: Sequence[sp.Rational], rates: Mapping[str, float]) -> Generator:
    """sum_k c_k X_k in the metric of the learning rates."""
    total: dict[tuple[str, int], dict[tuple[int, int], float]] = {}
    for g, factor in zip(generators, c, strict=True):
        for part in g.parts if factor != 0 else ():
            entries = total.setdefault((part.parameter, part.axis), {})
            for i, j, value in part.entries:
                entries[i, j] = entries.get((i, j), 0.0) + float(factor * _exact(value)) * rates[part.parameter]
    return Generator(
        tuple(Part(n, a, tuple((i, j, v) for (i, j), v in sorted(e.items()) if v)) for (n, a), e in total.items())
    )


def charges(generators: Sequence[Generator], params: Mapping[str, Any]) -> Any:
    """[count]: 1/2 <theta, M theta> + <c, theta> of each generator, numpy or torch as the parameters are."""
    return _stack([sum(_part(p, params[p.parameter], params[p.parameter], 0.5) for p in g.parts) for g in generators])


def pairings(generators: Sequence[Generator], params: Mapping[str, Any], gradient: Mapping[str, Any]) -> Any:
    """[count]: <gradient, X_k(theta)>; a parameter without gradient counts as zero."""
    return _stack(
        [
            sum(_part(p, gradient[p.parameter], params[p.parameter], 1.0) for p in g.parts if p.parameter in gradient)
            for g in generators
        ]
    )


def _part(part: Part, x: Any, y: Any, factor: float) -> Any:
    """factor <x, A y> along an axis, or <x, T>."""
    if part.axis == -1:
        flat = x.reshape(-1)
        return sum(flat[i] * v for i, _, v in part.entries)
    size = y.shape[part.axis]
    matrix = np.zeros((size, size))
    for i, j, value in part.entries:
        matrix[i, j] = value
    turned = matrix if isinstance(y, np.ndarray) else y.new_tensor(matrix)
    left, right = (t.swapaxes(0, part.axis).reshape(size, -1) for t in (x, y))
    return (left * (turned @ right)).sum() * factor


def _square(part: Part, shape: tuple[int, ...]) -> str:
    """c/2 |W|^2 with its sign, where the part multiplies every entry by c; otherwise nothing."""
    values = {v for i, j, v in part.entries if i == j}
    whole = part.axis >= 0 and len(shape) > part.axis and len(part.entries) == shape[part.axis]
    if not whole or len(values) != 1 or any(i != j for i, j, _ in part.entries):
        return ""
    half = sp.nsimplify(values.pop()) / 2
    name = part.parameter.replace("_", chr(92) + "_")
    return rf"{'-' if half < 0 else '+'} {sp.latex(abs(half))} \lVert \texttt{{{name}}} \rVert^{{2}}"


def _stack(values: list[Any]) -> Any:
    first = next((v for v in values if hasattr(v, "new_tensor")), None)
    return np.array(values, dtype=np.float64) if first is None else sum(
        first.new_tensor(np.eye(len(values))[k]) * v for k, v in enumerate(values))


def expression(generators: Sequence[Generator], shapes: Shapes) -> sp.Expr | sp.ImmutableMatrix:
    """The charges in sympy, one expression or a column of them: 1/2 tr(M W W^T) with W unfolded along the axis, tr(T^T W) for constants."""
    found = [sum((_symbolic(p, shapes[p.parameter]) for p in g.parts), sp.Integer(0)) for g in generators]
    return found[0] if len(found) == 1 else sp.ImmutableMatrix(found)


def _symbolic(part: Part, shape: tuple[int, ...]) -> sp.Expr:
    size = prod(shape) if part.axis == -1 else shape[part.axis]
    w = sp.MatrixSymbol(part.parameter, size, prod(shape) // size)
    rows = {i: sp.nsimplify(v) for i, _, v in part.entries}
    if part.axis == -1:
        return sum((v * w[i, 0] for i, v in rows.items()), sp.Integer(0))
    if len(rows) == size == len(part.entries) and all(i == j for i, j, _ in part.entries) and len(set(rows.values())) == 1:
        return rows[0] * sp.Trace(w * w.T) / 2
    matrix = sp.SparseMatrix(size, size, {(i, j): sp.nsimplify(v) for i, j, v in part.entries})
    return sp.Trace(sp.ImmutableMatrix(matrix) * w * w.T) / 2


def tex(generators: Sequence[Generator], shapes: Shapes) -> str:
    """The charges by parameter: sums of squared lengths where each matrix is a multiple of 1."""
    if len(generators) == 1:
        terms = [_square(p, shapes.get(p.parameter, ())) for p in generators[0].parts]
        if all(terms):
            return "Q = " + " ".join(terms).removeprefix("+ ")
    names = list(dict.fromkeys(n for g in generators for n in g.parameters))
    typed = ", ".join(rf"\texttt{{{n.replace('_', chr(92) + '_')}}}" for n in names)
    return (r"Q_{k} = \tfrac{1}{2} \langle \theta, M_{k} \theta \rangle + \langle c_{k}, \theta \rangle,\; "
            rf"k = 1, \dots, {len(generators)},\; \theta = ({typed})")
