"""A map as wide and as high as it has channels: the axis of the channels is told from those of places by its units."""

from __future__ import annotations

import pytest
import torch

import symdisc
from symdisc.architectures.vision import Mixer


@pytest.mark.parametrize("side, channels", [(3, 3), (2, 3)])
def test_a_stem_in_front_of_token_mixing(side: int, channels: int) -> None:
    """One class holds all channels, for the tokens are mixed behind a norm; 1 may be added along the channels, not along a side."""
    torch.manual_seed(0)
    model = Mixer(1, side, channels, side**2 + 1, 4, 1, 5).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.6)
    cat = symdisc.discover(model, (torch.randn(2, 3, side, side, dtype=torch.float64),), solve=False)
    found = {s.parameters: s.dimension for s in cat.symmetries if s.name == "direction that is centred away"}
    assert found[("stem.weight",)] == 3 and found[("stem.bias",)] == 1
    assert not [s for s in cat.symmetries if s.name == "bias without effect" and "stem.bias" in s.parameters]
    assert cat.broken == () and cat.group_dimension == symdisc.certify(cat).fibre
