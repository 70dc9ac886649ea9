"""Adapters of low rank beside a weight: what is done to a factor is undone in the weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from claims import assert_holds, assert_undone, generic
from torch import Tensor, nn

import symdisc
from symdisc.symmetry import WITHIN

NAME = "factor traded for the weight beside it"


class Adapted(nn.Module):
    """tanh(W x + s B A x) between other layers. ``mode`` says what is different: "plain"; "other source" for A; "bent" between the factors;
    "seen" product; "biased" A; "turned" storage of W; "norm" in front, whose readers A and W both are; "scaled" whole."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.first = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5, eps=0.05) if mode == "norm" else nn.Identity()
        self.weight = nn.Parameter(torch.randn((5, 4) if mode == "turned" else (4, 5)))
        self.bias = nn.Parameter(torch.randn(4))
        self.down, self.up = nn.Linear(5, 2, bias=mode == "biased"), nn.Linear(2, 4, bias=False)
        self.last = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.first(x)))
        h = self.down(torch.sin(x) if self.mode == "other source" else x)
        low = 0.5 * self.up(torch.tanh(h) if self.mode == "bent" else h)
        whole = nn.functional.linear(x, self.weight.T if self.mode == "turned" else self.weight, self.bias)
        y = torch.tanh((2.0 * whole if self.mode == "scaled" else whole) + low)
        return self.last(y * torch.sigmoid(low) if self.mode == "seen" else y)


class Pair(nn.Module):
    """W x + s B A x, as adapters are trained: W frozen or not."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.whole = nn.Linear(5, 4).requires_grad_(not frozen)
        self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.whole(x) + 0.5 * self.up(self.down(x)))


@pytest.mark.parametrize("mode, factors", [
    ("plain", {"down.weight", "up.weight"}), ("turned", {"down.weight", "up.weight"}), ("norm", {"down.weight", "up.weight"}),
    ("biased", {"down.weight"}), ("other source", set()), ("bent", set()), ("seen", set()), ("scaled", set())])
def test_factors_beside_a_weight(mode: str, factors: set[str]) -> None:
    model = generic(Adapted(mode))
    cat = symdisc.discover(model, (torch.randn(9, 6, dtype=torch.float64),), solve=False)
    trades = [s for s in cat.symmetries if s.name == NAME]
    assert {s.parameters[0] for s in trades} == factors
    assert_holds(cat, model)
    if len(factors) == 2:
        certificate = symdisc.certify(cat)
        assert (certificate.found, certificate.complete) == (certificate.fibre, True)
        assert_undone(cat, model)
        assert [q.status for q in cat.conserved if q.symmetry.name == NAME] == ["none", "none"] and NAME in cat.to_latex()
        (basis,) = [s for s in cat.symmetries if set(s.parameters) == factors]  # within the trades, but with a law of its own
        assert (basis.family, basis.counts, basis.note) == ("gl", False, WITHIN)


@pytest.mark.parametrize("frozen", [False, True])
def test_factors_keep_their_difference_of_squares(frozen: bool) -> None:
    """A A^T - B^T B, with the weight beside them trained or frozen, and there is no other law (a proof); one wrong sign is none."""
    torch.manual_seed(0)
    model = Pair(frozen).double()
    cat = symdisc.discover(model, (torch.randn(6, 5, dtype=torch.float64),))
    (law,) = [q for q in cat.conserved if q.form]
    down, up = model.down.weight, model.up.weight
    by_hand = (down @ down.T - up.T @ up) / 2
    state = {n: p.detach() for n, p in model.named_parameters()}
    assert torch.allclose(law.evaluate(state)[0], by_hand) and law.dimension == 3
    count = symdisc.count_laws(cat)
    assert (count.laws, count.found, count.complete) == (3, 3, True)
    gradient = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = torch.cosh(model(torch.randn(7, 5, dtype=torch.float64)) - 0.3).sum()
    gradient.update(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    assert float(abs(law.residual(state, gradient)).max()) < 1e-13
    twin = replace(law, terms=(replace(law.terms[0], weight=-1.0), law.terms[1]))
    rate = [(float(q.evaluate({n: t - 1e-5 * gradient[n] for n, t in state.items()}).sum() - q.evaluate(state).sum())) / 1e-5
            for q in (law, twin)]
    assert abs(rate[0]) < 1e-3 < abs(rate[1])
