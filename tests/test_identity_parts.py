"""Maps of places with a skip around them: the identity is in both. Named families alone against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc
from symdisc.conserved.pairing import pairing
from symdisc.torchside.apply import act
from symdisc.torchside.remainder import float64_state

WIDTH, PLACES = 4, 3


class Mixing(nn.Module):
    """A block of ResMLP on an image of three places. ``scaled``: the branch has a scale for each channel; ``shifted``: its affine map has
    a shift; ``how`` makes what it is not: "norm" in front, "seen" elsewhere, "bent" behind the map, or places exchanged on the way."""

    def __init__(self, scaled: bool = True, shifted: bool = True, bias: bool = True, how: str = "") -> None:
        super().__init__()
        self.scaled, self.shifted, self.how = scaled, shifted, how
        self.stem, self.mix = nn.Conv2d(2, WIDTH, (1, 2), stride=(1, 2), bias=bias), nn.Linear(PLACES, PLACES)
        self.scale, self.alpha, self.beta = (nn.Parameter(torch.randn(WIDTH)) for _ in range(3))
        if not scaled:
            del self.scale
        if not shifted:
            del self.beta
        self.up, self.down, self.head = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        h = nn.functional.layer_norm(x, (WIDTH,)) if self.how == "norm" else x
        h = self.alpha * h
        h = self.mix((h + self.beta if self.shifted else h).transpose(1, 2)).transpose(1, 2)
        h = h.tanh() if self.how == "bent" else h.roll(1, 1) if self.how == "exchanged" else h
        more = x.square().mean(1) if self.how == "seen" else 0.0
        x = x + (self.scale * h if self.scaled else h)
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(torch.tanh(x).mean(1) + more)


CASES = {
    "as published": (Mixing(), 1),
    "no scale": (Mixing(scaled=False), 1),
    "no shift": (Mixing(shifted=False), 1),
    "no shift, no bias": (Mixing(shifted=False, bias=False), 1),
    "nowhere to put the shift": (Mixing(bias=False), 0),
    "norm": (Mixing(how="norm"), 0),
    "seen": (Mixing(how="seen"), 0),
    "bent": (Mixing(how="bent"), 0),
    "exchanged": (Mixing(how="exchanged"), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_the_identity_is_traded(name: str) -> None:
    model, dimension = CASES[name]
    torch.manual_seed(0)
    model, inputs = randomise(model, 1), floats(2, 1, 2 * PLACES)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name.startswith("identity traded")]
    assert (sum(s.dimension for s in found), cat.broken) == (dimension, ())
    if name in ("as published", "no shift, no bias", "seen", "bent"):  # the others have more: constants along 1/alpha, T + s P
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert all(s.status == "proved" for s in found) and symdisc.Catalog.from_json(cat.to_json()) == cat
    for seed in range(3):
        assert cat.verify(model, cat.sample(seed=seed, scale=0.3)).max_relative_change < 1e-9
    for s in found:
        _generator_agrees(cat, s)


def _generator_agrees(cat: symdisc.Catalog, s: symdisc.Symmetry) -> None:
    """The pairing with the generator is the derivative of the move."""
    state, rng = float64_state(cat.captured), np.random.default_rng(0)
    plus, minus = (act(s, np.array([h]), state) for h in (1e-5, -1e-5))
    for move in s.moves:
        change = ((plus[move.parameter] - minus[move.parameter]) / 2e-5).numpy()
        x = rng.standard_normal(change.shape)
        told = pairing(move, x, state[move.parameter].numpy(), {n: t.numpy() for n, t in state.items()}, s.shape)
        assert np.allclose(told, (x * change).sum(), rtol=1e-7)
