"""Operators that choose places by value or write to chosen places: sorting, the largest k, maxima over an axis, scatter, gather.

Near generic weights the places chosen do not change (the stratum): along an axis of data a unit stays the unit that it was, and only
what keeps the order may act on it. Along an axis of units nothing may scale, but the units may be renumbered together with the places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import DATA, Alike
from symdisc.torchside.foldrules.common import argument, equal_scales, is_zero, opaque, ref_name
from symdisc.torchside.foldrules.factors import tell_rows_apart
from symdisc.torchside.foldrules.packed import distinct_pairs, shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["compare", "extreme", "gathered", "order", "paste", "scatter", "scatter_add"]

PASSED_ON = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous")) | {"getitem"}
ORDERS = ("aten.topk", "aten.sort", "aten.argmax", "aten.argmin")


def order(f: Folder, op: Op) -> None:
    """topk, sort: (values, places)."""
    labels = f.operand(op.inputs[0])
    axis = _axis(op, labels, 2 if op.packet == "aten.topk" else 1, -1)
    count = int(op.args[1]) if op.packet == "aten.topk" else labels.shape[axis]
    f.kill(labels, op.packet)
    values = _along(f, op, labels, axis).expand([count if a == axis else n for a, n in enumerate(labels.shape)])
    places = torch.from_numpy(f.facts.fresh(1))[0].expand(values.shape)
    f.freeze(places, op.packet)
    f.labels[op.name] = (values, places)  # type: ignore[assignment]


def extreme(f: Folder, op: Op) -> None:
    """Maxima and minima over axes (amax, amin, max and min over one, argmax, argmin): as max pooling over data."""
    labels = f.operand(op.inputs[0])
    dims = argument(op, 1, "dim", None)
    dims = tuple(range(labels.dim())) if dims in (None, ()) else dims if isinstance(dims, tuple) else (dims,)
    axes, keep = {d % max(labels.dim(), 1) for d in dims}, bool(argument(op, 2, "keepdim", False))
    f.kill(labels, op.packet)
    for axis in sorted(axes):
        labels = (_along if "arg" in op.packet else _largest)(f, op, labels, axis)
    out = labels if keep else labels.squeeze(tuple(axes))
    places = torch.from_numpy(f.facts.fresh(1))[0].expand(out.shape)
    f.freeze(places, op.packet)
    pair = op.shape is None
    f.labels[op.name] = (out, places) if pair else places if "arg" in op.packet else out  # type: ignore[assignment]


def _largest(f: Folder, op: Op, labels: Tensor, axis: int) -> Tensor:
    """The largest of the units along ``axis`` (maxout): their scales agree, they may be renumbered, and so may the rows."""
    (rows,), shape = shrink(labels.movedim(axis, 0))
    if len(rows) < 2 or bool((rows == rows[:1]).all()) or bool((rows <= DATA).any()):
        return _along(f, op, labels, axis)
    equal_scales(f, rows)
    made = f.fresh_like(rows)
    table = _row_by_row(f, op, rows, made)
    f.facts.powers.append((table[0], table[-1], 1.0))
    f.kill(made, op.packet)
    return made.expand(shape[1:]).unsqueeze(0).movedim(0, axis)


def _along(f: Folder, op: Op, labels: Tensor, axis: int) -> Tensor:
    """Units of something chosen along ``axis``, of size 1 there: the unit itself, or a new one that stands for the whole row."""
    if labels.shape[axis] == 0:
        return labels.narrow(axis, 0, 0)
    first = labels.narrow(axis, 0, 1)
    if bool((labels == first).all()):
        return first
    f.freeze(labels, op.packet)
    (rows,), shape = shrink(labels.movedim(axis, 0))
    made = f.fresh_like(rows)
    _row_by_row(f, op, rows, made)
    made = made.expand(shape[1:]).unsqueeze(0).movedim(0, axis)
    f.freeze(made, op.packet)
    return made


def _row_by_row(f: Folder, op: Op, rows: Tensor, made: Tensor) -> np.ndarray:
    """Each unit of ``made`` stands for a column of ``rows`` [size, ...], whose units are alike; the table of both."""
    table = np.unique(torch.cat([rows, made.unsqueeze(0)]).reshape(len(rows) + 1, -1).numpy(), axis=1)
    if bool((table > DATA).all()):
        f.facts.alike.append(Alike(table[:-1].T, np.repeat(table[-1][:, None], len(rows), 1), op.name))
    return table


def gathered(f: Folder, op: Op) -> None:
    """Entries of an activation at places that another activation has chosen."""
    from symdisc.torchside.interpret import call

    labels = f.operand(op.inputs[0])
    axes = [a for a, i in enumerate(op.args[1]) if i is not None] if op.packet == "aten.index" else [int(op.args[1]) % labels.dim()]
    if labels is None or op.shape is None:
        return opaque(f, op)
    for name in op.inputs[1:]:
        if isinstance(f.labels.get(name), Tensor):
            f.freeze(f.labels[name], op.packet)
    for axis in axes:
        if not bool((labels == labels.narrow(axis, 0, 1)).all()):
            _tie_to_choice(f, op, labels, axis)
        labels = _along(f, op, labels, axis).expand(labels.shape)
    env = {n: torch.zeros(f.graph.shape(n) or (), dtype=torch.int64) for n in op.inputs}
    env[op.inputs[0]] = labels
    f.labels[op.name] = call(op, env)


def _tie_to_choice(f: Folder, op: Op, labels: Tensor, axis: int) -> None:
    """What is taken out at places chosen along another row of units is renumbered with that row, or not at all."""
    made = _chosen_by(f, ref_name(op.args[2])) if op.packet == "aten.gather" else None
    row = None if made is None else f.operand(made.inputs[0])
    if made is None or row is None or row.shape != labels.shape or _chosen_along(made, row) != axis:
        f.facts.rigid.append(f.units(labels))
        return
    (a, b), _ = shrink(row.movedim(axis, -1), labels.movedim(axis, -1))
    both = torch.unique(torch.stack([a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])], 1), dim=0)
    f.facts.alike.append(Alike(both[:, 0].numpy(), both[:, 1].numpy(), op.name))


def _chosen_along(made: Op, row: Tensor) -> int:
    default = None if "arg" in made.packet else -1
    dim = argument(made, 2 if made.packet == "aten.topk" else 1, "dim", default)
    return -1 if dim is None else int(dim) % row.dim()


def scatter(f: Folder, op: Op) -> None:
    """Values written to fixed places; or to those that topk or sort chose along a row of units: one for each, renumbered with them."""
    if all(n in f.values for n in op.inputs[1:2]) and _pasted(f, op, [op.args[0], *op.args[3:4]]):
        return
    into, axis, places = ref_name(op.args[0]), op.args[1], ref_name(op.args[2])
    made = _chosen_by(f, places)
    row = None if made is None else f.operand(made.inputs[0])
    written = ref_name(op.args[3]) if len(op.args) > 3 else None
    if into is None or op.shape is None or made is None or row is None or row.shape != op.shape or f.graph.varies(into):
        return opaque(f, op)
    if _chosen_along(made, row) != axis % len(op.shape):
        return opaque(f, op)
    value = f.operand(written) if written is not None and f.graph.varies(written) else None
    if value is not None:
        f.freeze(value, op.packet)
    (cut,), shape = shrink(row.movedim(axis, -1))
    distinct, inverse = torch.unique(cut.reshape(-1, cut.shape[-1]), dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(distinct.numel())).reshape(distinct.shape)
    f.labels[op.name] = outs[inverse].reshape(cut.shape).expand(shape).movedim(-1, axis)
    f.freeze(f.labels[op.name], op.packet)
    f.facts.alike.append(Alike(distinct.numpy(), outs.numpy(), op.name))
    tell_rows_apart(f, op, distinct, outs)


def _chosen_by(f: Folder, name: str | None) -> Op | None:
    """The operator that has chosen the places in a tensor by value."""
    op = f.graph.by_name.get(name or "")
    while op is not None and op.packet in PASSED_ON:
        op = f.graph.by_name.get(op.inputs[0])
    return op if op is not None and op.packet in ORDERS else None


def scatter_add(f: Folder, op: Op) -> None:
    """Entries added up (or the largest kept) at places given by data: along that axis every place may get any entry."""
    source = next((ref_name(a) for a in op.args[3:] if ref_name(a) is not None), None)
    into, axis, places = ref_name(op.args[0]), op.args[1], ref_name(op.args[2])
    if source is None or into is None or op.shape is None or places is None or f.graph.is_activation(places):
        return opaque(f, op)
    labels = f.operand(source)
    start = f.operand(into) if f.graph.varies(into) else None
    first = labels.narrow(axis, 0, 1)
    if labels.dim() != len(op.shape) or not bool((labels == first).all()) or start is not None:
        return opaque(f, op)
    if "reduce" in op.packet and op.args[4] not in ("sum", "mean"):
        f.kill(labels, op.packet)
        if op.args[4] == "prod":
            f.freeze(labels, op.packet)
    f.labels[op.name] = first.expand(op.shape)


def paste(f: Folder, op: Op) -> None:
    """select_scatter, slice_scatter, index_put at fixed places: a part written over; the units of the rest stay."""
    put = op.packet == "aten.index_put"
    places = [ref_name(i) for i in op.args[1] if i is not None] if put else []
    if any(n not in f.values for n in places) or argument(op, 3, "accumulate", False) is True or not _pasted(
            f, op, [op.args[0], op.args[2] if put else op.args[1]]):
        opaque(f, op)


def _pasted(f: Folder, op: Op, parts: list[Any]) -> bool:
    """Run the operator on unit numbers: ``parts`` carry units, every other operand is a known constant."""
    from symdisc.torchside.interpret import call

    names = [ref_name(a) for a in parts]
    env = {n: f.values.get(n) for n in op.inputs} | {n: f.operand(n) for n in names if n is not None}
    known = {n: v.contiguous() for n, v in env.items() if v is not None}
    if None in names or len(known) < len(env):
        return False
    f.labels[op.name] = call(op, known)
    return True


def compare(f: Folder, op: Op) -> None:
    """An activation compared with a constant, or a mask negated: beside zero the outcome does not change when a unit is scaled."""
    acts = [n for n in dict.fromkeys(op.inputs) if f.graph.varies(n)]
    labels = f.operand(acts[0]) if len(acts) == 1 and f.graph.is_activation(acts[0]) else None
    if labels is None or labels.shape != op.shape:
        return opaque(f, op)
    others = [f.values.get(a.name) if isinstance(a, Ref) else a for a in op.args if not (isinstance(a, Ref) and a.name == acts[0])]
    f.kill(labels, op.packet)
    if not all(is_zero(v) for v in others):
        f.freeze(labels, op.packet)
        if any(isinstance(a, Ref) and a.name != acts[0] and not f.uniform(labels, a.name) for a in op.args):
            f.facts.rigid.append(f.units(labels))
    made = f.fresh_like(labels.unsqueeze(0))
    pairs, _ = distinct_pairs(*shrink(labels, made)[0])
    f.facts.elementwise.append((pairs[0].numpy(), pairs[1].numpy(), op.name))
    f.labels[op.name] = made
    f.freeze(made, op.packet)


def _axis(op: Op, labels: Tensor, position: int, default: int) -> int:
    return int(argument(op, position, "dim", default)) % labels.dim()
