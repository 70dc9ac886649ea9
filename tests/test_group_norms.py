"""What group norms let turn, and what is constant behind them: named families alone against the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute import fibre, randomise
from claims import assert_holds
from networks.base import floats
from torch import Tensor, nn

import symdisc


class Pooled(nn.Module):
    """A group norm at many places, averaged: rotations of each group pass the mean, nothing is constant."""

    def __init__(self, affine: bool = True, bent: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.last, self.bent = nn.Conv2d(2, 8, 2), nn.GroupNorm(2, 8, affine=affine), nn.Linear(8, 3), bent

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        return self.last((torch.tanh(h) if self.bent else h).square().mean((2, 3)) if self.bent else h[:, :, 0, 1:].mean(2))


def plain(inner: int, groups: int, *rest: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, inner), nn.GroupNorm(groups, inner), *rest)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # rotations and readers' constants
    "two groups of four": (lambda: plain(8, 2, nn.Linear(8, 3)), (3,), 2 * 3 + 2 * 3),
    "groups of two": (lambda: plain(6, 3, nn.Linear(6, 4)), (3,), 3 * 4),
    "one group": (lambda: plain(4, 1, nn.Linear(4, 3)), (3,), 3 + 3),
    "no bias": (lambda: nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8, affine=False), nn.Linear(8, 3, bias=False)), (3,), 2 * 3 + 2 * 3),
    "into a group norm": (lambda: plain(8, 2, nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 2)), (3,), 2 * 3 + 2 * 6),
    "into a layer norm": (lambda: plain(6, 2, nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)), (3,), 2 * 1 + 2 * 4),
    "places": (lambda: Pooled(), (2, 3, 4), 2 * 3),
    "no gain": (lambda: Pooled(affine=False), (2, 3, 4), 2 * 3),
    "bent": (lambda: Pooled(bent=True), (2, 3, 4), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_inside_groups(name: str) -> None:
    make, shape, dimension = CASES[name]
    torch.manual_seed(0)
    model, inputs = randomise(make(), 1), floats(*shape)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.family == "o1" or s.name == "direction that a centred vector lacks"]
    assert sum(s.dimension for s in found) == dimension
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in cat.symmetries)
    assert_holds(cat, model)
