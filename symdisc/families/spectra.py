"""Streams that a centring norm with a gain writes, and that centring norms read: the gains may change with their spectrum kept.

n = norm(W x) may be turned by any O with O 1 = 1 (rows of W), and so may the stream, seen through norms. Between them stands
diag(gamma): gamma moves so that P diag(gamma) P keeps its spectrum (``symdisc.isospectral``), which leaves one number, and O is what its
eigenvectors turn by. Where nothing but the gain keeps the stream from turning, that is one symmetry. What the stream holds along 1
changes with the gain, too: where weights read it without a norm, the stream goes by the matrix M that says so, and it may be sheared
along 1 by 1/gamma, which what comes off the norm does not feel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Space, find_spaces
from symdisc.families.emit import emit_dense
from symdisc.families.links import Links
from symdisc.families.naming import LACKING, describe_affine
from symdisc.families.recurring import GENERIC, shear
from symdisc.families.unseen import Unseen
from symdisc.isospectral import CARRY, TURN
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse, GainUse, Norm, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["isospectral_gains", "without_leaning"]

SHEARED = "shear along 1 by 1/gamma"
LEAST = 3  # units: two centred ones have one direction


def isospectral_gains(classes: Classes, sheared: Collection[str | None] = ()) -> list[Symmetry]:
    """One symmetry or two for each stream that would turn, fixing 1, if one gain at its source were not there; one where shears by
    the inverse of that gain are found already (``sheared``)."""
    sources = _sources(classes)
    gains = [g for uses in sources for g in uses]
    if not gains:
        return []
    facts = replace(classes.facts, gains=[g for g in classes.facts.gains if not any(g is s for s in gains)],
                    same=[*classes.facts.same, *((g.ins, g.outs) for g in gains)],
                    fixed=list(classes.facts.fixed), killed=list(classes.facts.killed))
    without = Classes(classes.graph, facts)
    without.links = Links(without)
    found = []
    for space in find_spaces(without, without.links):
        mine = [uses for uses in sources if any(np.isin(without(g.outs), space.classes).any() for g in uses)]
        if space.family == "o1" and len(mine) == 1:
            found += _symmetries(classes, without, space, mine[0])[:1 if mine[0][0].parameter in sheared else None]
    return found


def _sources(classes: Classes) -> list[list[GainUse]]:
    """The uses of gains that stand, at each use, behind a centring norm of what dense weights alone write, in front of a stream that
    others write, too."""
    normed = {int(c) for n in classes.facts.norms if n.centred and _each_vector(classes, n) for c in np.unique(classes(n.outs)).tolist()}
    read = {int(c) for n in classes.facts.norms if n.centred for c in np.unique(classes(n.ins)).tolist()}
    front = {int(o): int(i) for n in classes.facts.norms if n.centred
             for i, o in zip(classes(n.ins).ravel().tolist(), classes(n.outs).ravel().tolist(), strict=True)}
    behind: dict[int, set[str]] = defaultdict(set)
    for g in classes.facts.gains:
        for c in np.unique(classes(g.outs)).tolist():
            behind[c].add(g.parameter)
    written = {int(c) for d in classes.facts.dense if d.outs is not None for c in np.unique(classes(d.outs)).tolist()}
    found: dict[str, list[GainUse]] = {}
    for g in classes.facts.gains:
        ins, outs = classes(g.ins).tolist(), classes(g.outs).tolist()
        whole = len(outs) == int(np.prod(classes.shape(g.parameter))) == len(set(outs)) == len(set(g.elements.tolist())) >= LEAST
        if whole and not g.buffer and g.parameter not in classes.otherwise and normed.issuperset(ins):
            if all(behind[front[c]] <= {g.parameter} for c in ins):
                found.setdefault(g.parameter, []).append(g)
    return [uses for name, uses in found.items() if len(uses) == len(classes.uses[name])
            and any((read & written).issuperset(classes(u.outs).tolist()) for u in uses)
            and all(u.offset == uses[0].offset and np.array_equal(u.elements, uses[0].elements) for u in uses)]


def _symmetries(classes: Classes, without: Classes, space: Space, uses: list[GainUse]) -> list[Symmetry]:
    """The moves of the rotation of the stream, by the matrix that the gain decides, and the gain's own; and the shear."""
    element, gain = {int(c): int(e) for c, e in zip(space.classes, space.element, strict=True)}, uses[0]
    orders = [[element.get(int(c), -1) for c in without(g.outs)] for g in uses]
    turned = emit_dense(without, [space])
    if sorted(orders[0]) != list(range(space.size)) or any(o != orders[0] for o in orders) or space.blocks != 1 or len(turned) != 1:
        return []
    places, inner = gain.elements[np.argsort(orders[0])], turned[0].moves
    index, read = Index.of(places[None, None, :]), (gain.parameter,)
    if any(m.kind != "matmul" for m in inner) or gain.parameter in turned[0].parameters:
        return []
    stream = _stream(classes, uses)
    hidden = all(_hidden(classes, g) for g in uses)
    if not hidden and any(_sees_along_one(n, stream, classes) for n in classes.facts.norms):
        return []
    contracted = {int(c) for d in classes.facts.duals for u in (d.left, d.right) for c in classes(u).ravel().tolist()}
    if not hidden and not contracted.isdisjoint(stream):
        return []
    if not hidden and any(not stream.keys().isdisjoint(classes(n.outs).ravel().tolist()) for n in classes.facts.norms):
        return []  # what comes off a norm has nothing along 1 to be carried

    def by(m: Move, kind: str) -> Move:
        return Move("isospectral", m.parameter, m.axis, index, rep=kind, rows=m.rows, offset=gain.offset, extra=read, inner=(m,))

    held = [m for m in inner if not hidden and _holds(classes, m, stream)]
    moves = (*(by(m, CARRY if m in held else TURN) for m in inner), Move("isospectral", gain.parameter, -1, index, offset=gain.offset))
    sites = [*(g.module for g in uses), turned[0].site]
    found = [describe_affine(
        "gains that keep their spectrum", "translation", 1, (1,), moves, parameters_of(moves), sites,
        r"P \Gamma' P = O\, P \Gamma P\, O^\top,\; P = 1 - \tfrac{1}{n} \mathbf{1}\mathbf{1}^\top",
        r"\textstyle\prod_i (\gamma'_j - \gamma_i) = t,\; W \mapsto O W", ("the gains differ from each other",))]
    sheared = tuple(s for m in held if (s := shear(m, places, gain)) is not None)
    if held and len(sheared) == len(held):
        found.append(describe_affine(
            SHEARED, "translation", 1, (1,), sheared, parameters_of(sheared), sites,
            r"l^\top \Gamma \hat x = 0,\; l = 1/\gamma", r"x \mapsto x + t\, \mathbf{1}\, l^\top x",
            (GENERIC,)))
    return found


