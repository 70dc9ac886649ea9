"""Operators that mix parameters with a nonlinear core, taken apart: normalisations, PReLU, bilinear layers, recurrent cells.

A norm with gain is a parameter-free core followed by a diagonal affine map, and its symmetries differ from those of the
core; so the graph must show both. Everything else is left whole (``torch.export`` functionalises and decomposes nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symdisc.torchside import losses

__all__ = ["TABLE", "default_eps"]

aten = torch.ops.aten


def default_eps(dtype: torch.dtype) -> float:
    """What ``torch.rms_norm`` takes for no eps: of the format that it computes in, float32 for all narrower ones.

    It is written into the graph, as the graph is also run in float64, where the same call would mean another function.
    """
    return torch.finfo(torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32).eps


def _affine(x: Any, weight: Any, bias: Any) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _channels(v: Any, x: Any) -> Any:
    """[C] -> [1, C, 1, ...] to broadcast over x."""
    return None if v is None else v.reshape([1, -1] + [1] * (x.dim() - 2))


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):  # type: ignore[no-untyped-def]
    if weight is None and bias is None:
        return NotImplemented
    return _affine(aten.layer_norm.default(x, shape, None, None, eps, cudnn_enable), weight, bias)


def rms_norm(x, shape, weight=None, eps=None):  # type: ignore[no-untyped-def]
    if weight is None and eps is not None:
        return NotImplemented
    core = aten.rms_norm.default(x, shape, None, default_eps(x.dtype) if eps is None else eps)
    return _affine(core, weight, None)


def group_norm(x, groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):  # type: ignore[no-untyped-def]
    if weight is None and bias is None:
        return NotImplemented
    core = aten.group_norm.default(x, groups, None, None, eps, cudnn_enabled)
    return _affine(core, _channels(weight, x), _channels(bias, x))


def _standardise(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


def batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn_enabled):  # type: ignore[no-untyped-def]
    if training or mean is None:
        core = _standardise(x, [0, *range(2, x.dim())], eps)
    else:
        core = (x - _channels(mean, x)) * _channels(torch.rsqrt(var + eps), x)
    return _affine(core, _channels(weight, x), _channels(bias, x))


def native_batch_norm_eval(x, weight, bias, mean, var, momentum, eps):  # type: ignore[no-untyped-def]
    out = batch_norm(x, weight, bias, mean, var, False, momentum, eps, False)
    return out, x.new_empty(0), x.new_empty(0)


def native_batch_norm_stats(x, weight, bias, training, momentum, eps):  # type: ignore[no-untyped-def]
    out = batch_norm(x, weight, bias, None, None, training, momentum, eps, False)
    return out, x.new_empty(0), x.new_empty(0)


def native_batch_norm_functional(x, weight, bias, mean, var, training, momentum, eps):  # type: ignore[no-untyped-def]
    out = batch_norm(x, weight, bias, mean, var, training, momentum, eps, False)
    return out, x.new_empty(0), x.new_empty(0), mean.clone(), var.clone()


def instance_norm(x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn):  # type: ignore[no-untyped-def]
    if use_input_stats or mean is None:
        core = _standardise(x, list(range(2, x.dim())), eps)
    else:
        core = (x - _channels(mean, x)) * _channels(torch.rsqrt(var + eps), x)
    return _affine(core, _channels(weight, x), _channels(bias, x))


def prelu(x, weight):  # type: ignore[no-untyped-def]
    slope = weight if weight.numel() == 1 or x.dim() < 2 else _channels(weight, x)
    return torch.relu(x) - slope * torch.relu(-x)


def bilinear(a, b, weight, bias=None):  # type: ignore[no-untyped-def]
    outer = a.unsqueeze(-1) * b.unsqueeze(-2)
    return torch.nn.functional.linear(outer.flatten(-2), weight.flatten(1), bias)


def vector_norm(x, order=2, dim=None, keepdim=False, *, dtype=None):  # type: ignore[no-untyped-def]
    if order != 2 or dtype is not None or x.is_complex():
        return NotImplemented
    return (x * x).sum(list(range(x.dim())) if dim is None else dim, keepdim=keepdim).sqrt()


def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):  # type: ignore[no-untyped-def]
    """Training leaves the padding row alone and may divide gradients by counts; the function reads every row as it stands."""
    if padding_idx < 0 and not scale_grad_by_freq and not sparse:
        return NotImplemented
    return aten.embedding.default(weight, indices)


def cdist(a, b, p=2.0, compute_mode=None):  # type: ignore[no-untyped-def]
    """Distances of all pairs of rows; torch's own derivative is wrong where many are taken in one go."""
    if not 1.0 <= p < float("inf"):
        return NotImplemented
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    if p == 2.0:
        return (apart * apart).sum(-1).sqrt()
    return apart.abs().sum(-1) if p == 1.0 else (apart.abs() ** p).sum(-1) ** (1.0 / p)


def addcmul(x, a, b, *, value=1):  # type: ignore[no-untyped-def]
    return x + (a * b if value == 1 else value * (a * b))


def addcdiv(x, a, b, *, value=1):  # type: ignore[no-untyped-def]
    return x + (a / b if value == 1 else value * (a / b))


def glu(x, dim=-1):  # type: ignore[no-untyped-def]
    a, b = x.chunk(2, dim)
    return a * torch.sigmoid(b)


def dropout(x, p, train):  # type: ignore[no-untyped-def]
    return native_dropout(x, p, train)[0]


