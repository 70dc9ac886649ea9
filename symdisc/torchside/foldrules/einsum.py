"""Contractions written with letters, and weights stacked along an axis (experts): one dense use for each entry of that axis."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse
from symdisc.torchside.foldrules.attention import contract
from symdisc.torchside.foldrules.common import opaque
from symdisc.torchside.foldrules.copies import places as places_of
from symdisc.torchside.foldrules.factors import own_places
from symdisc.torchside.foldrules.sums import multiply, total

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["einsum", "stacked_matmul"]


def einsum(f: Folder, op: Op) -> None:
    """One stored weight with activations, or two activations; anything else is opaque."""
    equation = str(op.args[0]).replace(" ", "")
    names = [a.name for a in op.args[1] if isinstance(a, Ref)]
    if "->" not in equation or "." in equation or op.shape is None:
        return opaque(f, op)
    terms, out = equation.split("->")
    letters = dict(zip(names, terms.split(","), strict=False))
    weights = [n for n in names if f.graph.varies(n) and not f.moves(n)]
    acts = [n for n in names if n not in weights]
    if len(letters) != len(names) or any(len(set(t)) < len(t) for t in letters.values()):
        return opaque(f, op)
    if len(weights) == 1 and acts and all(f.operand(n) is not None for n in acts):
        found = _weighted(f, op, weights[0], acts, letters, out)
    else:
        found = not weights and len(acts) == 2 and _contracted(f, op, acts, letters, out)
    if not found:
        opaque(f, op)


def stacked_matmul(f: Folder, op: Op, act: str, weight: str) -> bool:
    """x[e, m, i] W[e, i, o] with one stored weight per entry of e."""
    stored = _stored(f, weight, "eio")
    labels = f.operand(act)
    if stored is None or labels.dim() != 3 or labels.shape[0] != (f.graph.shape(weight) or (0,))[0]:
        return False
    found = _dense(f, op, *stored, "emi", labels, frozenset("emo"), act)
    if found is not None:
        f.labels[op.name] = _ordered(found[0], found[1], "emo")
    return found is not None


def _weighted(f: Folder, op: Op, weight: str, acts: list[str], letters: dict[str, str], out: str) -> bool:
    """The weight meets the activation with which it shares most; the others multiply, and what is left is summed."""
    stored = _stored(f, weight, letters[weight])
    if stored is None:
        return False
    first, *others = sorted(acts, key=lambda n: -len(set(letters[n]) & set(letters[weight])))
    keep = frozenset(out).union(*(letters[n] for n in others))
    found = _dense(f, op, *stored, letters[first], f.operand(first), keep, first)
    if found is None:
        return False
    have, labels = found
    for n in others:
        union = have + "".join(c for c in letters[n] if c not in have)
        labels, other = _aligned(have, labels, union), _aligned(letters[n], f.operand(n), union)
        labels = multiply(f, op, labels, other, places=(partial(own_places, labels), partial(_places, f, n, letters[n], union)))
        have = union
    summed = tuple(k for k, c in enumerate(have) if c not in out)
    if summed:
        labels, have = total(f, op, labels, summed), "".join(c for c in have if c in out)
    if set(have) != set(out):
        return False
    f.labels[op.name] = _ordered(have, labels, out)
    return True


def _stored(f: Folder, weight: str, letters: str) -> tuple[str, str] | None:
    """(parameter, letters in the order in which it is stored) for a weight that is stored whole, axes in any order."""
    found = f.elements(weight)
    if found is None or found[2] or not 2 <= len(letters) <= 3:
        return None
    parameter, index, _ = found
    shape = f.graph.shapes[f.value_of(parameter)]
    if len(shape) != len(letters):
        return None
    whole = torch.arange(index.numel()).reshape(shape) if index.numel() == torch.Size(shape).numel() else None
    for order in itertools.permutations(range(len(letters))) if whole is not None else ():
        turned = whole.permute(order)  # type: ignore[union-attr]
        if turned.shape == index.shape and torch.equal(turned, index):
            return parameter, "".join(letters[order.index(k)] for k in range(len(letters)))
    return None


def _dense(f: Folder, op: Op, parameter: str, stored: str, have: str, labels: Tensor, keep: frozenset[str],
           source: str) -> tuple[str, Tensor] | None:
    """(letters, units) of the contraction of a weight with one activation over the letters that nobody else needs."""
    lead, pair = (stored[0], stored[1:]) if len(stored) == 3 else ("", stored)
    inner = [c for c in pair if c in have and c not in keep]
    outer = [c for c in pair if c not in have and c in keep]
    if len(inner) != 1 or len(outer) != 1 or (lead and lead not in have and lead not in keep):
        return None
    i, o = inner[0], outer[0]
    shape = dict(zip(stored, f.graph.shapes[f.value_of(parameter)], strict=True))
    summed = lead in have and lead not in keep
    shared = f.facts.fresh(shape[o])
    made = []
    for e in range(shape.get(lead, 1)):
        part, letters = (labels.select(have.index(lead), e), have.replace(lead, "")) if lead and lead in have else (labels, have)
        outs = shared if summed or e == 0 else f.facts.fresh(shape[o])
        made.append(torch.from_numpy(outs))
        f.facts.dense.append(DenseUse(parameter, op.name, op.module, stored.index(o), outs, stored.index(i),
                                      f.vector(part, letters.index(i)).numpy(), op.name, source,
                                      (e, e + 1) if lead else None))
    rest = "".join(c for c in have if c not in (i, lead))
    sizes = [labels.shape[have.index(c)] for c in rest]
    if lead and not summed:
        grid = torch.stack(made).reshape(len(made), *[1] * len(rest), -1)
        return lead + rest + o, grid.expand(len(made), *sizes, -1)
    return rest + o, made[0].reshape(*[1] * len(rest), -1).expand(*sizes, -1)


def _contracted(f: Folder, op: Op, acts: list[str], letters: dict[str, str], out: str) -> bool:
    """Two activations contracted over one letter: a matrix product, the axes laid out anew."""
    a, b = (letters[n] for n in acts)
    inner = [c for c in a if c in b and c not in out]
    batch = "".join(c for c in a if c in b and c in out)
    rows, cols = ("".join(c for c in x if c not in y) for x, y in ((a, b), (b, a)))
    if len(inner) != 1 or set(out) != set(batch + rows + cols):
        return False
    if bool(rows) != bool(cols):  # one factor is common to the other's units: experts weighed by their gates
        union = batch + inner[0] + rows + cols
        left, right = (_aligned(letters[n], f.operand(n), union) for n in acts)
        first, second = (partial(_places, f, n, letters[n], union) for n in acts)
        made = total(f, op, multiply(f, op, left, right, places=(first, second)), (len(batch),))
        f.labels[op.name] = _ordered(batch + rows + cols, made, out)
        return True
    left = _ordered(a, f.operand(acts[0]), batch + rows + inner[0])
    right = _ordered(b, f.operand(acts[1]), batch + inner[0] + cols)
    lead = left.shape[:len(batch)]
    left, right = left.reshape(*lead, -1, left.shape[-1]), right.reshape(*lead, right.shape[len(batch)], -1)
    refused = len(f.facts.opaque)
    where = (lambda: _ordered(a, places_of(f, acts[0]), batch + rows + inner[0]).reshape(left.shape),
             lambda: _ordered(b, places_of(f, acts[1]), batch + inner[0] + cols).reshape(right.shape))
    contract(f, op, left, right, where)
    if len(f.facts.opaque) > refused:
        return True  # told already, and every unit frozen
    size = {c: f.operand(n).shape[letters[n].index(c)] for n in acts for c in letters[n]}
    made = f.labels[op.name]
    if made.shape != op.shape:
        made = made.reshape(*lead, *(size[c] for c in rows + cols)) if made.dim() == len(lead) + 2 else made
    f.labels[op.name] = _ordered(batch + rows + cols, made, out)
    return True


def _places(f: Folder, name: str, have: str, wanted: str) -> Tensor:
    return _aligned(have, places_of(f, name), wanted)


def _ordered(have: str, labels: Tensor, wanted: str) -> Tensor:
    return labels.permute([have.index(c) for c in wanted])


def _aligned(have: str, labels: Tensor, wanted: str) -> Tensor:
    """The axes in the order ``wanted``, of size 1 where there is none."""
    turned = _ordered(have, labels, "".join(c for c in wanted if c in have))
    for k, c in enumerate(wanted):
        turned = turned if c in have else turned.unsqueeze(k)
    return turned
