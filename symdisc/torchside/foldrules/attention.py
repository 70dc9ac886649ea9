"""Contractions of activations, attention, softmax and norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op
from symdisc.spaces import PAD, Alike, Dual, Norm
from symdisc.torchside.foldrules.common import argument, equal_scales, opaque, ref_name
from symdisc.torchside.foldrules.copies import places as places_of
from symdisc.torchside.foldrules.factors import Places, mark_constant, tell_places_apart, tell_rows_apart
from symdisc.torchside.foldrules.packed import distinct_pairs, shrink
from symdisc.torchside.foldrules.sums import multiply, shift, total
from symdisc.torchside.foldrules.weights import constant_map, dense

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

MOST_PRODUCTS = 1 << 22  # pairs of units that a sum of products may have: beyond, folding would cost more than it can find

__all__ = ["attention", "baddbmm", "group_norm", "layer_norm", "matmul", "softmax"]


def matmul(f: Folder, op: Op) -> None:
    a, b = ref_name(op.args[0]), ref_name(op.args[1])
    assert a is not None and b is not None
    acts = [f.moves(n) for n in (a, b)]
    if acts == [True, False] and f.graph.varies(b) and len(f.graph.shape(b) or ()) == 2:
        return dense(f, op, a, b, None, transposed=True)
    if acts == [True, False] and not f.graph.varies(b):
        return constant_map(f, op, a)
    if acts == [False, True] and not f.graph.varies(a):
        return constant_map(f, op, b, -2)
    if not acts[0] and f.graph.varies(a) and len(f.graph.shape(a) or ()) == 2 and (_along_rows(f, b) if acts[1] else not f.graph.varies(b)):
        return dense(f, op, b, a, None, transposed=False, axis=-2 if len(f.graph.shape(b) or ()) > 1 else -1)
    if acts == [False, False] and f.graph.varies(b) and len(f.graph.shape(b) or ()) == 2 and not f.graph.varies(a):
        return dense(f, op, a, b, None, transposed=True)
    la, lb = f.operand(a), f.operand(b)
    if acts == [True, True] and la.dim() >= 2 and lb.dim() >= 2:
        return contract(f, op, la, lb, (partial(places_of, f, a), partial(places_of, f, b)))
    opaque(f, op)


def _along_rows(f: Folder, name: str) -> bool:
    """The units lie along the last axis but one, or the only one: a weight is applied from the left."""
    labels = f.operand(name)
    return labels.dim() == 1 or f.varying_axes(labels)[-1:] == [labels.dim() - 2]


def baddbmm(f: Folder, op: Op) -> None:
    """beta c + alpha a b with a constant c, a bias of scores that sees no parameter; or c + a b with stored c and b."""
    from symdisc.torchside.foldrules.einsum import stacked_matmul

    bias, act, weight = (ref_name(a) or "" for a in op.args[:3])
    found = f.elements(bias) if f.graph.varies(bias) else None
    if found is not None and not op.kwargs and f.moves(act) and f.graph.varies(weight) and not f.moves(weight):
        if not stacked_matmul(f, replace(op, args=op.args[1:]), act, weight):
            return opaque(f, op)
        return shift(f, op, found[0], found[1].expand(op.shape or ()), f.labels[op.name])
    if not bias or f.graph.varies(bias) or any(k in ("alpha", "beta") and v == 0 for k, v in op.kwargs):
        return opaque(f, op)
    matmul(f, replace(op, args=op.args[1:]))
    labels = f.labels[op.name]
    f.freeze(labels, "constant added")
    if not f.uniform(labels, bias):
        mark_constant(f, op, bias, labels)


def contract(f: Folder, op: Op, la: Tensor, lb: Tensor, places: Places) -> None:
    """c[.., m, n] = sum_k a[.., m, k] b[.., k, n] between activations."""
    lead = torch.broadcast_shapes(la.shape[:-2], lb.shape[:-2])
    la, lb = la.expand(*lead, *la.shape[-2:]), lb.expand(*lead, *lb.shape[-2:])
    lbt = lb.transpose(-1, -2)
    rows, cols = la[..., :1], lb[..., :1, :]
    if bool((la == rows).all()) and bool((lb == cols).all()):  # summed over data
        shape = (*lead, la.shape[-2], lb.shape[-1])
        return _outer(f, op, rows.expand(shape), cols.expand(shape), (lambda: places[0]()[..., :1], lambda: places[1]()[..., :1, :]))
    same_a = bool((la == la[..., :1, :]).all()) and not bool((la == rows).all())
    same_b = bool((lbt == lbt[..., :1, :]).all())
    if same_b and not same_a and bool((la != rows).any(-1).all()):  # heads side by side along the rows share one vector
        return pair_vectors(f, op, la, lbt[..., :1, :], (*lead, la.shape[-2], lb.shape[-1]))
    if not (same_a and same_b):
        return _summed(f, op, la, lb, places)
    va, vb = la[..., 0, :], lbt[..., 0, :]
    pair_vectors(f, op, va, vb, (*lead, la.shape[-2], lb.shape[-1]))


def _summed(f: Folder, op: Op, la: Tensor, lb: Tensor, places: Places) -> None:
    """Products entry by entry, then their sum: where the units along it differ (scores between channels), their scales are tied."""
    left, right = la.unsqueeze(-1), lb.unsqueeze(-3)
    if shrink(left, right)[0][0].numel() > MOST_PRODUCTS:
        return opaque(f, op, "too many products of units")
    made = multiply(f, op, left, right, places=(lambda: places[0]().unsqueeze(-1), lambda: places[1]().unsqueeze(-3)))
    f.labels[op.name] = total(f, op, made, (made.dim() - 2,))


def _outer(f: Folder, op: Op, la: Tensor, lb: Tensor, places: Places) -> None:
    """Sum over data: the units of both factors multiply; probabilities (one unit) let the other side mix."""
    size = 1 + max(int(la.max()), int(lb.max())) - (least := min(int(la.min()), int(lb.min())))
    packed, inverse = torch.unique((la - least) * size + (lb - least), return_inverse=True)  # one number a pair: rows are slow to sort
    outs = torch.from_numpy(f.facts.fresh(len(packed)))
    out = outs[inverse]
    f.labels[op.name] = out
    f.facts.sums.append((outs.numpy(), (packed // size + least).numpy(), (packed % size + least).numpy(), 1.0))
    for labels, where in zip((la, lb), places, strict=True):
        tell_places_apart(f, op, labels, where, out)
    if out.dim() - 2 in f.varying_axes(la):  # heads along the rows: if all are probabilities, each makes a copy of the other vector
        f.kill(la, op.packet)
        if not _fixed(f, la):
            f.kill(lb, op.packet)
            f.kill(out, op.packet)
            return
    (rows, made), _ = shrink(lb, out)
    pairs = torch.unique(torch.stack([rows.reshape(-1, rows.shape[-1]), made.reshape(-1, made.shape[-1])], 1), dim=0)
    f.facts.copies.append((pairs[:, 0].numpy(), pairs[:, 1].numpy()))


def _fixed(f: Folder, labels: Tensor) -> bool:
    """No scale of these units is free."""
    known = [units for units, _ in f.facts.fixed]
    return bool(np.isin(f.units(labels), np.concatenate(known)).all()) if known else False


def pair_vectors(f: Folder, op: Op, va: Tensor, vb: Tensor, shape: tuple[int, ...]) -> None:
    """Contraction over units: the two vectors are dual to each other; the result, of ``shape``, is one number per pair of vectors."""
    va, vb = torch.broadcast_tensors(va, vb)
    both = torch.unique(torch.stack([va.reshape(-1, va.shape[-1]), vb.reshape(-1, vb.shape[-1])], 1), dim=0)
    f.facts.duals.append(Dual(both[:, 0].numpy(), both[:, 1].numpy(), op.name))
    tell_rows_apart(f, op, both[:, 0], both[:, 1])
    tell_rows_apart(f, op, both[:, 1], both[:, 0])
    rows = torch.stack([va.reshape(-1, va.shape[-1]), vb.reshape(-1, vb.shape[-1])], 1).flatten(1)
    _, inverse = torch.unique(rows, dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(int(inverse.max()) + 1))
    lead = va.shape[:-1]
    f.labels[op.name] = outs[inverse].reshape(*lead, *[1] * (len(shape) - len(lead))).expand(shape)
    out = outs[inverse].reshape(-1, 1).expand(-1, va.shape[-1])
    f.facts.sums.append((out.reshape(-1).numpy(), va.reshape(-1).numpy(), vb.reshape(-1).numpy(), 1.0))


def attention(f: Folder, op: Op) -> None:
    """softmax(q k^T + mask) v with heads in the leading axes."""
    q, k, v = (f.operand(a.name) for a in op.args[:3])
    mask = ref_name(argument(op, 3, "attn_mask"))
    if mask is not None and mask not in f.labels and f.graph.varies(mask):
        _table(f, mask)
    if mask is not None and mask in f.labels:
        f.freeze(f.labels[mask], op.packet)
        _placed(f, op, f.labels[mask])
    if any(t is None for t in (q, k, v)):
        return opaque(f, op)
    if q.shape[-3] != k.shape[-3]:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    rows = [_per_head(f, t) for t in (q, k, v)]
    pair_vectors(f, op, rows[0], rows[1], (*rows[0].shape[:-1], 1, 1))
    scores = f.labels[op.name]
    f.facts.fixed.append((f.units(scores), "softmax"))
    (weights, values), _ = shrink(scores[..., 0, :1], rows[2])
    pairs, inverse = distinct_pairs(weights, values)
    if mask is not None and (f.graph.shape(mask) or (1,))[-3:-2] not in ((), (1,)):
        mark_constant(f, op, mask, scores.expand(*scores.shape[:-2], *(f.graph.shape(mask) or ())[-2:]))
    outs = values
    if len(torch.unique(values)) == pairs.shape[1]:
        heads = f.vectors(rows[2]).numpy()
        f.facts.copies.append((heads, heads))  # each head's values pass on their own
        f.facts.weighted.append((pairs[0].numpy(), pairs[1].numpy(), op.name))
    else:  # query heads that share their values make each something of its own of them
        made = torch.from_numpy(f.facts.fresh(pairs.shape[1]))
        outs = made[inverse].reshape(values.shape)
        f.facts.sums.append((made.numpy(), pairs[0].numpy(), pairs[1].numpy(), 1.0))
        both = torch.stack([t.reshape(-1, t.shape[-1]) for t in torch.broadcast_tensors(values, outs)], 1)
        both = torch.unique(both, dim=0)
        f.facts.copies.append((both[:, 0].numpy(), both[:, 1].numpy()))
    f.labels[op.name] = outs.unsqueeze(-2).expand(op.shape or ())


def _table(f: Folder, mask: str) -> None:
    """Units for scores that are added, a table beside constants."""
    value, op = mask, f.graph.by_name.get(mask)
    while op is not None and op.packet == "aten.add" and not op.kwargs and f.elements(value) is None:
        varying = [n for n in op.inputs if f.graph.varies(n)]
        if len(varying) != 1:
            return
        value, op = varying[0], f.graph.by_name.get(varying[0])
    labels = f.operand(value)
    if labels is not None:
        f.labels[mask] = labels.expand(f.graph.shape(mask) or ())


def _placed(f: Folder, op: Op, labels: Tensor) -> None:
    """Each unit of scores that are added (a table of relative positions) stands at its own pairs of places, in every head alike."""
    places = torch.arange(labels.shape[-2:].numel()).reshape(labels.shape[-2:]).expand(labels.shape)
    pairs, _ = distinct_pairs(*shrink(places, labels)[0])
    use = pairs[1] > PAD
    f.facts.marked.append((pairs[0][use].numpy(), pairs[1][use].numpy(), op.name))


def _per_head(f: Folder, labels: Tensor) -> Tensor:
    """Units [.., size] of each head; different tokens are identified."""
    first = labels[..., :1, :]
    if not bool((labels == first).all()):
        f.unite(first.expand_as(labels), labels)
    return first[..., 0, :]


def softmax(f: Folder, op: Op) -> None:
    """Along an axis of units they may be renumbered; along data every unit stays by itself."""
    labels = f.operand(op.inputs[0])
    f.freeze(labels, op.packet)
    outs = _alike(f, op, labels, labels.movedim(op.args[1], -1), lambda made: made.movedim(-1, op.args[1]))[1]
    f.kill(outs, op.packet)


def _alike(f: Folder, op: Op, labels: Tensor, rows: Tensor, back: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """New units without scales, one for each place of each distinct row; the units of a row are exchangeable, and so are the rows.
    (distinct rows, their new units), [rows, size] each."""
    (cut,), shape = shrink(rows)
    distinct, inverse = torch.unique(cut.reshape(-1, cut.shape[-1]), dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(distinct.numel())).reshape(distinct.shape)
    made = back(outs[inverse].reshape(cut.shape).expand(shape))
    f.labels[op.name] = made.expand(labels.shape)
    f.facts.fixed.append((f.units(outs), op.packet))
    if bool((distinct > PAD).all()):
        f.facts.alike.append(Alike(distinct.numpy(), outs.numpy(), op.name))
    tell_rows_apart(f, op, distinct, outs)
    return distinct, outs


def layer_norm(f: Folder, op: Op) -> None:
    """Core of layer_norm or rms_norm over the last axis."""
    labels = f.operand(op.inputs[0])
    centred = op.packet == "aten.layer_norm"
    dims = op.args[1]
    eps = float(argument(op, 4, "eps", 1e-5) if centred else argument(op, 3, "eps", None))
    if len(dims) != 1:
        f.freeze(labels, op.packet)
        f.labels[op.name] = f.fresh_like(labels.reshape(1, -1)).reshape(labels.shape)
        return f.freeze(f.labels[op.name], op.packet)
    (cut,), shape = shrink(labels)
    cut = cut.expand(*cut.shape[:-1], shape[-1])
    rows, inverse = torch.unique(cut.reshape(-1, shape[-1]), dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(rows.numel())).reshape(rows.shape)
    f.labels[op.name] = outs[inverse].reshape(cut.shape).expand(shape)
    f.facts.fixed.append((outs.reshape(-1).numpy(), op.packet))
    equal_scales(f, rows.T)
    tell_rows_apart(f, op, rows, outs)
    for vec, out in zip(rows.numpy(), outs.numpy(), strict=True):
        f.facts.norms.append(Norm(vec, out, centred, eps, op.name))
        if eps > 0:
            f.facts.fixed.append((vec, f"{op.packet} eps"))


def group_norm(f: Folder, op: Op) -> None:
    """Channels inside a group are alike, and the groups are. Each group is centred and brought to length, over all places together."""
    labels = f.operand(op.inputs[0])
    f.facts.fixed.append((f.units(labels), op.packet))
    channels, groups = labels.shape[1], op.args[1]
    units = f.vector(labels, 1)
    rows, outs = _alike(f, op, labels, units.reshape(groups, channels // groups),
                        lambda made: made.reshape(1, channels, *[1] * (labels.dim() - 2)))
    if not bool((rows > PAD).all()):
        f.kill(torch.cat([rows, outs]), op.packet)
        return
    eps = float(argument(op, 4, "eps", 1e-5))
    f.facts.norms += [Norm(vec, out, True, eps, op.name) for vec, out in zip(rows.numpy(), outs.numpy(), strict=True)]
