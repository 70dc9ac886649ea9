"""Sums and products of activations, parameters and data, entry by entry; reductions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op
from symdisc.spaces import PAD, GainUse, ShiftUse
from symdisc.torchside.foldrules.common import (
    argument,
    equal_scales,
    inside_norm,
    is_squared_norm,
    is_zero,
    opaque,
    ref_name,
)
from symdisc.torchside.foldrules.copies import places as places_of
from symdisc.torchside.foldrules.elementwise import elementwise
from symdisc.torchside.foldrules.factors import Places, gain, mark_constant, one_each, statistics, tell_places_apart
from symdisc.torchside.foldrules.offsets import Added
from symdisc.torchside.foldrules.packed import distinct_pairs, in_order, shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["add", "mul", "multiply", "reduce", "shift", "total"]


def add(f: Folder, op: Op) -> None:
    a, b = op.args[0], op.args[1]
    acts = [n for n in (ref_name(a), ref_name(b)) if n is not None and f.moves(n)]
    if len(acts) == 2:
        _sum_of_two(f, op, acts[0], acts[1])
        return
    act = acts[0] if acts else None
    other = ref_name(b) if act == ref_name(a) else ref_name(a)
    if act is None:  # a parameter meets raw data
        return _parameter_meets_data(f, op)
    labels = f.operand(act).expand(op.shape or ())
    f.labels[op.name] = labels
    value = (b if act == ref_name(a) else a) if other is None else f.values.get(other)
    stored = None if other is None else f.elements(other, buffers=True)
    if other is not None and f.graph.varies(other):
        found = f.elements(other)
        if found is None or op.packet == "aten.rsub":
            return f.freeze(labels, "computed shift")
        parameter, index, _ = found
        shift(f, op, parameter, index.expand(op.shape or ()), labels)
    elif stored is None and is_zero(value):
        return
    elif other is not None and stored is not None:  # running means that are zero today are not zero tomorrow
        parameter, index, _ = stored
        if not one_each(index, labels):  # a table, not statistics: it stays as it is
            mark_constant(f, op, other, labels)
        shift(f, op, parameter, index.expand(op.shape or ()), labels, buffer=True)
    else:
        constant = _number(op, value)
        if constant is None:
            f.freeze(labels, "constant added")
        else:
            f.added.append(Added(op, act, constant))
        if other is not None and not f.uniform(labels, other):
            mark_constant(f, op, other, labels)


def _number(op: Op, value: object) -> float | None:
    """The one number that the operator adds; None where it may be several, or is not known."""
    known = float(value) if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1) else None
    if known is None or op.kwargs or not np.isfinite(known):
        return None
    return known if op.packet == "aten.add" else -known  # k - x scales with x about k


def _sum_of_two(f: Folder, op: Op, a: str, b: str) -> None:
    la, lb = f.operand(a), f.operand(b)
    f.unite(la, lb)
    f.labels[op.name] = _of_both(f, la, lb)
    mean = f.graph.by_name.get(b)
    if op.packet == "aten.sub" and mean is not None and mean.packet == "aten.mean" and mean.inputs == (a,):
        f.kill(la, "mean subtracted")


def _of_both(f: Folder, la: Tensor, lb: Tensor) -> Tensor:
    """The units of a sum, whose terms are united. Two terms in which two units change places (a single rotary plane) would leave one
    of them at both: the axis would look like one of data."""
    la, lb = torch.broadcast_tensors(la, lb)
    made = torch.maximum(la, lb)
    lost = (set(f.varying_axes(la)) & set(f.varying_axes(lb))) - set(f.varying_axes(made))
    return la if lost and bool((la > PAD).all()) else made


def shift(f: Folder, op: Op, parameter: str, index: Tensor, labels: Tensor, buffer: bool = False) -> None:
    """Record a parameter added to units: ``index`` gives its flat element at each place of ``labels``."""
    (index, labels), _ = shrink(index, labels)
    (elements, units), _ = distinct_pairs(index, labels)
    distinct, inverse = torch.unique(elements, return_inverse=True)
    first = torch.zeros(len(distinct), dtype=torch.int64).scatter_reduce(0, inverse, units, "amax", include_self=False)
    f.unite(first[inverse], units)
    shape = f.graph.shapes[f.value_of(parameter)]
    axis = _unit_axis(shape, distinct, first)
    use = ShiftUse(parameter, op.name, op.module, axis, distinct.numpy(), first.numpy(), op.name, buffer,
                   table=bool(len(torch.unique(first)) < len(first)))
    f.facts.shifts.append(use)


def _unit_axis(shape: tuple[int, ...], elements: Tensor, units: Tensor) -> int:
    """The axis of the parameter along which the unit changes."""
    if len(elements) == int(np.prod(shape)):
        grid = units.reshape(shape) if len(shape) else units
        for axis in reversed(range(len(shape))):
            if shape[axis] > 1 and not bool((grid == grid.narrow(axis, 0, 1)).all()):
                return axis
    return max(len(shape) - 1, 0)


def _parameter_meets_data(f: Folder, op: Op) -> None:
    """E.g. class token + data, parameter * data: new units that carry the parameter's elements."""
    names = [n for n in op.inputs if f.graph.varies(n)]
    found = f.elements(names[0]) if len(names) == 1 else None
    if found is None or op.packet != "aten.mul":
        return opaque(f, op, "a parameter is added to raw data")
    parameter, index, offset = found
    index = index.expand(op.shape or ())
    units = f.fresh_like(index.reshape(1, -1)).reshape(op.shape or ())
    f.labels[op.name] = units
    flat, inverse = torch.unique(index, return_inverse=True)
    outs = torch.zeros(len(flat), dtype=torch.int64).scatter_(0, inverse.reshape(-1), units.reshape(-1))
    zero = np.zeros(len(flat), dtype=np.int64)
    f.facts.gains.append(GainUse(parameter, op.name, op.module, flat.numpy(), zero, outs.numpy(), op.name, "", offset))
    data = next((n for n in op.inputs if not f.graph.varies(n)), None)
    if data is not None and not f.uniform(units, data):  # each unit has a channel of the data for itself
        mark_constant(f, op, data, units)


