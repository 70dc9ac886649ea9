"""Pointwise R-matrices: right for every sign, an action, continuous where they say so; the arccos defect is caught."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from symdisc.errors import BadInput, NotExact
from symdisc.torchside.datadep.pointwise import FORMS, householder, multiplication, pi_at, spherical


def defect(R: Tensor, z: Tensor) -> float:
    """How far R is from |z| times an orthogonal matrix with first column z, relative to |z|."""
    r = z.norm()
    frame = (R @ R.T / r**2 - torch.eye(len(z))).abs().max()
    return float(max((R[:, 0] - z).abs().max() / r, frame))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("h", [1, 2, 4, 8])
def test_all_signs_and_zeros(form: str, h: int) -> None:
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=min(h, 4)):
        z = torch.tensor([*signs, *(0.3,) * (h - len(signs))], dtype=torch.float64)
        if z.norm() > 0:
            assert defect(FORMS[form](z), z) < 1e-12


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6), st.sampled_from(["householder", "spherical"]), st.floats(1.0, 1e3))
def test_identity_cocycle_inverse_equivariance(h: int, seed: int, form: str, condition: float) -> None:
    gen = torch.Generator().manual_seed(seed)
    z = torch.randn(h, generator=gen, dtype=torch.float64)
    g1, g2 = (torch.randn(h, h, generator=gen, dtype=torch.float64) for _ in range(2))
    g1 = g1 @ torch.diag(torch.logspace(0, -torch.tensor(condition).log10().item(), h, dtype=torch.float64))
    one = torch.eye(h, dtype=torch.float64)
    assert (pi_at(one, z, torch.tanh, form) - one).abs().max() < 1e-12
    whole, first, second = (pi_at(g, x, torch.tanh, form) for g, x in ((g1 @ g2, z), (g1, g2 @ z), (g2, z)))
    assert (first @ second - whole).abs().max() < 1e-10 * whole.abs().max()
    assert (pi_at(torch.linalg.inv(g2), g2 @ z, torch.tanh, form) @ second - one).abs().max() < 1e-7  # g^-1 g z rounds
    assert (second @ torch.tanh(z) - torch.tanh(g2 @ z)).norm() < 1e-10 * torch.tanh(g2 @ z).norm()


@pytest.mark.parametrize("h", [1, 2, 4, 8])
def test_multiplication_is_continuous_everywhere(h: int) -> None:
    """It is linear in z: no jump anywhere, also on the rays where the other forms jump."""
    gen = torch.Generator().manual_seed(h)
    a, b = torch.randn(2, h, generator=gen, dtype=torch.float64)
    assert (multiplication(a + 3 * b) - multiplication(a) - 3 * multiplication(b)).abs().max() < 1e-12
    assert defect(multiplication(a), a) < 1e-12


def test_no_continuous_choice_elsewhere_and_none_at_zero() -> None:
    with pytest.raises(BadInput, match="1, 2, 4, 8 only"):
        multiplication(torch.ones(3))
    with pytest.raises(NotExact, match="zero"):
        householder(torch.zeros(3))


def test_the_stated_jumps_are_there() -> None:
    """Householder jumps on the ray -e_1, the spherical form at a pole."""
    def sides(form: str, at: Tensor, axis: int) -> float:
        steps = torch.zeros(2, 5, dtype=torch.float64)
        steps[0, axis], steps[1, 4] = 1e-7, 1e-7
        return float((FORMS[form](at + steps[0]) - FORMS[form](at + steps[1])).abs().max())

    down = torch.tensor([-1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    pole = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert sides("householder", down, 1) > 0.1 and sides("householder", -down, 1) < 1e-5
    assert sides("spherical", pole, 2) > 0.1 and sides("spherical", pole + 0.3, 2) < 1e-5


def test_false_twin_arccos_without_sign_is_caught() -> None:
    """The published last angle, arccos in [0, pi], gives the frame of (..., |z_h|)."""
    gen = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 5, generator=gen, dtype=torch.float64)
    caught = 0
    for z in draws:
        twin = spherical(torch.cat([z[:-1], z[-1:].abs()]))
        caught += defect(twin, z) > 1e-3
        assert defect(spherical(z), z) < 1e-12
    assert caught == int((draws[:, -1] < 0).sum())
