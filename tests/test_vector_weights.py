"""Weights stored as vectors: a layer of one unit, where the batch is as large as the vector."""

from __future__ import annotations

import pytest
import torch
from brute import generic_fibre, keeps_function, randomise
from torch import Tensor, nn

import symdisc


class OneUnit(nn.Module):
    """x + u f(w x + b), with the logarithm of its determinant (a planar flow) or alone."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.u, self.w, self.b = (nn.Parameter(torch.ones(n)) for n in (3, 3, 1))
        self.linear = linear

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = x @ self.w + self.b
        if self.linear:
            return (x + self.u * torch.relu(h)[:, None],)
        h = torch.tanh(h)
        return x + self.u * h[:, None], torch.log((1.0 + (1.0 - h**2) * (self.u @ self.w)).abs() + 1e-3)


def inputs(seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)


@pytest.mark.parametrize("linear, dimension", [(False, 0), (True, 1)])
def test_a_layer_of_one_unit(linear: bool, dimension: int) -> None:
    torch.set_num_threads(1)
    model = randomise(OneUnit(linear), 0)
    assert generic_fibre(OneUnit(linear), inputs, (0,)).dimension == dimension
    catalog = symdisc.discover(model, inputs(0))
    assert catalog.orbit_dimension == dimension
    moved = catalog.apply(dict(model.state_dict()), catalog.sample(seed=1, scale=1.0))
    assert keeps_function(model, moved, [inputs(k) for k in range(1, 4)]) < 1e-9
