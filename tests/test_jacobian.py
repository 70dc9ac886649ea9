"""The Jacobian of the outputs, taken at many inputs in one go: what it is built on can be wrong without a word."""

from __future__ import annotations

import pytest
import torch
from brute import fibre
from torch import Tensor, nn
from torch.func import jacrev

import symdisc
from symdisc.torchside.network import jacobian_rows


def made(batch: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 3), nn.PReLU(), nn.Linear(3, 2)).double()
    return model, torch.randn(batch, 5, dtype=torch.float64)


@pytest.mark.parametrize("together", [2, 3, 8, 16])
def test_slopes_of_prelu_at_as_many_inputs_as_there_are_outputs(together: int) -> None:
    torch.manual_seed(0)
    slopes, inputs = torch.rand(4, dtype=torch.float64), torch.randn(together, together // 2 + 1, 4, dtype=torch.float64)

    def run(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.nn.functional.prelu(x, p["slopes"]).reshape(-1)[:together]

    rows = jacobian_rows(run, {"slopes": slopes}, [(x,) for x in inputs])
    one_by_one = torch.cat([jacrev(run)({"slopes": slopes}, x)["slopes"] for x in inputs])
    assert torch.allclose(torch.from_numpy(rows), one_by_one)


@pytest.mark.parametrize("batch", [4, 8])  # 8 and 16 outputs: what goes together in the oracle and in the engine
def test_scalings_behind_learned_slopes(batch: int) -> None:
    model, x = made(batch)
    assert symdisc.discover(model, (x,)).orbit_dimension == 4 + 3
    oracle = fibre(model, lambda seed: (torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed)).double(),))
    assert oracle.dimension >= 4 + 3
