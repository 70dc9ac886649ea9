"""Constants on their way past maps of the other axis: layers that mix places (tokens) make the channels of a vector one class.

A gain hands a vector on channel by channel, and one number to as many channels as it has entries. A bias along the places adds the same
number to all channels of a vector, which a centring norm takes off; a shift of all channels alike is a constant for the places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from symdisc.families.axes import REGROUPS, SAME
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move, Through
from symdisc.opgraph import Op
from symdisc.spaces import GainUse
from symdisc.symmetry import Symmetry

if TYPE_CHECKING:
    from symdisc.families.translations import Translations

__all__ = ["behind_gain", "constant_along", "merged", "past_gain"]

LAYOUT = SAME | REGROUPS | {"aten.transpose", "aten.permute", "aten.t"}

Current = dict[int, int]


def merged(search: Translations, done: Collection[str], invisible: dict[str, int]) -> Iterator[Symmetry | None]:
    """Vectors of which all entries are of one class: each entry by itself, if it comes to stand along 1 where that is not seen, else all
    alike. ``done`` names parameters that are dealt with."""
    classes = search.classes
    for shift in search.facts.shifts:
        if shift.buffer or shift.parameter in done or not search.single(shift.parameter):
            continue
        shape, vec = classes.shape(shift.parameter), classes(shift.units)
        whole = bool(shape) and int(np.prod(shape)) == shape[shift.axis] == len(np.unique(shift.elements))
        if not whole or len(vec) < 2 or len(np.unique(vec)) > 1 or classes.data in vec:
            continue
        where = classes.coordinates(shift, shift.axis)
        if not _unseen_one_by_one(search, shift.value):
            yield search.constant(shift.parameter, shift.axis, where, vec, shift.value, shift.module, invisible)
            continue
        move, n = Move("add", shift.parameter, shift.axis, Index.of(where[None, None, :])), len(where)
        yield describe_affine("bias without effect", "translation", n, (n,), (move,), (shift.parameter,), [shift.module],
                              r"f(x + c \mathbf{1}) = f(x)", r"b \mapsto b + t")


def constant_along(labels: np.ndarray) -> bool:
    """Along the last axis stands the same unit, at every place."""
    return labels.ndim > 0 and labels.shape[-1] > 1 and (labels.strides[-1] == 0 or bool((labels == labels[..., :1]).all()))


def _unseen_one_by_one(search: Translations, value: str) -> bool:
    """Each entry of what has just been added comes to stand all along a vector of which the constant part is not seen."""
    labels = search.facts.labels.get(value)
    if isinstance(labels, np.ndarray) and constant_along(labels) and search.unseen(value, labels.ndim - 1):
        return True
    users = [u for u in search.graph.users.get(value, ()) if u.name in search.graph.live]
    return value not in search.graph.outputs and bool(users) and all(
        u.packet in LAYOUT and u.inputs == (value,) and _unseen_one_by_one(search, u.name) for u in users)


def past_gain(search: Translations, op: Op, use: GainUse, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
    """What undoes a translation behind an entrywise product with a stored gain."""
    ins = search.classes(use.ins)
    mine = np.flatnonzero(np.isin(ins, list(current)))
    places = np.array([current[int(c)] for c in ins[mine]], dtype=np.int64)
    entries, outs = use.elements[mine], search.classes(use.outs[mine])
    at = np.unique(np.stack([places, entries]), axis=1)
    if not np.array_equal(at[0], np.unique(list(current.values()))) or len(at[0]) != len(current):
        alike = set(current.values()) == {0} and len(mine) == len(ins)
        return _one_for_all(search, op, use, chain, entries, outs) if alike else None
    longer = (*chain, Through("gain", use.parameter, index=Index.of(at[1][None, None, :]), offset=use.offset))
    kinds = np.unique(np.stack([outs, places]), axis=1)
    if len(np.unique(kinds[0])) < kinds.shape[1]:
        return _at_once(search, op, use.outs[mine], places, longer)
    return search.push(op.name, dict(zip(*kinds.tolist(), strict=True)), longer)


def _one_for_all(search: Translations, op: Op, use: GainUse, chain: tuple[Through, ...], entries: np.ndarray,
                 outs: np.ndarray) -> list[Move] | None:
    """One number, the same for all units in front of the gain: behind it stands that number times each entry."""
    kinds = np.unique(np.stack([entries, outs]), axis=1)
    found, number = np.unique(kinds[0], return_inverse=True)
    if len(np.unique(kinds[1])) != kinds.shape[1] or len(found) < 2:
        return None
    step = Through("each", use.parameter, index=Index.of(found[None, None, :]), offset=use.offset)
    return search.push(op.name, dict(zip(kinds[1].tolist(), number.tolist(), strict=True)), (*chain, step))


def _at_once(search: Translations, op: Op, units: np.ndarray, places: np.ndarray, chain: tuple[Through, ...]) -> list[Move] | None:
    """Units that are one class further on: a shift of theirs that is added right behind the gain takes each its own."""
    users = [u for u in search.graph.users.get(op.name, ()) if u.name in search.graph.live]
    shifts = [s for u in users for s in search.shift.get(u.name, ()) if u.packet == "aten.add"]
    if len(users) != 1 or len(shifts) != 1 or op.name in search.graph.outputs or shifts[0].buffer or not search.single(shifts[0].parameter):
        return None
    entry = dict(zip(shifts[0].units.tolist(), shifts[0].elements.tolist(), strict=True))
    if shifts[0].parameter == search.origin or len(entry) < len(shifts[0].units) or any(u not in entry for u in units.tolist()):
        return None
    at = np.unique(np.stack([places, [entry[u] for u in units.tolist()]]), axis=1)
    if len(np.unique(at[0])) < at.shape[1] or len(np.unique(at[1])) < at.shape[1]:
        return None
    return [Move("add", shifts[0].parameter, -1, Index.of(at[1][None, None, :]), power=-1.0, through=chain)]


def behind_gain(search: Translations, gain: GainUse, current: Current, chain: tuple[Through, ...]) -> Move | None:
    """A bias in front of a gain (the scale of a branch) takes one number off all that the gain hands on, divided by each entry."""
    ins, outs = search.classes(gain.ins), search.classes(gain.outs)
    op = search.graph.by_name.get(gain.source)
    while op is not None and op.packet in LAYOUT:
        op = search.graph.by_name.get(op.inputs[0])
    shifts = [] if op is None else [s for s in search.shift.get(op.name, ()) if not s.buffer and s.parameter != search.origin]
    if set(current.values()) != {0} or set(current) != set(outs.tolist()) or len(shifts) != 1 or not search.single(shifts[0].parameter):
        return None
    shift = shifts[0]
    if len(search.classes.shape(shift.parameter)) != 1 or not _alone(search, op.name if op else "", gain.op):
        return None
    order, at = np.argsort(ins), np.argsort(units := search.classes(shift.units))
    pairs = np.stack([shift.elements[at], gain.elements[order]]) if np.array_equal(ins[order], units[at]) else None
    if pairs is None or len(np.unique(ins)) < len(ins) or len(np.unique(outs)) < len(outs):
        return None
    step = Through("per", gain.parameter, index=Index.of(pairs[1][None, None, :]), offset=gain.offset)
    return Move("add", shift.parameter, 0, Index.of(pairs[0][None, None, :]), power=-1.0, through=(*chain, step))


def _alone(search: Translations, value: str, end: str) -> bool:
    """From ``value`` layout leads to the operator ``end`` and nowhere else."""
    while value not in search.graph.outputs:
        users = [u for u in search.graph.users.get(value, ()) if u.name in search.graph.live]
        if len(users) != 1:
            return False
        if users[0].name == end:
            return True
        value = users[0].name
    return False
