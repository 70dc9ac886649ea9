"""Wrong backward passes found and named, right ones not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monitored import batches, catalog, fresh, mlp, monitored, with_forward
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc
from symdisc.examples.wrong_backward import LeakyBackward


# --- wrong backward passes ----------------------------------------------------------------------------------------------
class WrongLinear(torch.autograd.Function):
    """A linear layer whose weight gradient forgets the last sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.linear(x, w, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x, w), g = ctx.saved_tensors, grads[0]
        return g @ w, g[:-1].T @ x[:-1], g.sum(0)


def test_wrong_activation_backward() -> None:
    model = with_forward(lambda m, x: m[3](m[2](LeakyBackward.apply(m[0](x)))))
    found = monitored(mlp, model, 3).suspects()
    assert [s.symmetry for s in found] == ["scaling of hidden units"]
    assert set(found[0].parameters) == {"0.weight", "0.bias", "2.weight"}  # the layers on both sides of the activation
    assert set(found[0].blamed) == {"0.weight", "0.bias"}  # and the gradient of the later one is right
    assert found[0].orthogonality > 1e-3


def test_wrong_weight_gradient_names_the_layer() -> None:
    model = with_forward(lambda m, x: m[3](WrongLinear.apply(m[1](m[0](x)), m[2].weight, m[2].bias)))
    found = monitored(mlp, model, 3).suspects()
    assert {s.symmetry for s in found} == {"scaling of hidden units", "change of basis"}
    assert set.intersection(*(set(s.blamed) for s in found)) == {"2.weight"}


def test_right_custom_backward_is_not_flagged() -> None:
    class Right(LeakyBackward):
        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * (ctx.saved_tensors[0] > 0)

    model = with_forward(lambda m, x: m[3](m[2](Right.apply(m[0](x)))))
    assert monitored(mlp, model, 3).suspects() == []


def test_missing_term_of_an_average_over_workers() -> None:
    """One parameter keeps the gradient of its own half batch; all others have the mean of both."""
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    x = next(batches(mlp, 1))
    halves = []
    for half in x.chunk(2):
        optimizer.zero_grad()
        model(half).square().mean().backward()
        halves.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for n, p in model.named_parameters():
        p.grad = halves[0][n] if n == "3.weight" else (halves[0][n] + halves[1][n]) / 2
    optimizer.step()
    (found,) = monitor.suspects()
    assert "3.weight" in found.blamed and "0.weight" not in found.parameters


class Branches(nn.Module):
    """A shared hidden layer and two heads; ``wrong`` rescales what flows back from the second branch."""

    def __init__(self, wrong: float = 1.0) -> None:
        super().__init__()
        self.wrong = wrong
        self.trunk, self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x).relu()
        side = h
        if self.wrong != 1.0:
            side = side * self.wrong + (side * (1 - self.wrong)).detach()  # same value, scaled gradient
        return self.a(h), self.c(self.b(side).relu())


@pytest.mark.parametrize("wrong, expected", [(1.0, set()), (2.0, {"trunk.weight", "trunk.bias", "a.weight"})])
def test_loss_scale_on_one_branch(wrong: float, expected: set[str]) -> None:
    torch.manual_seed(3)
    x = torch.randn(16, 4, dtype=torch.float64)
    cat = symdisc.discover(Branches().double(), (x,), solve=False)
    model = Branches(wrong).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(cat, model, optimizer, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        one, two = model(x)
        (one.square().mean() + 3 * (two - 1).square().mean()).backward()  # a weight in the loss is no mistake
        optimizer.step()
    found = monitor.suspects()
    assert {n for s in found for n in s.blamed} == expected  # not b.weight, which the symmetry inside the branch clears
    watched = [law.moved for law in monitor.laws]
    assert len({law.label for law in monitor.laws}) == len(watched)  # names that occur twice are told apart
    assert any("c.weight" in m for m in watched) and not any("c.weight" in s.parameters for s in found)


def test_nan_gradient_is_suspect() -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    (model(next(batches(mlp, 1))).sum() * float("nan")).backward()
    optimizer.step()
    assert monitor.suspects() != [] and "NaN" not in monitor.to_json()
