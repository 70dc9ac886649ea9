"""Changes of basis that a gain conjugates: D g D^-1 behind it. The gain is read where the weight is moved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from grower import regrow
from networks.base import floats
from torch import Tensor, nn

import symdisc

TURNS = ("rotation of the stream", "rotation of the stream fixing 1")


class Behind(nn.Module):
    """norm with a gain -> x, x + mlp(x), head, without further norms; ``seen``: something reads the stream unit by unit."""

    def __init__(self, norm: str, seen: bool = False, d: int = 4) -> None:
        super().__init__()
        self.enter, self.seen = nn.Linear(6, d), seen
        self.norm = nn.RMSNorm(d, eps=0.05) if norm == "rms" else nn.LayerNorm(d, eps=0.05)
        self.up, self.down, self.head = nn.Linear(d, 5), nn.Linear(5, d), nn.Linear(d, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x) + (torch.tanh(x).sum(-1, keepdim=True) if self.seen else 0.0)


@pytest.mark.parametrize("norm, seen, turns", [("rms", False, 6), ("layer", False, 3), ("rms", True, 0), ("layer", True, 0)])
def test_streams_that_weights_write_behind_a_gain(norm: str, seen: bool, turns: int) -> None:
    """SO(d) of what comes off the norm, conjugated by the gain; of a centred one the shears by 1/gamma along d directions have no name."""
    torch.manual_seed(1)
    model, inputs = randomise(Behind(norm, seen), 1), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name in TURNS]
    assert sum(s.dimension for s in found) == turns and cat.broken == ()
    assert all({"enter.weight", "down.weight", "up.weight", "head.weight"} <= set(s.parameters) for s in found)
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    unnamed = 4 if norm == "layer" and not seen else 0
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension - unnamed


@pytest.mark.parametrize("kind, width, steps", [
    ("sequence", 5, [["linear", 2, True], ["cat", [["attend", 1, 1, 2, False, ["fused"]]]], ["gain"], ["linear", 4, True]]),
    ("vector", 3, [["linear", 2, False], ["norm", "layer_plain"], ["cat", [["glu", 2, "gelu", True]]], ["gain"], ["linear", 6, True]])])
def test_a_gain_whose_entries_stand_elsewhere_is_not_read(kind: str, width: int, steps: list[object]) -> None:
    """Units 2 and 3 of the gain are units 0 and 1 of the weight that writes them."""
    model, maker = regrow(repr({"input": kind, "width": width, "length": 4, "steps": steps, "train": False}))
    model = randomise(model, 0)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert cat.broken == () and cat.group_dimension <= fibre(model, maker, seed=None).dimension
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9


class Scored(nn.Module):
    """Experts that read what comes off a norm, times a score of their own, as Llama 4 has them; ``rolled``: entries change places."""

    def __init__(self, rolled: bool, d: int = 4, experts: int = 2) -> None:
        super().__init__()
        self.rolled, self.enter, self.norm, self.router = rolled, nn.Linear(6, d), nn.RMSNorm(d, eps=0.05), nn.Linear(d, experts)
        self.up = nn.ModuleList(nn.Linear(d, 3, bias=False) for _ in range(experts))
        self.down, self.last, self.head = nn.Linear(3, d, bias=False), nn.RMSNorm(d, eps=0.05), nn.Linear(d, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.norm(x)
        scores, z = torch.sigmoid(self.router(y)), y.roll(1, -1) if self.rolled else y
        mixed = sum(F.silu(up(z * scores[..., k:k + 1])) for k, up in enumerate(self.up))
        return self.head(self.last(x + self.down(mixed)))


@pytest.mark.parametrize("rolled, turns", [(False, 6), (True, 0)])
def test_a_score_between_the_gain_and_what_reads_it(rolled: bool, turns: int) -> None:
    torch.manual_seed(1)
    model, inputs = randomise(Scored(rolled), 1), floats(6)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.name in TURNS) == turns and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    if not rolled:
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
