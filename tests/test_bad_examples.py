"""Models and example inputs that cannot be used are refused in one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import symdisc
from symdisc.errors import BadInput

TABLE = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))


@pytest.mark.parametrize(
    "model, inputs, told",
    [
        (None, (torch.zeros(1, 3),), "must be a torch.nn.Module, not NoneType"),
        (torch.relu, (torch.zeros(1, 3),), "must be a torch.nn.Module"),
        (nn.Linear(3, 2), torch.zeros(1, 3), "must be a tuple"),
        (nn.Linear(3, 2), (torch.zeros(0, 3),), "has no entries"),
        (nn.Linear(3, 2), (torch.full((2, 3), float("nan")),), "holds NaN or infinite"),
        (TABLE, (torch.tensor([[7, 1]]),), "index out of range"),
    ],
)
def test_what_cannot_be_used_is_refused(model: Any, inputs: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        symdisc.discover(model, inputs)
    assert "\n" not in str(refused.value)


def test_a_scale_that_is_no_number_is_refused() -> None:
    catalog = symdisc.discover(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), (torch.zeros(1, 2),), solve=False)
    for scale in (float("nan"), float("inf"), -1.0):
        with pytest.raises(BadInput, match="scale"):
            catalog.sample(scale=scale)


def test_a_network_without_parameters_has_no_symmetry() -> None:
    catalog = symdisc.discover(nn.ReLU(), (torch.ones(2, 3),))
    assert catalog.orbit_dimension == 0 and not catalog.symmetries
    assert catalog.apply({}, catalog.sample(seed=0)) == {}
