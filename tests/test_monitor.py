"""A monitored run: predictions exact for every setting of SGD, wrong backward passes found and named, right ones not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc
from symdisc.errors import BadInput, StateMismatch


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3))


def batch_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


SHAPES = {mlp: (16, 4), batch_norm: (16, 4), attention: (3, 5, 8)}


@cache
def catalog(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> symdisc.Catalog:
    torch.manual_seed(0)
    return symdisc.discover(make().to(dtype).train(), (torch.randn(SHAPES[make], dtype=dtype),), solve=False)


def fresh(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return make().to(dtype).train()


def batches(make: Callable[[], nn.Module], steps: int, dtype: torch.dtype = torch.float64, skip: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for k in range(skip + steps):
        x = torch.randn(SHAPES[make], dtype=dtype, generator=generator)
        if k >= skip:
            yield x


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterator[Tensor]) -> None:
    for x in data:
        optimizer.zero_grad()
        out = model(x)
        (out - x.mean(-1, keepdim=True).tanh()).square().mean().backward()
        optimizer.step()


def monitored(make: Callable[[], nn.Module], model: nn.Module, steps: int, dtype: torch.dtype = torch.float64,
              **settings: Any) -> symdisc.Monitor:
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.02, **settings})
    monitor = symdisc.Monitor(catalog(make), model, optimizer)
    train(model, optimizer, batches(make, steps, dtype))
    return monitor


def errors(monitor: symdisc.Monitor) -> list[float]:
    return [r["error"] for r in monitor.records if r["error"] is not None]


# --- exact predictions --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings", [
    {"lr": 0.05},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05},
], ids=str)
def test_prediction_is_exact(settings: dict[str, Any]) -> None:
    monitor = monitored(mlp, fresh(mlp), 200, **settings)
    found = errors(monitor)
    assert len(found) == 400 and max(found) < 1e-12
    assert {r["symmetry"] for r in monitor.records if r["error"] is not None} == {"change of basis", "scaling of hidden units"}
    assert max(r["orthogonality"] for r in monitor.records) < 1e-12
    assert monitor.suspects() == []
    # Q itself is far from constant: there is something to predict
    first, last = ([r["q"][0] for r in monitor.records if r["symmetry"] == "scaling of hidden units"][k] for k in (0, -1))
    assert abs(first - last) > 1e-4


@pytest.mark.parametrize("make", [batch_norm, attention])
def test_other_architectures(make: Callable[[], nn.Module]) -> None:
    monitor = monitored(make, fresh(make), 40, momentum=0.9, weight_decay=0.02)
    assert max(errors(monitor)) < 1e-12 and monitor.suspects() == []
    assert len(monitor.laws) >= 2


class Shifted(nn.Module):
    """(a + 1) b: the generator is affine, so that only the sum of its quadratic and its linear part vanishes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.a + 1) * self.b


class Traded(nn.Module):
    """Only a + b is seen: a quantity without quadratic part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x * (self.a + self.b))


@pytest.mark.parametrize("kind", [Shifted, Traded])
def test_affine_and_linear_quantities(kind: type[nn.Module]) -> None:
    torch.manual_seed(4)
    model = kind().double()
    cat = symdisc.discover(model, (torch.randn(8, 4, dtype=torch.float64),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05, nesterov=True)
    monitor = symdisc.Monitor(cat, model, optimizer)
    train(model, optimizer, batches(mlp, 60))
    assert max(errors(monitor)) < 1e-12 and monitor.suspects() == []
    assert any(not law.homogeneous for law in monitor.laws)


def test_maximize_and_schedule() -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, weight_decay=0.2, maximize=True)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer)
    for k, x in enumerate(batches(mlp, 30)):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + k)
        optimizer.param_groups[0]["momentum"] = 0.5 if k % 10 < 7 else 0.0
        train(model, optimizer, iter([x]))
    assert max(errors(monitor)) < 1e-12


def test_a_kick_outside_the_optimizer_is_seen() -> None:
    """The false twin of a prediction: weights changed behind the optimizer's back are not predicted."""
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer)
    train(model, optimizer, batches(mlp, 5))
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    train(model, optimizer, batches(mlp, 5))
    assert max(errors(monitor)[:10]) < 1e-12 < 1e-4 < errors(monitor)[-1]


def test_float32_is_not_flagged() -> None:
    for make in (mlp, batch_norm, attention):
        monitor = monitored(make, fresh(make, torch.float32), 30, torch.float32, momentum=0.9)
        assert monitor.suspects() == []