def without_leaning(found: Sequence[Symmetry]) -> list[Symmetry]:
    """Less the shears of which every reader reads the gain alone: it may lean along 1/gamma by itself, or as the shift moves."""
    leaning = {m.parameter for s in found for m in s.moves if m.kind == "centred" or s.name == LACKING}
    return [s for s in found if s.name != SHEARED or not leaning.issuperset(m.parameter for m in s.moves if m.rep == "g^-T")]


def _each_vector(classes: Classes, norm: Norm) -> bool:
    """The vectors are centred one by one, not all places of an image together."""
    op = classes.graph.by_name[norm.op]
    return "group_norm" not in op.packet or int(np.prod((op.shape or ())[2:])) == 1


def _hidden(classes: Classes, gain: GainUse) -> bool:
    """What the stream holds along 1 behind the gain is seen by nothing."""
    unseen = Unseen(classes)
    axis = unseen.along(gain.value, classes(gain.outs))
    return axis is not None and unseen(gain.value, axis)


def _stream(classes: Classes, uses: list[GainUse]) -> dict[int, int]:
    """The classes of the stream, with the place of each in the gain: what the gain writes, and what a layer reads, or a stored vector is
    added to, at another use in the same place."""
    place = {int(c): int(e) for g in uses for c, e in zip(classes(g.outs), g.elements, strict=True)}
    links = [(link.left.tolist(), link.right.tolist()) for link in classes.links.all if link.kind == "copy" and not link.group]
    before = -1
    while len(place) != before:
        before = len(place)
        for pair in links:
            for here, there in (pair, pair[::-1]):
                place.update({t: place[h] for h, t in zip(here, there, strict=True) if h in place and t not in place})
    return place


def _sees_along_one(norm: Norm, stream: dict[int, int], classes: Classes) -> bool:
    """What the norm makes of the stream depends on what that holds along 1: it does not centre, or centres more than the stream alone,
    as it stands at one place."""
    at = [stream.get(int(c), -1) for c in classes(norm.ins).reshape(-1)]
    return max(at) >= 0 and not (norm.centred and _each_vector(classes, norm) and sorted(at) == list(range(len(set(stream.values())))))


def _holds(classes: Classes, move: Move, stream: dict[int, int]) -> bool:
    """The move acts where a parameter writes, reads or shifts the stream itself, not what a norm makes of it."""
    units: list[np.ndarray | None] = []
    for use in classes.uses.get(move.parameter, ()):
        if isinstance(use, ShiftUse):
            units.append(use.units)
        elif isinstance(use, DenseUse) and use.rows == move.rows:
            units += [v for v, axis in ((use.outs, use.out_axis), (use.ins, use.in_axis)) if axis == move.axis]
    return any(v is not None and not stream.keys().isdisjoint(classes(v).ravel().tolist()) for v in units)
