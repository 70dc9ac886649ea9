"""Broken laws: the drift of the balance of a unit is exact along an integrated flow, for activations with no symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp
from torch.nn import functional as F

from symdisc.conserved import broken_law
from symdisc.errors import BadInput

N, H, M, S = 3, 4, 2, 7
TORCH = {"gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sin": torch.sin}
SIZES = [(H, N), (H,), (M, H)]


def split(flat: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(s)) for s in SIZES])
    return [part.reshape(s) for part, s in zip(np.split(flat, ends[:-1]), SIZES, strict=True)]


def facts(name: str, flat: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """The gradient of a loss of U sigma(V x + b), the preactivations z and dL/dh, both [samples, units]."""
    rng = np.random.default_rng(3)
    x, y = torch.as_tensor(rng.standard_normal((S, N))), torch.as_tensor(rng.standard_normal((S, M)))
    v, b, u = (torch.tensor(p, requires_grad=True) for p in split(flat))
    z = x @ v.T + b
    h = TORCH[name](z)
    loss = torch.cosh(0.5 * (h @ u.T - y)).sum()
    *grads, pull = torch.autograd.grad(loss, (v, b, u, h))
    return np.concatenate([g.numpy().ravel() for g in grads]), z.detach(), pull


@pytest.mark.parametrize("name", TORCH)
def test_drift_is_exact_along_the_flow(name: str) -> None:
    """Q(t) - Q(0) equals the integral of the drift, integrated beside the flow; a wrong residual does not."""
    law, wrong = broken_law(name), broken_law(name, 2)
    assert not law.holds
    start = 0.7 * np.random.default_rng(1).standard_normal(H * N + H + M * H)
    count = len(start)

    def right(_: float, state: np.ndarray) -> np.ndarray:
        g, z, pull = facts(name, state[:count])
        return np.concatenate([-g, law.drift(z, pull).numpy(), wrong.drift(z, pull).numpy()])

    end = solve_ivp(right, (0, 0.5), np.concatenate([start, np.zeros(2 * H)]), method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    (v0, b0, u0), (v1, b1, u1) = split(start), split(end[:count])
    change = law.evaluate(u1, v1, b1) - law.evaluate(u0, v0, b0)
    assert abs(change).max() > 1e-3 and abs(change - end[count:count + H]).max() < 1e-10
    assert abs(change - end[count + H:]).max() > 1e-3


def test_homogeneous_activations_are_not_broken() -> None:
    assert broken_law("relu").holds and broken_law("max(x, x/10)").holds and broken_law("x**3", 3).holds
    assert not broken_law("x**3").holds and broken_law("relu").latex().endswith("= 0")


def test_residual_and_latex() -> None:
    law = broken_law("tanh")
    x = sp.Symbol("x", real=True)
    assert sp.simplify(law.residual - (sp.tanh(x) - x * (1 - sp.tanh(x) ** 2))) == 0
    text = law.latex()
    assert text.count("{") == text.count("}") and "tanh" in text and "$" not in text
    values, pull = np.array([[0.3], [-1.2]]), np.array([[1.0], [2.0]])
    assert np.allclose(law.drift(values, pull), law.drift(torch.as_tensor(values), torch.as_tensor(pull)).numpy())
    with pytest.raises(BadInput, match="one variable"):
        broken_law("x*y")
