"""Depthwise and grouped convolutions: all channels of one kind scale as one group, and the group is all there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import symdisc
from tests.brute import randomise


class Residual(nn.Module):
    """A depthwise convolution beside the identity: its channels keep their size."""

    def __init__(self) -> None:
        super().__init__()
        self.rise, self.depth, self.fall = nn.Conv1d(2, 3, 1), nn.Conv1d(3, 3, 3, padding=1, groups=3), nn.Conv1d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rise(x)
        return self.fall(functional.leaky_relu(x + functional.leaky_relu(self.depth(x))))


def _plain(depth: nn.Module, *after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 2), nn.LeakyReLU(0.3), depth, nn.LeakyReLU(0.3), *after)


torch.manual_seed(0)  # the random weights below have the size of the initial ones
# no change of basis passes a weight for each channel
LINEAR = nn.Sequential(nn.Conv1d(2, 4, 1, bias=False), nn.Conv1d(4, 4, 2, groups=4, bias=False),
                       nn.Conv1d(4, 4, 2, groups=4, padding=1, bias=False), nn.Conv1d(4, 5, 1), nn.Tanh(), nn.Conv1d(5, 2, 1))
# group dimension by hand: a scale for each hidden channel; the number of symmetries that carry it (more where outputs are the second
# axis of a weight: each group scales its own rows)
CASES = {
    "depthwise": (_plain(nn.Conv1d(4, 4, 2, groups=4), nn.Conv1d(4, 2, 1)), 8, 2),
    "two outputs a channel": (_plain(nn.Conv1d(4, 8, 2, groups=4), nn.Conv1d(8, 2, 1)), 12, 2),
    "transposed": (_plain(nn.ConvTranspose1d(4, 4, 2, groups=4), nn.Conv1d(4, 2, 1)), 8, 2),
    "transposed, two outputs a channel": (_plain(nn.ConvTranspose1d(4, 8, 2, groups=4), nn.Conv1d(8, 2, 1)), 12, 5),
    "two groups": (_plain(nn.Conv1d(4, 4, 2, groups=2), nn.Conv1d(4, 2, 1)), 8, 3),
    "twice": (_plain(nn.Conv1d(4, 4, 2, groups=4), nn.Conv1d(4, 4, 2, groups=4), nn.LeakyReLU(0.3), nn.Conv1d(4, 2, 1)), 12, 3),
    "residual": (Residual(), 3, 1),
    "linear": (LINEAR, 12, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_scale_as_one(name: str) -> None:
    model, dimension, count = CASES[name]
    model = randomise(model.double(), 0)
    x = torch.randn(20, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cat = symdisc.discover(model, (x,))
    scales = [s for s in cat.symmetries if s.name == "scaling of hidden units"]
    assert cat.orbit_dimension == dimension == sum(s.dimension for s in scales)
    assert len(scales) == count and all(s.status == "proved" for s in scales)
    g = cat.sample(seed=1, scale=1.0)
    assert cat.verify(model, g).max_relative_change < 1e-10
    assert symdisc.certify(cat).fibre == dimension


class Twice(nn.Module):
    """A depthwise convolution used twice, beside the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.rise, self.fall = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 2, 1)
        self.depth, self.other = (nn.Conv1d(4, 4, 3, padding=1, groups=4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.rise(x)
        x = x + torch.tanh(self.depth(x))
        return self.fall(x + torch.tanh(self.depth(self.other(x))))


def _tanh(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh(), *layers)


NORMED = nn.Sequential(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.ReLU6(), nn.Conv1d(4, 4, 3, groups=4, padding=1), nn.BatchNorm1d(4),
                       nn.ReLU6(), nn.Conv1d(4, 2, 1))
EXCHANGES = {
    "behind BatchNorm": (NORMED.eval(), ["S_4"]),
    "used twice": (Twice(), ["S_4"]),
    "transposed": (_tanh(nn.ConvTranspose1d(3, 3, 2, groups=3), nn.Tanh(), nn.Conv1d(3, 2, 1)), ["S_3"]),
    "two outputs a channel": (_tanh(nn.Conv1d(3, 6, 2, groups=3), nn.Tanh(), nn.Conv1d(6, 2, 1)), ["S_2", "S_2", "S_2", "S_3"]),
    "of the output": (_tanh(nn.Conv1d(3, 3, 2, groups=3)), []),
    "of the data": (nn.Sequential(nn.Conv1d(2, 2, 2, groups=2), nn.Tanh(), nn.Conv1d(2, 2, 1)), []),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_channels_are_exchanged_whole(name: str) -> None:
    """With their weights, biases and statistics; not where data or outputs tell them apart."""
    model, groups = EXCHANGES[name]
    model = randomise(model.double(), 0)
    cat = symdisc.discover(model, (torch.randn(6, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),))
    found = [d for d in cat.discrete if d.family == "permutation"]
    assert sorted(d.group for d in found) == groups and all(d.status == "proved" for d in found)
    moved = set()
    for seed in range(3):  # a drawn exchange may be none
        g = cat.sample(seed=seed, scale=0.3)
        assert cat.verify(model, g).max_relative_change < 1e-10
        new = cat.apply(model.state_dict(), g)
        moved |= {p for p, old in model.state_dict().items() if (new[p] - old).abs().max() > 1e-3}
    assert {p for d in found for p in d.parameters if p.endswith("weight")} <= moved
