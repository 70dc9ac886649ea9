"""Values of conserved quantities from numpy arrays or torch tensors, by the same code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from symdisc.conserved.algebra import MATRIX_FAMILIES, project, restrict
from symdisc.conserved.elementwise import elementwise_law
from symdisc.conserved.expressions import parse_scalar, scalar_function
from symdisc.conserved.linear import charges, pairings
from symdisc.conserved.pairing import block_rows, pairing, unit_rows
from symdisc.conserved.section import projector
from symdisc.errors import BadInput
from symdisc.moves import ADDITIVE
from symdisc.normed import ALL, Ball

if TYPE_CHECKING:
    from symdisc.conserved.quantity import ConservedQuantity, Term

__all__ = ["evaluate", "moment", "residual"]

Array = Any


def evaluate(
    q: ConservedQuantity, params: Mapping[str, Array], velocity: Mapping[str, Array] | None, time: float
) -> Array:
    """See ConservedQuantity.evaluate."""
    for name in q.parameters:
        if name not in params:
            raise BadInput(f"{q.name} needs the parameter {name}, which was not given")
    if q.form == "section":
        return projector(q, params)
    if q.form == "linear":
        return charges(q.generators, params, q.potentials)
    if q.form == "span":
        return _span_projector(q, params)
    if q.form == "plane":
        return _plane(q, params)
    if q.form == "momentum":
        if velocity is None:
            raise BadInput(f"{q.name} under {q.flow} is a quantity of phase space: give velocity as well")
        factor = float(sp.lambdify(sp.Symbol("t"), parse_scalar(q.factor, {"t": sp.Symbol("t")}), "math")(time))
        if q.generators:
            return pairings(q.generators, params, velocity) * factor
        mu = sum(_pair(q, t, velocity[t.move.parameter], params) * t.weight for t in q.terms)
        return project(q.part, mu, q.zero_sum) * factor
    return project(q.part, sum(moment(q, t, params) for t in q.terms), q.zero_sum)


def _pair(q: ConservedQuantity, term: Term, x: Array, params: Mapping[str, Array]) -> Array:
    return pairing(term.move, x, params[term.move.parameter], params, q.symmetry.shape)


def moment(q: ConservedQuantity, term: Term, params: Mapping[str, Array]) -> Array:
    """weight * integral of <X_a(s theta), theta> ds from 0 to 1, as an array over the algebra.

    For fields that are affine in the parameter this is the mean of the values at both ends of the ray.
    """
    move, y = term.move, params[term.move.parameter]
    if move.kind == "normed_scale" and not term.potential:
        total = Ball(move.offset, move.rep != ALL).potential(y).sum()
        return total.reshape(q.symmetry.shape) * (move.power * term.weight)
    if term.potential or move.kind == "curved_scale":
        return _potential(q, term, y, params)
    here = pairing(move, y, y, params, q.symmetry.shape)
    if move.kind in ("matmul", "scale"):
        return here * (0.5 * term.weight)
    if move.kind in ADDITIVE:
        return here * term.weight
    return (here + pairing(move, y, y * 0, params, q.symmetry.shape)) * (0.5 * term.weight)


def _potential(q: ConservedQuantity, term: Term, y: Array, params: Mapping[str, Array]) -> Array:
    move = term.move
    value = scalar_function(term.potential)(y) if term.potential else elementwise_law(move.rep).potential(y)
    if move.kind == "matmul":
        d = block_rows(move, value).sum(-1) * (term.weight if move.rep == "g" else -term.weight)
        return d[..., None] * np.eye(q.symmetry.shape[-1]) if isinstance(d, np.ndarray) else _diag(d)
    if move.kind in ("scale", "curved_scale"):
        return (unit_rows(move, value).sum(-1) * (move.power * term.weight)).reshape(q.symmetry.shape)
    return pairing(move, value, value, params, q.symmetry.shape) * term.weight


def _diag(d: Array) -> Array:
    return sys.modules["torch"].diag_embed(d)


def residual(q: ConservedQuantity, params: Mapping[str, Array], gradient: Mapping[str, Array]) -> Array:
    """See ConservedQuantity.residual; a parameter without gradient counts as zero."""
    s = q.symmetry
    if s.generators:
        return pairings(s.generators, params, gradient)
    total: Array = None
    for move in s.moves:
        x = gradient.get(move.parameter)
        if x is not None:
            part = pairing(move, x, params[move.parameter], params, s.shape)
            total = part if total is None else total + part
    if total is None:
        return np.zeros(s.shape)
    return project(restrict(s.family, "all") if s.family in MATRIX_FAMILIES else "entries", total, q.zero_sum)


def columns(q: ConservedQuantity, params: Mapping[str, Array]) -> Array:
    """All columns that the group turns, [blocks, size, columns]."""
    parts = [block_rows(t.move, params[t.move.parameter]) for t in q.terms]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=-1)
    return sys.modules["torch"].cat(parts, dim=-1)


def _span_projector(q: ConservedQuantity, params: Mapping[str, Array]) -> Array:
    x = columns(q, params)
    if q.part == "skew fixing 1":
        x = x - x.mean(-2)[..., None, :]
    library = np if isinstance(x, np.ndarray) else sys.modules["torch"]
    return x @ library.linalg.inv(x.swapaxes(-1, -2) @ x) @ x.swapaxes(-1, -2)


def _plane(q: ConservedQuantity, params: Mapping[str, Array]) -> Array:
    """A function of two entries per block; entries come in the order of the terms."""
    rows = [block_rows(t.move, params[t.move.parameter])[..., 0] if t.move.kind == "matmul"
            else unit_rows(t.move, params[t.move.parameter]) for t in q.terms]
    x, y = (rows[0][..., 0], rows[0][..., 1]) if rows[0].shape[-1] == 2 else (rows[0][..., 0], rows[1][..., 0])
    library = np if isinstance(x, np.ndarray) else sys.modules["torch"]
    if q.formula == "atan2(y, x)":
        return library.arctan2(y, x)
    a, b = sp.symbols("x y", positive=True)
    expression = parse_scalar(q.formula, {"x": a, "y": b})
    table = {"log": library.log, "atan": library.arctan}
    return sp.lambdify((a, b), expression, [table])(x, y)
