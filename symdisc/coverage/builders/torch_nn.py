"""Models made of torch.nn alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from symdisc.coverage.builders import Built

__all__ = ["MODELS"]


MANY = 40  # tokens: units that see fewer points leave more of a function to itself than the layers do


class _First(nn.Module):
    """The first of several outputs, as one who uses the layer takes it."""

    def __init__(self, inner: nn.Module, copies: int = 1, **options: object) -> None:
        super().__init__()
        self.inner, self.copies, self.options = inner, copies, options

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(*[x] * self.copies, **self.options)[0]
        return out


class _Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3.0 * x)


class _SharedTied(nn.Module):
    """One layer used twice between an embedding and a head that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(MANY, 5), nn.Linear(5, 5), nn.Linear(5, MANY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(self.embed(x)))
        out: Tensor = self.head(torch.relu(self.layer(h)))
        return out


class _Kan(nn.Module):
    """Two layers of learnt univariate functions on fixed Gaussian bumps."""

    grid: Tensor

    def __init__(self, widths: tuple[int, ...] = (3, 4, 2), bumps: int = 4) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.base = nn.ModuleList(nn.Linear(i, o) for i, o in pairs)
        self.spline = nn.ParameterList(nn.Parameter(torch.randn(o, i, bumps)) for i, o in pairs)
        self.register_buffer("grid", torch.linspace(-2.0, 2.0, bumps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for base, spline in zip(self.base, self.spline, strict=True):
            bumps = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2))
            x = base(nn.functional.silu(x)) + torch.einsum("bik,oik->bo", bumps, spline)
        return x


class _Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)
        self.up, self.last = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.max_pool2d(nn.functional.leaky_relu(self.norm(self.down(x)), 0.1), 2)
        h = nn.functional.interpolate(nn.functional.pixel_shuffle(self.up(h), 2), scale_factor=2.0)
        out: Tensor = self.last(h)
        return out


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(2)
        self.hidden, self.last = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(nn.functional.elu(self.conv(x))).flatten(1)
        return torch.softmax(self.last(nn.functional.softplus(self.hidden(h))), -1)


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Transformer(4, 2, 1, 1, 5, batch_first=True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.inner(a, b)
        return out


def _weight_norm() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    second = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))
    return nn.Sequential(first, nn.Tanh(), second)


def _of(model: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Callable[[], Built]:
    return lambda: Built(model(), tuple(torch.randn(*s) for s in shapes))


def _encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def _mha() -> nn.Module:
    return nn.MultiheadAttention(4, 2, batch_first=True)


MODELS: Mapping[str, Callable[[], Built]] = {
    "mlp_relu": _of(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (4, 4)),
    "mlp_bn_gelu_drop": _of(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, 3)),
                            (4, 4)),
    "mlp_prelu_ln_gn": _of(lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.LayerNorm(6), nn.Linear(6, 8), nn.GroupNorm(2, 8),
                                                 nn.Linear(8, 4), nn.RMSNorm(4), nn.Linear(4, 3)), (4, 4)),
    "mlp_shared_tied": lambda: Built(_SharedTied(), (torch.randint(0, MANY, (3, 5)),)),
    "mlp_weightnorm": _of(_weight_norm, (4, 4)),
    "siren": _of(lambda: nn.Sequential(nn.Linear(2, 5), _Sine(), nn.Linear(5, 5), _Sine(), nn.Linear(5, 2)), (5, 2)),
    "kan_like": _of(_Kan, (5, 3)),
    "lstm": _of(lambda: _First(nn.LSTM(3, 4, 2, batch_first=True)), (2, 5, 3)),
    "gru": _of(lambda: _First(nn.GRU(3, 4, 2, batch_first=True)), (2, 5, 3)),
    "rnn": _of(lambda: _First(nn.RNN(3, 4, 2, batch_first=True)), (2, 5, 3)),
    "bilstm": _of(lambda: _First(nn.LSTM(3, 3, 2, batch_first=True, bidirectional=True)), (2, 5, 3)),
    "mha_noweights": _of(lambda: _First(_mha(), 3, need_weights=False), (2, 5, 4)),
    "mha_weights": _of(lambda: _First(_mha(), 3, need_weights=True), (2, 5, 4)),
    "transformer_encoder": _of(lambda: _encoder(False), (2, 5, 4)),
    "transformer_encoder_prenorm": _of(lambda: _encoder(True), (2, 5, 4)),
    "nn_transformer": _of(_Transformer, (2, 5, 4), (2, 3, 4)),
    "conv_transpose_unet": _of(_Unet, (2, 2, 8, 8)),
    "conv1d_3d_bilinear": _of(_Mixed, (3, 2, 11)),
}
