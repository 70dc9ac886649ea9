"""Weights that lose their mean before they are read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc


class Standardised(nn.Module):
    """A convolution with a gain times its standardised weight; ``raw``: the mean of each filter is read besides."""

    def __init__(self, raw: bool = False) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(4, 3, 2, 2)), nn.Parameter(torch.ones(4, 1, 1, 1))
        self.bias = nn.Parameter(torch.ones(4))
        self.last, self.raw = nn.Linear(4, 2), raw

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, 4, -1)
        weight = F.batch_norm(flat, None, None, weight=(self.gain * 0.5).view(-1), training=True, eps=0.1).reshape_as(self.weight)
        if self.raw:
            weight = weight + self.weight.mean((1, 2, 3), keepdim=True)
        return self.last(torch.tanh(F.conv2d(x, weight, self.bias)).mean((2, 3)))


@pytest.mark.parametrize("raw", [False, True])
def test_constants_of_filters(raw: bool) -> None:
    torch.manual_seed(0)
    model, inputs = randomise(Standardised(raw), 1), floats(3, 4, 4)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name == "constant that standardisation takes off"]
    assert sum(s.dimension for s in found) == (0 if raw else 4)
    assert fibre(model, inputs, seed=None).dimension == (4 if raw else 8)  # the length of a filter is traded with its gain besides
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
