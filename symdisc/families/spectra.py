"""Streams that a centring norm with a gain writes, and that centring norms read: the gains may change with their spectrum kept.

n = norm(W x) may be turned by any O with O 1 = 1 (rows of W), and so may the stream, seen through norms. Between them stands
diag(gamma): gamma moves so that P diag(gamma) P keeps its spectrum (``symdisc.isospectral``), which leaves one number, and O is what its
eigenvectors turn by. Where nothing but the gain keeps the stream from turning, that is one symmetry. What the stream holds along 1
changes with the gain, too: where weights read it without a norm, the stream goes by the matrix M that says so, and it may be sheared
along 1 by 1/gamma, which what comes off the norm does not feel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Space, find_spaces
from symdisc.families.emit import emit_dense
from symdisc.families.links import Links
from symdisc.families.naming import describe_affine
from symdisc.families.unseen import Unseen
from symdisc.isospectral import CARRY, SHEAR, TURN
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse, GainUse, Norm, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["isospectral_gains"]

LEAST = 3  # units: two centred ones have one direction


def isospectral_gains(classes: Classes) -> list[Symmetry]:
    """One symmetry or two for each stream that would turn, fixing 1, if one gain at its source were not there."""
    gains = _sources(classes)
    if not gains:
        return []
    facts = replace(classes.facts, gains=[g for g in classes.facts.gains if not any(g is s for s in gains)],
                    same=[*classes.facts.same, *((g.ins, g.outs) for g in gains)],
                    fixed=list(classes.facts.fixed), killed=list(classes.facts.killed))
    without = Classes(classes.graph, facts)
    without.links = Links(without)
    found = []
    for space in find_spaces(without, without.links):
        mine = [g for g in gains if np.isin(without(g.outs), space.classes).any()]
        if space.family == "o1" and len(mine) == 1:
            found += _symmetries(classes, without, space, mine[0])
    return found


def _sources(classes: Classes) -> list[GainUse]:
    """Gains behind a centring norm of what dense weights alone write, in front of a stream that others write, too."""
    normed = {int(c) for n in classes.facts.norms if n.centred for c in np.unique(classes(n.outs)).tolist()}
    read = {int(c) for n in classes.facts.norms if n.centred for c in np.unique(classes(n.ins)).tolist()}
    front = {int(o): int(i) for n in classes.facts.norms if n.centred
             for i, o in zip(classes(n.ins).ravel().tolist(), classes(n.outs).ravel().tolist(), strict=True)}
    behind = {int(c) for g in classes.facts.gains for c in np.unique(classes(g.outs)).tolist()}
    written = {int(c) for d in classes.facts.dense if d.outs is not None for c in np.unique(classes(d.outs)).tolist()}
    found = []
    for g in classes.facts.gains:
        ins, outs = classes(g.ins).tolist(), classes(g.outs).tolist()
        whole = len(outs) == int(np.prod(classes.shape(g.parameter))) == len(set(outs)) == len(set(g.elements.tolist())) >= LEAST
        if whole and not g.buffer and classes.single(g.parameter) and normed.issuperset(ins) and read.issuperset(outs):
            if written.issuperset(outs) and not any(front[c] in behind for c in ins):
                found.append(g)
    return found


def _symmetries(classes: Classes, without: Classes, space: Space, gain: GainUse) -> list[Symmetry]:
    """The moves of the rotation of the stream, by the matrix that the gain decides, and the gain's own; and the shear."""
    element = {int(c): int(e) for c, e in zip(space.classes, space.element, strict=True)}
    at = [element.get(int(c), -1) for c in without(gain.outs)]
    turned = emit_dense(without, [space])
    if sorted(at) != list(range(space.size)) or space.blocks != 1 or len(turned) != 1:
        return []
    places, inner = gain.elements[np.argsort(at)], turned[0].moves
    index, read = Index.of(places[None, None, :]), (gain.parameter,)
    if any(m.kind != "matmul" for m in inner) or gain.parameter in turned[0].parameters:
        return []
    unseen, stream = Unseen(classes), set(classes(gain.outs).tolist())
    axis = unseen.along(gain.value, classes(gain.outs))
    hidden = axis is not None and unseen(gain.value, axis)
    if not hidden and any(_sees_along_one(n, stream, classes) for n in classes.facts.norms):
        return []
    if not hidden and any(stream & set(classes(u).ravel().tolist()) for d in classes.facts.duals for u in (d.left, d.right)):
        return []

    def by(m: Move, kind: str) -> Move:
        return Move("isospectral", m.parameter, m.axis, index, rep=kind, rows=m.rows, offset=gain.offset, extra=read, inner=(m,))

    held = [m for m in inner if not hidden and _holds(classes, m, stream)]
    moves = (*(by(m, CARRY if m in held else TURN) for m in inner), Move("isospectral", gain.parameter, -1, index, offset=gain.offset))
    sites = [gain.module, turned[0].site]
    found = [describe_affine(
        "gains that keep their spectrum", "translation", 1, (1,), moves, parameters_of(moves), sites,
        r"P \Gamma' P = O\, P \Gamma P\, O^\top,\; P = 1 - \tfrac{1}{n} \mathbf{1}\mathbf{1}^\top",
        r"\textstyle\prod_i (\gamma'_j - \gamma_i) = t,\; W \mapsto O W", ("the gains differ from each other",))]
    if held:
        sheared = tuple(by(m, SHEAR) for m in held)
        found.append(describe_affine(
            "shear along 1 by 1/gamma", "translation", 1, (1,), sheared, parameters_of(sheared), sites,
            r"l^\top \Gamma \hat x = 0,\; l = 1/\gamma", r"x \mapsto x + t\, \mathbf{1}\, l^\top x",
            ("no gain is zero, nor is the sum of 1/gamma",)))
    return found


def _sees_along_one(norm: Norm, stream: set[int], classes: Classes) -> bool:
    """What the norm makes of the stream depends on what that holds along 1: it does not centre, or centres more than the stream alone."""
    units = classes(norm.ins).reshape(-1).tolist()
    return not stream.isdisjoint(units) and not (norm.centred and len(units) == len(stream) and stream == set(units))


def _holds(classes: Classes, move: Move, stream: set[int]) -> bool:
    """The move acts where a parameter writes, reads or shifts the stream itself, not what a norm makes of it."""
    units: list[np.ndarray | None] = []
    for use in classes.uses.get(move.parameter, ()):
        if isinstance(use, ShiftUse):
            units.append(use.units)
        elif isinstance(use, DenseUse) and use.rows == move.rows:
            units += [v for v, axis in ((use.outs, use.out_axis), (use.ins, use.in_axis)) if axis == move.axis]
    return any(v is not None and stream & set(classes(v).ravel().tolist()) for v in units)
