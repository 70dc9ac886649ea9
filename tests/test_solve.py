"""The linear system of a network: motions of features, null spaces of many columns, jumps; and false twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import symdisc
from symdisc.exact import DIRECT, null_space
from symdisc.solve import Accumulator, affine_motions, fibre_basis
from symdisc.symmetry import Symmetry
from symdisc.torchside.capture import capture
from symdisc.torchside.check import Checker
from symdisc.torchside.fold import fold

rng = np.random.default_rng(0)


def _left(values: np.ndarray, motions: np.ndarray, blocks: list[np.ndarray]) -> float:
    factor = Accumulator(motions.shape[2])
    affine_motions(values, motions, blocks, factor)
    return float(np.abs(factor.factor).max())


def test_affine_motions_pass_and_others_do_not() -> None:
    y = rng.standard_normal((40, 3))
    n, shift = rng.standard_normal((3, 3)), rng.standard_normal(3)
    whole = [np.arange(3)]
    assert _left(y, (y @ n.T + shift)[..., None], whole) < 1e-12
    assert _left(y, (y**2)[..., None], whole) > 1e-2
    # the same motion is not allowed where the features may not mix
    assert _left(y, (y @ n.T)[..., None], [np.array([k]) for k in range(3)]) > 1e-2


@pytest.mark.parametrize("columns", [DIRECT - 50, DIRECT + 50])
def test_null_space_of_known_dimension(columns: int) -> None:
    rank = columns - 7
    a = rng.standard_normal((columns + 40, rank)) @ rng.standard_normal((rank, columns)) * np.geomspace(1, 1e-3, columns)
    found = null_space(a)
    assert found.dimension == 7 and found.gap > 1e3
    assert np.abs(a @ found.basis).max() < 1e-8 * np.abs(a).max()
    assert np.allclose(found.basis.T @ found.basis, np.eye(7), atol=1e-10)


def test_columns_of_zero_gradient_stay_zero() -> None:
    a = rng.standard_normal((30, 6))
    a[:, 2] = 1e-18 * rng.standard_normal(30)
    assert fibre_basis(a).dimension == 1


def test_the_check_refuses_a_false_twin() -> None:
    """The scaling of a ReLU unit, with a power that is off by a thousandth."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = (torch.randn(5, 3, dtype=torch.float64),)
    true = symdisc.discover(model, x).symmetries[0]
    assert isinstance(true, Symmetry)
    moves = tuple(m if m.power > 0 else type(m)(**{**m.__dict__, "power": m.power * 1.001}) for m in true.moves)
    false = Symmetry(**{**true.__dict__, "moves": moves})
    captured = capture(model, x)
    changes = Checker(captured, fold(captured).gained).judge([true, false])
    assert changes[0] < 1e-12 < 1e-5 < changes[1]


class _Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.floor(3 * self.a(x)))


def test_what_jumps_is_not_claimed() -> None:
    """The derivative of floor vanishes, so all of the first layer looks free to first order; nothing of it is."""
    catalog = symdisc.discover(_Step(), (torch.randn(6, 3),))
    assert catalog.orbit_dimension == 0
    assert any("jumps" in note for note in catalog.notes)


def test_dead_units_are_local() -> None:
    """A ReLU unit that never switches on frees its weights here, but not in general: told, not counted."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).double()
    with torch.no_grad():
        model[0].weight[0] *= 0.01
        model[0].bias[0] = -5.0
    catalog = symdisc.discover(model, (torch.randn(6, 3, dtype=torch.float64),))
    assert catalog.orbit_dimension == 4
    assert any("local surplus" in note for note in catalog.notes)
