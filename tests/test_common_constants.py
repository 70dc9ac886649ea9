"""A constant that all rows of a weight write alike: a norm over several places side by side sees every other one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.conserved import conserved_quantities
from symdisc.torchside.apply import act

NAME = "constant read off a centred vector"


class Merged(nn.Module):
    """Vectors behind a norm are reduced without a bias to a stream, to which a branch adds; a norm reads the stream of two places side
    by side. "apart": the places are normed one by one, so that each may have a multiple of 1 of its own. "seen": the stream before the
    branch is an output. "free": the first norm has no shift, so that the readers' leaning writes nothing."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.up, self.first = nn.Linear(4, 5), nn.LayerNorm(5, eps=0.05, bias=mode != "free")
        self.reduce = nn.Linear(5, 3, bias=False)
        self.norm, self.one, self.two = nn.LayerNorm(3, eps=0.05), nn.Linear(3, 6), nn.Linear(6, 3)
        self.last = nn.LayerNorm(3 if mode == "apart" else 6, eps=0.05)
        self.head = nn.Linear(3 if mode == "apart" else 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.reduce(self.first(torch.tanh(self.up(x))))
        x = stream + self.two(torch.tanh(self.one(self.norm(stream))))
        y = self.last(x).mean(1) if self.mode == "apart" else self.last(torch.cat([x[:, 0], x[:, 1]], -1))
        return torch.cat([self.head(y), stream.flatten(1)], 1) if self.mode == "seen" else self.head(y)


def _generic(mode: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Merged(mode).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.7 + (1.0 if p.dim() == 1 else 0.0))
    return model, torch.randn(5, 2, 4, dtype=torch.float64)


@pytest.mark.parametrize(("mode", "expected"), [("beside", 1), ("apart", 0), ("seen", 0), ("free", 0)])
def test_found_is_the_fibre_and_the_constant_is_there_where_only_it_is_unseen(mode: str, expected: int) -> None:
    model, x = _generic(mode)
    cat = symdisc.discover(model, (x,), solve=False)
    constants = [s for s in cat.symmetries if s.name == NAME and s.parameters[0] == "reduce.weight"]
    assert sum(s.dimension for s in constants) == expected
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).passed
    assert [b for b in cat.broken if b.breaker == "check"] == []
    whole = symdisc.discover(model, (x,))
    assert symdisc.certify(whole).complete and not [s for s in whole.symmetries if s.family in ("linear", "flow")]


def test_its_element_writes_one_number_everywhere() -> None:
    """W + c 1 (1/gamma)^T; what gradient flow keeps of it is derived like that of any other generator."""
    model, x = _generic("beside")
    cat = symdisc.discover(model, (x,), solve=False)
    s = next(s for s in cat.symmetries if s.name == NAME)
    before = dict(model.state_dict())
    moved = act(s, np.full(s.shape, 0.5), before)["reduce.weight"] - before["reduce.weight"]
    gain = before["first.weight"]
    assert torch.allclose(moved * gain, (moved * gain)[0, 0].expand(3, 5)) and float(moved.abs().max()) > 0.1
    assert all(q.symmetry for q in conserved_quantities((s,), cat.parameters))
