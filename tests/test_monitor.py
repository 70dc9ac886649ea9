"""Predictions of Q under SGD: exact for every setting, with false twins that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monitored import attention, batch_norm, batches, catalog, errors, fresh, mlp, monitored, train, wide
from torch import Tensor, nn

import symdisc
from symdisc.errors import StateMismatch
from symdisc.torchside.alignment import _broad, _whole
from symdisc.torchside.pieces import UNITS, _probes
from symdisc.zoo import build


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
    monitor = symdisc.Monitor(cat, model, optimizer, every=1)
    for k, x in enumerate(batches(mlp, 60)):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 + k % 7)
        train(model, optimizer, iter([x]))
    assert max(errors(monitor)) < 1e-12 and monitor.suspects() == []
    assert any(not law.homogeneous for law in monitor.laws)


@pytest.mark.parametrize("full", [False, True])
def test_wide_matrices_are_seen_through_random_vectors_or_whole(full: bool) -> None:
    model = fresh(wide)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    monitor = symdisc.Monitor(catalog(wide), model, optimizer, every=1, full=full)
    train(model, optimizer, batches(wide, 40))
    assert max(errors(monitor)) < 1e-12 and monitor.suspects() == []
    assert len(monitor.sketched) == (0 if full else 2)
    assert all("random u" in what for what in monitor.sketched.values())
    state = {n: p.detach() for n, p in model.named_parameters()}
    for law in (law for law in monitor.laws if law.predicts):
        q, seen = law.quantity.evaluate(state), law.value(state)
        if full:
            assert torch.allclose(seen, q.reshape(-1), rtol=1e-12, atol=1e-13)
        else:
            u = _probes(q.shape[-1])
            assert torch.allclose(seen, torch.einsum("pi,bij,pj->bp", u, q, u).reshape(-1), rtol=1e-12, atol=1e-13)
    if not full:
        with pytest.raises(StateMismatch, match="full"):
            monitor.load_state_dict({**monitor.state_dict(), "sketched": {}})


def test_some_of_many_charges() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 4)).double()
    cat = symdisc.discover(model, (torch.randn(5, 4, dtype=torch.float64),), solve=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01, nesterov=True)
    some, whole = (symdisc.Monitor(cat, model, optimizer, every=1, full=full) for full in (False, True))
    train(model, optimizer, batches(mlp, 30))
    assert max(errors(some) + errors(whole)) < 1e-12 and whole.sketched == {}
    ((label, told),) = some.sketched.items()
    first, last = (int(word) for word in told.replace("units", "").split("to"))
    assert last - first + 1 == UNITS
    state = {n: p.detach() for n, p in model.named_parameters()}
    (all_of_it,), (seen,) = ([law.value(state) for law in m.laws if law.label == label] for m in (whole, some))
    assert torch.allclose(seen, all_of_it[first:last + 1], rtol=1e-13)


def test_a_thousand_steps_of_everything_at_once() -> None:
    """Schedule, momentum, Nesterov, dampening off, decay by group, mini-batches: the prediction after 1,000 steps is exact."""
    model = fresh(mlp)
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    weights = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 0.01}, {"params": biases}], lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=1001)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=111)
    for x in batches(mlp, 1000):
        train(model, optimizer, iter([x]))
        schedule.step()
    assert monitor.records[-1]["step"] == 999 and max(errors(monitor)) < 1e-12


def test_maximize_and_schedule() -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, weight_decay=0.2, maximize=True)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    for k, x in enumerate(batches(mlp, 30)):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + k)
        optimizer.param_groups[0]["momentum"] = 0.5 if k % 10 < 7 else 0.0
        train(model, optimizer, iter([x]))
    assert max(errors(monitor)) < 1e-12


def test_a_kick_outside_the_optimizer_is_seen() -> None:
    """The false twin of a prediction: weights changed behind the optimizer's back are not predicted."""
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    train(model, optimizer, batches(mlp, 5))
    with torch.no_grad():
        model[0].weight.mul_(1.01)
    train(model, optimizer, batches(mlp, 5))
    assert max(errors(monitor)[:10]) < 1e-12 < 1e-4 < errors(monitor)[-1]


def test_wide_rotations_by_one_column() -> None:
    """The quick cosine of wide blocks is that of one element of the algebra: at most the whole one, zero when that is."""
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(5)
    for name, family in (("llama-tiny-eps", "o"), ("llama-tiny-ln-eps", "o1"), ("mlp-linear", "gl")):
        model, example = build(name)
        model = model.double()
        cat = symdisc.discover(model, tuple(t.double() if t.is_floating_point() else t for t in example), solve=False)
        state = {n: p.detach() for n, p in model.named_parameters()}
        model(*(t.double() if t.is_floating_point() else t for t in example)).square().sum().backward()
        right = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        wrong = {n: g + 0.1 * torch.randn(g.shape, generator=gen, dtype=g.dtype) for n, g in right.items()}
        found = [q for q in cat.conserved if q.symmetry.family == family]
        assert found
        for q in found:
            names = dict.fromkeys(m.parameter for m in q.symmetry.moves)
            (one, length), (whole, size) = (f(q, {n: wrong[n] for n in names}, state) for f in (_broad, _whole))
            assert 1e-3 < one / length <= whole / size * (1 + 1e-12)
            one, length = _broad(q, {n: right[n] for n in names}, state)
            assert one < 1e-11 * max(length, 1)


def test_float32_is_not_flagged() -> None:
    for make in (mlp, batch_norm, attention):
        monitor = monitored(make, fresh(make, torch.float32), 30, torch.float32, momentum=0.9)
        assert monitor.suspects() == []
