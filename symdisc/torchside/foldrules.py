"""What each kind of operator does to units. Rules read and write the labels of a ``Folder`` and append facts to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.spaces import PAD, DenseUse, Dual, GainUse, Norm, ShiftUse

if TYPE_CHECKING:
    from symdisc.torchside.fold import Folder

__all__ = ["RULES", "elementwise"]


def _name(arg: Any) -> str | None:
    return arg.name if isinstance(arg, Ref) else None


def _arg(op: Op, position: int, key: str, default: Any = None) -> Any:
    if len(op.args) > position:
        return op.args[position]
    return dict(op.kwargs).get(key, default)


def upsample(f: Folder, op: Op) -> None:
    """Interpolation over space: channels pass."""
    labels = f.operand(op.inputs[0])
    spatial = labels.dim() - 2
    flat = labels.flatten(-spatial)
    if not bool((flat == flat[..., :1]).all()):
        f.unite(flat[..., :1].expand_as(flat), flat)
    assert op.shape is not None
    f.labels[op.name] = flat[..., :1].reshape(*flat.shape[:-1], *([1] * spatial)).expand(op.shape)


def opaque(f: Folder, op: Op, why: str = "no rule") -> None:
    """Freeze everything that the operator touches and report it."""
    for name in op.inputs:
        if name in f.labels and isinstance(f.labels[name], Tensor):
            f.freeze(f.labels[name], op.packet)
    f.facts.opaque.append((op.packet, why))
    if op.shape is not None:
        units = torch.from_numpy(f.facts.fresh(1)).expand(op.shape)
        f.labels[op.name] = units
        f.freeze(units, op.packet)
    else:
        f.labels[op.name] = _Opaque(f, op)  # type: ignore[assignment]


class _Opaque:
    """Tuple-valued result of an unknown operator: each element is frozen when it is taken out."""

    def __init__(self, f: Folder, op: Op) -> None:
        self.f, self.op = f, op

    def __getitem__(self, i: int) -> Tensor:
        shape = next(u.shape for u in self.f.graph.users[self.op.name] if u.args[1] == i)
        units = torch.from_numpy(self.f.facts.fresh(1)).expand(shape or ())
        self.f.freeze(units, self.op.packet)
        return units


# --- weights ----------------------------------------------------------------------------------------------------------
def _bias(f: Folder, op: Op, bias: Any, units: np.ndarray) -> None:
    name = _name(bias)
    if name is None:
        return
    found = f.elements(name)
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
    x, weight, bias = op.args[0], op.args[1], _arg(op, 2, "bias")
    _dense(f, op, _name(x), _name(weight), bias, transposed=False)


def addmm(f: Folder, op: Op) -> None:
    bias, x, weight = op.args[:3]
    if f.graph.is_activation(_name(bias) or "") or _scaled(op):
        return opaque(f, op)
    _dense(f, op, _name(x), _name(weight), bias, transposed=True)


def _scaled(op: Op) -> bool:
    return any(v not in (1, 1.0) for k, v in op.kwargs if k in ("beta", "alpha"))


def _dense(f: Folder, op: Op, x: str | None, weight: str | None, bias: Any, transposed: bool) -> None:
    """y[.., o] = sum_i W[o, i] x[.., i] (+ b), W a parameter as stored or transposed."""
    graph = f.graph
    if x is None or weight is None:
        return opaque(f, op)
    if not graph.varies(weight):
        return _constant_map(f, op, x)
    if graph.is_activation(weight):
        return opaque(f, op)
    labels = f.operand(x)
    stored, flipped = _stored(f, weight)
    assert op.shape is not None
    outs = f.facts.fresh(op.shape[-1])
    f.labels[op.name] = torch.from_numpy(outs).expand(op.shape)
    ins = f.vector(labels, -1).numpy()
    _bias(f, op, bias, outs)
    if stored is None:
        f.freeze(torch.from_numpy(ins), "computed weight")
        f.freeze(torch.from_numpy(outs), "computed weight")
        return
    out_axis, in_axis = (1, 0) if transposed != flipped else (0, 1)
    f.facts.dense.append(DenseUse(graph.parameters[stored], op.name, op.module, out_axis, outs, in_axis, ins, op.name, x))


def _stored(f: Folder, weight: str) -> tuple[str | None, bool]:
    """The parameter behind a weight operand if it is stored as it is or as its transpose."""
    flipped = False
    while weight not in f.graph.parameters:
        op = f.graph.by_name[weight]
        if op.packet in ("aten.t", "aten.numpy_T") or (op.packet in ("aten.transpose", "aten.permute") and len(op.shape or ()) == 2
                                                       and f.graph.shape(op.inputs[0]) == tuple(reversed(op.shape or ()))
                                                       and _swaps(op)):
            flipped = not flipped
        elif op.packet not in ("aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten._to_copy"):
            return None, False
        weight = op.inputs[0]
    return weight, flipped


def _swaps(op: Op) -> bool:
    rest = [a for arg in op.args[1:] for a in (arg if isinstance(arg, tuple) else (arg,))]
    return [r % 2 for r in rest] in ([0, 1], [1, 0]) and (op.packet == "aten.transpose" or [r % 2 for r in rest] == [1, 0])


def _constant_map(f: Folder, op: Op, x: str, axis: int = -1) -> None:
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
    found = f.elements(_name(op.args[0]) or "")
    if f.graph.is_activation(_name(op.args[1]) or "") or found is None or (op.args[0].name not in f.graph.parameters):
        return opaque(f, op)
    parameter = found[0]
    assert op.shape is not None
    outs = f.facts.fresh(op.shape[-1])
    f.labels[op.name] = torch.from_numpy(outs).expand(op.shape)
    f.facts.dense.append(DenseUse(parameter, op.name, op.module, 1, outs, 0, None, op.name, ""))


def convolution(f: Folder, op: Op) -> None:
    """conv1d/2d/3d and their transposes: channels are units, space is data."""
    x, weight, bias = _name(op.args[0]), _name(op.args[1]), _arg(op, 2, "bias")
    transposed = "transpose" in op.packet
    groups = _arg(op, 6, "groups", 1) if not transposed else _arg(op, 6, "groups", 1)
    padding = _arg(op, 4, "padding", 0) if transposed else _arg(op, 4, "padding", 0)
    if weight not in f.graph.parameters or x is None or f.graph.is_activation(weight) or op.shape is None:
        return opaque(f, op)
    labels = f.operand(x)
    batched = 1 if len(op.shape) == len(f.graph.shapes[weight]) else 0
    ins = f.vector(labels, batched).numpy()
    outs = f.facts.fresh(op.shape[batched])
    view = [1] * len(op.shape)
    view[batched] = -1
    f.labels[op.name] = torch.from_numpy(outs).reshape(view).expand(op.shape)
    _bias(f, op, bias, outs)
    padded = padding not in (0, (0,), (0, 0), (0, 0, 0), "valid") or transposed
    shape = f.graph.shapes[weight]
    o, i = len(outs) // groups, len(ins) // groups
    for g in range(groups):
        rows = None if groups == 1 else ((g * i, (g + 1) * i) if transposed else (g * o, (g + 1) * o))
        f.facts.dense.append(DenseUse(f.graph.parameters[weight], op.name, op.module, 1 if transposed else 0,
                                      outs[g * o:(g + 1) * o], 0 if transposed else 1, ins[g * i:(g + 1) * i], op.name, x,
                                      rows, padded))
    assert shape


# --- sums, products -----------------------------------------------------------------------------------------------------
def add(f: Folder, op: Op) -> None:
    a, b = op.args[0], op.args[1]
    acts = [n for n in (_name(a), _name(b)) if n is not None and f.graph.is_activation(n)]
    if len(acts) == 2:
        _sum_of_two(f, op, acts[0], acts[1])
        return
    act = acts[0] if acts else None
    other = _name(b) if act == _name(a) else _name(a)
    if act is None:  # a parameter meets raw data
        return _parameter_meets_data(f, op)
    labels = f.operand(act).expand(op.shape)
    f.labels[op.name] = labels
    value = (b if act == _name(a) else a) if other is None else f.values.get(other)
    if other is not None and f.graph.varies(other):
        found = f.elements(other)
        if found is None or op.packet == "aten.rsub":
            return f.freeze(labels, "computed shift")
        parameter, index, _ = found
        _shift(f, op, parameter, index.expand(op.shape), labels)
    elif _is_zero(value):
        return
    elif other is not None and f.elements(other, buffers=True) is not None:
        parameter, index, _ = f.elements(other, buffers=True)  # type: ignore[misc]
        _shift(f, op, parameter, index.expand(op.shape), labels, buffer=True)
    else:
        f.freeze(labels, "constant added")


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool((value == 0).all())
    return value == 0 if isinstance(value, (int, float)) else False


def _sum_of_two(f: Folder, op: Op, a: str, b: str) -> None:
    la, lb = f.operand(a), f.operand(b)
    f.unite(la, lb)
    f.labels[op.name] = torch.maximum(*torch.broadcast_tensors(la, lb))
    mean = f.graph.by_name.get(b)
    if op.packet == "aten.sub" and mean is not None and mean.packet == "aten.mean" and mean.inputs == (a,):
        f.kill(la, "mean subtracted")


def _shift(f: Folder, op: Op, parameter: str, index: Tensor, labels: Tensor, buffer: bool = False) -> None:
    pairs = torch.unique(torch.stack([index.reshape(-1), labels.reshape(-1)]), dim=1)
    elements, units = pairs[0], pairs[1]
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
    index = index.expand(op.shape)
    units = f.fresh_like(index.reshape(1, -1)).reshape(op.shape)
    f.labels[op.name] = units
    flat, inverse = torch.unique(index, return_inverse=True)
    outs = torch.zeros(len(flat), dtype=torch.int64).scatter_(0, inverse.reshape(-1), units.reshape(-1))
    zero = np.zeros(len(flat), dtype=np.int64)
    f.facts.gains.append(GainUse(parameter, op.name, op.module, flat.numpy(), zero, outs.numpy(), op.name, "", offset))


def mul(f: Folder, op: Op) -> None:
    """Products: with a gain, a constant, raw data, or another activation."""
    a, b = op.args[0], op.args[1]
    names = [n for n in (_name(a), _name(b)) if n is not None]
    acts = [n for n in names if f.graph.is_activation(n)]
    divide = op.packet == "aten.div"
    if len(acts) == 2:
        return _product(f, op, acts[0], acts[1], -1.0 if divide else 1.0)
    if not acts:
        return _parameter_meets_data(f, op)
    act = acts[0]
    if divide and act == _name(b):
        return elementwise(f, op) if not f.graph.varies(_name(a) or "") else opaque(f, op)
    labels = f.operand(act).expand(op.shape)
    other = next((n for n in names if n != act), None)
    if other is not None and f.graph.varies(other):
        return _gain(f, op, act, other, labels, divide)
    if other is not None and not f.uniform(labels, other):
        f.facts.rotated.append(f.units(labels))
        buffer = f.elements(other, buffers=True)
        f.kill(labels, "constant factor per unit" if buffer is None else "running statistics")
    f.labels[op.name] = labels


def _gain(f: Folder, op: Op, act: str, other: str, labels: Tensor, divide: bool) -> None:
    found = f.elements(other)
    index = None if found is None else found[1].expand(op.shape)
    if found is None or divide or index is None:
        f.labels[op.name] = labels  # exp(temperature) and the like: passes on what acts equally on all units
        f.kill(labels, "computed factor")
        if not f.uniform(labels, other):
            f.freeze(labels, "computed factor")
        return
    pairs = torch.stack([labels.reshape(-1), index.reshape(-1)])
    distinct, inverse = torch.unique(pairs, dim=1, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(distinct.shape[1]))
    f.labels[op.name] = outs[inverse].reshape(labels.shape)
    f.facts.gains.append(GainUse(found[0], op.name, op.module, distinct[1].numpy(), distinct[0].numpy(), outs.numpy(),
                                 op.name, act, found[2]))


def _product(f: Folder, op: Op, a: str, b: str, sign: float) -> None:
    """Entrywise product of activations; a factor that is common to all units of the other lets them mix."""
    la, lb = torch.broadcast_tensors(f.operand(a), f.operand(b))
    stack = torch.stack([la.reshape(-1), lb.reshape(-1)])
    distinct, inverse = torch.unique(stack, dim=1, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(distinct.shape[1]))
    out = outs[inverse].reshape(la.shape)
    f.labels[op.name] = out
    f.facts.sums.append((outs.numpy(), distinct[0].numpy(), distinct[1].numpy(), sign))
    if a == b and _is_squared_norm(f, op):
        return
    for mine, other, power in ((a, b, 1.0), (b, a, sign)):
        carrier = f.operand(mine)
        axes = f.varying_axes(carrier)
        if not axes:
            continue
        if power == 1.0 and axes[-1] == carrier.dim() - 1 and _common(f, mine, other, out):
            pairs = torch.unique(torch.stack([carrier.expand(la.shape).reshape(-1, la.shape[-1]),
                                              out.reshape(-1, la.shape[-1])], 1), dim=0)
            f.facts.copies.append((pairs[:, 0].numpy(), pairs[:, 1].numpy()))
        else:
            f.kill(carrier, "product")
            f.kill(out, "product")


def _common(f: Folder, mine: str, other: str, out: Tensor) -> bool:
    """``other`` has size 1 along the axes where the units of ``mine`` vary."""
    lm, lo = f.operand(mine), f.operand(other)
    shape = (1,) * (out.dim() - lo.dim()) + tuple(lo.shape)
    axes = [a + out.dim() - lm.dim() for a in f.varying_axes(lm)]
    return all(shape[a] == 1 for a in axes)


def _is_squared_norm(f: Folder, op: Op) -> bool:
    """Every user sums the squares over the last axis, over all units of a vector: a norm, covariant under O(n)."""
    users = f.graph.users.get(op.name, ())
    labels = f.operand(op.inputs[0])
    if not users or not f.varying_axes(labels) or f.varying_axes(labels)[-1] != labels.dim() - 1:
        return False
    for user in users:
        dims = _arg(user, 1, "dim", ())
        dims = dims if isinstance(dims, tuple) else (dims,)
        if user.packet not in ("aten.mean", "aten.sum") or [d % labels.dim() for d in dims] != [labels.dim() - 1]:
            return False
    for vec in f.vectors(labels).numpy():
        f.facts.norms.append(Norm(vec, vec, False, 0.0, op.name))
    return True


def reduce(f: Folder, op: Op) -> None:
    """mean, sum, cumsum, pooling by averages: units along the reduced axes must agree, otherwise they are tied together."""
    labels = f.operand(op.inputs[0])
    dims = _arg(op, 1, "dim", None)
    if op.packet == "aten.cumsum":
        f.labels[op.name] = labels
        moved = labels.movedim(dims, -1)
        f.unite(moved[..., :1].expand_as(moved), moved)
        return
    dims = tuple(range(labels.dim())) if dims in (None, ()) else dims if isinstance(dims, tuple) else (dims,)
    keep = _arg(op, 2, "keepdim", False)
    dims = tuple(d % labels.dim() for d in dims)
    front = labels.movedim(dims, list(range(len(dims))))
    flat = front.reshape(-1, *front.shape[len(dims):])
    if not bool((flat == flat[:1]).all()):
        _equal_scales(f, flat)
        if not _inside_norm(f, op):
            f.kill(labels, "summed over units")
        flat = f.fresh_like(flat[:1]).unsqueeze(0)
        link = torch.stack([front.reshape(flat.shape[0] * 0 + front.reshape(-1, *flat.shape[1:]).shape[0], -1)[0], flat.reshape(-1)])
        f.facts.powers.append((link[0].numpy(), link[1].numpy(), 1.0))
    out = flat[0]
    if keep:
        for d in sorted(dims):
            out = out.unsqueeze(d)
    f.labels[op.name] = out


def _equal_scales(f: Folder, flat: Tensor) -> None:
    first = flat[:1].expand_as(flat)
    pairs = torch.unique(torch.stack([first.reshape(-1), flat.reshape(-1)]), dim=1)
    pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs.min(0).values > PAD)]
    if pairs.shape[1]:
        f.facts.powers.append((pairs[0].numpy(), pairs[1].numpy(), 1.0))


def _inside_norm(f: Folder, op: Op) -> bool:
    """The mean of squares inside a norm, or the mean that is subtracted from its own vector, was dealt with there."""
    made = f.graph.by_name.get(op.inputs[0])
    return made is not None and any(n.op == made.name for n in f.facts.norms)


def pool(f: Folder, op: Op) -> None:
    """Pooling over space: per channel. Maxima commute with positive scalings only, averages with everything."""
    labels = f.operand(op.inputs[0])
    spatial = {"1": 1, "2": 2, "3": 3}[op.packet.split("pool")[-1][0]]
    flat = labels.flatten(-spatial)
    if not bool((flat == flat[..., :1]).all()):
        f.unite(flat[..., :1].expand_as(flat), flat)
    if "max" in op.packet:
        f.kill(labels, op.packet)
    assert op.shape is not None
    f.labels[op.name] = flat[..., :1].reshape(*flat.shape[:-1], *([1] * spatial)).expand(op.shape)


def cat(f: Folder, op: Op) -> None:
    parts = [f.operand(a.name) for a in op.args[0]]
    if any(p is None for p in parts):
        return opaque(f, op)
    axis = _arg(op, 1, "dim", 0)
    f.labels[op.name] = torch.stack(parts, axis) if op.packet == "aten.stack" else torch.cat(parts, axis)


def where(f: Folder, op: Op) -> None:
    """Selection by a mask of data; the branches share their units."""
    if f.graph.is_activation(_name(op.args[0]) or ""):
        return opaque(f, op)
    parts = [f.operand(a.name) for a in op.args[1:] if isinstance(a, Ref) and f.graph.varies(a.name)]
    if len(parts) == 2:
        f.unite(parts[0], parts[1])
    if any(p is None for p in parts):
        return opaque(f, op)
    f.labels[op.name] = parts[0].expand(op.shape)
    fixed = [a for a in op.args[1:] if not (isinstance(a, Ref) and f.graph.varies(a.name))]
    if any(not _is_zero(f.values.get(a.name) if isinstance(a, Ref) else a) for a in fixed):
        f.freeze(parts[0], "where")


# --- attention, norms -----------------------------------------------------------------------------------------------------
def matmul(f: Folder, op: Op) -> None:
    a, b = _name(op.args[0]), _name(op.args[1])
    assert a is not None and b is not None
    acts = [f.graph.is_activation(n) for n in (a, b)]
    if acts == [True, False] and f.graph.varies(b) and len(f.graph.shape(b) or ()) == 2:
        return _dense(f, op, a, b, None, transposed=True)
    if acts == [True, False] and not f.graph.varies(b):
        return _constant_map(f, op, a)
    if acts == [False, True] and not f.graph.varies(a):
        return _constant_map(f, op, b, -2)
    la, lb = f.operand(a), f.operand(b)
    if acts == [True, True] and la.dim() >= 2 and lb.dim() >= 2:
        return contract(f, op, la, lb)
    if acts == [False, False] and f.graph.varies(b) and len(f.graph.shape(b) or ()) == 2 and not f.graph.varies(a):
        return _dense(f, op, a, b, None, transposed=True)
    opaque(f, op)


def contract(f: Folder, op: Op, la: Tensor, lb: Tensor) -> None:
    """c[.., m, n] = sum_k a[.., m, k] b[.., k, n] between activations."""
    lead = torch.broadcast_shapes(la.shape[:-2], lb.shape[:-2])
    la, lb = la.expand(*lead, *la.shape[-2:]), lb.expand(*lead, *lb.shape[-2:])
    lbt = lb.transpose(-1, -2)
    rows, cols = la[..., :1], lb[..., :1, :]
    if bool((la == rows).all()) and bool((lb == cols).all()):  # summed over data
        shape = (*lead, la.shape[-2], lb.shape[-1])
        return _outer(f, op, rows.expand(shape), cols.expand(shape))
    if bool((la == rows).all()):  # weights times vectors whose units vary along the sum
        f.freeze(la, op.packet)
        return opaque(f, op)
    same_a = bool((la == la[..., :1, :]).all())
    same_b = bool((lbt == lbt[..., :1, :]).all())
    if not (same_a and same_b):
        return opaque(f, op)
    va, vb = la[..., 0, :], lbt[..., 0, :]
    pair_vectors(f, op, va, vb, (*lead, la.shape[-2], lb.shape[-1]))


def _outer(f: Folder, op: Op, la: Tensor, lb: Tensor) -> None:
    """Sum over data: the units of both factors multiply; probabilities (one unit) let the other side mix."""
    stack = torch.stack([la.reshape(-1), lb.reshape(-1)])
    distinct, inverse = torch.unique(stack, dim=1, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(distinct.shape[1]))
    out = outs[inverse].reshape(la.shape)
    f.labels[op.name] = out
    f.facts.sums.append((outs.numpy(), distinct[0].numpy(), distinct[1].numpy(), 1.0))
    varies_a, varies_b = f.varying_axes(la), f.varying_axes(lb)
    if out.dim() - 2 not in varies_a:
        f.facts.copies.append((f.vectors(lb).numpy(), f.vectors(out).numpy()))
    else:
        f.kill(la, op.packet)
        f.kill(lb, op.packet)
        f.kill(out, op.packet)
    assert varies_a is not None and varies_b is not None


def pair_vectors(f: Folder, op: Op, va: Tensor, vb: Tensor, shape: tuple[int, ...]) -> None:
    """Contraction over units: the two vectors are dual to each other; the result is one number per pair."""
    va, vb = torch.broadcast_tensors(va, vb)
    both = torch.unique(torch.stack([va.reshape(-1, va.shape[-1]), vb.reshape(-1, vb.shape[-1])], 1), dim=0)
    f.facts.duals.append(Dual(both[:, 0].numpy(), both[:, 1].numpy(), op.name))
    rows = torch.stack([va.reshape(-1, va.shape[-1]), vb.reshape(-1, vb.shape[-1])], 1).flatten(1)
    _, inverse = torch.unique(rows, dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(int(inverse.max()) + 1))
    lead = va.shape[:-1]
    f.labels[op.name] = outs[inverse].reshape(*lead, 1, 1).expand(shape)
    out = outs[inverse].reshape(-1, 1).expand(-1, va.shape[-1])
    f.facts.sums.append((out.reshape(-1).numpy(), va.reshape(-1).numpy(), vb.reshape(-1).numpy(), 1.0))


def attention(f: Folder, op: Op) -> None:
    """softmax(q k^T + mask) v with heads in the leading axes."""
    q, k, v = (f.operand(a.name) for a in op.args[:3])
    mask = _name(_arg(op, 3, "attn_mask"))
    if mask is not None and mask in f.labels:
        f.freeze(f.labels[mask], op.packet)
    if any(t is None for t in (q, k, v)):
        return opaque(f, op)
    if q.shape[-3] != k.shape[-3]:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    rows = [_per_head(f, t) for t in (q, k, v)]
    pair_vectors(f, op, rows[0], rows[1], (*rows[0].shape[:-1], 1, 1))
    scores = f.labels[op.name]
    f.facts.fixed.append((f.units(scores), "softmax"))
    heads = f.vectors(rows[2]).numpy()
    f.facts.copies.append((heads, heads))  # each head's values pass on their own
    f.labels[op.name] = rows[2].unsqueeze(-2).expand(op.shape)


def _per_head(f: Folder, labels: Tensor) -> Tensor:
    """Units [.., size] of each head; different tokens are identified."""
    first = labels[..., :1, :]
    if not bool((labels == first).all()):
        f.unite(first.expand_as(labels), labels)
    return first[..., 0, :]


def softmax(f: Folder, op: Op) -> None:
    labels = f.operand(op.inputs[0])
    f.freeze(labels, op.packet)
    f.labels[op.name] = torch.from_numpy(f.facts.fresh(1)).expand(labels.shape)
    f.freeze(f.labels[op.name], op.packet)


def layer_norm(f: Folder, op: Op) -> None:
    """Core of layer_norm or rms_norm over the last axis."""
    labels = f.operand(op.inputs[0])
    centred = op.packet == "aten.layer_norm"
    dims = op.args[1]
    eps = (_arg(op, 4, "eps", 1e-5) if centred else _arg(op, 3, "eps", None))
    if len(dims) != 1:
        f.freeze(labels, op.packet)
        f.labels[op.name] = f.fresh_like(labels.reshape(1, -1)).reshape(labels.shape)
        return f.freeze(f.labels[op.name], op.packet)
    rows, inverse = torch.unique(labels.reshape(-1, labels.shape[-1]), dim=0, return_inverse=True)
    outs = torch.from_numpy(f.facts.fresh(rows.numel())).reshape(rows.shape)
    f.labels[op.name] = outs[inverse].reshape(labels.shape)
    f.facts.fixed.append((outs.reshape(-1).numpy(), op.packet))
    _equal_scales(f, rows.T)
    for vec, out in zip(rows.numpy(), outs.numpy(), strict=True):
        f.facts.norms.append(Norm(vec, out, centred, 1e-6 if eps is None else float(eps), op.name))
        if eps is None or eps > 0:
            f.facts.fixed.append((vec, f"{op.packet} eps"))


def group_norm(f: Folder, op: Op) -> None:
    labels = f.operand(op.inputs[0])
    f.freeze(labels, op.packet)
    f.labels[op.name] = f.fresh_like(labels.reshape(1, -1)).reshape(labels.shape)
    f.freeze(f.labels[op.name], op.packet)


def maximum(f: Folder, op: Op) -> None:
    names = [_name(a) for a in op.args[:2]]
    parts = [f.operand(n) for n in names if n is not None and f.graph.varies(n)]
    if len(parts) < 2 or any(p is None for p in parts):
        return opaque(f, op)
    f.unite(parts[0], parts[1])
    f.labels[op.name] = torch.maximum(*torch.broadcast_tensors(*parts))
    f.kill(f.labels[op.name], op.packet)


# --- everything else: elementwise, found by probing ---------------------------------------------------------------------------
def elementwise(f: Folder, op: Op) -> None:
    """One activation in, same shape out, acting on each entry: its degree of homogeneity is found by probing."""
    acts = [n for n in dict.fromkeys(op.inputs) if f.graph.varies(n)]
    if len(acts) != 1 or not f.graph.is_activation(acts[0]) or op.shape != f.graph.shape(acts[0]):
        return opaque(f, op)
    others = [n for n in op.inputs if n != acts[0]]
    degree = None if others else _degree(op.target, _frozen(op, acts[0]))
    if degree is None and (others or not _is_elementwise(op.target, _frozen(op, acts[0]))):
        return opaque(f, op)
    labels = f.operand(acts[0])
    ins = torch.unique(labels)
    ins = ins[ins > PAD]
    outs = torch.from_numpy(f.facts.fresh(len(ins)))
    index = torch.searchsorted(ins, labels.clamp(min=0)).clamp(max=max(len(ins) - 1, 0))
    f.labels[op.name] = torch.where(labels > PAD, outs[index], labels)
    f.facts.elementwise.append((ins.numpy(), outs.numpy(), op.name))
    if degree == 2.0 and _is_squared_norm(f, op):
        f.facts.powers.append((ins.numpy(), outs.numpy(), 2.0))
        return
    f.facts.killed.append((ins.numpy(), op.packet))
    f.facts.killed.append((outs.numpy(), op.packet))
    if degree is None:
        f.facts.fixed.append((ins.numpy(), op.packet))
        f.facts.fixed.append((outs.numpy(), op.packet))
    else:
        f.facts.powers.append((ins.numpy(), outs.numpy(), degree))


def _frozen(op: Op, act: str) -> tuple[Any, ...]:
    """The other arguments, with the activation marked; hashable."""
    args = tuple("@" if isinstance(a, Ref) and a.name == act else a for a in op.args)
    return (args, op.kwargs)


def _function(target: str, frozen: tuple[Any, ...]) -> Callable[[Tensor], Tensor]:
    from symdisc.torchside.interpret import call

    args = tuple(Ref("@") if isinstance(a, str) and a == "@" else a for a in frozen[0])
    op = Op("out", target, args, frozen[1])
    return lambda x: call(op, {"@": x}, torch.float64)


@lru_cache(maxsize=512)
def _degree(target: str, frozen: tuple[Any, ...]) -> float | None:
    """p with f(c x) = c^p f(x) for all c > 0, or None. Probed at finite c on both half-lines."""
    if not _is_elementwise(target, frozen):
        return None
    f = _function(target, frozen)
    x = torch.tensor([-7.3, -2.1, -0.6, -0.05, 0.03, 0.4, 1.7, 5.9], dtype=torch.float64)
    y = f(x)
    y = torch.where(torch.isfinite(y), y, torch.zeros_like(y))
    if not bool((y != 0).any()):
        return None
    degrees = []
    for c in (0.37, 2.9):
        z = f(c * x)
        z = torch.where(torch.isfinite(z), z, torch.zeros_like(z))
        use = y.abs() > 0
        if bool((z[~use] != 0).any()) or bool((z[use] / y[use] <= 0).any()):
            return None
        degrees.append(torch.log(z[use] / y[use]) / np.log(c))
    p = torch.cat(degrees)
    return round(float(p.mean()), 9) if float(p.max() - p.min()) < 1e-9 else None


@lru_cache(maxsize=512)
def _is_elementwise(target: str, frozen: tuple[Any, ...]) -> bool:
    """Changing one entry of the input changes that entry of the output alone, and equal entries map equally."""
    f = _function(target, frozen)
    x = torch.linspace(0.1, 2.0, 24, dtype=torch.float64).reshape(2, 3, 4)
    try:
        base = f(x)
        moved = x.clone()
        moved[1, 2, 1] += 0.3
        changed = (f(moved) - base).abs() > 1e-12
        flipped = f(x.flip(0, 1, 2)).flip(0, 1, 2)
    except Exception:  # the operator refuses this shape, so it is not elementwise
        return False
    if not isinstance(base, Tensor) or base.shape != x.shape or not base.is_floating_point():
        return False
    changed[1, 2, 1] = False
    return not bool(changed.any()) and bool(((flipped - base).abs() < 1e-12).all())


def _aten(rule: Callable[..., None], *names: str) -> dict[str, Callable[..., None]]:
    return {f"aten.{n}": rule for n in names}


RULES: dict[str, Callable[..., None]] = {
    **_aten(linear, "linear"), **_aten(addmm, "addmm"), **_aten(embedding, "embedding"),
    **_aten(convolution, "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **_aten(add, "add", "sub", "rsub"), **_aten(mul, "mul", "div"), **_aten(matmul, "matmul", "bmm", "mm"),
    **_aten(reduce, "mean", "sum", "cumsum"), **_aten(cat, "cat", "stack"), **_aten(where, "where"),
    **_aten(pool, "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
            "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    **_aten(upsample, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d",
            "upsample_bicubic2d", "upsample_trilinear3d"),
    **_aten(attention, "scaled_dot_product_attention"), **_aten(softmax, "softmax", "_softmax", "log_softmax"),
    **_aten(layer_norm, "layer_norm", "rms_norm"), **_aten(group_norm, "group_norm"), **_aten(maximum, "maximum", "minimum"),
}
