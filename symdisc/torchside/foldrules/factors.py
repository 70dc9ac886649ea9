"""Factors of units, one entry for each place: stored gains, factors computed from parameters, statistics, constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op
from symdisc.spaces import PAD, GainUse
from symdisc.torchside.foldrules.copies import places as places_of
from symdisc.torchside.foldrules.packed import distinct_pairs, in_order, shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["Places", "gain", "mark_constant", "one_each", "own_places", "statistics", "tell_places_apart", "tell_rows_apart"]

Places = tuple[Callable[[], Tensor], Callable[[], Tensor]]  # of the two operands of a product


def gain(f: Folder, op: Op, act: str, other: str, labels: Tensor, divide: bool) -> None:
    found = f.elements(other)
    index = None if found is None else found[1].expand(op.shape or ())
    if found is None or divide or index is None:
        return _computed(f, op, act, other, labels)
    (cut, index), shape = shrink(labels, index)
    distinct, inverse = distinct_pairs(cut, index)
    there = distinct[0] > PAD  # zeros stay zeros
    outs = torch.where(there, torch.from_numpy(f.facts.fresh(distinct.shape[1])), PAD)
    f.labels[op.name] = outs[inverse].expand(shape)
    f.facts.gains.append(GainUse(found[0], op.name, op.module, distinct[1][there].numpy(), distinct[0][there].numpy(),
                                 outs[there].numpy(), op.name, act, found[2]))
    tell_places_apart(f, op, labels, partial(places_of, f, act), f.labels[op.name])


def _computed(f: Folder, op: Op, act: str, other: str, labels: Tensor) -> None:
    """A factor made of parameters (exp(temperature) and the like): scales pass, and what acts equally on all units.

    Where it spreads a unit over an axis, each copy of it is a unit of its own, that stays in its place."""
    f.kill(labels, "computed factor")
    if not f.uniform(labels, other):
        f.facts.rigid.append(f.units(labels))
    spread = sorted({*_stretched(f.graph.shape(act) or (), labels)} - {*_stretched(f.graph.shape(other) or (), labels)})
    if spread:
        place = _place(labels, spread)
        made = f.fresh_like(torch.stack(torch.broadcast_tensors(labels, place)))
        pairs, _ = distinct_pairs(*shrink(labels, made)[0])
        f.facts.powers.append((pairs[0].numpy(), pairs[1].numpy(), 1.0))
        f.facts.rigid.append(f.units(made))
        f.kill(made, "computed factor")
        labels = made
    f.labels[op.name] = labels


def statistics(f: Folder, op: Op, other: str, labels: Tensor) -> bool:
    """Record the buffers behind a factor per unit: a permutation of the units permutes them too. False if there is more."""
    places = f.buffers_behind(other)
    if not all(index.numel() == 1 or one_each(index, labels) for _, index in places or ()):
        return False
    for buffer, index in places or ():
        if index.numel() == 1:
            continue
        (at, units), _ = shrink(index.expand(op.shape or ()), labels)
        pairs, _ = distinct_pairs(at, units)
        f.facts.statistics.append(GainUse(buffer, op.name, op.module, pairs[0].numpy(), pairs[1].numpy(), pairs[1].numpy(),
                                          op.name, "", buffer=True))
    return bool(places)


def tell_apart(f: Folder, op: Op, units: np.ndarray, outs: np.ndarray, places: np.ndarray) -> None:
    """``outs`` made of ``units`` place by place: a unit that stands at several places (along an axis of data, or where units were made
    one) is another number at each, so that what is made of it there is told apart, by the order of the places."""
    kept = (units > PAD) & (outs > PAD)
    units, outs, places = units[kept], outs[kept], places[kept]
    order = np.lexsort((places, outs))
    first = order[np.unique(outs[order], return_index=True)[1]]  # the first place of each new unit
    first = first[np.lexsort((places[first], units[first]))]
    units, outs, places = units[first], outs[first], places[first]
    start = np.searchsorted(units, units)
    distinct = np.cumsum((np.diff(units, prepend=-2) != 0) | (np.diff(places, prepend=-1) != 0))
    rank = distinct - distinct[start]
    several = np.isin(units, units[rank > 0])
    if several.any():
        f.facts.marked.append((rank[several], outs[several], op.name))


def tell_places_apart(f: Folder, op: Op, labels: Tensor, places: Callable[[], Tensor], made: Tensor) -> None:
    """The same for ``made`` of ``labels`` entry by entry; ``places`` makes the numbers of the operand's places, stretched like it."""
    pairs, _ = distinct_pairs(*shrink(labels, made)[0])
    if len(torch.unique(pairs[0])) == pairs.shape[1]:
        return
    where, varying = places().expand(made.shape), f.varying_axes(made)
    for axis in range(made.dim()):
        if axis not in varying:
            where, labels, made = (t.narrow(axis, 0, 1) if t.shape[axis] > 1 else t for t in (where, labels.expand(made.shape), made))
    tell_apart(f, op, *(t.reshape(-1).numpy() for t in shrink(labels, made, in_order(where))[0]))


def tell_rows_apart(f: Folder, op: Op, rows: Tensor, outs: Tensor) -> None:
    """The same for vectors [rows, size] that are made of vectors."""
    for before, after in zip(rows.numpy(), outs.numpy(), strict=True):
        tell_apart(f, op, before, after, np.arange(len(before)))


def _stretched(shape: Sequence[int], labels: Tensor) -> list[int]:
    """Axes of the result along which an operand of this shape is stretched."""
    full = (1,) * (labels.dim() - len(shape)) + tuple(shape)
    return [a for a in range(labels.dim()) if full[a] == 1 and labels.shape[a] > 1]


def own_places(labels: Tensor) -> Tensor:
    """A number for each place of an operand."""
    return _place(labels, list(range(labels.dim())))


def _place(labels: Tensor, axes: list[int]) -> Tensor:
    """The number of each place along some axes, of size 1 along the others."""
    shape = [n if a in axes else 1 for a, n in enumerate(labels.shape)]
    return torch.arange(int(np.prod(shape))).reshape(shape)


def one_each(index: Tensor, labels: Tensor) -> bool:
    """Every unit meets one entry, and every entry one unit."""
    pairs, _ = distinct_pairs(*shrink(index.expand(labels.shape), labels)[0])
    return len(torch.unique(pairs[0])) == len(torch.unique(pairs[1])) == pairs.shape[1]


def mark_constant(f: Folder, op: Op, other: str, labels: Tensor) -> None:
    """Which entry of a constant each unit meets (rotary tables: the same for every head); axes of data do not tell."""
    shape = f.graph.shape(other) or ()
    entry = torch.arange(int(np.prod(shape))).reshape(shape).expand(labels.shape)
    varying = f.varying_axes(labels)
    for axis in range(labels.dim()):
        if axis not in varying:
            entry, labels = entry.narrow(axis, 0, 1), labels.narrow(axis, 0, 1)
    pairs, _ = distinct_pairs(*shrink(entry, labels)[0])
    use = pairs[1] > PAD
    f.facts.marked.append((pairs[0][use].numpy(), pairs[1][use].numpy(), op.name))