def mul(f: Folder, op: Op) -> None:
    """Products: with a gain, a constant, raw data, or another activation."""
    a, b = op.args[0], op.args[1]
    names = [n for n in (ref_name(a), ref_name(b)) if n is not None]
    acts = [n for n in names if f.moves(n)]
    divide = op.packet == "aten.div"
    if len(acts) == 2:
        return _product(f, op, acts[0], acts[1], -1.0 if divide else 1.0)
    if not acts:
        return _parameter_meets_data(f, op)
    act = acts[0]
    if divide and act == ref_name(b):
        return elementwise(f, op) if not f.graph.varies(ref_name(a) or "") else opaque(f, op)
    labels = f.operand(act).expand(op.shape or ())
    other = next((n for n in names if n != act), None)
    if other is not None and f.graph.varies(other):
        return gain(f, op, act, other, labels, divide)
    if is_zero(f.values.get(other) if other is not None else (b if act == ref_name(a) else a)) and not divide:
        labels = torch.full((), PAD, dtype=torch.int64).expand(op.shape or ())  # nothing is left of the unit
    elif other is not None and not f.uniform(labels, other):
        f.facts.rotated.append(f.units(labels))
        buffer = f.elements(other, buffers=True)
        f.kill(labels, "constant factor per unit" if buffer is None else "running statistics")
        if not statistics(f, op, other, labels):
            mark_constant(f, op, other, labels)
    f.labels[op.name] = labels


def _product(f: Folder, op: Op, a: str, b: str, sign: float) -> None:
    f.labels[op.name] = multiply(f, op, f.operand(a), f.operand(b), (partial(places_of, f, a), partial(places_of, f, b)), sign,
                                   alone=a == b and is_squared_norm(f, op))


