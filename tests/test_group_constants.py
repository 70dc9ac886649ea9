"""Constants that group norms take off: named families alone against the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc


class Summed(nn.Module):
    """Two writers of one group-normed stream; ``seen`` lets something else see it."""

    def __init__(self, seen: bool) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 6), nn.Linear(3, 6, bias=False), nn.Linear(6, 2)
        self.norm, self.seen = nn.GroupNorm(2, 6), seen

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) + self.b(x.sin())
        return self.last(torch.tanh(self.norm(h)) + (h.cos() if self.seen else 0.0))


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "image": (lambda: image(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4)), (2, 3, 3), 2),
    "one place": (lambda: image(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4)), (2, 2, 2), 2 + 2 * 8),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(3, 6), nn.Tanh(), nn.Linear(6, 2)), (3,), 3 + 3 * 3),
    "behind a norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(),
                                            nn.Linear(6, 2)),
                      (3,), 3 + 1 + 2 + 2 * 3),
    "two writers": (lambda: Summed(False), (3,), 2 + 2 * 3 + 2 * 3),
    "seen": (lambda: Summed(True), (3,), 0),
    "one channel each": (lambda: image(nn.Conv2d(2, 3, 2), nn.GroupNorm(3, 3)), (2, 3, 3), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_constants_per_group(name: str) -> None:
    make, shape, dimension = CASES[name]
    torch.manual_seed(0)
    model, inputs = make(), floats(*shape)
    model(inputs(0)[0].float())
    model = randomise(model, 1)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name == "direction that is centred away"]
    assert (sum(s.dimension for s in found), cat.broken) == (dimension, ())
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in found) and symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
