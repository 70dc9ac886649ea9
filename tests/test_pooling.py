"""Constants around mixers that pool and group norms of all channels: named families alone against the oracle."""

from __future__ import annotations

import pytest
import torch
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc


class Pooling(nn.Module):
    """A block of PoolFormer between two convolutions. ``padded``: zeros of the padding count in the means; ``seen``: the stream is
    read past the norms in between; ``scaled``: the branch of the perceptron has a scale for each channel."""

    def __init__(self, padded: bool = False, seen: bool = False, scaled: bool = True, groups: int = 1) -> None:
        super().__init__()
        self.seen, self.first, self.last = seen, nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 2)
        self.norm1, self.norm2 = nn.GroupNorm(groups, 4), nn.GroupNorm(groups, 4)
        self.pool = nn.AvgPool2d(3, 1, padding=1, count_include_pad=padded)
        self.up, self.down, self.scale = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1), nn.Parameter(torch.ones(4, 1, 1)) if scaled else 1.0
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        h = self.norm1(x)
        x = x + (self.pool(h) - h) + (x.cos() if self.seen else 0.0)
        x = x + self.scale * self.down(torch.tanh(self.up(self.norm2(x))))
        return self.head(torch.tanh(self.last(x)).mean((2, 3)))


CASES = {  # numbers added to the bias of the first norm, and to that of the first convolution
    "plain": (Pooling(), 4, 1),
    "no scale": (Pooling(scaled=False), 4, 1),
    "two groups": (Pooling(groups=2), 4, 1),
    "padding counts": (Pooling(padded=True), 0, 1),
    "seen": (Pooling(seen=True), 4, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_constants_of_poolers(name: str) -> None:
    model, free, traded = CASES[name]
    torch.manual_seed(0)
    model, inputs = randomise(model, 1), floats(3, 4, 4)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [sum(s.dimension for s in cat.symmetries if s.parameters[0] == bias) for bias in ("norm1.bias", "first.bias")]
    assert (found, cat.broken) == ([free, traded], ())
    if name != "two groups":  # a constant in one group is found for writers that norms alone see
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in cat.symmetries) and symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
