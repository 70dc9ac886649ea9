"""Constants added behind a bias (adaptive norms), and layers whose outputs one narrow layer reads."""

from __future__ import annotations

import pytest
import torch
from claims import generic
from torch import Tensor, nn

import symdisc

WIDTH = 4


class Adaptive(nn.Module):
    """A norm without gain, scaled and shifted by what a second input makes. ``mode`` says what is different: "plain"; "minus" (1 - scale);
    "subtracted" (scale - 2); "split" instead of slices; the scale is "seen" besides, or "clamped"; it is "made" twice."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.norm, self.make = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=0.05), nn.Linear(3, 2 * WIDTH)
        self.read, self.last = nn.Linear(WIDTH, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        made = self.make(torch.tanh(c))
        scale, shift = made.split(WIDTH, -1) if self.mode == "split" else (made[:, :WIDTH], made[:, WIDTH:])
        factor = {"minus": 1 - scale, "subtracted": scale - 2}.get(self.mode, scale + 1)
        if self.mode == "clamped":
            factor = scale.clamp(-0.5, 0.5) + 1
        y = self.norm(self.enter(x)) * factor[:, None] + shift[:, None]
        if self.mode == "made":
            y = y + self.make(torch.tanh(2 * c))[:, None, :WIDTH]
        y = self.last(torch.tanh(self.read(y))).mean(1)
        return torch.cat([y, scale.sin()], -1) if self.mode == "seen" else y


INPUTS = torch.randn(9, 3, WIDTH, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)


@pytest.mark.parametrize("mode, scales", [("plain", 4), ("minus", 4), ("subtracted", 4), ("split", 4), ("seen", 0), ("clamped", 0),
                                          ("made", 0)])
def test_scales_about_a_constant(mode: str, scales: int) -> None:
    model = generic(Adaptive(mode))
    cat = symdisc.discover(model, INPUTS, solve=False)
    found = [s for s in cat.symmetries if s.family == "scale"]
    assert (sum(s.dimension for s in found), cat.broken) == (scales, ())
    assert cat.verify(model, cat.sample(seed=0, scale=0.5)).max_relative_change < 1e-9
    certificate = symdisc.certify(cat)
    assert cat.group_dimension == certificate.found <= certificate.fibre
    assert certificate.complete or mode == "made"
    assert sum(d.order == 2**4 for d in cat.discrete) == (scales > 0)  # the scale changes sign with its column
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def test_the_quantity_is_that_of_the_shifted_bias() -> None:
    """Gradient flow conserves what the generator of the scale about -1 pairs to: residual 0 at any gradient of a loss."""
    model = generic(Adaptive("plain"))
    cat = symdisc.discover(model, INPUTS, solve=False)
    loss = model(*INPUTS).square().sum()
    gradients = {n: g for (n, _), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True)}
    state = dict(model.state_dict())
    for q in (q for q in cat.conserved if q.symmetry.family == "scale"):
        assert float(torch.as_tensor(q.residual(state, gradients)).abs().max()) < 1e-9 * float(gradients["make.bias"].abs().max())
        wrong = {**gradients, "make.bias": 2 * gradients["make.bias"]}  # a scale about 0 would not see that
        assert float(torch.as_tensor(q.residual(state, wrong)).abs().max()) > 1e-3 * float(gradients["make.bias"].abs().max())


class Ended(nn.Module):
    """A residual stream of six with a head of ``outputs`` rows. "normed" streams are seen by a norm, "shared" layers write twice."""

    def __init__(self, outputs: int, mode: str = "") -> None:
        super().__init__()
        self.mode = mode
        self.first, self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 6, bias=mode != "no bias")
        self.norm = nn.LayerNorm(6, elementwise_affine=False, eps=0.05) if mode == "normed" else nn.Identity()
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.first(x))
        for _ in range(2 if self.mode == "shared" else 1):
            y = y + self.down(torch.tanh(self.up(y)))
        return self.head(self.norm(y))


@pytest.mark.parametrize("outputs, mode, expected", [(2, "", 20), (4, "no bias", 10), (6, "", 0), (8, "", 0), (2, "normed", 0),
                                                     (2, "shared", 0)])
def test_directions_that_are_never_read(outputs: int, mode: str, expected: int) -> None:
    model = generic(Ended(outputs, mode))
    x = (torch.randn(9, 4, dtype=torch.float64),)
    cat = symdisc.discover(model, x, solve=False)
    found = [s for s in cat.symmetries if s.name == "direction that is never read"]
    assert (sum(s.dimension for s in found), cat.broken) == (expected, ())
    certificate = symdisc.certify(cat)
    assert cat.group_dimension == certificate.found <= certificate.fibre
    if mode not in ("normed", "shared"):
        assert certificate.complete
    g = cat.sample(seed=1, scale=0.3)
    assert cat.verify(model, g).max_relative_change < 1e-9
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    back = cat.apply(cat.apply(state, g), cat.inverse(g))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    assert ("direction that is never read" in cat.to_latex()) == bool(expected)


class Mixed(nn.Module):
    """Two steps mixed unit by unit, x m + y (1 - m), behind a norm with gain; "both" mixes the other way round as well, "moved" reads
    m as a bias besides."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.enter, self.norm = nn.Linear(3, WIDTH), nn.LayerNorm(WIDTH, eps=0.05)
        self.m, self.read, self.last = nn.Parameter(torch.rand(WIDTH)), nn.Linear(WIDTH, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        y = nn.functional.pad(x, (0, 0, 1, -1))
        mixed = x * self.m + y * (1 - self.m)
        if self.mode == "both":
            mixed = mixed + (y * self.m - x * (1 - self.m)).flip(1)
        if self.mode == "moved":
            mixed = mixed + self.m
        return self.last(torch.tanh(self.read(mixed)))


@pytest.mark.parametrize("mode, scales", [("plain", 4), ("both", 4), ("moved", 0)])
def test_a_gain_that_is_used_in_two_ways_lets_scales_pass(mode: str, scales: int) -> None:
    model = generic(Mixed(mode))
    cat = symdisc.discover(model, (torch.randn(9, 5, 3, dtype=torch.float64),), solve=False)
    found = [s for s in cat.symmetries if s.family == "scale"]
    assert (sum(s.dimension for s in found), cat.broken) == (scales, ())
    assert cat.verify(model, cat.sample(seed=0, scale=0.5)).max_relative_change < 1e-9
    assert "m" not in {p for s in (*cat.symmetries, *cat.discrete) for p in s.parameters}
    certificate = symdisc.certify(cat)
    assert cat.group_dimension == certificate.found <= certificate.fibre
