"""Symmetries without a name that only turn, A_a antisymmetric: the linear subspace that the flow of a point cannot leave.

The flow is orthogonal to every X_a(x) = A_a x + c_a. Let L(theta) be the least affine subspace that holds theta and, with each generic x
of its own, all that is orthogonal to the X_a(x). Then L is kept, whatever the loss: Q(theta) = 1 - P, P the projector on the directions
of L, as many independent numbers as L has dimensions less than there are. Nothing else is kept: L is what curves orthogonal to the
orbits reach (the normal spaces of Wilking's dual leaves are parallel along such curves, GAFA 17 (2007) 1297, and so constant in flat
space). Where one step makes L the action is polar and L a section: the direction of a vector under SO(k), an angle for
each plane that turns by itself. One generator that turns two planes leaves L everything: no function is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.linear import combined, rates
from symdisc.conserved.quantity import ConservedQuantity, Term
from symdisc.conserved.section import Shapes, fields, places
from symdisc.generators import Generator
from symdisc.moves import Index, Move
from symdisc.residues import PRIMES, Subspace, draw, echelon, matmul, null_space

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver

__all__ = ["rigid_answer"]

MOST = 160  # entries that turn: the projector has the square of it
GENERIC = "generic weights: as many of the turned directions are independent as there can be"


def rigid_answer(deriver: Deriver, left: str) -> ConservedQuantity:
    """The answer for generators of which no combination is a gradient field; ``left`` is the differential constraint."""
    local, generators = deriver.local, deriver.symmetry.generators
    if not all(map(_turns, generators)):
        return deriver.none(reasons.MIXED, left)
    linear = all(part.axis >= 0 for g in generators for part in g.parts)
    if any(w.inertia or not w.radial or (w.rho != 0 and not linear) for w in local.values()):
        return deriver.none(reasons.ANTISYMMETRIC_DECAY, left)
    shapes = tuple((n, tuple(deriver.parameters[n])) for n in dict.fromkeys(n for g in generators for n in g.parameters))
    entries = sum(len(at) for at in places(generators, shapes).values())
    if entries > MOST:
        return deriver.none(f"{reasons.ANTISYMMETRIC_MANY} ({entries} entries turn, looked for among up to {MOST})", left)
    independent, kept = _kept(generators, shapes)
    if not kept:
        return deriver.none(reasons.ANTISYMMETRIC, left)
    inverse = rates(deriver)
    chosen = tuple(combined([generators[k]], [sp.Integer(1)], inverse) for k in independent)
    plane = _single_plane(chosen, shapes)
    if plane is not None:
        return deriver.make("conserved", "entries", "plane", (plane,), dimension=1, formula="atan2(y, x)", law=r"\dot Q = 0",
                            reason=reasons.SINGLE_PLANE, constraint=left)
    found = deriver.make("conserved", "entries", "section", (), dimension=kept, law=r"\dot Q = 0", generators=chosen, shapes=shapes,
                         reason=reasons.SECTION, constraint=left)
    return replace(found, assumptions=(*found.assumptions, GENERIC))


def _turns(generator: Generator) -> bool:
    """Its matrices are antisymmetric; constants move the centre."""
    total: dict[tuple[str, int, int, int], float] = {}
    for part in generator.parts:
        for i, j, v in part.entries if part.axis >= 0 else ():
            for place, value in (((part.parameter, part.axis, i, j), v), ((part.parameter, part.axis, j, i), v)):
                total[place] = total.get(place, 0.0) + value
    return not any(total.values())


def _single_plane(generators: Sequence[Generator], shapes: Shapes) -> Term | None:
    """The two entries that one generator turns: +v at (i, j) and -v at (j, i) of a vector."""
    if len(generators) > 1 or len(generators[0].parts) > 1:
        return None
    (part,), sizes = generators[0].parts, dict(shapes)
    shape = sizes[part.parameter]
    if part.axis < 0 or prod(shape) != shape[part.axis] or len(part.entries) != 2:
        return None
    i, j = part.entries[0][:2]
    return Term(Move("matmul", part.parameter, -1, Index.of(np.array([[[i, j]]]))), 1.0, "", shape)


# --- how many numbers -----------------------------------------------------------------------------------------------------------
def _kept(generators: Sequence[Generator], shapes: Shapes) -> tuple[list[int], int]:
    """Which generators are independent at generic points, and the codimension of L; exact modulo a prime."""
    prime, rng = PRIMES[0], np.random.default_rng(0)
    matrices, constants = (_residues(a, prime) for a in fields(tuple(generators), shapes, exact=True))
    start = draw(rng, (matrices.shape[-1],), prime)

    def turned(x: np.ndarray) -> np.ndarray:
        return np.stack([(matmul(m, x[:, None], prime)[:, 0] + c) % prime for m, c in zip(matrices, constants, strict=True)])

    at_start = turned(start)
    independent = [int(k) for k in (echelon(at_start.T, prime) != 0).argmax(axis=1)]
    reached, idle = Subspace.zero(len(start), prime).extended(null_space(at_start, prime)), 0
    while idle < 2 and len(reached) < len(start):
        z = draw(rng, (1, len(reached)), prime)
        grown = reached.extended(null_space(turned((start + matmul(z, reached.basis, prime)[0]) % prime), prime))
        reached, idle = grown, idle + 1 if len(grown) == len(reached) else 0
    return independent, len(start) - len(reached)


def _residues(values: np.ndarray, prime: int) -> np.ndarray:
    exact = [sp.Rational(v) for v in values.ravel()]
    return np.array([int(v.p) * pow(int(v.q), -1, prime) % prime for v in exact], dtype=np.int64).reshape(values.shape)
