"""Equivariance of torch callables: solved from samples, tried as finite elements, never called proved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.equivariance import equivariance
from symdisc.errors import BadInput


class Straight(torch.autograd.Function):
    """Rounds forwards, passes the gradient straight backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


CALLABLES: list[tuple[str, Callable[..., Tensor], int | None, int]] = [
    ("relu", torch.relu, None, 1),
    ("gelu", F.gelu, None, 0),
    ("module", nn.LeakyReLU(0.2), None, 1),
    ("prelu", nn.PReLU(), None, 1),
    ("rrelu", nn.RReLU().eval(), None, 1),
    ("exp", torch.exp, None, 1),
    ("identity", lambda x: x, 3, 12),
    ("relu at 3", torch.relu, 3, 3),
    ("x^5", lambda x: x**5, None, 1),
    ("cubic", lambda x: x**3 / 3 + x**2 + x, None, 1),
    ("floor", torch.floor, None, 0),
    ("sign", torch.sign, None, 1),
    ("hardshrink", nn.Hardshrink(), None, 0),
    ("threshold", nn.Threshold(0.1, 20), None, 0),
    ("log", torch.log, None, 1),
    ("1/x", torch.reciprocal, None, 1),
    ("straight through", Straight.apply, None, 0),
    ("detached", lambda x: x + (x.round() - x).detach(), None, 0),
    ("x|x|", lambda x: x * x.abs(), None, 1),
    ("lgamma", torch.lgamma, None, 0),
    ("bessel", torch.special.bessel_j0, None, 0),
    ("e^e^x", lambda x: x.exp().exp(), None, 0),
    ("far kink", lambda x: torch.relu(x) + torch.relu(x - 100), None, 0),
    ("far relu", lambda x: torch.relu(x - 100), None, 1),
    ("far jump", lambda x: torch.where(x > 50, x + 1, x), None, 0),
    ("far clamp", lambda x: x.clamp(-500, 500), None, 0),
    ("power 0.3", lambda x: x.abs() ** 0.3, None, 1),
    ("square about 2", lambda x: (x - 2) ** 2, None, 1),
    ("sqrt(x^2)", lambda x: (x * x).sqrt(), None, 1),
    ("hole", lambda x: (x * x - 1) / (x - 1), None, 2),
    ("asin", torch.asin, None, 0),
    ("gaussian", lambda x: torch.exp(-x * x), None, 0),
    ("steep", lambda x: torch.sigmoid(50 * x), None, 0),
    ("flat", lambda x: 1000 * torch.tanh(x / 1000), None, 0),
    ("affine by pieces", lambda x: torch.relu(x) - torch.relu(-x), None, 2),
    ("zero", lambda x: x * 0, None, 3),
    ("heaviside", lambda x: torch.heaviside(x, torch.zeros(1, dtype=x.dtype)), None, 1),
    ("no derivative", lambda x: x.detach().relu(), None, 1),
    ("fraction", torch.frac, None, 0),
    ("glu", nn.GLU(), 4, 2),
    ("shares", lambda x: x.sigmoid() / x.sigmoid().sum(), 3, 3),
    ("in place", nn.ReLU(inplace=True), None, 1),
    ("constant", lambda x: torch.zeros_like(x) + 3, None, 3),
    ("swiglu", lambda g, u: F.silu(g) * u, None, 1),
    ("minimum, without a signature", torch.minimum, None, 2),
    ("hypot, without a signature", torch.hypot, 2, 2),
    ("lerp, without a signature", torch.lerp, None, 2),
    ("reglu at 3", lambda g, u: F.relu(g) * u, 3, 6),
    ("softmax", lambda x: x.softmax(-1), 4, 9),
    ("Softmax", nn.Softmax(-1), 4, 9),
    ("layer_norm", lambda x: F.layer_norm(x, (4,), eps=0.0), 4, 13),
    ("layer_norm eps", lambda x: F.layer_norm(x, (4,)), 4, 12),
    ("rms_norm", lambda x: F.rms_norm(x, (4,), eps=0.0), 4, 7),
    ("radial", lambda x: x * x.norm(), 4, 7),
    ("linear", nn.Linear(4, 4), 4, 20),
    ("sort", lambda x: x.sort().values, 3, 3),
    ("top 2", lambda x: x.topk(2).values.sum() * x, 4, 1),
    ("halves", lambda x: x[:2] * x[2:], 4, 4),
    ("logsumexp", lambda x: x.logsumexp(-1), 4, 1),
]


@pytest.mark.parametrize("function, size, dimension", [c[1:] for c in CALLABLES], ids=[c[0] for c in CALLABLES])
def test_callables_are_witnessed(function: Callable[..., Tensor], size: int | None, dimension: int) -> None:
    e = equivariance(function, size)
    assert (e.dimension, e.status) == (dimension, "witnessed") and sum(f.dimension for f in e.families) + len(
        e.remainder
    ) == dimension


@pytest.mark.parametrize(
    "function, text",
    [
        (torch.tanh, "tanh(x)"),
        (F.silu, "silu(x)"),
        (torch.sin, "sin(x)"),
        (torch.sigmoid, "sigmoid(x)"),
        (F.relu6, "clamp(x, 0, 6)"),
    ],
)
def test_callables_show_the_discrete_elements_of_the_formula(function: Callable[..., Tensor], text: str) -> None:
    seen = {(d.kind, *map(str, dict(d.entries).values())) for d in equivariance(function).discrete}
    assert seen == {(d.kind, *map(str, dict(d.entries).values())) for d in equivariance(text).discrete}


def test_a_module_is_left_as_it_was() -> None:
    module = nn.PReLU()
    equivariance(module)
    assert module.weight.dtype == torch.float32


def test_a_callable_that_rounds_is_refused() -> None:
    with pytest.raises(BadInput, match="float32"):
        equivariance(lambda x: torch.relu(x.float()))
