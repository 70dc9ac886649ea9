"""Linear streams that BatchNorm reads in front of a linear map: named families alone against the oracle."""

from __future__ import annotations

import pytest
import torch
from brute import fibre, randomise
from grower import regrow
from networks.base import floats
from torch import Tensor, nn

import symdisc


class Block(nn.Module):
    """A residual block of convolutions behind a BatchNorm. ``act``: an activation between them; ``norm``: a LayerNorm reads the
    stream as well; ``pad``: the kernel is padded; ``seen``: something else sees the channels one by one."""

    def __init__(self, act: bool = False, norm: bool = False, pad: bool = False, seen: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.act, self.norm, self.seen = act, norm, seen
        self.first, self.before = nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
        self.up, self.middle = nn.Conv2d(4, 3, 3 if pad else 1, padding=int(pad), bias=bias), nn.BatchNorm2d(3)
        self.down = nn.Conv2d(3, 4, 1)
        self.after, self.head = nn.LayerNorm(4) if norm else nn.Identity(), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        h = self.before(x)
        x = x + self.down(torch.tanh(self.middle(self.up(torch.tanh(h) if self.act else h))))
        x = x.permute(0, 2, 3, 1)
        return torch.tanh(self.head(self.after(x.sin() if self.seen else x))).mean((1, 2))


class Channelwise(Block):
    """The kernel behind the norm sees each channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.middle, self.down = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)


class Between(nn.Module):
    """A BatchNorm between two linear maps and nothing else: one change of basis, in front of it or behind. ``again``: another BatchNorm
    reads what it writes, and so does a skip."""

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.up = nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        self.more = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)) if again else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        h = torch.tanh(self.up(x))
        return (h if self.more is None else h * torch.sin(self.more(x))).mean((2, 3))


CASES = {  # dimensions in front of the BatchNorm
    "linear": (Block(), 16),
    "padded": (Block(pad=True, bias=True), 16),
    "layer norm": (Block(norm=True), 3 + 4),
    "activation": (Block(act=True), 0),
    "between": (Between(), 0),
    "channelwise": (Channelwise(), 0),
    "seen": (Block(seen=True), 0),
}


def test_two_norms_on_the_way_are_left_out() -> None:
    torch.manual_seed(0)
    model, inputs = randomise(Between(again=True), 1).eval(), floats(5, 3, 3)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert not any(s.name.endswith("in front of BatchNorm") for s in cat.symmetries) and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_in_front_of_batch_norm(name: str) -> None:
    model, dimension = CASES[name]
    torch.manual_seed(0)
    model, inputs = randomise(model, 1).eval(), floats(5, 3, 3)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name.endswith("in front of BatchNorm")]
    assert (sum(s.dimension for s in found), cat.broken) == (dimension, ())
    assert sum(s.dimension for s in cat.symmetries if s.counts) == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in found) and symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


@pytest.mark.parametrize("kind", ["sequence", "vector"])
def test_a_norm_beside_a_batchnorm_does_not_hide_its_constants(kind: str) -> None:
    """What the norm puts out has no constants of its own, and leads to a stream that has: it turns in front of the BatchNorm, or not."""
    steps = [["linear", 4, False], ["residual", [["norm", "rms_eps0"], ["linear", 4, False]]],
             ["residual", [["norm", "batch"], ["linear", 4, False], ["act", "tanh"], ["linear", 4, False]]], ["linear", 5, False]]
    model, maker = regrow(repr({"input": kind, "width": 3, "length": 4, "steps": steps, "train": False}))
    model = randomise(model, 1)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert [s.name for s in cat.symmetries if "rotation" in s.name] == ["rotation of the stream in front of BatchNorm"]
    assert cat.broken == () and cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