def native_dropout(x, p, train):  # type: ignore[no-untyped-def]
    """Each entry times a number of its own, drawn at every run: scales go through, changes of basis and translations do not."""
    if not train or p == 0.0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = torch.rand_like(x) >= p
    return x * (kept.to(x.dtype) / (1.0 - p) if p < 1.0 else 0.0), kept


# --- recurrent layers, unrolled over time ---------------------------------------------------------------------------
def _lstm_cell(x: Tensor, state: tuple[Tensor, ...], w: list[Any]) -> tuple[Tensor, ...]:
    h, c = state
    gates = torch.nn.functional.linear(x, w[0], w[2]) + torch.nn.functional.linear(h, w[1], w[3])
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    if len(w) > 4:
        h = torch.nn.functional.linear(h, w[4])
    return h, c


def _gru_cell(x: Tensor, state: tuple[Tensor, ...], w: list[Any]) -> tuple[Tensor, ...]:
    (h,) = state
    xr, xz, xn = torch.nn.functional.linear(x, w[0], w[2]).chunk(3, -1)
    hr, hz, hn = torch.nn.functional.linear(h, w[1], w[3]).chunk(3, -1)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    return (n + z * (h - n),)


def _rnn_cell(act: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    def cell(x: Tensor, state: tuple[Tensor, ...], w: list[Any]) -> tuple[Tensor, ...]:
        (h,) = state
        return (act(torch.nn.functional.linear(x, w[0], w[2]) + torch.nn.functional.linear(h, w[1], w[3])),)

    return cell


def _direction(cell: Callable[..., tuple[Tensor, ...]], xs: list[Tensor], state: tuple[Tensor, ...],
               w: list[Any], reverse: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    outs = []
    for x in reversed(xs) if reverse else xs:
        state = cell(x, state, w)
        outs.append(state[0])
    return (outs[::-1] if reverse else outs), state


def _unroll(cell: Callable[..., tuple[Tensor, ...]], x: Tensor, hx: list[Tensor], params: list[Tensor], has_biases: bool,
            layers: int, bidirectional: bool, batch_first: bool) -> tuple[Tensor, list[Tensor]]:
    xs = list(x.unbind(1 if batch_first else 0))
    directions = 2 if bidirectional else 1
    stride = len(params) // (layers * directions)
    last: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outs = []
        for d in range(directions):
            index = layer * directions + d
            w: list[Any] = list(params[index * stride:(index + 1) * stride])
            if not has_biases:
                w = [*w[:2], None, None, *w[2:]]
            ys, state = _direction(cell, xs, tuple(h[index] for h in hx), w, reverse=d == 1)
            outs.append(ys)
            last.append(state)
        xs = outs[0] if directions == 1 else [torch.cat(pair, -1) for pair in zip(*outs, strict=True)]
    finals = [torch.stack([state[k] for state in last]) for k in range(len(hx))]
    return torch.stack(xs, 1 if batch_first else 0), finals


def lstm(x, hx, params, has_biases, layers, drop, train, bidirectional, batch_first):  # type: ignore[no-untyped-def]
    out, (h, c) = _unroll(_lstm_cell, x, hx, params, has_biases, layers, bidirectional, batch_first)
    return out, h, c


def _single(cell: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(x, hx, params, has_biases, layers, drop, train, bidirectional, batch_first):  # type: ignore[no-untyped-def]
        out, (h,) = _unroll(cell, x, [hx], params, has_biases, layers, bidirectional, batch_first)
        return out, h

    return run


def _step(cell: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """One step of a cell as an operator of its own: a loop that a user wrote over ``nn.LSTMCell`` and its kin."""
    def run(x, hx, w_ih, w_hh, b_ih=None, b_hh=None):  # type: ignore[no-untyped-def]
        state = cell(x, tuple(hx) if isinstance(hx, (tuple, list)) else (hx,), [w_ih, w_hh, b_ih, b_hh])
        return state if len(state) > 1 else state[0]

    return run


TABLE: dict[Any, Callable[..., Any]] = {
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: native_batch_norm_eval,
    aten._native_batch_norm_legit.no_stats: native_batch_norm_stats,
    aten._native_batch_norm_legit_functional.default: native_batch_norm_functional,
    aten.instance_norm.default: instance_norm,
    aten.prelu.default: prelu,
    aten.bilinear.default: bilinear,
    aten.dropout.default: dropout,
    aten.native_dropout.default: native_dropout,
    aten.glu.default: glu,
    aten.addcmul.default: addcmul,
    aten.addcdiv.default: addcdiv,
    aten.linalg_vector_norm.default: vector_norm,
    aten.embedding.default: embedding,
    aten.cdist.default: cdist,
    aten._cdist_forward.default: cdist,
    aten.cross_entropy_loss.default: losses.cross_entropy,
    aten.binary_cross_entropy_with_logits.default: losses.binary_cross_entropy_with_logits,
    aten.kl_div.default: losses.kl_div,
    aten.lstm.input: lstm,
    aten.gru.input: _single(_gru_cell),
    aten.rnn_tanh.input: _single(_rnn_cell(torch.tanh)),
    aten.rnn_relu.input: _single(_rnn_cell(torch.relu)),
    aten.lstm_cell.default: _step(_lstm_cell),
    aten.gru_cell.default: _step(_gru_cell),
    aten.rnn_tanh_cell.default: _step(_rnn_cell(torch.tanh)),
    aten.rnn_relu_cell.default: _step(_rnn_cell(torch.relu)),
}
