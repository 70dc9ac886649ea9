"""Images cut into patches and put together again: channels stand beside others of the batch on the way, and stay whole."""

from __future__ import annotations

import pytest
import torch
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

WIDTH, SIDE, PATCH = 4, 4, 2


class Patches(nn.Module):
    """A residual block on the patches of an image between two maps of channels, as MobileViT has it; ``places``: the norms run
    over the places of a patch instead; ``image``: something else sees the image before it is cut."""

    def __init__(self, places: bool = False, image: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.places, self.image = places, image
        width = (SIDE // PATCH) ** 2 if places else WIDTH
        self.inside, self.back = nn.Conv2d(3, WIDTH, 1, bias=False), nn.Conv2d(WIDTH, 3, 1, bias=bias)
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3), nn.Linear(3, width)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        seen = x.cos().mean((1, 2, 3), keepdim=True) if self.image else 0.0
        batch, n = len(x), SIDE // PATCH
        x = x.reshape(batch * WIDTH * n, PATCH, n, PATCH).transpose(1, 2)
        x = x.reshape(batch, WIDTH, n * n, PATCH * PATCH)
        x = x.transpose(1, 3).reshape(batch * PATCH * PATCH, n * n, WIDTH)
        x = x.transpose(1, 2) if self.places else x
        x = x + self.down(torch.tanh(self.up(self.first(x))))
        x = self.last(x)
        x = x.transpose(1, 2) if self.places else x
        x = x.contiguous().view(batch, PATCH * PATCH, n * n, -1).transpose(1, 3)
        x = x.reshape(batch * WIDTH * n, n, PATCH, PATCH).transpose(1, 2).reshape(batch, WIDTH, SIDE, SIDE)
        h = torch.tanh(self.norm(self.back(x)) + seen)
        return self.head(h.mean((2, 3)))


CASES = {  # dimensions that stand for constants along the channels: the map in, what writes the stream, the map back
    "patches": (Patches(), 3 + 3 + 1 + 3),
    "no bias": (Patches(bias=False), 3 + 3 + 1 + 3),
    "seen": (Patches(image=True), 3 + 1 + 3),
    "places": (Patches(places=True), None),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_through_patches(name: str) -> None:
    model, dimension = CASES[name]
    torch.manual_seed(0)
    model, inputs = randomise(model, 1), floats(3, SIDE, SIDE)
    cat = symdisc.discover(model, inputs(0), solve=False)
    parts = [s for s in cat.symmetries if {"inside.weight", "back.weight", "down.weight", "down.bias"} & set(s.parameters)]
    named = [s for s in parts if s.family.startswith("outer")]
    if dimension is None:
        assert not any({"inside.weight", "back.weight"} & set(s.parameters) for s in named)
    else:
        assert sum(s.dimension for s in named) == dimension
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in cat.symmetries) and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