# --- wrong backward passes ----------------------------------------------------------------------------------------------
class WrongRelu(torch.autograd.Function):
    """ReLU whose backward lets a little through where nothing passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x > 0) + 0.05 * grads[0]


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


def with_forward(forward: Callable[[nn.Sequential, Tensor], Tensor]) -> nn.Module:
    model = fresh(mlp)
    object.__setattr__(model, "forward", lambda x: forward(model, x))  # type: ignore[arg-type]
    return model


def test_wrong_activation_backward() -> None:
    model = with_forward(lambda m, x: m[3](m[2](WrongRelu.apply(m[0](x)))))
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
    class Right(WrongRelu):
        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * (ctx.saved_tensors[0] > 0)

    model = with_forward(lambda m, x: m[3](m[2](Right.apply(m[0](x)))))
    assert monitored(mlp, model, 3).suspects() == []


def test_missing_term_of_an_average_over_workers() -> None:
    """One parameter keeps the gradient of its own half batch; all others have the mean of both."""
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer)
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
    monitor = symdisc.Monitor(cat, model, optimizer)
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
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer)
    (model(next(batches(mlp, 1))).sum() * float("nan")).backward()
    optimizer.step()
    assert monitor.suspects() != [] and "NaN" not in monitor.to_json()


# --- logs, resuming, refusals -------------------------------------------------------------------------------------------
def test_logs() -> None:
    monitor = monitored(mlp, fresh(mlp), 4)
    told = json.loads(monitor.to_json())
    assert told["steps"] == 4 and told["records"] == monitor.records
    assert any("one-form is not closed" in why for why in told["unpredicted"].values())
    rows = list(csv.DictReader(io.StringIO(monitor.to_csv())))
    assert len(rows) == len(monitor.records) and float(rows[0]["norm"]) == monitor.records[0]["norm"]


def test_resume_with_a_checkpoint(tmp_path: Any) -> None:
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}
    through = monitored(mlp, fresh(mlp), 20, **settings)
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    first = symdisc.Monitor(catalog(mlp), model, optimizer)
    train(model, optimizer, batches(mlp, 9))
    torch.save([model.state_dict(), optimizer.state_dict(), first.state_dict()], tmp_path / "run.pt")
    a, b, c = torch.load(tmp_path / "run.pt", weights_only=True)
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    second = symdisc.Monitor(catalog(mlp), model, optimizer)
    model.load_state_dict(a)
    optimizer.load_state_dict(b)
    second.load_state_dict(c)
    train(model, optimizer, batches(mlp, 11, skip=9))
    assert second.records == through.records and second.step == 20
    with pytest.raises(StateMismatch, match="other symmetries"):
        second.load_state_dict({**c, "names": []})


def test_every_and_close() -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=10)
    train(model, optimizer, batches(mlp, 25))
    assert sorted({r["step"] for r in monitor.records}) == [0, 10, 20] and max(errors(monitor)) < 1e-12
    monitor.close()
    train(model, optimizer, batches(mlp, 10))
    assert monitor.step == 25


def test_different_settings_are_not_predicted() -> None:
    model = fresh(mlp)
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest}], lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer)
    train(model, optimizer, batches(mlp, 5))
    assert "differ" in monitor.unpredicted["scaling of hidden units"]
    assert {r["symmetry"] for r in monitor.records if r["error"] is not None} == {"change of basis"}
    assert max(errors(monitor)) < 1e-12 and monitor.suspects() == []


def test_frozen_parameters_are_not_watched() -> None:
    model = fresh(mlp)
    model[0].weight.requires_grad_(False)
    monitor = monitored(mlp, model, 3)
    assert "0.weight" in monitor.unwatched["scaling of hidden units"] and monitor.suspects() == []


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.LBFGS])
def test_other_optimizers_are_refused(kind: Any) -> None:
    model = fresh(mlp)
    with pytest.raises(BadInput, match="survives") as caught:
        symdisc.Monitor(catalog(mlp), model, kind(model.parameters()))
    assert "\n" not in str(caught.value) and kind.__name__ in str(caught.value)


def test_wrong_use_is_refused() -> None:
    model = fresh(batch_norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    symdisc.Monitor(catalog(batch_norm), model, optimizer)
    with pytest.raises(BadInput, match="closure"):
        optimizer.step(lambda: 0.0)
    model.eval()
    with pytest.raises(BadInput, match="eval mode"):
        optimizer.step()
    with pytest.raises(StateMismatch, match="no parameter"):
        symdisc.Monitor(catalog(mlp), model, optimizer)
    with pytest.raises(BadInput, match="every"):
        symdisc.Monitor(catalog(batch_norm), model, optimizer, every=0)
