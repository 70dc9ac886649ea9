"""Layers used several times, which read maps at first and a centring norm from then on: what the maps write may be sheared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats, tokens
from torch import Tensor, nn

import symdisc
from symdisc.conserved.evaluate import residual
from symdisc.families.recurring import NAME


class Shared(nn.Module):
    """x -> norm(x + down(gelu(up(x)))) several times with the same weights; ``mode`` says what is otherwise."""

    def __init__(self, mode: str = "", d: int = 4, times: int = 3) -> None:
        super().__init__()
        self.mode, self.times = mode, times
        entry = mode not in ("no shift", "no entry")
        self.enter = nn.Embedding(50, d) if mode in ("table", "places") else nn.Linear(6, d, bias=entry)
        self.places = nn.Parameter(torch.randn(5, d)) if mode == "places" else None
        self.second = nn.Linear(6, d) if mode == "two maps" else None
        affine = {"elementwise_affine": mode != "plain", "bias": mode != "no shift"}
        norm = nn.RMSNorm(d, eps=0.05) if mode == "rms" else nn.LayerNorm(d, eps=0.05, **affine)
        self.norms = nn.ModuleList([nn.LayerNorm(d, eps=0.05) for _ in range(times)] if mode == "unshared" else [norm] * times)
        self.up, self.down = nn.Linear(d, 6, bias=mode != "no bias"), nn.Linear(6, d)
        self.side = nn.Linear(d, 2) if mode == "side" else None
        self.head = nn.Linear(d, 6)

    def turned(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            z = self.down(F.gelu(self.up(x)))
            x = norm(x + (z + z.flip(1) if z.ndim > 2 else z))  # a table alone would make a finite function
        return x

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x) if self.places is None else self.enter(x) + self.places
        out = self.head(self.turned(first))
        if self.second is not None:
            out = torch.cat([out, self.head(self.turned(self.second(x)))], -1)
        if self.side is not None:
            out = torch.cat([out, torch.tanh(self.side(first))], -1)
        if self.mode == "seen":
            out = out + torch.tanh(first).sum(-1, keepdim=True)
        return torch.cat([out, first], -1) if self.mode == "output" else out


FOUND = {"": 1, "no shift": 1, "plain": 1, "table": 1, "places": 1, "side": 1, "two maps": 1, "once": 0, "unshared": 0, "rms": 0,
         "no bias": 1, "no entry": 1, "seen": 0, "output": 0}


def _made(mode: str) -> tuple[nn.Module, tuple[Tensor, ...], object]:
    inputs = tokens(50, 5, batch=12) if mode in ("table", "places") else floats(6)
    torch.manual_seed(1)
    model = randomise(Shared(mode, times=1 if mode == "once" else 3), 1)
    return model, inputs(0), inputs


@pytest.mark.parametrize("mode", FOUND)
def test_the_first_stream_is_sheared(mode: str) -> None:
    model, example, inputs = _made(mode)
    cat = symdisc.discover(model, example, solve=False)
    mine = [s for s in cat.symmetries if s.name == NAME]
    assert len(mine) == FOUND[mode] and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def test_a_gain_that_a_layer_reads_at_first_alone() -> None:
    """From then on it reads norms without gains, which have nothing along 1 that could go with the gain: they turn by O, the first by M."""
    torch.manual_seed(1)
    shared = Shared("plain")
    shared.enter = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4, eps=0.05, bias=False))
    model, inputs = randomise(shared, 1), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert cat.broken == () and cat.group_dimension <= fibre(model, inputs, seed=None).dimension
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9


@pytest.mark.parametrize("mode", ["", "no bias", "places"])
def test_elements_compose_and_their_fields_are_orthogonal_to_gradients(mode: str) -> None:
    model, example, inputs = _made(mode)
    cat = symdisc.discover(model, example, solve=False)
    state, element = {k: v.clone() for k, v in model.state_dict().items()}, cat.sample(seed=2, scale=0.5)
    back = cat.apply(cat.apply(state, element), cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-9
    out = model(*inputs(5))
    (out * torch.linspace(0.5, 2.0, out.numel(), dtype=out.dtype).reshape(out.shape)).square().sum().backward()
    gradient = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    values = {n: p.detach().numpy() for n, p in model.named_parameters()}
    laws = [q for q in cat.conserved if q.symmetry.name == NAME]
    assert laws and all(q.status == "none" and "shears a stream" in q.reason for q in laws)
    size = max(float(np.abs(g).max()) for g in gradient.values())
    assert max(float(np.abs(residual(q, values, gradient)).max()) for q in laws) < 1e-9 * size
    assert NAME in cat.to_latex() and "S =" in cat.to_latex() and "<dW, A W>" in cat.to_markdown()
    assert "$<$dW, A W$>$" in cat.to_latex() and "textless" not in cat.to_latex() + cat.to_markdown() + cat.to_html()


class Loop(nn.Module):
    """A layer used several times without norms; ``residual`` adds what it reads, ``head`` has the bias that could take a constant away.
    ``seen``: what the loop starts from is "halved" or "split" by another reader."""

    def __init__(self, residual: bool, head: bool, seen: str = "", d: int = 4) -> None:
        super().__init__()
        self.residual, self.seen = residual, seen
        self.enter, self.up, self.down, self.head = nn.Linear(6, d), nn.Linear(d, 5), nn.Linear(5, d), nn.Linear(d, 4, bias=head)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.enter(x)
        for _ in range(2):
            z = self.down(F.gelu(self.up(x)))
            x = 2.0 * x + z if self.residual else z
        if self.seen:
            one, other = first.chunk(2, -1) if self.seen == "halved" else first.split((1, 2), 0)
            return self.head(x) + (torch.tanh(one) * other if self.seen == "halved" else torch.tanh(one)).sum(-1, keepdim=True)
        return self.head(x)


@pytest.mark.parametrize("seen", ["halved", "split"])
def test_constants_of_which_another_reader_takes_parts_are_not_proposed(seen: str) -> None:
    torch.manual_seed(0)
    model, inputs = randomise(Loop(False, True, seen), 1), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert cat.broken == () and cat.group_dimension == fibre(model, inputs, seed=None).dimension


@pytest.mark.parametrize("residual, head, names", [
    (False, True, {"enter.bias", "down.bias", "up.bias", "head.bias"}), (True, True, {"enter.bias", "down.bias", "up.bias", "head.bias"}),
    (False, False, set()), (True, False, set())])
def test_constants_that_a_layer_takes_away_at_every_turn(residual: bool, head: bool, names: set[str]) -> None:
    """2 x + z: what the loop adds must cancel what it doubles."""
    torch.manual_seed(0)
    model, inputs = randomise(Loop(residual, head), 1), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    mine = [s for s in cat.symmetries if s.family == "translation"]
    assert [set(s.parameters) for s in mine] == ([names] if names else []) and cat.broken == ()
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert cat.verify(model, cat.sample(seed=1, scale=0.5)).max_relative_change < 1e-10
