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
