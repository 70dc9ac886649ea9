"""Linear symmetries without a name: which combinations of their generators are gradient fields, and the charges of those.

A generator moves W by sum_a A_a W + T with a matrix along each axis. Its matrix on the flattened parameter is symmetric
iff every A_a is: antisymmetric parts along different axes cannot cancel, as I x K + K' x I = 0 forces both to be
multiples of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from symdisc.conserved import reasons
from symdisc.errors import Undecided
from symdisc.generators import Generator, Part

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["charges", "linear_answer", "pairings", "tex"]

DENOMINATOR = 24  # the fractions that generators are written in


def linear_answer(deriver: Deriver) -> ConservedQuantity:
    """1/2 <theta, M theta> + <c, theta> for each independent combination with symmetric M, or why there is none."""
    local = deriver.local
    if any(w.inertia or w.rho != 0 or not w.constant for w in local.values()):
        return deriver.none("a linear symmetry without a name is worked out for constant learning rates only")
    symmetric = _symmetric(deriver.symmetry.generators)
    constraint = r"\langle \dot\theta, X_a(\theta) \rangle = 0 \;\text{for all } a"
    if not symmetric:
        return deriver.none(reasons.ANTISYMMETRIC, constraint)
    rates = {n: float(deriver.scale() / w.precondition) for n, w in local.items()}
    weighted = tuple(_combined(deriver.symmetry.generators, c, rates) for c in symmetric)
    rest = len(symmetric) < len(deriver.symmetry.generators)
    return deriver.make("conserved", "entries", "linear", (), dimension=len(weighted), law=r"\dot Q = 0", rate="0",
                        generators=weighted, reason=reasons.ANTISYMMETRIC_PART if rest else "",
                        constraint=constraint if rest else "")


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


def _stack(values: list[Any]) -> Any:
    first = next((v for v in values if hasattr(v, "new_tensor")), None)
    return np.array(values, dtype=np.float64) if first is None else sum(
        first.new_tensor(np.eye(len(values))[k]) * v for k, v in enumerate(values))


def tex(generators: Sequence[Generator]) -> str:
    """The charges by parameter, entry by entry where they are few."""
    names = list(dict.fromkeys(n for g in generators for n in g.parameters))
    typed = ", ".join(rf"\texttt{{{n.replace('_', chr(92) + '_')}}}" for n in names)
    return (r"Q_{k} = \tfrac{1}{2} \langle \theta, M_{k} \theta \rangle + \langle c_{k}, \theta \rangle,\; "
            rf"k = 1, \dots, {len(generators)},\; \theta = ({typed})")
