"""Language model look-alikes: the six miniatures of the design, and decoders, encoders and pairs of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, add, tokens


class RMS(nn.Module):
    """RMS norm written out, as language models write it."""

    def __init__(self, d: int, eps: float = 0.0, gain: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight


def rotary_tables(length: int, size: int, base: float = 50.0) -> tuple[Tensor, Tensor]:
    """cos and sin [length, size] in half-split order."""
    freq = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), freq).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split pairing (p, p + size/2)."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class Attention(nn.Module):
    """Causal or full attention with h heads of size k on kv key/value heads, optional rotary and biases."""

    def __init__(self, d: int, h: int, k: int, kv: int, rotary: bool, bias: bool, length: int = 6,
        causal: bool = True) -> None:
        super().__init__()
        self.h, self.k, self.kv, self.causal = h, k, kv, causal
        self.q, self.key = nn.Linear(d, h * k, bias), nn.Linear(d, kv * k, bias)
        self.v, self.o = nn.Linear(d, kv * k, bias), nn.Linear(h * k, d, bias)
        cos, sin = rotary_tables(length, k) if rotary else (None, None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.h, self.k).transpose(1, 2)
        k, v = (m(x).view(b, t, self.kv, self.k).transpose(1, 2) for m in (self.key, self.v))
        if self.cos is not None:
            q, k = rotate_half(q, self.cos, self.sin), rotate_half(k, self.cos, self.sin)
        k, v = (m.repeat_interleave(self.h // self.kv, 1) for m in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class Glu(nn.Module):
    """down(act(gate x) * up x)."""

    def __init__(self, d: int, f: int, act: Callable[[Tensor], Tensor] = F.silu, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(d, f, bias), nn.Linear(d, f, bias), nn.Linear(f, d, bias)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + feed(norm x)."""

    def __init__(self, attention: nn.Module, feed: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.feed = norm(), attention, norm(), feed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Decoder(nn.Module):
    """Embedding, optional learned positions, blocks, final norm, head (tied or not)."""

    def __init__(
        self, vocabulary: int, d: int, blocks: list[nn.Module], final: nn.Module | None, positions: int = 0,
        tied: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.position = nn.Embedding(positions, d) if positions else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = final
        self.head = nn.Linear(d, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.position is not None:
            x = x + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x if self.norm is None else self.norm(x))


def _norm(kind: str, d: int, eps: float) -> Callable[[], nn.Module]:
    if kind == "rms":
        return lambda: RMS(d, eps)
    if kind == "ln":
        return lambda: nn.LayerNorm(d, eps=eps)
    return lambda: nn.RMSNorm(d, eps=eps)


def miniature(layers: int, kv: int, norm: str, eps: float, tied: bool = False, vocabulary: int = 7,
    d: int = 4) -> Built:
    """Rotary SwiGLU decoder: d=4, two heads of size 2, f=3, as in the design's table."""
    make = _norm(norm, d, eps)
    blocks: list[nn.Module] = [Block(Attention(d, 2, 2, kv, True, False), Glu(d, 3), make) for _ in range(layers)]
    return Decoder(vocabulary, d, blocks, make(), tied=tied), tokens(vocabulary, 6)


def gelu_miniature(layers: int = 2, tied: bool = False, eps: float = 1e-5) -> Built:
    """LayerNorm decoder with biases, GELU and learned positions."""
    make = _norm("ln", 4, eps)
    blocks: list[nn.Module] = [
        Block(Attention(4, 2, 2, 2, False, True), nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4)), make)
        for _ in range(layers)
    ]
    return Decoder(7, 4, blocks, make(), positions=6, tied=tied), tokens(7, 6)


add("mini_rms_kv1", lambda: miniature(2, 1, "rms", 0.0), 45,
    "per layer qk 2, vo 4, glu 3, two gains 8; final gain 4; so(4) 6; scale 1")  # fmt: skip
add("mini_rms_kv2", lambda: miniature(2, 2, "rms", 0.0), 57, "qk 4, vo 8 per layer")
add("mini_rms_one_layer", lambda: miniature(1, 1, "rms", 1e-5), 27, "no scale: eps > 0")
add("mini_ln", lambda: miniature(2, 1, "ln", 0.0), 83, "per layer 9; five norms 8; mean of writers 21; so(3); scale")
add("mini_ln_eps", lambda: miniature(2, 1, "ln", 1e-5), 82, "no scale: eps > 0")
add("mini_gelu", gelu_miniature, 155, "per layer 64; final norm 8; embeddings 13 + 3; so(3)")
