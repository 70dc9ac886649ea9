"""Attention in all its forms, fed with floats directly: the input is fixed, so only the inner spaces have freedom."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, add, floats, several
from .decoders import RMS, rotary_tables, rotate_half

D, T, K, V = 6, 5, 4, 3  # width of the input, tokens, size of a query/key head, size of a value head
ONE = K * K + V * V  # one head without biases


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, neighbouring pairs (2p, 2p + 1); the tables are in half-split order."""
    half = x.shape[-1] // 2
    c, s = cos[:, :half].to(x.dtype), sin[:, :half].to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def weights_softmax(scores: Tensor) -> Tensor:
    """Ordinary attention weights."""
    return scores.softmax(-1)


class Attend(nn.Module):
    """Written-out attention with options; q, k, v, o as separate linear layers."""

    def __init__(
        self,
        heads: int = 1,
        kv: int | None = None,
        bias: bool = False,
        rotary: str = "",
        norm: Callable[[], nn.Module] | None = None,
        mask: Tensor | None = None,
        weigh: Callable[[Tensor], Tensor] = weights_softmax,
        feature: Callable[[Tensor], Tensor] | None = None,
        fused: bool = False,
        shared_qk: bool = False,
        project: bool = True,
        size: int = K,
    ) -> None:
        super().__init__()
        kv = kv or heads
        self.h, self.kv, self.k, self.rotary, self.fused, self.weigh, self.feature = (
            heads, kv, size, rotary, fused, weigh, feature
        )
        self.q = nn.Linear(D, heads * size, bias)
        self.key = self.q if shared_qk else nn.Linear(D, kv * size, bias)
        self.v = nn.Linear(D, kv * V, bias)
        self.o = nn.Linear(heads * V, D, bias) if project else nn.Identity()
        self.qn, self.kn = (norm(), norm()) if norm else (nn.Identity(), nn.Identity())
        width = 2 if rotary == "partial" else size
        self.mask = None
        if rotary:  # (export stumbles over buffers that are None)
            self.register_buffer("cos", rotary_tables(T, width)[0], persistent=False)
            self.register_buffer("sin", rotary_tables(T, width)[1], persistent=False)
        if mask is not None:
            del self.mask
            self.register_buffer("mask", mask)

    def turn(self, x: Tensor) -> Tensor:
        if self.rotary == "half":
            return rotate_half(x, self.cos, self.sin)
        if self.rotary == "interleaved":
            return interleaved(x, self.cos, self.sin)
        if self.rotary == "partial":
            return torch.cat([rotate_half(x[..., :2], self.cos, self.sin), x[..., 2:]], -1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.turn(self.qn(self.q(x).view(b, t, self.h, self.k)).transpose(1, 2))
        k = self.turn(self.kn(self.key(x).view(b, t, self.kv, self.k)).transpose(1, 2))
        v = self.v(x).view(b, t, self.kv, V).transpose(1, 2)
        if self.h != self.kv:
            k, v = (m[:, :, None].expand(-1, -1, self.h // self.kv, -1, -1).reshape(b, self.h, t, -1) for m in (k, v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if self.mask is None else self.mask.to(q.dtype))
        elif self.feature is not None:
            kernel = self.feature(q) @ self.feature(k).transpose(-1, -2)
            y = (kernel / kernel.sum(-1, keepdim=True)) @ v
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.k)
            y = self.weigh(scores if self.mask is None else scores + self.mask.to(scores.dtype)) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def case(**options: object) -> Built:
    """An Attend and its inputs."""
    return Attend(**options), floats(T, D, spread=0.4)  # type: ignore[arg-type]


CAUSAL = torch.full((T, T), float("-inf")).triu(1)
ALIBI = -torch.tensor([0.5, 0.25])[:, None, None] * (torch.arange(T)[:, None] - torch.arange(T)[None]).abs() + CAUSAL
WINDOW = torch.where((torch.arange(T)[:, None] - torch.arange(T)[None]).abs() <= 1, 0.0, -1e9)

add("attn_one", lambda: case(), ONE, "gl(4) and gl(3)")
add("attn_one_sdpa", lambda: case(fused=True), ONE, "gl(4) and gl(3)")
add("attn_one_bias", lambda: case(bias=True), ONE + 7, "and the key bias 4, the value bias 3")
add("attn_one_bias_sdpa", lambda: case(bias=True, fused=True), ONE + 7, "and the key bias 4, the value bias 3")
add("attn_two", lambda: case(heads=2), 2 * ONE, "per head")
add("attn_two_bias", lambda: case(heads=2, bias=True, fused=True), 2 * ONE + 14, "per head")
add("attn_causal", lambda: case(heads=2, mask=CAUSAL), 2 * ONE, "the mask changes nothing")
add("attn_causal_sdpa_bias", lambda: case(heads=2, bias=True, mask=CAUSAL, fused=True), 2 * ONE + 14,
    "the mask changes nothing")  # fmt: skip
add("attn_window", lambda: case(mask=WINDOW, bias=True), ONE + 7, "a finite additive mask")
add("attn_alibi", lambda: case(heads=2, mask=ALIBI, bias=True), 2 * ONE + 14,
    "fixed slopes: only the head exchange is lost")  # fmt: skip
add("attn_grouped", lambda: case(heads=4, kv=2), 2 * ONE, "one pair of gl per key/value head")
add("attn_grouped_bias", lambda: case(heads=4, kv=2, bias=True, fused=True), 2 * ONE + 14, "one set per key/value head")
add("attn_multi_query", lambda: case(heads=3, kv=1), ONE, "one pair for all heads")
add("attn_multi_query_bias", lambda: case(heads=2, kv=1, bias=True), ONE + 7, "one set for all heads")
add("attn_rotary_half", lambda: case(heads=2, rotary="half"), 2 * (4 + 9), "a complex number per frequency, gl(3)")
add("attn_rotary_half_bias", lambda: case(rotary="half", bias=True), 4 + 9 + 3, "the key bias is turned, so it is seen")
add("attn_rotary_interleaved", lambda: case(heads=2, rotary="interleaved"), 2 * (4 + 9), "neighbouring pairs")
add("attn_rotary_grouped", lambda: case(heads=4, kv=2, rotary="interleaved", mask=CAUSAL), 2 * (4 + 9),
    "per key/value head")  # fmt: skip
add("attn_rotary_partial", lambda: case(heads=2, rotary="partial"), 2 * (2 + 4 + 9),
    "one frequency 2, gl(2) of the rest")  # fmt: skip
add("attn_rotary_partial_bias", lambda: case(rotary="partial", bias=True), 2 + 4 + 9 + 3 + 2,
    "key bias of the unturned part 2")  # fmt: skip
add("attn_qk_norm", lambda: case(norm=lambda: RMS(K, gain=False)), 2 + 6 + 9, "two scales and so(4)")
add("attn_qk_norm_eps", lambda: case(norm=lambda: RMS(K, eps=1e-4, gain=False)), 6 + 9, "so(4); eps keeps the scales")
add("attn_qk_norm_gain", lambda: case(norm=lambda: RMS(K)), 2 + 4 + 9, "two scales, gains against each other")
add("attn_qk_norm_gain_two", lambda: case(heads=2, norm=lambda: RMS(K)), 4 + 4 + 18,
    "two scales per head, gains shared by the heads")  # fmt: skip
add("attn_qk_norm_rotary", lambda: case(norm=lambda: RMS(K), rotary="half"), 2 + 2 + 9,
    "two scales, gains of a plane together")  # fmt: skip
add("attn_qk_norm_plain_rotary", lambda: case(norm=lambda: RMS(K, gain=False), rotary="half"), 2 + 2 + 9,
    "two scales, two rotations")  # fmt: skip
add("attn_qk_layer_norm", lambda: case(norm=lambda: nn.LayerNorm(K), bias=True), 36,
    "values 12; means 7 + 7; gains 4; key shift 4, common part of the query shift 1; "
    "turning q and k while the 4 gain products keep the 3 singular values of their form on the complement of 1: 1")
add("attn_qk_group_norm_kv", lambda: case(heads=4, kv=2, norm=lambda: RMS(K)), 6 + 4 + 18,
    "scales 4 + 2, shared gains 4")  # fmt: skip
add("attn_qk_unit", lambda: case(norm=lambda: Unit()), 2 + 6 + 9, "unit vectors: two scales and so(4)")
add("attn_soft_cap", lambda: case(weigh=lambda s: (3 * torch.tanh(s / 3)).softmax(-1), bias=True), ONE + 3,
    "the cap sees the key bias")  # fmt: skip
add("attn_sigmoid", lambda: case(weigh=torch.sigmoid, bias=True), ONE, "no translation: rows do not sum to one")
add("attn_relu", lambda: case(weigh=torch.relu), ONE + 1, "a positive factor from scores to values")
add("attn_identity", lambda: case(weigh=lambda s: s), ONE + 1, "scores times values: one more factor")
add("attn_feature_elu", lambda: case(feature=lambda z: F.elu(z) + 1, bias=True), 9 + 3, "only values")
add("attn_feature_exp", lambda: case(feature=torch.exp, bias=True), 9 + 3 + 11,
    "shifts of q against k 4, of k alone 1; any common function added to q, 6")  # fmt: skip
add("attn_feature_abs", lambda: case(feature=torch.abs), 9 + 5,
    "scales of q against k 4, one overall more")  # fmt: skip
add("attn_shared_qk", lambda: case(shared_qk=True), 6 + 9, "so(4)")
add("attn_no_projection", lambda: case(heads=2, project=False), 2 * 16, "values are the output")
add("attn_wide_head", lambda: case(size=8), 69, "a head wider than the input: 2 * 48 - 36, and 9")


class Unit(nn.Module):
    """Vectors of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=0.0)


class Packed(nn.Module):
    """Fused qkv in one of three layouts: [q; k; v], per head [q k v], [3, head, size]; equal sizes."""

    def __init__(self, layout: str, bias: bool) -> None:
        super().__init__()
        self.qkv, self.o, self.layout = nn.Linear(D, 18, bias), nn.Linear(6, D, bias), layout

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        z = self.qkv(x)
        if self.layout == "chunk":
            q, k, v = (m.view(b, t, 2, 3).transpose(1, 2) for m in z.chunk(3, -1))
        elif self.layout == "per_head":
            q, k, v = z.view(b, t, 2, 9).transpose(1, 2).split(3, -1)
        else:
            q, k, v = z.view(b, t, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


for _layout in ("chunk", "per_head", "unbind"):
    add(f"attn_packed_{_layout}", lambda p=_layout: (Packed(p, p == "per_head"), floats(T, D, spread=0.4)),
        36 + (12 if _layout == "per_head" else 0), "as if apart")  # fmt: skip


class WithTable(nn.Module):
    """Attention with an extra learned thing in the scores: relative table, temperature, sink or head mixing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.q, self.key = kind, nn.Linear(D, 6, False), nn.Linear(D, 6, False)
        self.v, self.o = nn.Linear(D, 4, False), nn.Linear(4, D, False)
        shape = {"relative": (2, 2 * T - 1), "temperature": (2, 1, 1), "sink": (2,), "talking": (2, 2, 2)}[kind]
        self.table = nn.Parameter(torch.randn(shape))
        place = torch.arange(T)
        self.register_buffer("index", place[:, None] - place[None] + T - 1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (m(x).view(b, t, 2, -1).transpose(1, 2) for m in (self.q, self.key, self.v))
        scores = q @ k.transpose(-1, -2)
        if self.kind == "relative":
            a = (scores + self.table[:, self.index]).softmax(-1)
        elif self.kind == "temperature":
            a = (scores * self.table).softmax(-1)
        elif self.kind == "sink":
            sink = self.table[None, :, None, None].expand(b, 2, t, 1)
            a = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        else:
            a = torch.einsum("gh,bhij->bgij", self.table[0], scores).softmax(-1)
            a = torch.einsum("gh,bhij->bgij", self.table[1], a)
        return self.o((a @ v).transpose(1, 2).reshape(b, t, -1))


for _kind, _dim, _why in (
    ("relative", 26 + 2, "a constant per head's table"), ("temperature", 26 + 2, "temperature against queries"),
    ("sink", 26, "the sink pins the level"), ("talking", 26 + 4, "each mixing against its heads: 2 and 2"),
):  # fmt: skip
    add(f"attn_{_kind}", lambda k=_kind: (WithTable(k), floats(T, D, spread=0.4)), _dim, "two heads 26; " + _why)


class Torch(nn.Module):
    """nn.MultiheadAttention on its own, self or crossed."""

    def __init__(self, cross: bool, weights: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **options)  # type: ignore[arg-type]
        self.cross, self.weights = cross, weights

    def forward(self, x: Tensor, *other: Tensor) -> Tensor:
        y = other[0] if self.cross else x
        return self.attention(x, y, y, need_weights=self.weights)[0]


SELF = floats(T, 6, spread=0.4)
add("mha_self", lambda: (Torch(False), SELF), 48, "two heads of 3: 36; key and value biases 12")
add("mha_self_weights", lambda: (Torch(False, weights=True), SELF), 48, "written out by torch")
add("mha_no_bias", lambda: (Torch(False, bias=False), SELF), 36, "two heads of 3")
add("mha_bias_kv", lambda: (Torch(False, add_bias_kv=True), SELF), 48, "the extra token moves with the biases")
add("mha_zero_token", lambda: (Torch(False, add_zero_attn=True), SELF), 36, "the zero token pins key and value levels")
add("mha_cross", lambda: (Torch(True, kdim=4, vdim=4), several((T, 6), (3, 4), spread=0.4)), 48,
    "another width for keys and values")  # fmt: skip


class Latents(nn.Module):
    """Learned queries reading the input (perceiver): n latents, one head of size K."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.randn(n, 5))
        self.q, self.key, self.v, self.o = nn.Linear(5, K), nn.Linear(D, K), nn.Linear(D, V), nn.Linear(V, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(self.latent) @ self.key(x).transpose(-1, -2)
        return self.o(scores.softmax(-1) @ self.v(x))


add("latents_few", lambda: (Latents(2), floats(T, D, spread=0.4)), 62,
    "99 parameters; seen 2 * 6 scores, 21 of values, 4 of bias")  # fmt: skip
add("latents_many", lambda: (Latents(7), floats(T, D, spread=0.4)), 63,
    "124 parameters; seen 36 of a rank 4 score matrix, 21, 4")  # fmt: skip


class SharedValue(nn.Module):
    """Keys are also the values."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.kv, self.o, self.act = nn.Linear(D, 3), nn.Linear(D, 3), nn.Linear(3, D), act

    def forward(self, x: Tensor) -> Tensor:
        kv = self.act(self.kv(x))
        return self.o((self.q(x) @ kv.transpose(-1, -2)).softmax(-1) @ kv)


add("attn_key_is_value", lambda: (SharedValue(lambda z: z), floats(T, D, spread=0.4)), 9 + 3, "gl(3), common bias 3")
add("attn_key_is_value_relu", lambda: (SharedValue(F.relu), floats(T, D, spread=0.4)), 3, "scales")


class Latent(nn.Module):
    """Keys and values from one low-rank code (multi-head latent attention), norm on the code or not."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.down, self.norm = nn.Linear(D, 3, bias=False), RMS(3) if norm else nn.Identity()
        self.q, self.key = nn.Linear(D, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.v, self.o = nn.Linear(3, 4, bias=False), nn.Linear(4, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        code = self.norm(self.down(x))
        q, k, v = (m.view(b, t, 2, 2).transpose(1, 2) for m in (self.q(x), self.key(code), self.v(code)))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


add("attn_latent", lambda: (Latent(False), floats(T, D, spread=0.4)), 16 + 9, "gl(2) four times, gl(3) of the code")
add("attn_latent_norm", lambda: (Latent(True), floats(T, D, spread=0.4)), 16 + 3 + 3 + 1,
    "so(3), gain 3 and scale of the code")  # fmt: skip
