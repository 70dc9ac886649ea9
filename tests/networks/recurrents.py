"""Recurrent networks: torch's own, cells in a loop, linear recurrences, selective scans."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Built, add, floats, tokens

X, H, T, OUT = 3, 4, 5, 4


class Read(nn.Module):
    """A recurrent module and a linear head on all steps (or the last)."""

    def __init__(self, core: nn.Module, width: int = H, last: bool = False) -> None:
        super().__init__()
        self.core, self.head, self.last = core, nn.Linear(width, OUT), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.core(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(y[:, -1] if self.last else y)


def run(core: nn.Module, width: int = H, last: bool = False, spread: float = 0.5) -> Built:
    """A read-out core and its inputs."""
    return Read(core, width, last), floats(T, X, spread=spread)


add("rnn_tanh", lambda: run(nn.RNN(X, H, batch_first=True)), 4, "double bias")
add("rnn_relu", lambda: run(nn.RNN(X, H, nonlinearity="relu", batch_first=True), spread=1.0), 8,
    "double bias; scales shared by all steps")  # fmt: skip
add("rnn_no_bias", lambda: run(nn.RNN(X, H, bias=False, batch_first=True)), 0, "nothing")
add("rnn_two_layers", lambda: run(nn.RNN(X, H, num_layers=2, batch_first=True)), 8, "double biases")
add("rnn_both_ways", lambda: run(nn.RNN(X, H, bidirectional=True, batch_first=True), 2 * H), 8, "double biases")
add("lstm", lambda: run(nn.LSTM(X, H, batch_first=True)), 16, "double bias, 4 per unit")
add("lstm_last", lambda: run(nn.LSTM(X, 3, batch_first=True), 3, last=True), 12, "double bias")
add("lstm_no_bias", lambda: run(nn.LSTM(X, 3, bias=False, batch_first=True), 3), 0, "nothing")
add("lstm_projected", lambda: run(nn.LSTM(X, H, proj_size=2, batch_first=True), 2), 16 + 4,
    "double bias; gl(2) of the projection")  # fmt: skip
add("gru", lambda: run(nn.GRU(X, H, batch_first=True)), 8, "double bias of two gates; the third is gated")
add("gru_two_layers", lambda: run(nn.GRU(X, 3, num_layers=2, batch_first=True), 3), 12,
    "double bias of two gates, two layers")  # fmt: skip


class Loop(nn.Module):
    """A torch cell called step by step."""

    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.width = cell, width

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.width)
        c, out = h, []
        for t in range(x.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x[:, t], (h, c))
            else:
                h = self.cell(x[:, t], h)
            out.append(h)
        return torch.stack(out, 1)


add("rnn_cell_loop", lambda: run(Loop(nn.RNNCell(X, H, nonlinearity="relu"), H), spread=1.0), 8, "as nn.RNN")
add("lstm_cell_loop", lambda: run(Loop(nn.LSTMCell(X, 3), 3), 3), 12, "as nn.LSTM")
add("gru_cell_loop", lambda: run(Loop(nn.GRUCell(X, 3), 3), 3), 6, "as nn.GRU")


class Elman(nn.Module):
    """h <- act(A h + B x + b), written out; optional learned start; output C h + D x."""

    def __init__(self, act: str, start: bool = False, bias: bool = False, skip: bool = False, n: int = 3) -> None:
        super().__init__()
        self.A, self.B = nn.Linear(n, n, bias=False), nn.Linear(2, n, bias=bias)
        self.C, self.D = nn.Linear(n, 3), nn.Linear(2, 3, bias=False) if skip else None
        self.start = nn.Parameter(torch.randn(n)) if start else None
        self.act = {"id": lambda z: z, "relu": F.relu, "tanh": torch.tanh}[act]

    def forward(self, x: Tensor) -> Tensor:
        h = self.A.weight.new_zeros(x.shape[0],
        self.A.in_features) if self.start is None else self.start.expand(x.shape[0], -1)
        out = []
        for t in range(x.shape[1]):
            h = self.act(self.A(h) + self.B(x[:, t]))
            out.append(self.C(h) if self.D is None else self.C(h) + self.D(x[:, t]))
        return torch.stack(out, 1)


LONG = floats(7, 2, spread=0.4)
add("ssm_dense", lambda: (Elman("id"), LONG), 9, "similarity gl(3)")
add("ssm_dense_skip", lambda: (Elman("id", skip=True), LONG), 9, "similarity gl(3)")
add("ssm_dense_bias", lambda: (Elman("id", bias=True), LONG), 9,
    "similarity gl(3); the start at 0 forbids translations")  # fmt: skip
add("ssm_dense_start", lambda: (Elman("id", bias=True, start=True), LONG), 12,
    "similarity gl(3) and translations 3: the start is learned")  # fmt: skip
add("ssm_relu", lambda: (Elman("relu", bias=True), floats(7, 2, spread=0.8)), 3, "scales")
add("ssm_tanh", lambda: (Elman("tanh", bias=True, start=True), LONG), 0, "nothing")


class Diagonal(nn.Module):
    """Diagonal linear recurrence: real, complex as 2x2 blocks, or with input-dependent decay."""

    def __init__(self, kind: str, n: int = 4) -> None:
        super().__init__()
        self.kind, self.n = kind, n
        self.a = nn.Parameter(0.5 * torch.randn(n) if kind != "complex" else 0.4 * torch.randn(2, n // 2))
        self.B, self.C = nn.Linear(3, n, bias=False), nn.Linear(n, 3)
        self.decay = nn.Linear(3, n) if kind == "gated" else None

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        if self.kind == "real":
            return torch.sigmoid(self.a) * h + self.B(x)
        if self.kind == "gated":
            gate = torch.sigmoid(self.decay(x) + self.a)
            return gate * h + (1 - gate) * self.B(x)
        half = self.n // 2
        re, im = h[:, :half], h[:, half:]
        turned = torch.cat([self.a[0] * re - self.a[1] * im, self.a[1] * re + self.a[0] * im], -1)
        return turned + self.B(x)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], self.n), []
        for t in range(x.shape[1]):
            h = self.step(h, x[:, t])
            out.append(self.C(h))
        return torch.stack(out, 1)


add("ssm_diagonal", lambda: (Diagonal("real"), floats(6, 3, spread=0.4)), 4, "scales")
add("ssm_complex", lambda: (Diagonal("complex"), floats(6, 3, spread=0.4)), 4, "a complex number per pair")
add("ssm_gated", lambda: (Diagonal("gated"), floats(6, 3, spread=0.4)), 4 + 4, "scales; a and the decay bias add")


class Selective(nn.Module):
    """The core of Mamba: state N per channel, B, C and step size from the input."""

    def __init__(self, d: int = 3, n: int = 2, last: bool = True) -> None:
        super().__init__()
        self.enter, self.dt = nn.Linear(4, d, bias=False), nn.Linear(d, d)
        self.B, self.C = nn.Linear(d, n, bias=False), nn.Linear(d, n, bias=False)
        self.logA, self.D = nn.Parameter(0.3 * torch.randn(d, n)), nn.Parameter(torch.ones(d))
        self.leave = nn.Linear(d, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u = F.silu(self.enter(x))
        dt, b, c = F.softplus(self.dt(u)), self.B(u), self.C(u)
        h, out = 0.0, []
        for t in range(x.shape[1]):
            h = torch.exp(-dt[:, t, :, None] * self.logA.exp()) * h + (dt[:, t] * u[:, t])[..., None] * b[:, t, None, :]
            out.append((h * c[:, t, None, :]).sum(-1) + self.D * u[:, t])
        return self.leave(torch.stack(out, 1))


add("mamba_core", lambda: (Selective(), floats(5, 4, spread=0.4)), 3,
    "a scale per state 2; C and D against the output 1")  # fmt: skip


class LinearAttention(nn.Module):
    """Unnormalised linear attention as a recurrent matrix state, with a learned decay."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(m, n, bias=False) for m, n in ((5, 3), (5, 3), (5, 3), (3, 5)))
        self.decay = nn.Parameter(torch.tensor([0.3, -0.2, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        s, out = x.new_zeros(x.shape[0], 3, 3), []
        for t in range(x.shape[1]):
            s = torch.sigmoid(self.decay)[:, None] * s + k[:, t, :, None] * v[:, t, None, :]
            out.append((q[:, t, None] @ s)[:, 0])
        return self.o(torch.stack(out, 1))


add("retention", lambda: (LinearAttention(), floats(5, 5, spread=0.4)), 3 + 9 + 1,
    "a scale per key channel; gl(3) of values; keys against values")  # fmt: skip


class TokenRnn(nn.Module):
    """Character model: embedding, GRU, head tied to the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(5, 3), nn.GRU(3, 3, batch_first=True), nn.Linear(3, 5)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.core(self.embed(ids))[0])


add("char_gru", lambda: (TokenRnn(False), tokens(5, 6)), 6 + 12, "double bias 6; embedding gl(3) and translation 3")
add("char_gru_tied", lambda: (TokenRnn(True), tokens(5, 6)), 6, "double bias; the tie leaves nothing of gl(3)")


class Euler(nn.Module):
    """The same residual block applied four times (an ordinary differential equation)."""

    def __init__(self, steps: int, affine: bool) -> None:
        super().__init__()
        self.first, self.field, self.last, self.steps = nn.Linear(5, 3), nn.Sequential(nn.Linear(3, 4), nn.Tanh(),
        nn.Linear(4, 3)), nn.Linear(3, 5), steps
        self.affine = affine

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.steps):
            x = x + 0.25 * self.field(x)
        return self.last(x)


add("euler_steps", lambda: (Euler(4, True), floats(5)), 9 + 3, "gl(3) and one translation shared by all steps")
add("euler_one_step", lambda: (Euler(1, True), floats(5)), 9 + 6,
    "with one step the stream may be shifted after it as well")  # fmt: skip
