"""Unusual combinations: kinds that elsewhere stand alone, met in one network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, Fn, Residual, floats, network, several, tokens
from .structured import ADJACENCY


class Of(nn.Module):
    """Named layers and a function of them and of the inputs."""

    def __init__(self, forward, **layers: nn.Module | nn.Parameter) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Tensor) -> Tensor:
        return self.run(self, *x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(*shape))


@network("stranger_grouped_transpose_instance", 12)
def _() -> Built:
    layers = (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.InstanceNorm2d(6, affine=True), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)), floats(4, 3, 3)


@network("stranger_circular_dilated_groups", 6)
def _() -> Built:
    first = nn.Conv1d(2, 4, 3, dilation=2, padding=2, padding_mode="circular")
    return nn.Sequential(first, nn.GroupNorm(2, 4), nn.LeakyReLU(0.3), nn.Conv1d(4, 2, 2, stride=2)), floats(2, 7)


@network("stranger_channel_shuffle", 4)
def _() -> Built:
    layers = (nn.Conv2d(4, 4, 1, groups=2), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    return nn.Sequential(*layers), floats(4, 2, 2)


@network("stranger_residual_prelu_narrow_head", 32, "slopes scale apart; two rows read a stream of five")
def _() -> Built:
    one = Residual(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 5))
    two = Residual(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 5))
    return nn.Sequential(nn.Linear(3, 5), nn.PReLU(5), one, two, nn.Linear(5, 2)), floats(3)


def _rotated(x: Tensor) -> Tensor:
    """Half-split rotary positions, [..., places, size]."""
    half = x.shape[-1] // 2
    frequency = 100.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
    a, b = x.chunk(2, -1)
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain


@network("stranger_query_norm_rotary", 34, "queries normed, keys not; rotary in front of both")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(_rotated(_normed(q, m.gain)), _rotated(k), v)
        return m.o(y.transpose(1, 2).flatten(2))

    maps = {n: nn.Linear(4, 8, bias=False) for n in "qkv"}
    return Of(forward, **maps, o=nn.Linear(8, 4, bias=False), gain=nn.Parameter(torch.ones(4))), floats(4, 4)


@network("stranger_gated_grouped_float_mask", 8, "queries and keys gl(2) 4, key bias 2, gated values scale 2")
def _() -> Built:
    mask = torch.sin(1.3 * torch.arange(3.0)[:, None] + torch.arange(3.0))

    def forward(m: Of, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (2, 2)).transpose(1, 2)
        k, v = (f(x)[:, None].expand(-1, 2, -1, -1) for f in (m.k, m.v))
        w = (q @ k.mT / math.sqrt(2) + mask.to(x.dtype)).exp()
        y = ((w / w.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2)
        return m.o(y * torch.sigmoid(m.gate(x)))

    maps = {"q": nn.Linear(4, 4), "k": nn.Linear(4, 2), "v": nn.Linear(4, 2), "gate": nn.Linear(4, 4), "o": nn.Linear(4, 4)}
    return Of(forward, **maps), floats(3, 4)


@network("stranger_lora_attention", 48)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        parts = m.q(x) + 2 * m.qb(m.qa(x)), m.k(x), m.v(x) + m.vb(m.va(x))
        q, k, v = (p.unflatten(-1, (2, 2)).transpose(1, 2) for p in parts)
        return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    maps = {n: nn.Linear(4, 4) for n in "qkv"}
    low = {"qa": nn.Linear(4, 1, bias=False), "qb": nn.Linear(1, 4, bias=False)}
    low |= {"va": nn.Linear(4, 2, bias=False), "vb": nn.Linear(2, 4, bias=False)}
    return Of(forward, **maps, **low, o=nn.Linear(4, 3)), floats(3, 4)


@network("stranger_experts_and_shared", 14, "gates 5, silu-gated experts 6, shared relu units 3")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = F.silu(torch.einsum("bd,edf->bef", x, m.g)) * torch.einsum("bd,edf->bef", x, m.u)
        y = (torch.einsum("bef,efd->bed", h, m.d) * m.router(x).softmax(-1)[..., None]).sum(1)
        return y + torch.sigmoid(m.weigh(x)) * m.down(F.relu(m.up(x)))

    stacked = {"g": parameter(3, 4, 2), "u": parameter(3, 4, 2), "d": parameter(3, 2, 4)}
    shared = {"weigh": nn.Linear(4, 1, bias=False), "up": nn.Linear(4, 3, bias=False), "down": nn.Linear(3, 4, bias=False)}
    return Of(forward, router=nn.Linear(4, 3), **stacked, **shared), floats(4)


@network("stranger_delta_rule", 11, "values gl(3), keys scale and turn with the queries")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        memory, out = x.new_zeros(x.shape[0], 3, 2), []
        for u in x.unbind(1):
            k, beta = F.normalize(m.k(u), dim=-1), m.beta(u).sigmoid()
            memory = memory + (beta * (m.v(u) - (memory @ k[..., None])[..., 0]))[:, :, None] * k[:, None]
            out.append((memory @ m.q(u)[..., None])[..., 0])
        return m.o(torch.stack(out, 1))

    maps = {"q": nn.Linear(2, 2, bias=False), "k": nn.Linear(2, 2, bias=False), "v": nn.Linear(2, 3, bias=False)}
    return Of(forward, **maps, beta=nn.Linear(2, 1), o=nn.Linear(3, 2)), floats(4, 2)


@network("stranger_lstm_of_branches", 16)
def _() -> Built:
    def forward(m: Of, x: Tensor, y: Tensor) -> Tensor:
        return m.o(m.core(torch.cat((F.relu(m.a(x)), m.b(y)), -1))[0])

    maps = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "o": nn.Linear(2, 2)}
    return Of(forward, **maps, core=nn.LSTM(4, 2, batch_first=True)), several((3, 2), (3, 2))


@network("stranger_neighbours_unit_length", 7, "relu units 3; scale 1 and rotations 3 of what is normed")
def _() -> Built:
    near = ADJACENCY.double() / ADJACENCY.double().sum(1, keepdim=True)

    def forward(m: Of, x: Tensor) -> Tensor:
        around = near.to(x.dtype) @ F.relu(m.p(x))
        return m.o(F.normalize(m.l(torch.cat((x, around), -1)), dim=-1))

    return Of(forward, p=nn.Linear(3, 3), l=nn.Linear(6, 3), o=nn.Linear(3, 2)), floats(5, 3)


@network("stranger_magnitude_and_low_rank", 13, "weights m V / |V| with V = W + B A")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        v = m.w + m.b @ m.a
        return m.o(F.relu(x @ (m.size[:, None] * v / v.norm(dim=1, keepdim=True)).mT))

    tensors = {"w": parameter(3, 4), "a": parameter(1, 4), "b": parameter(3, 1), "size": nn.Parameter(0.5 + torch.rand(3))}
    return Of(forward, **tensors, o=nn.Linear(3, 2)), floats(4)


@network("stranger_weight_norm_columns", 11)
def _() -> Built:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(3, 4), dim=1), nn.ReLU(), norm(nn.Linear(4, 2), dim=1)), floats(3)


@network("stranger_largest_and_least", 8, "means of the pairs: gl(2) 4, shifts 2; differences: scales 2")
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        h = m.a(x).unflatten(-1, (2, 2))
        return m.o(torch.cat((h.amax(-1), h.amin(-1)), -1))

    return Of(forward, a=nn.Linear(3, 4), o=nn.Linear(4, 2)), floats(3)


@network("stranger_cosine_classes", 10)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return m.t * F.normalize(m.b(F.relu(m.a(x))), dim=-1) @ F.normalize(m.w, dim=-1).mT

    return Of(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 3), w=parameter(2, 3), t=nn.Parameter(torch.tensor(5.0))), floats(3)


@network("stranger_one_layer_behind_two_norms", 20)
def _() -> Built:
    def forward(m: Of, x: Tensor) -> Tensor:
        return m.o(x + m.layer(m.one(x)) + m.layer(m.two(x)))

    norms = {"one": nn.LayerNorm(4), "two": nn.RMSNorm(4, eps=1e-6)}
    return Of(forward, layer=nn.Linear(4, 4), o=nn.Linear(4, 2), **norms), floats(4)


@network("stranger_sines_and_cosines", 3, "a shift of the phase turns sine and cosine")
def _() -> Built:
    waves = Fn(lambda z: torch.cat((z.sin(), z.cos()), -1))
    return nn.Sequential(nn.Linear(2, 3), waves, nn.Linear(6, 2)), floats(2)


@network("stranger_tied_plain_norms", 44, "tied embeddings behind norms without gain keep the rotations that fix 1")
def _() -> Built:
    def forward(m: Of, ids: Tensor) -> Tensor:
        x = m.e(ids) + m.place
        q, k, v = (f(m.norm(x)).unflatten(-1, (2, 2)).transpose(1, 2) for f in (m.q, m.k, m.v))
        x = x + m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return F.linear(m.last(x), m.e.weight)

    maps = {n: nn.Linear(4, 4, bias=False) for n in "qkvo"}
    norms = {n: nn.LayerNorm(4, elementwise_affine=False) for n in ("norm", "last")}
    return Of(forward, e=nn.Embedding(5, 4), place=parameter(4, 4), **maps, **norms), tokens(5, 4)
