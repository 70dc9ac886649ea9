"""Readers of vectors that fill only a part of their space."""

from __future__ import annotations

import pytest
import torch
from claims import assert_holds, assert_undone, generic
from torch import Tensor, nn

import symdisc

NAME = "direction that never varies"
WIDTH = 6


class Narrow(nn.Module):
    """A stream of six that three features write. ``mode`` says what is different: "plain"; "normed" features; "no bias" of the reader;
    "two writers", of two features and of one; "wide" features; "bent" stream; "noisy" stream, to which other data is added;
    "shared" reader, which reads the full stream later."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        features = 8 if mode == "wide" else 3
        self.norm = nn.LayerNorm(features, eps=0.05) if mode == "normed" else nn.Identity()
        self.start = nn.Linear(2 if mode == "two writers" else features, WIDTH)
        self.more = nn.Linear(1, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 5, bias=mode != "no bias"), nn.Linear(5, WIDTH)
        self.after, self.last = nn.Linear(WIDTH, 7), nn.Linear(7, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x[..., :self.norm.normalized_shape[0]] if self.mode == "normed" else x)
        if self.mode == "two writers":
            y = self.start(y[..., :2]) + self.more(y[..., 2:3])
        else:
            y = self.start(y[..., :self.start.in_features])
        if self.mode == "bent":
            y = torch.sin(y)
        if self.mode == "noisy":
            y = y + x[..., :WIDTH]
        y = y + self.down(torch.tanh(self.up(y)))
        if self.mode == "shared":
            y = y + self.down(torch.tanh(self.up(y)))
        return self.last(torch.tanh(self.after(y)))


@pytest.mark.parametrize("mode, expected", [("plain", 15), ("normed", 20), ("no bias", 10), ("two writers", 15), ("wide", 0), ("bent", 0),
                                            ("noisy", 0), ("shared", 0)])
def test_narrow_streams(mode: str, expected: int) -> None:
    model = generic(Narrow(mode))
    cat = symdisc.discover(model, (torch.randn(9, 8, dtype=torch.float64),), solve=False)
    found = [s for s in cat.symmetries if s.name == NAME]
    assert sum(s.dimension for s in found) == expected
    assert_holds(cat, model)
    if expected:
        certificate = symdisc.certify(cat)
        assert cat.group_dimension == certificate.found <= certificate.fibre  # nothing counted twice
        assert_undone(cat, model)
        loss = model(torch.randn(9, 8, dtype=torch.float64)).square().sum()
        gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        quantity = next(q for q in cat.conserved if q.symmetry.name == NAME)
        known = {k: g for (k, _), g in zip(model.named_parameters(), gradient, strict=True) if g is not None}
        paired = torch.as_tensor(quantity.residual(dict(model.named_parameters()), known))
        assert float(paired.abs().max()) < 1e-9 * float(known["up.weight"].abs().max())
        assert [q.status for q in cat.conserved if q.symmetry.name == NAME] == ["none"] and NAME in cat.to_latex()
