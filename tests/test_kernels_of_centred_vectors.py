"""Convolutions that read what a norm over channels hands on: each tap may lean along the inverse gain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symdisc

WIDTH, OUT = 4, 5
NAME = "direction that a centred vector lacks"


class Downsampled(nn.Module):
    """A patch embedding, a norm over channels, a convolution, another norm. ``mode`` says what is different: "padded" convolution;
    "no shift" behind the norm and padded; "read" further on by no norm; "no bias" of the convolution."""

    def __init__(self, mode: str = "") -> None:
        super().__init__()
        padded = mode in ("padded", "no shift")
        self.embed = nn.Conv2d(2, WIDTH, 2, 2)
        self.norm = nn.LayerNorm(WIDTH, eps=0.05, bias=mode != "no shift")
        self.conv = nn.Conv2d(WIDTH, OUT, 3 if padded else 2, 2, padding=int(padded), bias=mode != "no bias")
        self.last = nn.Identity() if mode == "read" else nn.LayerNorm(OUT, eps=0.05, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(self.conv(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("mode, leaning", [("", 4 * OUT - 4), ("read", 4 * OUT), ("no bias", 0), ("no shift", 9 * OUT - 9),
                                           ("padded", 6 * OUT - 6)])
def test_taps_lean(mode: str, leaning: int) -> None:
    """Where the next norm takes off the mean, 1 a^T is free already; beside padding a shift of the norm comes
    from six of nine combinations of taps alike at every place."""
    torch.manual_seed(1)
    model = Downsampled(mode)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    cat = symdisc.discover(model.double(), (torch.randn(3, 2, 16, 16, dtype=torch.float64),), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.name == NAME) == leaning
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    if mode in ("", "read", "no shift", "padded"):
        assert symdisc.certify(cat).complete
    for q in cat.conserved:
        assert q.latex()
