"""The batch action: identity, cocycle, inverse, equivariance for random g; refusals; published defects caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from symdisc.errors import BadInput, NotExact
from symdisc.torchside.datadep.batch import act_pair, frame, pi, pi_inverse

SIGMAS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "leaky": lambda z: torch.nn.functional.leaky_relu(z, 0.1),
    "sin+1": lambda z: torch.sin(z) + 1.0, "x^3": lambda z: z**3,
}
EXACT = 1e-10


def element(h: int, gen: torch.Generator, condition: float) -> Tensor:
    """A random g of GL_h with the given condition number and largest singular value 1."""
    q, _ = torch.linalg.qr(torch.randn(h, h, generator=gen, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(h, h, generator=gen, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(0.0, -torch.tensor(condition).log10().item(), h, dtype=torch.float64)) @ p


@pytest.mark.parametrize("name", SIGMAS)
def test_identity_is_exactly_one(name: str) -> None:
    Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (pi(torch.eye(6, dtype=torch.float64), Z, SIGMAS[name]) - torch.eye(6)).abs().max() < 1e-13


def test_plain_pseudo_inverse_is_a_projector_at_the_identity() -> None:
    Z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = pi(torch.eye(6, dtype=torch.float64), Z, torch.tanh, "pinv")
    assert torch.linalg.matrix_rank(one) == 4 and (one @ one - one).abs().max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6), st.sampled_from(sorted(SIGMAS)), st.floats(1.0, 1e3))
def test_batch_is_kept_identity_cocycle_inverse(h: int, seed: int, name: str, condition: float) -> None:
    """To 1e-10, for g with condition number up to 1e3; draws that are refused are drawn again, and hypothesis fails if they are many."""
    gen = torch.Generator().manual_seed(seed)
    k = 1 + seed % max(1, h // 2)
    U, V, b, X = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((3, h), (h, h + 2), (h,), (h + 2, k)))
    V, sigma, g, f = V / (h + 2) ** 0.5, SIGMAS[name], element(h, gen, condition), element(h, gen, 3.0)
    one, Z = torch.eye(h, dtype=torch.float64), V @ X + b[:, None]
    try:
        U2, V2, b2 = act_pair(U, V, b, sigma, X, g, max_condition=1e5)
        whole, first, second = (pi(a, z, sigma, max_condition=1e5) for a, z in ((g @ f, Z), (g, f @ Z), (f, Z)))
        undone = pi(torch.linalg.inv(f), f @ Z, sigma, max_condition=1e5)
    except NotExact:
        assume(False)
    assert b2 is not None
    before, after = U @ sigma(Z), U2 @ sigma(V2 @ X + b2[:, None])
    assert (after - before).norm() <= EXACT * before.norm()
    assert (pi(one, Z, sigma) - one).abs().max() < EXACT
    assert (first @ second - whole).norm() <= EXACT * first.norm() * second.norm()
    assert (undone @ second - one).norm() <= EXACT * undone.norm() * second.norm()


@pytest.mark.parametrize("completion, batch, message", [
    ("orthogonal", 7, "larger than the width"), ("pinv", 7, "larger than the width"), ("nothing", 3, "unknown"),
])
def test_refusals(completion: str, batch: int, message: str) -> None:
    Z = torch.randn(6, batch, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(BadInput, match=message):
        pi(torch.eye(6, dtype=torch.float64), Z, torch.tanh, completion)


def test_dependent_samples_and_dead_units_are_refused() -> None:
    z = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(NotExact, match="rank 1, not 2"):
        pi(torch.eye(6, dtype=torch.float64), torch.cat([z, z], 1), torch.tanh)
    with pytest.raises(NotExact, match="rank 0"):
        pi(torch.eye(6, dtype=torch.float64), -z.abs(), torch.relu)
    with pytest.raises(NotExact, match="condition number"):
        pi(torch.eye(6, dtype=torch.float64), torch.cat([z, z + 1e-10], 1), torch.tanh)


def test_frame_is_orthogonal_up_to_the_samples_and_inverse_is_inverse() -> None:
    gen = torch.Generator().manual_seed(1)
    Z, g = torch.randn(6, 4, generator=gen, dtype=torch.float64), element(6, gen, 10.0)
    R = frame(torch.tanh(Z))
    assert (R[:, :4].T @ R[:, 4:]).abs().max() < 1e-12
    assert (pi_inverse(g, Z, torch.tanh) @ pi(g, Z, torch.tanh) - torch.eye(6)).abs().max() < 1e-11


def test_it_is_differentiable_and_vmaps() -> None:
    gen = torch.Generator().manual_seed(2)
    Z = torch.randn(5, 3, generator=gen, dtype=torch.float64)
    T = 0.1 * torch.randn(4, 5, 5, generator=gen, dtype=torch.float64)

    def f(t: Tensor) -> Tensor:
        return pi_inverse(torch.linalg.matrix_exp(t), Z, torch.tanh, check=False)

    assert (torch.func.vmap(f)(T)[2] - f(T[2])).abs().max() < 1e-13
    assert torch.autograd.gradcheck(f, (T[0].requires_grad_(),))
