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


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_distances_whose_derivative_is_wrong_for_many_outputs_at_once(order: float) -> None:
    torch.manual_seed(0)
    points, inputs = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 2, 4, dtype=torch.float64)

    def run(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.cdist(x, p["points"], p=order).reshape(-1)

    rows = jacobian_rows(run, {"points": points}, [(x,) for x in inputs])
    apart = inputs[:, :, None] - points
    by_hand = -(apart.abs() ** (order - 1) * apart.sign()) / apart.norm(order, -1, keepdim=True) ** (order - 1)
    slopes = torch.from_numpy(rows).unflatten(0, (4, 2, 3)).unflatten(-1, (3, 4))  # [draws, rows, points, points, size]
    assert torch.allclose(slopes, torch.eye(3, dtype=torch.float64)[:, :, None] * by_hand[..., None, :])


@pytest.mark.parametrize("order, dimension", [(2.0, 3 + 2 + 1), (3.0, 3 + 2)])
def test_distances_to_points_of_a_plane(order: float, dimension: int) -> None:
    """Scales of three units, translations of the plane, and its rotation where distances are Euclidean."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(0.2), nn.Linear(3, 2))
            self.points = nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(self.body(x), self.points, p=order)

    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(4, 3, dtype=torch.float64)
    catalog = symdisc.discover(model, (x,))
    assert catalog.orbit_dimension == dimension
    certificate = symdisc.certify(catalog)
    assert (certificate.found, certificate.fibre) == (dimension, dimension)
    assert catalog.verify(model, catalog.sample(seed=1, scale=0.3)).passed


@pytest.mark.parametrize("batch", [4, 8])  # 8 and 16 outputs: what goes together in the oracle and in the engine
def test_scalings_behind_learned_slopes(batch: int) -> None:
    model, x = made(batch)
    assert symdisc.discover(model, (x,)).orbit_dimension == 4 + 3
    oracle = fibre(model, lambda seed: (torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed)).double(),))
    assert oracle.dimension >= 4 + 3
