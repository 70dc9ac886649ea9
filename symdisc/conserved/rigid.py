"""Linear symmetries without a name that only turn: the angle of a single plane is kept, of more planes nothing but a constraint."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.linear import exact_entry
from symdisc.conserved.quantity import ConservedQuantity, Term
from symdisc.generators import Part
from symdisc.moves import Index, Move

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver

__all__ = ["rigid_answer"]


def rigid_answer(deriver: Deriver, left: str) -> ConservedQuantity:
    """Antisymmetric generators alone: one that turns a single plane keeps the angle there, as omega / r^2 is its differential; one that
    turns more has a form of contact type; of several this is not decided."""
    generators, shapes = deriver.symmetry.generators, deriver.parameters
    if any(w.rho != 0 or w.inertia for w in deriver.local.values()):  # then theta' is not orthogonal to what turns
        return deriver.none(reasons.ANTISYMMETRIC_DECAY, left)
    parts = generators[0].parts
    if len(generators) > 1 or len({p.parameter for p in parts}) < len(parts):
        return deriver.none(reasons.ANTISYMMETRIC_TOGETHER, left)
    turned = [(p, prod(shapes[p.parameter]) // shapes[p.parameter][p.axis]) for p in parts]
    (first, columns), entries = turned[0], parts[0].entries
    if len(parts) == 1 and columns == 1 and len(entries) == 2:  # +v at (i, j) and -v at (j, i)
        i, j = entries[0][:2]
        place = Move("matmul", first.parameter, -1, Index.of(np.array([[[i, j]]])))
        return deriver.make("conserved", "entries", "plane", (Term(place, 1.0, "", tuple(shapes[first.parameter])),), dimension=1,
                            formula="atan2(y, x)", law=r"\dot Q = 0", reason=reasons.SINGLE_PLANE, constraint=left)
    planes = sum(_rank(p) // 2 * n for p, n in turned)
    return deriver.none(reasons.ANTISYMMETRIC if planes > 1 else reasons.ANTISYMMETRIC_TOGETHER, left)


def _rank(part: Part) -> int:
    """Of the matrix of a part, exact."""
    rows = sorted({i for i, _, _ in part.entries} | {j for _, j, _ in part.entries})
    place = {i: k for k, i in enumerate(rows)}
    matrix = sp.zeros(len(rows))
    for i, j, v in part.entries:
        matrix[place[i], place[j]] += exact_entry(v)
    return int(matrix.rank())
