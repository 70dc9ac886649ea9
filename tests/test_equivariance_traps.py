"""Formulas and callables that no list names, against a null space taken here: f'(x) (a x + m) = n f(x) + c at many points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.equivariance import equivariance

Function = Callable[[Tensor], Tensor]

FORMULAS: dict[str, Function] = {
    "x*sin(x)": lambda x: x * x.sin(),
    "x + sin(x)": lambda x: x + x.sin(),
    "x**3 + x": lambda x: x**3 + x,
    "(x+1)**3": lambda x: (x + 1) ** 3,
    "(2*x-3)**2 + 5": lambda x: (2 * x - 3) ** 2 + 5,
    "exp(2*x+1) - 4": lambda x: (2 * x + 1).exp() - 4,
    "exp(-x**2)": lambda x: (-(x**2)).exp(),
    "1/(1+x**2)": lambda x: 1 / (1 + x**2),
    "sqrt(x**2+1)": lambda x: (x**2 + 1).sqrt(),
    "abs(x-1)": lambda x: (x - 1).abs(),
    "abs(x)+x**2": lambda x: x.abs() + x**2,
    "max(x,0)**2": lambda x: x.relu() ** 2,
    "max(x,-1)": lambda x: x.clamp(min=-1),
    "min(max(x,0),6)": F.relu6,
    "max(x,0) - 2*max(-x,0)": lambda x: x.relu() - 2 * (-x).relu(),
    "sign(x)*x**2": lambda x: x.sign() * x**2,
    "sign(x)*sqrt(abs(x))": lambda x: x.sign() * x.abs().sqrt(),
    "sin(x)*cos(x)": lambda x: x.sin() * x.cos(),
    "exp(x)*exp(x)": lambda x: (2 * x).exp(),
    "x*erf(x)": lambda x: x * x.erf(),
    "x**2/(1+x**2)": lambda x: x**2 / (1 + x**2),
    "x*sigmoid(1.702*x)": lambda x: x * (1.702 * x).sigmoid(),
    "log(abs(x))": lambda x: x.abs().log(),
    "3*x - 7": lambda x: 3 * x - 7,
    "5": lambda x: 0 * x + 5,
    "1/x**2": lambda x: x**-2,
    "x**4 - 2*x**2 + 1": lambda x: (x**2 - 1) ** 2,
    "exp(log(1+x**2))": lambda x: 1 + x**2,
    "(x**2)**1.5": lambda x: x.abs() ** 3,
    "Piecewise((x, x>0), (0.5*x, True))": lambda x: torch.where(x > 0, x, 0.5 * x),
}
SMOOTH: dict[str, Function] = {
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "snake": lambda x: x + torch.sin(x) ** 2,
    "i0e": torch.special.i0e,
    "sinc": torch.sinc,
    "expm1": torch.expm1,
    "beta": nn.Softplus(beta=3.0),
    "one degree on both sides": lambda x: torch.where(x > 0, 3 * x, -0.5 * x),
    "two degrees": lambda x: torch.where(x > 0, x * x, x),
    "threshold at its value": nn.Threshold(0.3, 0.3),
    "relu of both signs": lambda x: F.relu(x) * F.relu(-x),
    "two kinks": lambda x: F.relu(x) + F.relu(x - 1),
    "cube root": lambda x: torch.sign(x) * x.abs() ** (1 / 3),
    "exp and more": lambda x: 2 * torch.exp(-3 * x) + 7,
    "x log x": lambda x: torch.special.xlogy(x.abs(), x.abs()),
    "triangle wave": lambda x: (torch.remainder(x, 2.0) - 1).abs(),
}
# the derivative does not see where these jump, or that they end far out; a finite element does
JUMPS: dict[str, tuple[Function, int]] = {
    "threshold": (nn.Threshold(0.3, 0.0), 0),
    "ceil": (torch.ceil, 0),
    "frac": (torch.frac, 0),
    "step": (lambda x: (x > 0).to(x.dtype), 1),
    "step at 1": (lambda x: (x > 1).to(x.dtype), 1),
    "square wave": (lambda x: torch.sign(torch.sin(x)), 0),
    "identity that overflows": (lambda x: torch.log(torch.exp(x)), 0),
    "identity that ends": (lambda x: x.clamp(-500, 500), 0),
}


def null_dimension(f: Function) -> int:
    """Dimension of the solutions (a, m, n, c) at points near and far."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.concatenate([rng.uniform(-r, r, 40) for r in (0.6, 3.0, 9.0)])).requires_grad_()
    y = f(x) + 0 * x
    (slope,) = torch.autograd.grad(y.sum(), x)
    rows = torch.stack([slope * x, slope, -y, -torch.ones_like(y)], 1).detach()
    rows = rows[torch.isfinite(rows).all(1) & (y.detach().abs() < 1e8)]
    values = torch.linalg.svdvals(rows / rows.norm(dim=1, keepdim=True))
    return int((values < 1e-9 * values[0]).sum())


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_solved_and_proved(formula: str) -> None:
    found = equivariance(formula)
    assert (found.dimension, found.status) == (null_dimension(FORMULAS[formula]), "proved")


@pytest.mark.parametrize("name", SMOOTH)
def test_a_callable_is_solved(name: str) -> None:
    found = equivariance(SMOOTH[name])
    assert (found.dimension, found.status) == (null_dimension(SMOOTH[name]), "witnessed")


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("size", [None, 3])
def test_where_the_derivative_is_blind_a_finite_element_is_not(name: str, size: int | None) -> None:
    f, dimension = JUMPS[name]
    found = equivariance(f, size=size)
    assert found.dimension == dimension * (size or 1) == sum(family.dimension for family in found.families)
    assert null_dimension(f) > dimension or name.endswith(("ends", "overflows"))
