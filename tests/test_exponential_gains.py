"""Gains, biases and weights that are stored by their logarithm: a scale of the weight is a constant added to what is stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

Use = Callable[[Tensor, Tensor], Tensor]


class Stored(nn.Module):
    """W2 relu(use(v, W1 x + b)): v is a vector of the four hidden units; ``more`` lets the output see v once more."""

    def __init__(self, use: Use, more: bool = False, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.a, self.v, self.c = nn.Linear(3, 4), nn.Parameter(torch.zeros(4)), nn.Linear(4, 5)
        self.use, self.more, self.act = use, more, act

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(self.act(self.use(self.v, self.a(x))))
        return y + self.v.sum() if self.more else y


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {  # named dimension
    "gain": (lambda: Stored(lambda v, h: h * v.exp()), 8),
    "gain behind a linear map alone": (lambda: Stored(lambda v, h: h * v.exp(), act=lambda h: h.tanh()), 4),
    "rate": (lambda: Stored(lambda v, h: h * (-2.0 * torch.exp(3.0 * v))), 8),
    "power": (lambda: Stored(lambda v, h: h * torch.pow(2.0, v)), 8),
    "bias": (lambda: Stored(lambda v, h: h + v.exp()), 4),
    "used twice": (lambda: Stored(lambda v, h: torch.tanh(h * v.exp()) * v.exp()), 4),
    # near twins: functions of v are scaled, not by adding to it
    "one added": (lambda: Stored(lambda v, h: h * (1 + v.exp())), 8),
    "softplus": (lambda: Stored(lambda v, h: h * F.softplus(v)), 8),
    "twice": (lambda: Stored(lambda v, h: h * torch.exp(-torch.exp(v))), 8),
    # nothing of v may be scaled
    "seen besides": (lambda: Stored(lambda v, h: h * v.exp(), more=True), 4),
    "summed": (lambda: Stored(lambda v, h: h * torch.exp(v - v.sum())), 4),
}
CURVED, TWINS = ("one added", "softplus", "twice"), ("seen besides", "summed")

# what else there is has no name: v and W1 by the twin's own function, v against a bias
BESIDE = ("bias", "seen besides", "summed")


@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_by_its_logarithm(name: str) -> None:
    make, dimension = CASES[name]
    torch.manual_seed(2)
    inputs = floats(3, spread=1.0)
    model = randomise(make(), 2)
    cat = symdisc.discover(model, inputs(0), solve=False)
    moved = [m for s in cat.symmetries for m in s.moves if m.parameter == "v"]
    assert (cat.group_dimension, cat.broken) == (dimension, ()) and all(s.status == "proved" for s in cat.symmetries)
    assert {m.kind for m in moved} == (set() if name in TWINS else {"curved_scale"} if name in CURVED else {"log_scale"})
    element, state = cat.sample(seed=1, scale=0.4), model.state_dict()
    assert cat.verify(model, element).max_relative_change < 1e-9
    new = cat.apply(state, element)
    assert max(float((new[k] - v).abs().max()) for k, v in state.items()) > 1e-2
    back = cat.apply(new, cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    whole = fibre(model, inputs, seed=None).dimension
    assert whole == dimension + (4 if name in BESIDE else 0)


def test_its_charge_is_a_sum_of_logarithms_against_squares() -> None:
    """d/dt (v_j - |W1_j|^2 / 2) = 0 along the flow, in formula and in numbers; the false twin with the other sign moves."""
    torch.manual_seed(2)
    model = randomise(CASES["gain behind a linear map alone"][0](), 2)
    x = floats(3, spread=1.0)(1)
    cat = symdisc.discover(model, x, solve=False)
    (charge,) = [q for q in cat.conserved if "v" in q.parameters]
    assert charge.status == "conserved" and r"\log" in cat.to_latex()
    model(*x).square().sum().backward()
    state = {n: p.detach() for n, p in model.named_parameters()}
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert float(charge.residual(state, gradient).abs().max()) < 1e-10
    wrong = gradient["v"] + (state["a.weight"] * gradient["a.weight"]).sum(1) + state["a.bias"] * gradient["a.bias"]
    assert float(wrong.abs().max()) > 1e-3
