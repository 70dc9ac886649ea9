"""The elementwise law at whitened input: closed forms proved and checked, poles named, false twins refused."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp
from scipy.special import spence

from symdisc.conserved import ElementwiseLaw, elementwise_law
from symdisc.errors import BadInput, FormulaError

M, H, N = 3, 4, 5
TORCH = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "exp": torch.exp, "x**3": lambda v: v**3, "sin": torch.sin,
    "softplus": torch.nn.functional.softplus, "exp(-x**2/2)": lambda v: torch.exp(-(v**2) / 2), "relu": torch.relu,
    "max(x, 0.1*x)": lambda v: torch.nn.functional.leaky_relu(v, 0.1), "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu, "atan": torch.atan,
}  # fmt: skip
# Antiderivatives of sigma/sigma' by hand, zero at 0 where that exists (arXiv:2210.17216 for tanh and sigmoid).
BY_HAND = {
    "tanh": lambda v: np.sinh(v) ** 2 / 2, "sigmoid": lambda v: v + np.exp(v) - 1, "exp": lambda v: v,
    "x**3": lambda v: v**2 / 6, "sin": lambda v: -np.log(abs(np.cos(v))), "exp(-x**2/2)": lambda v: -np.log(abs(v)),
    "relu": lambda v: np.maximum(v, 0) ** 2 / 2, "max(x, 0.1*x)": lambda v: v**2 / 2,
    "softplus": lambda v: (-spence(1 + np.exp(v)) - np.log1p(np.exp(v)) * (1 + np.exp(-v)) + v
                           + spence(2.0) + 2 * np.log(2.0)),
}  # fmt: skip


def weights(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((M, H)), rng.standard_normal((N, H))


def gradients(name: str, u: np.ndarray, v: np.ndarray, x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """dL/dU, dL/dV of a random loss of U sigma(V^T X), by autograd."""
    rng = np.random.default_rng(100 + seed)
    target = torch.as_tensor(rng.standard_normal((M, x.shape[1])))
    tu, tv = (torch.tensor(a, requires_grad=True) for a in (u, v))
    out = tu @ TORCH[name](tv.T @ torch.as_tensor(x))
    value = (torch.cosh(0.3 * (out - target))).sum()
    return tuple(g.numpy() for g in torch.autograd.grad(value, (tu, tv)))  # type: ignore[return-value]


def rates(law: ElementwiseLaw, name: str, x: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """<dQ_u, grad L> relative to its two halves, per unit."""
    u, v = weights()
    gu, gv = gradients(name, u, v, x)
    du, dv = law.gradient(u, v)
    halves = (du * gu).sum(0), sign * (dv * gv).sum(0)
    return abs(halves[0] + halves[1]) / (abs(halves[0]) + abs(halves[1]))


@pytest.fixture(scope="module")
def laws() -> dict[str, ElementwiseLaw]:
    return {name: elementwise_law(name) for name in TORCH}


@pytest.mark.parametrize("name", TORCH)
def test_each_unit_has_a_law_at_whitened_input(laws: dict[str, ElementwiseLaw], name: str) -> None:
    assert rates(laws[name], name, np.eye(N)).max() < 1e-10


@pytest.mark.parametrize("name", TORCH)
def test_a_wrong_sign_or_other_inputs_have_none(laws: dict[str, ElementwiseLaw], name: str) -> None:
    assert rates(laws[name], name, np.eye(N), sign=-1.0).max() > 1e-3
    if name not in ("relu", "max(x, 0.1*x)", "x**3"):  # homogeneous: a law at every input
        assert rates(laws[name], name, np.random.default_rng(5).standard_normal((N, N))).max() > 1e-3


@pytest.mark.parametrize("name", ["relu", "max(x, 0.1*x)", "x**3"])
def test_homogeneous_activations_keep_it_at_every_input(laws: dict[str, ElementwiseLaw], name: str) -> None:
    """The degree weighs the inner weights, x^3 has 1/6 |v|^2; for ReLU the entries of v that are off count as well."""
    u, v = weights()
    gu, gv = gradients(name, u, v, np.random.default_rng(5).standard_normal((N, N)))
    degree = 3 if name == "x**3" else 1
    outer, inner = (u * gu).sum(0), (v * gv).sum(0) / degree
    assert abs(outer - inner).max() < 1e-10 * abs(outer).max()


@pytest.mark.parametrize("name", BY_HAND)
def test_closed_forms_are_those_of_the_paper(laws: dict[str, ElementwiseLaw], name: str) -> None:
    assert {p.kind for p in laws[name].pieces} <= {"closed", "frozen"}
    u, v = weights()
    by_hand = (u**2).sum(0) / 2 - BY_HAND[name](v).sum(0)
    assert np.allclose(laws[name].evaluate(u, v), by_hand, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", TORCH)
def test_value_and_gradient_agree(laws: dict[str, ElementwiseLaw], name: str) -> None:
    u, v = weights(3)
    v = np.sign(v) * np.clip(abs(v), 0.05, 0.7)  # clear of poles by more than the step
    way = np.random.default_rng(1).standard_normal(v.shape)
    step = 1e-5
    seen = (laws[name].evaluate(u, v + step * way) - laws[name].evaluate(u, v - step * way)) / (2 * step)
    assert np.allclose(seen, (laws[name].gradient(u, v)[1] * way).sum(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name, side", [*((n, 1) for n in TORCH), ("gelu", -1), ("silu", -1)])
def test_constant_along_an_integrated_flow(laws: dict[str, ElementwiseLaw], name: str, side: int) -> None:
    """On both sides of the poles of GELU and SiLU; with one wrong sign it is no law."""
    u, v = weights(2)
    v = abs(v) if side == 1 else -abs(v) - 1.5

    def right(_: float, flat: np.ndarray) -> np.ndarray:
        gu, gv = gradients(name, flat[: M * H].reshape(M, H), flat[M * H :].reshape(N, H), np.eye(N))
        return -np.concatenate([gu.ravel(), gv.ravel()])

    # short of where a weight reaches a pole or a kink
    end = solve_ivp(right, (0, 0.2), np.concatenate([u.ravel(), v.ravel()]), method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    u2, v2 = end[: M * H].reshape(M, H), end[M * H :].reshape(N, H)
    change = laws[name].evaluate(u2, v2) - laws[name].evaluate(u, v)
    outer = ((u2**2).sum(0) - (u**2).sum(0)) / 2
    assert abs(u2 - u).max() > 1e-3 and abs(change).max() < 1e-10
    assert abs(2 * outer - change).max() > 1e-4  # 1/2 |u|^2 + sum I(v) in place of minus


def test_poles_are_named(laws: dict[str, ElementwiseLaw]) -> None:
    """GELU and SiLU have a critical point, and the law splits there."""
    for name, where in (("gelu", -0.7517915247), ("silu", -1.2784645428)):
        (pole,) = laws[name].poles
        assert float(pole) == pytest.approx(where, abs=1e-9)
        assert [p.kind for p in laws[name].pieces] == ["integral", "integral"]
        assert f"{where:.5f}" in laws[name].latex()
    assert laws["sin"].poles.contains(sp.pi / 2) == sp.true and laws["exp(-x**2/2)"].poles == sp.FiniteSet(0)
    assert laws["tanh"].poles is sp.EmptySet and laws["tanh"].domain == sp.S.Reals


def test_entries_at_a_pole_or_beyond_the_law_are_refused(laws: dict[str, ElementwiseLaw]) -> None:
    u = np.ones((1, 1))
    with pytest.raises(BadInput, match="no law"):
        laws["exp(-x**2/2)"].evaluate(u, np.zeros((1, 1)))
    six = elementwise_law("clamp(x, 0, 6)")
    assert {p.kind for p in six.pieces} == {"closed", "frozen", "none"}
    assert six.evaluate(u, np.full((1, 1), 2.0)) == pytest.approx(0.5 - 2.0)
    with pytest.raises(BadInput, match="no law for sigma"):
        six.evaluate(u, np.full((1, 1), 7.0))


def test_torch_and_numpy_agree_and_sources_agree() -> None:
    x = sp.Symbol("z")
    u, v = weights()
    value = elementwise_law(sp.tanh(x)).evaluate(u, v)
    assert np.allclose(elementwise_law("tanh").evaluate(torch.as_tensor(u), torch.as_tensor(v)).numpy(), value)
    assert elementwise_law("tanh(t)").pieces == elementwise_law("tanh").pieces


@pytest.mark.parametrize("name", TORCH)
def test_autograd_goes_through_the_law(laws: dict[str, ElementwiseLaw], name: str) -> None:
    """In both weights and twice, also where the potential itself is no function of torch's; a sign changed, the gradient is another."""
    u, v = (torch.as_tensor(w, dtype=torch.float64).requires_grad_() for w in weights())
    assert torch.autograd.gradcheck(laws[name].evaluate, (u, v))
    assert torch.autograd.gradgradcheck(laws[name].evaluate, (u, v))
    by_formula = torch.as_tensor(laws[name].gradient(u.detach().numpy(), v.detach().numpy())[1])
    found = torch.func.grad(lambda w: laws[name].evaluate(u, w).sum())(v)
    assert torch.allclose(found, by_formula, rtol=1e-11, atol=1e-12)
    assert not torch.allclose(found, -by_formula, rtol=1e-2, atol=1e-3)


def test_what_is_no_activation_is_refused() -> None:
    with pytest.raises(BadInput, match="one variable"):
        elementwise_law("x*y")
    with pytest.raises(FormulaError):
        elementwise_law("__import__('os')")
