"""Weights that map units to units: linear layers, embeddings, convolutions, their biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from symdisc.opgraph import Op
from symdisc.spaces import PAD, DenseUse, ShiftUse
from symdisc.torchside.foldrules.common import argument, opaque, ref_name

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["addmm", "constant_map", "convolution", "dense", "embedding", "linear"]


def _bias(f: Folder, op: Op, bias: Any, units: np.ndarray) -> None:
    name = ref_name(bias)
    if name is None:
        return
    found = f.elements(name)
    joined = f.graph.by_name.get(name)
    if found is None and joined is not None and joined.packet == "aten.cat" and len(joined.shape or ()) == 1:
        for part in joined.args[0]:  # queries and values have biases of their own, keys none
            length = (f.graph.shape(part.name) or (0,))[0]
            _bias(f, op, part, units[:length])
            units = units[length:]
        return
    if found is None:
        if f.graph.varies(name):
            f.facts.fixed.append((units, "computed bias"))
            f.facts.killed.append((units, "computed bias"))
        elif f.values.get(name) is None or bool((f.values[name] != 0).any()):
            f.facts.fixed.append((units, "constant bias"))
            f.facts.killed.append((units, "constant bias"))
        return
    parameter, index, _ = found
    f.facts.shifts.append(ShiftUse(parameter, op.name, op.module, 0, index.reshape(-1).numpy(), units, op.name))


def linear(f: Folder, op: Op) -> None:
    x, weight, bias = op.args[0], op.args[1], argument(op, 2, "bias")
    dense(f, op, ref_name(x), ref_name(weight), bias, transposed=False)


def addmm(f: Folder, op: Op) -> None:
    bias, x, weight = op.args[:3]
    if f.graph.is_activation(ref_name(bias) or "") or _scaled(op):
        return opaque(f, op)
    dense(f, op, ref_name(x), ref_name(weight), bias, transposed=True)


def _scaled(op: Op) -> bool:
    return any(v not in (1, 1.0) for k, v in op.kwargs if k in ("beta", "alpha"))


def dense(f: Folder, op: Op, x: str | None, weight: str | None, bias: Any, transposed: bool, axis: int = -1) -> None:
    """y[.., o] = sum_i W[o, i] x[.., i] (+ b), W a parameter as stored or transposed; the units lie along ``axis``."""
    graph = f.graph
    if x is None or weight is None:
        return opaque(f, op)
    if not graph.varies(weight):
        return constant_map(f, op, x, axis)
    if graph.is_activation(weight):
        return opaque(f, op)
    labels = f.operand(x)
    stored, flipped = _stored(f, weight)
    assert op.shape is not None
    outs = f.facts.fresh(op.shape[axis])
    f.labels[op.name] = torch.from_numpy(outs).reshape(-1, *[1] * (-1 - axis)).expand(op.shape)
    ins = f.vector(labels, axis).numpy()
    _bias(f, op, bias, outs)
    if stored is not None and bool((ins == PAD).all()):
        f.facts.void.add((graph.parameters[stored], op.name))  # a zero state: the weight does nothing here
        return
    part = _rows(f, weight) if stored is None and not transposed else None
    if part is not None:
        f.facts.dense.append(DenseUse(part[0], op.name, op.module, 0, outs, 1, ins, op.name, x, part[1]))
        return
    if stored is None:
        seen = [f.labels[weight]] if isinstance(f.labels.get(weight), torch.Tensor) else []
        for units in (torch.from_numpy(ins), torch.from_numpy(outs), *seen):
            f.freeze(units, "computed weight")
            f.facts.rigid.append(f.units(units))
        return
    out_axis, in_axis = (1, 0) if transposed != flipped else (0, 1)
    f.facts.dense.append(DenseUse(graph.parameters[stored], op.name, op.module, out_axis, outs, in_axis, ins, op.name,
                                  x))


def _stored(f: Folder, weight: str) -> tuple[str | None, bool]:
    """The parameter behind a weight operand if it is stored as it is or as its transpose."""
    flipped = False
    while weight not in f.graph.parameters:
        op = f.graph.by_name[weight]
        turned = f.graph.shape(op.inputs[0]) == tuple(reversed(op.shape or ())) and len(op.shape or ()) == 2
        if op.packet in ("aten.t", "aten.numpy_T") or (turned and _swaps(op)):
            flipped = not flipped
        elif op.packet not in ("aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten._to_copy"):
            return None, False
        weight = op.inputs[0]
    return weight, flipped


def _rows(f: Folder, weight: str) -> tuple[str, tuple[int, int]] | None:
    """(parameter, first row and last + 1) of a weight that is some rows of a stored one: queries apart from keys and values."""
    found = f.elements(weight)
    if found is None or found[2] or found[1].dim() != 2:
        return None
    parameter, index, _ = found
    shape = f.graph.shapes[f.value_of(parameter)]
    first = int(index[0, 0]) // shape[-1]
    same = len(shape) == 2 and index.shape[1] == shape[1] and torch.equal(
        index, torch.arange(first * shape[1], (first + len(index)) * shape[1]).reshape(index.shape))
    return (parameter, (first, first + len(index))) if same else None


def _whole(f: Folder, weight: str) -> str | None:
    """The parameter behind a kernel that is used as it is stored: an axis of length 1 may have been taken out and put back."""
    found = f.elements(weight)
    if found is None or found[2]:
        return None
    parameter, index, _ = found
    shape = f.graph.shapes[f.value_of(parameter)]
    same = tuple(index.shape) == shape and bool((index.reshape(-1) == torch.arange(index.numel())).all())
    return parameter if same else None


def _swaps(op: Op) -> bool:
    if op.packet not in ("aten.transpose", "aten.permute"):
        return False
    rest = [a % 2 for arg in op.args[1:] for a in (arg if isinstance(arg, tuple) else (arg,))]
    return rest == [1, 0] or (op.packet == "aten.transpose" and rest == [0, 1])


def constant_map(f: Folder, op: Op, x: str, axis: int = -1) -> None:
    """A fixed matrix acts on an axis: the units along it are identified (an axis of data stays as it is)."""
    labels = f.operand(x)
    moved = labels.movedim(axis, -1)
    same = moved[..., :1]
    if bool((moved == same).all()):
        f.labels[op.name] = same.expand(*moved.shape[:-1], op.shape[axis]).movedim(-1, axis)  # type: ignore[index]
        return
    f.freeze(labels, op.packet)
    f.labels[op.name] = torch.full(op.shape or (), int(labels.max()))


def embedding(f: Folder, op: Op) -> None:
    parameter = f.graph.parameters.get(ref_name(op.args[0]) or "")
    if f.graph.is_activation(ref_name(op.args[1]) or "") or parameter is None:
        return opaque(f, op)
    assert op.shape is not None
    outs = f.facts.fresh(op.shape[-1])
    f.labels[op.name] = torch.from_numpy(outs).expand(op.shape)
    f.facts.dense.append(DenseUse(parameter, op.name, op.module, 1, outs, 0, None, op.name, ""))


def convolution(f: Folder, op: Op) -> None:
    """conv1d/2d/3d and their transposes: channels are units, space is data."""
    x, weight, bias = ref_name(op.args[0]), ref_name(op.args[1]), argument(op, 2, "bias")
    transposed = "transpose" in op.packet
    groups, padding = argument(op, 6, "groups", 1), argument(op, 4, "padding", 0)
    if weight is None or x is None or f.graph.is_activation(weight) or op.shape is None:
        return opaque(f, op)
    parameter = _whole(f, weight)
    if parameter is None:
        return opaque(f, op)
    labels = f.operand(x)
    batched = 1 if len(op.shape) == len(f.graph.shapes[f.value_of(parameter)]) else 0
    ins = f.vector(labels, batched).numpy()
    outs = f.facts.fresh(op.shape[batched])
    view = [1] * len(op.shape)
    view[batched] = -1
    f.labels[op.name] = torch.from_numpy(outs).reshape(view).expand(op.shape)
    _bias(f, op, bias, outs)
    padded = padding not in (0, (0,), (0, 0), (0, 0, 0), "valid") or transposed
    o, i = len(outs) // groups, len(ins) // groups
    for g in range(groups):
        rows = None if groups == 1 else ((g * i, (g + 1) * i) if transposed else (g * o, (g + 1) * o))
        f.facts.dense.append(DenseUse(parameter, op.name, op.module, int(transposed),
                                      outs[g * o:(g + 1) * o], int(not transposed), ins[g * i:(g + 1) * i], op.name, x,
                                      rows, padded))
