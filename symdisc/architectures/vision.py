"""Vision models that transformers has not, or not in independent widths: MLP-Mixer, Swin, and the diffusion transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DiffusionTransformer", "Mixer", "Swin"]


class Mlp(nn.Module):
    """W2 gelu(W1 x + b1) + b2."""

    def __init__(self, d: int, f: int, approximate: str = "none") -> None:
        super().__init__()
        self.fc1, self.fc2, self.approximate = nn.Linear(d, f), nn.Linear(f, d), approximate

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


# --- MLP-Mixer --------------------------------------------------------------------------------------------------------------
class MixerBlock(nn.Module):
    """A perceptron along the tokens, then one along the channels, each behind a LayerNorm and beside the stream."""

    def __init__(self, n: int, d: int, t: int, f: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(d, eps=1e-6), Mlp(n, t)
        self.norm2, self.channels = nn.LayerNorm(d, eps=1e-6), Mlp(d, f)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer: patches of side p on a grid of s x s, width d, t token units and f channel units per block."""

    def __init__(self, p: int, s: int, d: int, t: int, f: int, layers: int, v: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, d, p, p)
        self.blocks = nn.Sequential(*(MixerBlock(s * s, d, t, f) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, v)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1))


# --- Swin -------------------------------------------------------------------------------------------------------------------
def _windows(x: Tensor, w: int) -> Tensor:
    """[b, H, W, c] to [b * windows, w * w, c]."""
    b, height, width, c = x.shape
    return x.view(b, height // w, w, width // w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)


def _apart(side: int, w: int, shift: int) -> Tensor:
    """What a shifted window adds to the scores: -100 between places that were not neighbours, [windows, w * w, w * w]."""
    region = torch.zeros(side)
    region[side - w:], region[side - shift:] = 1, 2
    both = (3 * region[:, None] + region[None, :]).view(1, side, side, 1)
    of = _windows(both, w).squeeze(-1)
    return -100.0 * (of[:, None, :] != of[:, :, None]).float()


class WindowAttention(nn.Module):
    """Attention inside windows of w x w with a learned bias for every relative position and head."""

    def __init__(self, h: int, k: int, w: int) -> None:
        super().__init__()
        self.h, self.k = h, k
        self.qkv, self.proj = nn.Linear(h * k, 3 * h * k), nn.Linear(h * k, h * k)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * w - 1) ** 2, h))
        at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + w - 1
        self.register_buffer("index", apart[0] * (2 * w - 1) + apart[1], persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, n, _ = x.shape
        q, k, v = self.qkv(x).view(windows, n, 3, self.h, self.k).permute(2, 0, 3, 1, 4).unbind(0)
        index = self.get_buffer("index")
        bias = self.relative_position_bias_table[index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        scores = (q * self.k ** -0.5) @ k.transpose(-2, -1) + bias
        if mask is not None:
            scores = (scores.view(-1, len(mask), self.h, n, n) + mask[:, None]).view(-1, self.h, n, n)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(windows, n, -1))


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window in every other block, and a perceptron; norms first."""

    def __init__(self, h: int, k: int, w: int, r: int, side: int, shifted: bool) -> None:
        super().__init__()
        d = h * k
        self.w, self.shift = w, w // 2 if shifted and side > w else 0
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(d), WindowAttention(h, k, w), nn.LayerNorm(d), Mlp(d, r * d)
        self.register_buffer("mask", _apart(side, w, self.shift) if self.shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, c = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2)) if self.shift else self.norm1(x)
        y = self.attn(_windows(y, self.w), self.mask)
        y = y.view(b, height // self.w, width // self.w, self.w, self.w, c).permute(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours side by side, normed, and reduced by a linear map."""

    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * d), nn.Linear(4 * d, m, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Stages of pairs of blocks (plain, shifted) on maps that halve; windows of w x w; the last map is one window."""

    def __init__(self, heads: Sequence[int], pairs: Sequence[int], k: int, w: int, r: int, v: int) -> None:
        super().__init__()
        side = w * 2 ** (len(heads) - 1)
        self.patch, self.patch_norm = nn.Conv2d(3, heads[0] * k, 4, 4), nn.LayerNorm(heads[0] * k)
        self.stages, self.merging = nn.ModuleList(), nn.ModuleList(PatchMerging(a * k, b * k) for a, b in pairwise(heads))
        for i, (h, count) in enumerate(zip(heads, pairs, strict=True)):
            self.stages.append(nn.Sequential(*(SwinBlock(h, k, w, r, side >> i, bool(j % 2)) for j in range(2 * count))))
        self.norm, self.head = nn.LayerNorm(heads[-1] * k), nn.Linear(heads[-1] * k, v)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        for i, stage in enumerate(self.stages):
            x = stage(self.merging[i - 1](x) if i else x)
        return self.head(self.norm(x).mean((1, 2)))


# --- diffusion transformer --------------------------------------------------------------------------------------------------
def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, h: int, k: int) -> None:
        super().__init__()
        self.h, self.qkv, self.proj = h, nn.Linear(h * k, 3 * h * k), nn.Linear(h * k, h * k)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class AdaptiveBlock(nn.Module):
    """A transformer block whose norms are shifted and scaled, and whose branches are gated, by the condition."""

    def __init__(self, h: int, k: int, f: int) -> None:
        super().__init__()
        d = h * k
        self.norm1, self.norm2 = (nn.LayerNorm(d, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(h, k), Mlp(d, f, "tanh")
        self.modulation = nn.Linear(d, 6 * d)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c)).chunk(6, 1)
        x = x + gate1.unsqueeze(1) * self.attn(_modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(_modulate(self.norm2(x), shift2, scale2))


def _waves(x: Tensor, pairs: int) -> Tensor:
    """sin and cos of ``x`` at frequencies from 1 down to 1e-4, [..., 2 * pairs]."""
    angle = x[..., None] * torch.exp(-math.log(1e4) * torch.arange(pairs, device=x.device) / pairs).to(x.dtype)
    return torch.cat([angle.sin(), angle.cos()], -1)


def _grid(s: int, d: int) -> Tensor:
    """Fixed positions [1, s * s, d]: waves of the column, then of the row."""
    places, pairs = torch.arange(s * s), -(-d // 4)
    return torch.cat([_waves((places % s).float(), pairs), _waves((places // s).float(), pairs)], -1)[None, :, :d]


class DiffusionTransformer(nn.Module):
    """DiT: latent patches, fixed positions, time and class as conditions, c channels in and 2 c out (noise and variance)."""

    def __init__(self, h: int, k: int, f: int, layers: int, p: int, s: int, c: int, q: int, v: int) -> None:
        super().__init__()
        d = h * k
        self.p, self.s, self.c, self.q = p, s, c, q
        self.patch, self.label = nn.Conv2d(c, d, p, p), nn.Embedding(v + 1, d)
        self.time = nn.Sequential(nn.Linear(2 * q, d), nn.SiLU(), nn.Linear(d, d))
        self.register_buffer("places", _grid(s, d), persistent=False)
        self.blocks = nn.ModuleList(AdaptiveBlock(h, k, f) for _ in range(layers))
        self.norm, self.modulation = nn.LayerNorm(d, elementwise_affine=False, eps=1e-6), nn.Linear(d, 2 * d)
        self.linear = nn.Linear(d, p * p * 2 * c)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.get_buffer("places")
        condition = self.time(_waves(t, self.q)) + self.label(y)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition)).chunk(2, 1)
        x = self.linear(_modulate(self.norm(x), shift, scale))
        x = x.view(-1, self.s, self.s, self.p, self.p, 2 * self.c)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, 2 * self.c, self.s * self.p, self.s * self.p)
