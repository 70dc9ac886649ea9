"""Linear symmetries without a name: which combinations of their generators are gradient fields, and the charges of those.

A generator moves W by sum_a A_a W + T with a matrix along each axis. Its matrix on the flattened parameter is symmetric
iff every A_a is: antisymmetric parts along different axes cannot cancel, as I x K + K' x I = 0 forces both to be
multiples of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.expressions import parse_scalar, scalar_function
from symdisc.conserved.flow import THETA, TIME, Local
from symdisc.conserved.flow import tex as flow_tex
from symdisc.conserved.orthogonal import damped, orthogonality
from symdisc.errors import Undecided
from symdisc.generators import Generator, Part

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["charges", "combined", "equation", "exact_entry", "expression", "linear_answers", "pairings", "rates", "tex"]

Shapes = Mapping[str, tuple[int, ...]]

Potentials = Sequence[tuple[str, str, str]]  # parameter, what takes the place of x^2/2 and of x

DENOMINATOR = 24  # the fractions that generators are written in


def linear_answers(deriver: Deriver) -> list[ConservedQuantity]:
    """Of the combinations of generators: with inertia <theta', M theta + c> for antisymmetric M, then 1/2 <theta, M theta> + <c, theta>
    for symmetric M (entry by entry an integral where the metric depends on the parameter); or why there is neither."""
    local, generators = deriver.local, deriver.symmetry.generators
    first = next(iter(local.values()))
    curved = frozenset(n for n, w in local.items() if not w.constant)
    left = orthogonality(local)
    if first.inertia and curved:
        return [deriver.none(reasons.GEODESICS, left)]
    if first.kind == "fisher" and any(w.rho != 0 for w in local.values()):
        return [deriver.none(reasons.FISHER_DECAY)]
    found = _momenta(deriver) if first.inertia else []
    symmetric = _combinations(generators, partial(_turning, curved))
    if not symmetric:
        return found or [deriver.rigid(left) if not curved else deriver.none(reasons.OFF_DIAGONAL, left)]
    weighted = tuple(combined(generators, c, rates(deriver)) for c in symmetric)
    status, law, rate = _told(local, weighted, curved)
    rest = len(symmetric) + sum(q.dimension for q in found) < len(generators)
    reason = reasons.DRIVEN if first.inertia else (reasons.OFF_DIAGONAL if curved else reasons.ANTISYMMETRIC_PART) if rest else ""
    used = {n for g in weighted for n in g.parameters}
    potentials = tuple((n, *(deriver.integral(field, local[n].precondition) for field in (THETA, sp.Integer(1))))
                       for n in sorted(curved & used))
    charge = deriver.make(status, "entries", "linear", (), dimension=len(weighted), law=law, rate=rate, generators=weighted,
                          shapes=_shapes(deriver, weighted), potentials=potentials, reason=reason, constraint=left if rest else "")
    return [*found, charge]


def rates(deriver: Deriver) -> dict[str, float]:
    """The inverse metric by parameter; one where it depends on the parameter, and is integrated instead."""
    return {n: float(deriver.scale() / w.precondition) if w.constant else 1.0 for n, w in deriver.local.items()}


def _shapes(deriver: Deriver, generators: Sequence[Generator]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((n, tuple(deriver.parameters[n])) for n in dict.fromkeys(n for g in generators for n in g.parameters))


def _momenta(deriver: Deriver) -> list[ConservedQuantity]:
    """f(t) <P^-1 theta', M theta + c> with f' = friction f (Noether); decay pushes along theta, which M turns and c meets."""
    decays = any(w.rho != 0 for w in deriver.local.values())
    if any(sp.simplify(w.rho / THETA).has(THETA) for w in deriver.local.values()):
        return []
    found = _combinations(deriver.symmetry.generators, partial(_stretching, decays))
    if not found:
        return []
    weighted = tuple(combined(deriver.symmetry.generators, c, rates(deriver)) for c in found)
    factor = sp.simplify(sp.exp(sp.integrate(next(iter(deriver.local.values())).friction, TIME)))
    law = rf"\tfrac{{d}}{{dt}}\bigl({flow_tex(factor)}\,\langle \dot\theta, M\theta + c\rangle\bigr) = 0"
    return [deriver.make("conserved", "entries", "momentum", (), dimension=len(found), law=law, rate="0", factor=str(factor),
                         generators=weighted, shapes=_shapes(deriver, weighted))]


def _told(local: Mapping[str, Local], generators: Sequence[Generator], curved: frozenset[str]) -> tuple[str, str, str]:
    """(status, law, rate) of the charges; where no one equation in Q tells their change, that with <rho, X>."""
    degrees = {1 if part.axis == -1 else 2 for g in generators for part in g.parts}
    told = None if curved else equation(local, degrees)
    if told is not None:
        return told
    if all(w.rho == 0 for w in local.values()):
        return "conserved", r"\dot Q = 0", "0"
    first = next(iter(local.values()))
    push = r"\langle \rho(\theta), X(\theta) \rangle"
    if not first.inertia:
        return "driven", rf"\dot Q = -{push},\; {reasons.decay_text(local)}", ""
    source = "0" if max(degrees) == 1 else r"\langle \dot\theta, M\dot\theta\rangle"
    return "driven", rf"{damped(first.friction, 'Q')} + {push} = {source},\; {reasons.decay_text(local)}", ""


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
        return ("conserved", r"\dot Q = 0", "0") if rate == 0 else ("decays", rf"\dot Q = -{flow_tex(rate)}\, Q", str(rate))
    source = "0" if max(degrees) == 1 else r"\langle \dot\theta, M\dot\theta\rangle"
    held = "" if rate == 0 else rf" + {flow_tex(rate)}\,Q"
    return "driven", rf"{damped(first.friction, 'Q')}{held} = {source}", ""


def exact_entry(value: float) -> sp.Rational:
    """An entry of a generator as the small fraction that it is; raises Undecided for any other number."""
    near = Fraction(value).limit_denominator(DENOMINATOR)
    if abs(float(near) - value) > 1e-12:
        raise Undecided(
            f"a generator has the entry {value}, which is no small fraction: symmetry of its matrix is not decided"
        )
    return sp.Rational(near.numerator, near.denominator)


Slot = tuple[object, ...]


def _turning(curved: frozenset[str], part: Part) -> Iterator[tuple[Slot, int, float]]:
    """What must vanish for a gradient field: the antisymmetric part; in a metric that depends on the parameter, all beside the diagonal."""
    for i, j, value in part.entries if part.axis >= 0 else ():
        if i != j:
            alone = part.parameter in curved
            yield (part.parameter, part.axis, *((i, j) if alone else sorted((i, j)))), 1 if alone or i < j else -1, value


def _stretching(decays: bool, part: Part) -> Iterator[tuple[Slot, int, float]]:
    """What must vanish for a rigid motion: the symmetric part; with decay, constants as well."""
    for i, j, value in part.entries if part.axis >= 0 or decays else ():
        yield (part.parameter, part.axis, *(sorted((i, j)) if part.axis >= 0 else (i,))), 1, value


def _combinations(generators: Sequence[Generator], unwanted: Callable[[Part], Iterator[tuple[Slot, int, float]]],
                  ) -> list[list[sp.Rational]]:
    """A basis of the combinations in which the entries that ``unwanted`` names (slot, sign, value) cancel."""
    rows: dict[Slot, list[sp.Expr]] = {}
    for k, g in enumerate(generators):
        for part in g.parts:
            for slot, sign, value in unwanted(part):
                rows.setdefault(slot, [sp.Integer(0)] * len(generators))[k] += exact_entry(value) * sign
    distinct = {tuple(row) for row in rows.values()}
    system = sp.Matrix([list(r) for r in distinct]) if distinct else sp.zeros(1, len(generators))
    return [list(v) for v in system.nullspace()]


def combined(generators: Sequence[Generator], c: Sequence[sp.Rational], inverse: Mapping[str, float]) -> Generator:
    """sum_k c_k X_k in the metric of the learning rates."""
    total: dict[tuple[str, int], dict[tuple[int, int], float]] = {}
    for g, factor in zip(generators, c, strict=True):
        for part in g.parts if factor != 0 else ():
            entries = total.setdefault((part.parameter, part.axis), {})
            for i, j, value in part.entries:
                entries[i, j] = entries.get((i, j), 0.0) + float(factor * exact_entry(value)) * inverse[part.parameter]
    return Generator(
        tuple(Part(n, a, tuple((i, j, v) for (i, j), v in sorted(e.items()) if v)) for (n, a), e in total.items())
    )


def charges(generators: Sequence[Generator], params: Mapping[str, Any], potentials: Potentials = ()) -> Any:
    """[count]: 1/2 <theta, M theta> + <c, theta> of each generator, numpy or torch as the parameters are.

    ``potentials`` (parameter, F, G): there sum_i M_ii F(theta_i) + c_i G(theta_i) instead, F and G formulas in x.
    """
    bent = {n: (scalar_function(f)(params[n]), scalar_function(g)(params[n])) for n, f, g in potentials}
    return _stack([sum(_bent(p, *bent[p.parameter]) if p.parameter in bent else _part(p, params[p.parameter], params[p.parameter], 0.5)
                       for p in g.parts) for g in generators])


def _bent(part: Part, squares: Any, sums: Any) -> Any:
    """sum_i M_ii F(theta_i) along an axis, or sum_i c_i G(theta_i); M is diagonal."""
    return _part(part, sums, sums, 1.0) if part.axis == -1 else _part(part, squares ** 0, squares, 1.0)


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
    if not y.shape:
        x, y = x.reshape(1), y.reshape(1)
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
    size = "" if abs(half) == 1 else sp.latex(abs(half))
    return rf"{'-' if half < 0 else '+'} {size} \lVert {_typed(part.parameter)} \rVert^{{2}}"


def _stack(values: list[Any]) -> Any:
    first = next((v for v in values if hasattr(v, "new_tensor")), None)
    return np.array(values, dtype=np.float64) if first is None else sum(
        first.new_tensor(np.eye(len(values))[k]) * v for k, v in enumerate(values))


def expression(generators: Sequence[Generator], shapes: Shapes, potentials: Potentials = (), momentum: bool = False) -> sp.Basic:
    """The charges in sympy, one expression or a column of them: 1/2 tr(M W W^T) with W unfolded along the axis, tr(T^T W) for constants.

    With ``momentum`` tr(M W W'^T) and tr(T^T W'), W' the velocity; with ``potentials`` sums over their entries.
    """
    bent = {n: (f, g) for n, f, g in potentials}
    found = [sum((_symbolic(p, shapes[p.parameter], momentum, bent.get(p.parameter)) for p in g.parts), sp.Integer(0)) for g in generators]
    return found[0] if len(found) == 1 else sp.ImmutableMatrix(found)


def _symbolic(part: Part, shape: tuple[int, ...], momentum: bool, bent: tuple[str, str] | None) -> sp.Expr:
    shape = shape or (1,)
    size = prod(shape) if part.axis == -1 else shape[part.axis]
    w = _unfolded(part.parameter, shape, part.axis, size)
    speed = _unfolded(f"d/dt {part.parameter}", shape, part.axis, size) if momentum else w
    rows = {i: sp.nsimplify(v) for i, _, v in part.entries}
    if bent is not None:
        entry = parse_scalar(bent[part.axis == -1], {"x": sp.Symbol("x", real=True)})
        return sum((v * entry.subs(sp.Symbol("x", real=True), w[i, k]) for i, v in rows.items() for k in range(w.shape[1])), sp.Integer(0))
    if part.axis == -1:
        return sum((v * speed[i, 0] for i, v in rows.items()), sp.Integer(0))
    half = 1 if momentum else sp.Rational(1, 2)
    if len(rows) == size == len(part.entries) and all(i == j for i, j, _ in part.entries) and len(set(rows.values())) == 1:
        return half * rows[0] * sp.Trace(w * speed.T)
    matrix = sp.SparseMatrix(size, size, {(i, j): sp.nsimplify(v) for i, j, v in part.entries})
    return half * sp.Trace(sp.ImmutableMatrix(matrix) * w * speed.T)


def _unfolded(name: str, shape: tuple[int, ...], axis: int, size: int) -> sp.MatrixExpr:
    """The parameter with ``axis`` first: itself or its transpose where it is a matrix, else a symbol of its own, "name[axis]"."""
    if len(shape) == 2 and axis in (0, 1):
        matrix = sp.MatrixSymbol(name, *shape)
        return matrix if axis == 0 else matrix.T
    return sp.MatrixSymbol(name if axis <= 0 else f"{name}[{axis}]", size, prod(shape) // size)


def tex(generators: Sequence[Generator], shapes: Shapes, potentials: Potentials = (), momentum: str = "") -> str:
    """The charges by parameter: sums of squared lengths where each matrix is a multiple of 1. ``momentum``: its factor, in LaTeX."""
    if len(generators) == 1 and not potentials and not momentum:
        terms = [_square(p, shapes.get(p.parameter, ())) for p in generators[0].parts]
        if all(terms):
            return "Q = " + " ".join(terms).removeprefix("+ ")
    names = list(dict.fromkeys(n for g in generators for n in g.parameters))
    where = rf"k = 1, \dots, {len(generators)},\; \theta = ({', '.join(map(_typed, names))})"
    if momentum:
        factor = "" if momentum == "1" else rf"{momentum}\,"
        return rf"Q_{{k}} = {factor}\langle \dot\theta, M_{{k}} \theta + c_{{k}} \rangle,\; {where}"
    if not potentials:
        return r"Q_{k} = \tfrac{1}{2} \langle \theta, M_{k} \theta \rangle + \langle c_{k}, \theta \rangle,\; " + where
    told = [rf"{_functions(f, g, {p.axis == -1 for x in generators for p in x.parts if p.parameter == n})} \text{{ for }} {_typed(n)}"
            for n, f, g in potentials]
    head = r"Q_{k} = \textstyle\sum_i M_{k,ii} F(\theta_i) + c_{k,i} G(\theta_i)"
    others = "" if {n for n, _, _ in potentials} >= set(names) else (
        r" + \tfrac{1}{2} \langle \theta, M_{k} \theta \rangle + \langle c_{k}, \theta \rangle \text{ over the others}")
    return rf"{head}{others},\; " + r",\; ".join([*told, where])


def _functions(square: str, whole: str, used: Collection[bool]) -> str:
    """F and G, those that occur: G where constants are added."""
    return ", ".join(rf"{letter} = {sp.latex(parse_scalar(text, {'x': sp.Symbol('x')}))}"
                     for letter, text, constant in (("F", square, False), ("G", whole, True)) if constant in used)


def _typed(name: str) -> str:
    return rf"\texttt{{{name.replace('_', chr(92) + '_')}}}"
