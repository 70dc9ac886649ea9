"""Run moves on tensors: the kernels that transform real weights, in the weight's dtype, on its device.

Matrices and scales are made in float64 and cast once; low-precision weights (bfloat16, float16) are transformed in float32
and cast back once. An element given as a tensor is differentiated through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from symdisc import normed
from symdisc.complement import complement, unseen
from symdisc.curves import curve
from symdisc.isospectral import matrix, moved
from symdisc.moves import Chart, Move, Through
from symdisc.torchside.operands import Array, along, compute, inverse_gain, positions, tensor, wide
from symdisc.torchside.shears import shear, shear_bias

__all__ = ["inverse_array", "run_moves"]

def run_moves(moves: tuple[Move, ...], array: Array, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New tensors for the parameters that a factor changes; all moves read ``state`` as it is."""
    changed: dict[str, Tensor] = {}
    for move in moves:
        before = changed.get(move.parameter, state[move.parameter])
        changed[move.parameter] = _run(move, array, before, state)
    return changed



def _run(move: Move, array: Array, before: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    work = compute(before).clone(memory_format=torch.contiguous_format)
    if move.views:
        state, work = move.viewed(state), move.viewed({move.parameter: work})[move.parameter]
    flat = work.reshape(-1) if move.axis == -1 else work
    axis = 0 if move.axis == -1 else move.axis
    view = flat if move.rows is None else flat[move.rows[0]:move.rows[1]]
    result = _KERNELS[move.kind](move, array, view, axis, state)
    if move.rows is not None:
        flat[move.rows[0]:move.rows[1]] = result
        result = flat
    return result.reshape(before.shape).to(before.dtype)




def _dual(array: Array) -> Array:
    """g^-T"""
    return torch.linalg.inv(array).mT if isinstance(array, Tensor) else np.swapaxes(np.linalg.inv(array), -1, -2)



def _matmul(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    g = tensor(array if move.rep == "g" else _dual(array), x)
    index = positions(move, x)
    moved = x.movedim(axis, 0)
    for copy in index:
        part = moved[copy.reshape(-1)].reshape(*copy.shape, -1)
        if move.gain is not None:
            d = (compute(state[move.gain]).to(x.dtype).reshape(-1) + move.offset)[copy] ** move.gain_power
            part = d[..., None] * torch.einsum("bij,bjr->bir", g, part / d[..., None])
        else:
            part = torch.einsum("bij,bjr->bir", g, part)
        moved[copy.reshape(-1)] = part.reshape(copy.numel(), *moved.shape[1:])
    return moved.movedim(0, axis)


def _plane(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    g, side = tensor(array, x), 0 if move.rep == "first" else 1
    places = positions(move, x).reshape(-1)
    mine, other = x.movedim(axis, 0), compute(state[move.extra[0]]).to(x.dtype).movedim(axis, 0)[places]
    own, across = (along(g[:, side, k], mine, 0) for k in (side, 1 - side))
    mine[places] = own * mine[places] + move.power * across * other
    return mine.movedim(0, axis)



def _factors(move: Move, array: Array, x: Tensor, axis: int) -> Tensor:
    full = torch.ones(x.shape[axis], dtype=x.dtype, device=x.device)
    index = positions(move, x)
    base = wide(array)
    whole = move.power == int(move.power)
    scale = tensor((base if whole else base.abs() if isinstance(base, Tensor) else np.abs(base)) ** move.power, x)
    for copy in index:
        full[copy[:, 0]] = scale
    return along(full, x, axis)


def _scale(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    return x * _factors(move, array, x, axis)


def _parity(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    return x * _factors(move, 1.0 - 2.0 * (np.asarray(array) % 2), x, axis)


def _log_scale(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    return x + torch.log(_factors(replace(move, power=1.0), array, x, axis)) * move.power


def _curved_scale(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    found = curve(move.rep)
    assert found is not None
    return found.scaled(x, _factors(move, array, x, axis))  # type: ignore[no-any-return]


def _normed_scale(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    factor = _double(array, x) ** move.power
    return normed.Ball(move.offset, move.rep != normed.ALL).scaled(x.double(), factor)  # type: ignore[no-any-return]


def _double(array: Array, like: Tensor) -> Tensor:
    """Near the sphere, where trained rows lie, single precision would leave nothing of 1 - |n|^2/d."""
    return torch.as_tensor(array, device=like.device).double()


def _normed(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    def gain() -> Tensor:
        return x.double() if move.gain is None else state[move.gain].double()

    s, u = normed.split(move.rep, _double(array, x), x.shape[-1], gain)
    if move.kind == "normed_gain":
        return x.double() * torch.exp(s)
    if move.kind == "normed_shift":
        assert u is not None
        return x.double() + u
    ball = normed.Ball(move.offset, move.rep != normed.ALL)
    return normed.moved(move.rep, ball, x.double(), gain(), s, u, torch.expm1)  # type: ignore[no-any-return]


def _affine_scale(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    return (x + move.offset) * _factors(move, array, x, axis) - move.offset


def _recentre(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    centre = compute(state[move.extra[0]]).to(x.dtype)
    return (x - centre) * _factors(move, array, x, axis) + centre


def _bn_shift(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    assert move.gain is not None
    mean, var = (compute(state[n]).to(x.dtype) for n in move.extra)
    gain = compute(state[move.gain]).to(x.dtype)
    return x + gain * mean * torch.rsqrt(var + move.offset) * (_factors(move, array, x, axis) - 1.0)


def _constants(move: Move, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """gamma / sqrt(v + eps), the diagonal of a BatchNorm in eval mode."""
    assert move.gain is not None
    gain, var = (compute(state[n]).to(x.dtype) for n in (move.gain, move.extra[-1] if len(move.extra) == 1 else move.extra[1]))
    return gain * torch.rsqrt(var + move.offset)


def _bn_matmul(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    d = along(_constants(move, state, x), x, axis)
    return _matmul(replace(move, gain=None), array, x * d, axis, state) / d


def _bn_recentre(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    mean, _, *bias = (compute(state[n]).to(x.dtype) for n in move.extra)
    d = _constants(move, state, x)
    if move.gain_power < 0:
        return d * (_matmul(replace(move, gain=None), array, x / d - mean, axis, state) + mean)
    centre = d * (sum(bias) - mean)
    return _matmul(replace(move, gain=None), array, x + centre, axis, state) - centre


def _through(step: Through, t: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    if step.kind == "scale":
        return t * step.offset
    if step.kind == "flip":
        return (1.0 - t) * (0.5 * step.offset)
    if step.kind == "total":
        shift = state[step.parameter].double().reshape(-1)
        return t.reshape(-1) * (shift if step.gain is None else shift * inverse_gain(step, state)).sum().to(t.dtype)
    if step.kind == "spread":
        return t.reshape(-1) * inverse_gain(replace(step, gain=step.parameter), state).to(t.dtype)
    weight = compute(state[step.parameter]).to(t.dtype)
    assert step.index is not None
    index = torch.as_tensor(step.index.positions(), device=t.device).flatten(1)
    if step.kind == "unseen":
        return torch.as_tensor(unseen(step, t.numel(), state), device=t.device).to(t.dtype) @ t.reshape(-1)
    if step.kind in ("gain", "each"):
        return t * (weight.reshape(-1)[index[0]] + step.offset)
    if step.kind == "per":
        return t / (weight.reshape(-1)[index[0]] + step.offset)
    if step.kind == "rsqrt":
        return t * torch.rsqrt(weight.reshape(-1)[index[0]] + step.offset)
    part = weight if step.rows is None else weight[step.rows[0]:step.rows[1]]
    moved = part.movedim((step.keep, step.axis), (0, 1))
    summed = moved.flatten(2).sum(-1) if moved.dim() > 2 else moved
    result = torch.zeros(summed.shape[0], dtype=t.dtype, device=t.device)
    for copy in index:
        result = result + summed[:, copy] @ t
    return result


def _add(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    t = tensor(wide(array), x)
    for step in move.through:
        t = _through(step, t, state)
    full = torch.zeros(x.shape[axis], dtype=x.dtype, device=x.device)
    for copy in positions(move, x):
        full[copy.reshape(-1)] = t
    return x + move.power * along(full, x, axis)


def _outer(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    t = tensor(wide(array), x)
    for step in move.through:
        if step.kind == "taps":
            t = (t @ _taps(step, t)).reshape([1 if a == axis else n for a, n in enumerate(x.shape)])
        else:
            t = along(_through(step, t, state), x, 1 - axis)
    if move.axis == -1:
        return x + t.reshape(x.shape)
    if move.gain is not None:
        t = t * along(inverse_gain(move, state).to(x.dtype), x, axis)
    return x + t


def _taps(step: Through, like: Tensor) -> Tensor:
    """[r, taps]"""
    assert step.index is not None
    return torch.as_tensor(step.index.positions()[0], dtype=like.dtype, device=like.device)



def _outer_bias(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    shift = compute(state[move.extra[0]]).to(torch.float64).reshape(-1)
    inverse = torch.ones_like(shift) if move.gain is None else inverse_gain(move, state)
    t = tensor(wide(array), x)
    t = (t @ _taps(move.through[0], t) if move.through else t).reshape(len(x), -1).sum(1)  # all taps of a kernel write into it
    return x + move.power * t * (shift * inverse).sum().to(x.dtype)


def _centred(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    """W - (W t) (1/gamma)^T / sum((beta + t)/gamma): keeps W beta although beta moved by t, for a centred input."""
    t = tensor(wide(array), x)
    beta = compute(state[move.extra[0]]).to(x.dtype).reshape(-1)
    gain = torch.ones_like(beta) if move.gain is None else compute(state[move.gain]).to(x.dtype).reshape(-1) + move.offset
    total = ((beta + t) / gain).sum()
    image = (x * along(t, x, axis)).sum(axis, keepdim=True)
    return x - image / total * along(1.0 / gain, x, axis)


def _product(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    t, other = tensor(wide(array), x), compute(state[move.extra[0]]).to(x.dtype)
    change = other @ t if move.rep == "left" else t @ other
    return x + move.power * (change if move.axis == 0 else change.mT)


def _blind(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    basis = torch.as_tensor(complement(move, array.shape[-1], state)[0], device=x.device).to(x.dtype)
    change = (tensor(wide(array), x) @ basis.mT).movedim(-1, 0)
    moved = x.movedim(axis, 0)
    for copy in positions(move, x):
        moved = moved.index_add(0, copy.reshape(-1), change)
    return moved.movedim(0, axis)


def _blind_bias(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    basis, constant = complement(move, array.shape[1], state)
    read = torch.as_tensor(basis.T @ constant, device=x.device).to(x.dtype)
    return x.index_add(0, positions(move, x).reshape(-1), move.power * (tensor(wide(array), x) @ read))


def _isospectral(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    at = positions(move, x).reshape(-1)
    gain = state[move.extra[0] if move.inner else move.parameter].detach().double().reshape(-1).cpu().numpy()[at.cpu().numpy()]
    tau = array.detach().reshape(-1)[0] if isinstance(array, Tensor) else array.reshape(-1)[0]
    if move.inner:
        return _matmul(move.inner[0], matrix(gain + move.offset, float(tau), move.rep)[None], x, axis, state)
    new = moved(gain + move.offset, float(tau))[0]
    return x.index_copy(0, at, torch.as_tensor(new - move.offset, device=x.device).to(x.dtype))





def _branch(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    t = tensor(wide(array), x).reshape(())
    places = positions(move, x).reshape(-1)
    scale, *others = (None if n is None else compute(state[n]).to(x.dtype).reshape(-1) for n in (move.gain, *move.extra))
    parts = [t * p if scale is None else t * scale * p for p in others if p is not None]
    factor = torch.ones(x.shape[axis], dtype=x.dtype, device=x.device).index_put((places,), (1.0 - parts[0]) ** move.power)
    scaled = x * along(factor, x, axis)
    return scaled if len(parts) < 2 else scaled - along(torch.zeros_like(factor).index_put((places,), parts[1]), x, axis)


def _permute(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    index = positions(move, x)
    moved = x.movedim(axis, 0)
    source = moved.clone()
    order = torch.as_tensor(np.asarray(array, dtype=np.int64), device=x.device)
    for copy in index:
        moved[copy.reshape(-1)] = source[copy[order].reshape(-1)]
    return moved.movedim(0, axis)


def _exchange(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    source = move.extra[int(array[move.index.start])]
    return compute(state[source]).to(x.dtype).reshape(x.shape)


def _length(weight: Tensor, dim: int | None) -> Tensor:
    """Norms of the slices along ``dim``, or of the whole, shaped to broadcast over the weight."""
    axes = [a for a in range(weight.dim()) if a != dim]
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True) if axes else weight.abs()


def _weight(chart: Chart, state: Mapping[str, Tensor]) -> Tensor:
    """size * direction / |direction|"""
    v, g = compute(state[chart.direction]), compute(state[chart.size])
    length = _length(v, chart.dim)
    return v * (g.reshape(length.shape) / length)


def _charted(move: Move, array: Array, x: Tensor, axis: int, state: Mapping[str, Tensor]) -> Tensor:
    """See ``Move``: the sign of the size and the length of the direction stay, so that elements compose as on the weight."""
    new = run_moves(move.inner, array, {**state, **{c.weight: _weight(c, state) for c in move.charts}})
    chart = next((c for c in move.charts if move.parameter in c.stored), None)
    if chart is None:
        return new[move.parameter].to(x.dtype).reshape(x.shape)
    weight, size = new[chart.weight].to(x.dtype), compute(state[chart.size]).to(x.dtype)
    length = _length(weight, chart.dim)
    sign = torch.where(size < 0, -1.0, 1.0).to(x.dtype)
    if move.parameter == chart.size:
        return sign.reshape(x.shape) * length.reshape(x.shape)
    v = x.reshape(weight.shape)
    turned = weight * (sign.reshape(length.shape) * _length(v, chart.dim) / torch.where(length > 0, length, 1.0))
    return torch.where(length > 0, turned, v).reshape(x.shape)


_KERNELS = {"matmul": _matmul, "plane": _plane, "scale": _scale, "log_scale": _log_scale, "curved_scale": _curved_scale,
            "normed_scale": _normed_scale, "normed_gain": _normed, "normed_shift": _normed, "normed_table": _normed,
            "affine_scale": _affine_scale,
            "recentre": _recentre, "bn_shift": _bn_shift, "bn_matmul": _bn_matmul, "bn_recentre": _bn_recentre,
            "add": _add, "outer": _outer, "outer_bias": _outer_bias, "centred": _centred, "product": _product, "blind": _blind,
            "blind_bias": _blind_bias, "branch": _branch, "isospectral": _isospectral,
            "shear": shear, "shear_bias": shear_bias,
            "permute": _permute, "exchange": _exchange, "parity": _parity, "charted": _charted}


def inverse_array(family: str, array: np.ndarray) -> np.ndarray:
    """The array of the inverse element."""
    if family in ("gl", "o", "o1", "complex", "shear"):
        return np.linalg.inv(array)
    if family == "scale":
        return 1.0 / array
    if family == "permutation":
        return np.argsort(array)
    if family == "sign":
        return array
    return -array
