"""Attention that pools tokens with a learned query: its keys are seen along that query alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

NAME = "direction that a constant query does not meet"


class Pooled(nn.Module):
    """Two heads of three; ``mode`` says what is different: no "bias" of the query, "data" in it, keys "normed" or "shown"."""

    def __init__(self, mode: str = "", d: int = 6) -> None:
        super().__init__()
        self.enter, self.probe, self.mode = nn.Linear(3, d), nn.Parameter(torch.randn(1, 1, d)), mode
        self.q, self.k, self.v = (nn.Linear(d, 6, bias=mode != "bias" or k > 0) for k in range(3))
        self.leave = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.enter(x))
        asked = self.probe.expand(len(x), -1, -1)
        q = self.q(asked + x.mean(1, keepdim=True) if self.mode == "data" else asked)
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in (q, self.k(x), self.v(x)))
        weights = (q @ (F.normalize(k, dim=-1) if self.mode == "normed" else k).mT / 2).softmax(-1)
        y = self.leave((weights @ v).transpose(1, 2).flatten(1))
        return torch.cat([y, k.square().sum((1, 2, 3))[:, None]], 1) if self.mode == "shown" else y


@pytest.mark.parametrize("mode, heads", [("", 2), ("bias", 2), ("data", 0), ("normed", 0), ("shown", 0)])
def test_keys_of_a_constant_query(mode: str, heads: int) -> None:
    torch.manual_seed(1)
    inputs = floats(4, 3)
    model = randomise(Pooled(mode), 1)
    cat = symdisc.discover(model, inputs(0), solve=False)
    mine = [s for s in cat.symmetries if s.name == NAME]
    assert len(mine) == heads and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    if heads:
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension == symdisc.certify(cat).found
        state, element = {k: v.clone() for k, v in model.state_dict().items()}, cat.sample(seed=2, scale=0.3)
        back = cat.apply(cat.apply(state, element), cat.inverse(element))
        assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
        assert {q.status for q in cat.conserved if q.symmetry in mine} == {"none"} and NAME in cat.to_latex()
