"""Recurrent networks: RNN, GRU and LSTM cells of torch, and the linear recurrent unit (LRU)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.architectures import sources
from symdisc.architectures.base import Architecture, Built, Sizes

__all__ = ["ENTRIES", "LinearRecurrence"]

LENGTH = 4  # steps of a call


class Reader(nn.Module):
    """A recurrent network, and a linear map that reads its state at every step."""

    def __init__(self, cell: Callable[..., nn.Module], n: int, d: int, layers: int, o: int) -> None:
        super().__init__()
        self.cell, self.read = cell(n, d, num_layers=layers, batch_first=True), nn.Linear(d, o)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(x)[0])


class LinearRecurrence(nn.Module):
    """h_t = lambda h_(t-1) + gamma B x_t, y_t = Re(C h_t) + D x_t, with n complex states; real and imaginary parts are parameters."""

    def __init__(self, d: int, n: int) -> None:
        super().__init__()
        radius, phase = torch.sqrt(torch.rand(n) * 0.75 + 0.2), math.pi / 5 * torch.rand(n)
        self.nu_log, self.theta_log = nn.Parameter(torch.log(-torch.log(radius))), nn.Parameter(torch.log(phase))
        self.gamma_log = nn.Parameter(torch.log(torch.sqrt(1 - radius.square())))
        self.B_re, self.B_im = (nn.Parameter(torch.randn(n, d) / math.sqrt(2 * d)) for _ in range(2))
        self.C_re, self.C_im = (nn.Parameter(torch.randn(d, n) / math.sqrt(n)) for _ in range(2))
        self.D = nn.Parameter(torch.randn(d))

    def forward(self, x: Tensor) -> Tensor:
        radius, angle, gain = torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log), torch.exp(self.gamma_log)
        a, b = radius * torch.cos(angle), radius * torch.sin(angle)
        u, w = gain * F.linear(x, self.B_re), gain * F.linear(x, self.B_im)
        re, im = torch.zeros_like(u[:, 0]), torch.zeros_like(u[:, 0])
        out = []
        for t in range(x.shape[1]):
            re, im = a * re - b * im + u[:, t], b * re + a * im + w[:, t]
            out.append(F.linear(re, self.C_re) - F.linear(im, self.C_im))
        return torch.stack(out, 1) + self.D * x


class RecurrentBlock(nn.Module):
    """x + GLU(gelu(recurrence(norm x)))."""

    def __init__(self, d: int, n: int) -> None:
        super().__init__()
        self.norm, self.recurrence, self.mix = nn.LayerNorm(d), LinearRecurrence(d, n), nn.Linear(d, 2 * d)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.glu(self.mix(F.gelu(self.recurrence(self.norm(x)))), -1)


class LinearRecurrentNetwork(nn.Module):
    """Encoder, blocks, decoder of the mean over time."""

    def __init__(self, i: int, d: int, n: int, layers: int, o: int) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(i, d), nn.Linear(d, o)
        self.blocks = nn.Sequential(*(RecurrentBlock(d, n) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.blocks(self.encode(x)).mean(1))


def _cell(cell: Callable[..., nn.Module]) -> Callable[[Sizes], Built]:
    def build(s: Sizes) -> Built:
        return Reader(cell, s["n"], s["d"], s["L"], s["o"]).eval(), (torch.randn(2, LENGTH, s["n"]),)

    return build


def _lru(s: Sizes) -> Built:
    return LinearRecurrentNetwork(s["i"], s["d"], s["n"], s["L"], s["o"]).eval(), (torch.randn(2, LENGTH, s["i"]),)


SYMBOLS = {"n": "inputs", "d": "units of a layer", "L": "layers", "o": "outputs"}
SMALL = ({"n": 2, "d": 3, "L": 1, "o": 4}, {"n": 3, "d": 3, "L": 2, "o": 2}, {"n": 2, "d": 4, "L": 1, "o": 5})
CELLS = (
    ("rnn", "Recurrent network (tanh)", nn.RNN, "Elman, Finding structure in time, Cognitive Science 14, 1990", None),
    ("gru", "GRU", nn.GRU, "Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, arXiv:1406.1078",
     ("the phrase encoder of the paper (1000 units)", {"n": 100, "d": 1000, "L": 1, "o": 500})),
    ("lstm", "LSTM", nn.LSTM, "Zaremba, Sutskever, Vinyals, Recurrent neural network regularization, 2014, arXiv:1409.2329",
     ("medium Penn Treebank model behind its embedding", {"n": 650, "d": 650, "L": 2, "o": 10000})),
)

ENTRIES = (
    *(Architecture(name, title, SYMBOLS, _cell(cell), SMALL, published, (sources.defines(text), sources.LSTM_SIGNS),
                   ("torch keeps two biases for every gate",))
      for name, title, cell, text, published in CELLS),
    Architecture("lru", "Linear recurrent unit (diagonal state space)",
                 {"i": "inputs", "d": "model width", "n": "complex states", "L": "layers", "o": "outputs"}, _lru,
                 ({"i": 2, "d": 4, "n": 3, "L": 1, "o": 3}, {"i": 2, "d": 3, "n": 2, "L": 2, "o": 2}, {"i": 3, "d": 5, "n": 3, "L": 1,
                 "o": 4}),
                 ("the network of the paper for sequential CIFAR-10", {"i": 3, "d": 512, "n": 384, "L": 6, "o": 10}),
                 (sources.defines("Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023, arXiv:2303.06349"),
                  sources.defines("Gu, Gupta, Goel, Re, On the parameterization and initialization of diagonal state space models, "
                                  "NeurIPS 2022, arXiv:2206.11893", "the diagonal state space")),
                 ("eps > 0 in the norms",)),
)
