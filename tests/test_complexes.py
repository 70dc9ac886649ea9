"""Rotary positions by complex numbers, with and without a norm behind them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput
from symdisc.torchside.capture import capture
from symdisc.torchside.interpret import call

WIDTH, HEADS, LENGTH = 8, 2, 5


class Turned(nn.Module):
    """Causal attention whose queries and keys are turned. ``mode``: "normed" behind the turn; "gained" behind that; "learned" factor."""

    def __init__(self, mode: str = "") -> None:
        super().__init__()
        self.mode = mode
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out, self.gain = nn.Linear(WIDTH, WIDTH, bias=False), nn.Parameter(torch.ones(WIDTH // HEADS))
        self.learned = nn.Parameter(torch.zeros(2, 2)) if mode == "learned" else None

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(LENGTH)[:, None] * torch.tensor([1.0, 0.3])
        factor = torch.polar(torch.ones_like(angle), angle).to(torch.complex128)
        if self.learned is not None:
            factor = factor * torch.view_as_complex(self.learned)
        x = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous()) * factor
        x = torch.view_as_real(x).flatten(-2)
        if self.mode in ("normed", "gained"):
            x = F.rms_norm(x, (WIDTH // HEADS,), eps=0.05)
        return x * self.gain if self.mode == "gained" else x

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def _made(mode: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    model = Turned(mode).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model, torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)


@pytest.mark.parametrize("mode, family, group", [("", "complex", "GL(1,C)^4"), ("normed", "o", "SO(2)^4"), ("gained", None, "")])
def test_planes_turn(mode: str, family: str | None, group: str) -> None:
    model, x = _made(mode)
    cat = symdisc.discover(model, (x,), solve=False)
    assert not cat.broken
    found = [s for s in cat.symmetries if s.family in ("complex", "o")]
    assert [(s.family, s.group) for s in found] == ([] if family is None else [(family, group)])
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    if mode == "normed":
        assert found[0].name == "turns of rotary planes"
        assert symdisc.certify(cat).complete


def test_written_out_it_is_the_same_function() -> None:
    model, x = _made("normed")
    captured = capture(model, (x,))
    assert not [op for op in captured.graph.ops if "complex" in op.target and op.name in captured.graph.live]
    values = {**captured.tensors, captured.graph.inputs[0]: x}
    for op in captured.graph.ops:
        if op.name in captured.graph.live:
            values[op.name] = call(op, values)
    assert torch.allclose(values[captured.graph.outputs[0]], model(x), atol=1e-12)


def test_a_learned_factor_stays_as_it_is() -> None:
    """A product of parameters and activations is no fixed turn: nothing is claimed of what it touches."""
    model, x = _made("learned")
    cat = symdisc.discover(model, (x,), solve=False)
    assert not [s for s in cat.symmetries if s.family in ("complex", "o") and "q.weight" in s.parameters]
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


class Filter(nn.Module):
    """Two complex states, read by their real parts; the weights are complex, or real pairs of the same numbers."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        weights = (torch.randn(2, 3, dtype=torch.complex128), torch.randn(2, 2, dtype=torch.complex128))
        self.into, self.out = (nn.Parameter(torch.view_as_real(w).clone() if pairs else w) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        into, out = (torch.view_as_complex(w) if not w.is_complex() else w for w in (self.into, self.out))
        z = x.to(into.dtype) @ into.mT
        return (z * torch.tanh(z.abs()) @ out.mT).real


def test_complex_parameters_are_asked_for_as_real_pairs() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(BadInput, match=r"into is complex.*view_as_complex"):
        symdisc.discover(Filter(False), (x,))
    model = Filter(True)
    cat = symdisc.discover(model, (x,))
    assert cat.orbit_dimension == symdisc.certify(cat).fibre == 2  # one phase for each state
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
