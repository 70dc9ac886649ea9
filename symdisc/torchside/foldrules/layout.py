"""Operators that lay units out anew without being pure indexing: pools, interpolation, joining, selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import PAD
from symdisc.torchside.foldrules.common import argument, is_zero, opaque, ref_name
from symdisc.torchside.foldrules.factors import mark_constant
from symdisc.torchside.foldrules.packed import distinct_pairs, shrink

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["cat", "masked_fill", "maximum", "pool", "upsample", "where"]


def upsample(f: Folder, op: Op) -> None:
    """Interpolation over space: channels pass."""
    labels = f.operand(op.inputs[0])
    spatial = labels.dim() - 2
    _over_space(f, op, labels, spatial)


def _over_space(f: Folder, op: Op, labels: Tensor, spatial: int) -> None:
    """One unit per channel: those at different places are identified, padding put in aside."""
    flat = labels.flatten(-spatial)
    first = flat.amax(-1, keepdim=True)
    if not bool((flat == first).all()):
        f.unite(first.expand_as(flat), flat)
    assert op.shape is not None
    f.labels[op.name] = first.reshape(*flat.shape[:-1], *([1] * spatial)).expand(op.shape)


def pool(f: Folder, op: Op) -> None:
    """Pooling over space: per channel. Maxima commute with positive scalings only, averages with everything."""
    labels = f.operand(op.inputs[0])
    spatial = {"1": 1, "2": 2, "3": 3}[op.packet.split("pool")[-1][0]]
    if "max" in op.packet:
        f.kill(labels, op.packet)
    _over_space(f, op, labels, spatial)


def cat(f: Folder, op: Op) -> None:
    parts = [f.operand(a.name) for a in op.args[0]]
    if any(p is None for p in parts):
        return opaque(f, op)
    axis = argument(op, 1, "dim", 0)
    f.labels[op.name] = torch.stack(parts, axis) if op.packet == "aten.stack" else torch.cat(parts, axis)


def where(f: Folder, op: Op) -> None:
    """Selection by a mask of data; the branches share their units."""
    if f.graph.is_activation(ref_name(op.args[0]) or ""):
        return opaque(f, op)
    parts = [f.operand(a.name) for a in op.args[1:] if isinstance(a, Ref) and f.graph.varies(a.name)]
    if len(parts) == 2:
        f.unite(parts[0], parts[1])
    if any(p is None for p in parts):
        return opaque(f, op)
    f.labels[op.name] = parts[0].expand(op.shape)
    fixed = [a for a in op.args[1:] if not (isinstance(a, Ref) and f.graph.varies(a.name))]
    if any(not is_zero(f.values.get(a.name) if isinstance(a, Ref) else a) for a in fixed):
        f.freeze(parts[0], "where")
    _told_apart(f, op, ref_name(op.args[0]), f.labels[op.name])


def masked_fill(f: Folder, op: Op) -> None:
    """Places chosen by a mask are written over. A mask made of activations goes with the units beside it."""
    act, mask = ref_name(op.args[0]), ref_name(op.args[1])
    labels = f.operand(act) if act is not None else None
    number = f.values.get(op.args[2].name) if isinstance(op.args[2], Ref) else op.args[2]
    if labels is None or op.shape is None or (isinstance(op.args[2], Ref) and f.graph.varies(op.args[2].name)):
        return opaque(f, op)
    labels = labels.expand(op.shape)
    f.labels[op.name] = labels
    if not is_zero(number):
        f.freeze(labels, op.packet)
    if mask is not None and f.moves(mask):
        pairs, _ = distinct_pairs(*shrink(f.operand(mask).expand(op.shape), labels)[0])
        pairs = pairs[:, pairs.min(0).values > PAD]
        f.facts.weighted.append((pairs[0].numpy(), pairs[1].numpy(), op.name))
        return
    _told_apart(f, op, mask, labels)


def _told_apart(f: Folder, op: Op, mask: str | None, labels: Tensor) -> None:
    """A mask of data that is not the same for all units keeps them in their places."""
    if mask is not None and not f.uniform(labels, mask):
        mark_constant(f, op, mask, labels)


def maximum(f: Folder, op: Op) -> None:
    """The larger of two activations, or of one and a constant: at zero that is ReLU, at a very low number it changes nothing."""
    names = [ref_name(a) for a in op.args[:2]]
    fixed = [n for n in names if n is not None and not f.graph.varies(n)]
    if len(fixed) == 1 and all(n is not None for n in names):
        return _above(f, op, next(n for n in names if n != fixed[0]) or "", fixed[0])
    parts = [f.operand(n) for n in names if n is not None and f.graph.varies(n)]
    if len(parts) < 2 or any(p is None for p in parts):
        return opaque(f, op)
    f.unite(parts[0], parts[1])
    f.labels[op.name] = torch.maximum(*torch.broadcast_tensors(*parts))
    f.kill(f.labels[op.name], op.packet)


def _above(f: Folder, op: Op, act: str, fixed: str) -> None:
    labels = f.operand(act)
    if labels is None:
        return opaque(f, op)
    labels = labels.expand(op.shape or ())
    f.kill(labels, op.packet)
    if not is_zero(f.values.get(fixed)):
        f.freeze(labels, "constant beside a maximum")
        if not f.uniform(labels, fixed):
            mark_constant(f, op, fixed, labels)
    f.labels[op.name] = labels