def multiply(f: Folder, op: Op, la: Tensor, lb: Tensor, places: Places, sign: float = 1.0, alone: bool = False) -> Tensor:
    """Units of an entrywise product (quotient: ``sign`` -1); a factor that is common to all units of the other lets them mix.

    ``alone`` says that a norm has dealt with the square already.
    """
    (ca, cb), shape = shrink(la, lb)
    distinct, inverse = distinct_pairs(ca, cb)
    outs = torch.from_numpy(f.facts.fresh(distinct.shape[1]))
    empty = (distinct == PAD).any(0) if sign == 1.0 else distinct[0] == PAD
    outs = torch.where(empty, PAD, outs)
    out = outs[inverse].expand(shape)
    f.facts.sums.append((outs[~empty].numpy(), distinct[0][~empty].numpy(), distinct[1][~empty].numpy(), sign))
    if alone:
        return out
    for labels, where in zip((la, lb), places, strict=True):
        tell_places_apart(f, op, labels, where, out)
    for carrier, other, power in ((la, lb, 1.0), (lb, la, sign)):
        axes = f.varying_axes(carrier)
        if not axes:
            continue
        if power == 1.0 and axes[-1] == carrier.dim() - 1 and _common(other):
            (rows, made), _ = shrink(carrier, out)
            pairs = torch.stack([rows.reshape(-1, rows.shape[-1]), made.reshape(-1, made.shape[-1])], 1)
            pairs = pairs if len(pairs) == 1 else torch.unique(pairs, dim=0)
            f.facts.copies.append((pairs[:, 0].numpy(), pairs[:, 1].numpy()))
        else:
            f.kill(carrier, "product")
            if axes[-1] == carrier.dim() - 1 or not _common(carrier):  # otherwise one factor for each row, which may mix
                f.kill(out, "product")
    return out


def _common(lo: Tensor) -> bool:
    """One factor for each row along the last axis."""
    return lo.dim() == 0 or lo.shape[-1] == 1


def reduce(f: Folder, op: Op) -> None:
    """mean, sum, cumsum: units along the reduced axes must agree, otherwise they are tied together."""
    labels = f.operand(op.inputs[0])
    dims = argument(op, 1, "dim", None)
    if op.packet == "aten.cumsum":
        f.labels[op.name] = labels
        moved = labels.movedim(dims, -1)
        f.unite(moved[..., :1].expand_as(moved), moved)
        return
    dims = tuple(range(labels.dim())) if dims in (None, ()) else dims if isinstance(dims, tuple) else (dims,)
    keep = argument(op, 2, "keepdim", False)
    dims = tuple(d % labels.dim() for d in dims)
    out = total(f, op, labels, dims)
    if keep:
        for d in sorted(dims):
            out = out.unsqueeze(d)
    f.labels[op.name] = out


def total(f: Folder, op: Op, labels: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Units of a sum over axes: where the units along them differ, their scales are tied together."""
    front = labels.movedim(dims, list(range(len(dims))))
    flat = front.reshape(-1, *front.shape[len(dims):])
    one = flat.amax(0, keepdim=True)  # zeros add nothing
    if bool(((flat == one) | (flat == PAD)).all()):
        return one[0]
    equal_scales(f, torch.cat([one, flat]))
    made = f.fresh_like(_column_keys(flat)).unsqueeze(0)
    made = made if bool((one > PAD).all()) else torch.where(one == PAD, PAD, made)
    link = torch.stack([one.reshape(-1), made.reshape(-1)])
    link = link[:, link[1] > PAD]
    f.facts.powers.append((link[0].numpy(), link[1].numpy(), 1.0))
    (members, totals), _ = shrink(flat, made)
    pairs, _ = distinct_pairs(members, totals)
    pairs = pairs[:, pairs.min(0).values > PAD]
    f.facts.totals.append((pairs[0].numpy(), pairs[1].numpy(), op.name))
    axes = f.varying_axes(made)
    if axes and axes[-1] == made.dim() - 1 and bool((members == members[..., :1]).all(-1).logical_not().all()):
        rows = torch.stack([t.reshape(-1, t.shape[-1]) for t in torch.broadcast_tensors(members, totals)], 1)
        rows = torch.unique(rows, dim=0)  # rows are added to rows: what mixes each in the same way mixes their sum
        f.facts.copies.append((rows[:, 0].numpy(), rows[:, 1].numpy()))
    elif not inside_norm(f, op):
        f.kill(labels, "summed over units")
        f.kill(made, "summed over units")
    return made[0]


def _column_keys(flat: Tensor) -> Tensor:
    """[1, ...]: a number for each column of units [n, ...], equal for equal columns (two others agree with probability 2^-64); in the
    order in which they first appear, for blocks are matched in the order of their units."""
    (cut,), shape = shrink(flat)
    weights = torch.randint(-(2**62), 2**62, (len(cut), *[1] * (cut.dim() - 1)), generator=torch.Generator().manual_seed(0))
    return in_order((cut * (2 * weights + 1)).sum(0)).expand(1, *shape[1:])
