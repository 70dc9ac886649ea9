"""Small well-known architectures as seeded factories: ``build(name)`` gives (model, example inputs); ``zoo:NAME`` on the command line.

Every model is in eval mode with generic parameters (gains off one, statistics off zero), so that no check is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.errors import BadInput

__all__ = ["ZOO", "Entry", "build", "digits_conv", "digits_mlp"]

Built = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo: what it is, and how it is made (with torch's own initial values)."""

    about: str
    make: Callable[[], Built]


def build(name: str, seed: int = 0) -> Built:
    """Model and example inputs of the zoo's ``name``, the same for the same seed; raises BadInput for an unknown name."""
    if name not in ZOO:
        raise BadInput(f"the zoo has no {name!r}: it has {', '.join(ZOO)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, example = ZOO[name].make()
        _generic(model, example)
    return model.eval(), example


def _generic(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Move what an initialisation leaves at exactly zero or one, gains and statistics, off these values.

    Statistics are those of random inputs: with invented ones many ReLU units would never switch, and that is more symmetry.
    """
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        if any(name.endswith("running_var") for name, _ in model.named_buffers()):
            model.train()
            for _ in range(20):
                model(*(torch.randn(16, *x.shape[1:]) for x in example))


def _tokens(vocabulary: int, length: int, batch: int = 2) -> tuple[Tensor, ...]:
    return (torch.randint(0, vocabulary, (batch, length)),)


# --- layered and convolutional networks -----------------------------------------------------------------------------------
def _mlp(act: Callable[[], nn.Module], widths: tuple[int, ...] = (5, 6, 4, 3), batch: int = 3) -> Built:
    layers: list[nn.Module] = []
    for m, n in pairwise(widths):
        layers += [nn.Linear(m, n), act()]
    return nn.Sequential(*layers[:-1]), (torch.randn(batch, widths[0]),)


def digits_mlp() -> Built:
    """64-32-16-10 ReLU network for scikit-learn's 8 x 8 digits."""
    return _mlp(nn.ReLU, (64, 32, 16, 10), batch=2)


def digits_conv() -> Built:
    """Two convolutions with BatchNorm, average pooling and a linear head, for 8 x 8 digits."""
    body = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(64, 10))
    return body, (torch.randn(2, 1, 8, 8),)


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm beside an identity or a strided 1 x 1 convolution."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        plain = stride == 1 and c_in == c_out
        self.short = nn.Identity() if plain else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


def _resnet() -> Built:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        ResidualBlock(4, 4, 1), ResidualBlock(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return model, (torch.randn(2, 3, 8, 8),)


# --- transformers ---------------------------------------------------------------------------------------------------------
class RMSNorm(nn.Module):
    """RMS norm written out, as language models write it."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    """Causal attention, h heads of size k on kv key/value heads; rotary positions in half-split order."""

    def __init__(self, d: int, h: int, k: int, kv: int, rotary: int, bias: bool) -> None:
        super().__init__()
        self.h, self.k, self.kv, self.rotary = h, k, kv, rotary
        self.q_proj, self.k_proj = nn.Linear(d, h * k, bias), nn.Linear(d, kv * k, bias)
        self.v_proj, self.o_proj = nn.Linear(d, kv * k, bias), nn.Linear(h * k, d, bias)
        if rotary:
            frequency = 50.0 ** (-torch.arange(0, k, 2) / k)
            angle = torch.outer(torch.arange(rotary), frequency).repeat(1, 2)
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        half = self.k // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.get_buffer("cos") + turned * self.get_buffer("sin")

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.h, self.k).transpose(1, 2)
        k, v = (m(x).view(b, t, self.kv, self.k).transpose(1, 2) for m in (self.k_proj, self.v_proj))
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        k, v = (m.repeat_interleave(self.h // self.kv, 1) for m in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, d: int, f: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(d, f, False), nn.Linear(d, f, False), nn.Linear(f, d, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + feed(norm x)."""

    def __init__(self, attention: nn.Module, feed: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.feed = norm(), attention, norm(), feed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Decoder(nn.Module):
    """Token embedding, optional learned positions, blocks, final norm, head (tied to the embedding or not)."""

    def __init__(self, vocabulary: int, d: int, blocks: list[Block], final: nn.Module, positions: int = 0, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm = nn.Embedding(vocabulary, d), nn.ModuleList(blocks), final
        self.position = nn.Embedding(positions, d) if positions else None
        self.head = nn.Linear(d, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.position is not None:
            x = x + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _llama(layers: int = 2, kv: int = 1, norm: str = "rms", eps: float = 0.0, tied: bool = False) -> Built:
    """Rotary SwiGLU decoder with stream 4, two heads of size 2, inner width 3 and seven tokens."""
    def make() -> nn.Module:
        return RMSNorm(4, eps) if norm == "rms" else nn.LayerNorm(4, eps=eps)
    blocks = [Block(Attention(4, 2, 2, kv, 6, False), SwiGLU(4, 3), make) for _ in range(layers)]
    return Decoder(7, 4, blocks, make(), tied=tied), _tokens(7, 6)


def _gpt2(tied: bool = False) -> Built:
    """Two-layer decoder with LayerNorm, biases, GELU and learned positions; stream 4, two heads of size 2, inner width 3."""
    def make() -> nn.Module:
        return nn.LayerNorm(4)
    blocks = [Block(Attention(4, 2, 2, 2, 0, True), nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4)), make) for _ in range(2)]
    return Decoder(7, 4, blocks, make(), positions=6, tied=tied), _tokens(7, 6)


class Encoder(nn.Module):
    """torch's own encoder layers between a token embedding with positions and a mean-pooled head."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(7, 4), nn.Parameter(torch.randn(5, 4))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 3, 0.0, "gelu", batch_first=True, norm_first=first) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class SoftMixture(nn.Module):
    """Mixture of experts with dense softmax gating: sum_e softmax(router x)_e expert_e(x)."""

    def __init__(self, d: int, f: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(d, experts, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(experts, f, d)), nn.Parameter(torch.randn(experts, d, f))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(torch.einsum("efd,bd->bef", self.up, x))
        return torch.einsum("be,edf,bef->bd", torch.softmax(self.router(x), -1), self.down, hidden)


class Recurrent(nn.Module):
    """A torch recurrent layer and a linear head on its last state."""

    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


ZOO: dict[str, Entry] = {
    "mlp-relu": Entry("5-6-4-3 perceptron with biases, ReLU", lambda: _mlp(nn.ReLU)),
    "mlp-tanh": Entry("5-6-4-3 perceptron with biases, tanh", lambda: _mlp(nn.Tanh)),
    "mlp-linear": Entry("5-6-4-3 linear network with biases", lambda: _mlp(nn.Identity)),
    "digits-mlp": Entry("64-32-16-10 ReLU perceptron of the demo", digits_mlp),
    "digits-conv": Entry("convolutional network with BatchNorm of the demo", digits_conv),
    "resnet-tiny": Entry("two residual blocks with BatchNorm", _resnet),
    "llama-tiny": Entry("2-layer rotary SwiGLU RMSNorm decoder, one key/value head, eps = 0", _llama),
    "llama-tiny-2kv": Entry("the same with two key/value heads", lambda: _llama(kv=2)),
    "llama-tiny-eps": Entry("the same with one layer, one key/value head and eps > 0", lambda: _llama(1, eps=1e-5)),
    "llama-tiny-tied": Entry("llama-tiny-eps with the head tied to the embedding", lambda: _llama(1, eps=1e-5, tied=True)),
    "llama-tiny-ln": Entry("llama-tiny with LayerNorm, eps = 0", lambda: _llama(norm="ln")),
    "llama-tiny-ln-eps": Entry("llama-tiny with LayerNorm, eps > 0", lambda: _llama(norm="ln", eps=1e-5)),
    "gpt2-tiny": Entry("2-layer LayerNorm GELU decoder with learned positions", _gpt2),
    "gpt2-tiny-tied": Entry("gpt2-tiny with the head tied to the embedding", lambda: _gpt2(tied=True)),
    "encoder-pre": Entry("two pre-norm torch encoder layers", lambda: (Encoder(True), _tokens(7, 5))),
    "encoder-post": Entry("two post-norm torch encoder layers", lambda: (Encoder(False), _tokens(7, 5))),
    "moe-tiny": Entry("mixture of three ReLU experts with softmax gating",
                      lambda: (nn.Sequential(nn.Linear(3, 4), SoftMixture(4, 3, 3), nn.Linear(4, 2)), (torch.randn(3, 3),))),
    "lstm-tiny": Entry("LSTM with a linear head", lambda: (Recurrent(nn.LSTM), (torch.randn(3, 5, 3),))),
    "gru-tiny": Entry("GRU with a linear head", lambda: (Recurrent(nn.GRU), (torch.randn(3, 5, 3),))),
}
