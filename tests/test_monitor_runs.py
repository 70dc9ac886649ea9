"""A monitor beside a run: logs, resuming, parameter groups, other optimizers, refusals."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import torch
from monitored import batch_norm, batches, catalog, errors, fresh, mlp, monitored, train, with_forward
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput, StateMismatch
from symdisc.examples.wrong_backward import LeakyBackward


# --- logs, resuming, refusals -------------------------------------------------------------------------------------------
def test_logs() -> None:
    monitor = monitored(mlp, fresh(mlp), 4)
    told = json.loads(monitor.to_json())
    assert told["steps"] == 4 and told["records"] == monitor.records
    assert any("one-form is not closed" in why for why in told["unpredicted"].values())
    rows = list(csv.DictReader(io.StringIO(monitor.to_csv())))
    assert len(rows) == len(monitor.records) and float(rows[0]["norm"]) == monitor.records[0]["norm"]


def test_a_run_is_written_and_drawn(tmp_path: Any) -> None:
    monitor = monitored(mlp, fresh(mlp), 12, momentum=0.9)
    for name in ("run.json", "run.csv", "run.png", "run.svg"):
        monitor.save(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.csv", "run.json", "run.png", "run.svg"]
    assert (tmp_path / "run.json").read_text() == monitor.to_json() and (tmp_path / "run.csv").read_text() == monitor.to_csv()
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG") and "scaling of hidden units" in (tmp_path / "run.svg").read_text()
    first = (tmp_path / "run.svg").read_bytes()
    monitor.save(tmp_path / "run.svg")
    assert (tmp_path / "run.svg").read_bytes() == first
    with pytest.raises(BadInput, match="a figure is"):
        monitor.save(tmp_path / "run.txt")
    monitor.records = []
    with pytest.raises(BadInput, match="no records"):
        monitor.save(tmp_path / "run.png")


def test_resume_with_a_checkpoint(tmp_path: Any) -> None:
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}
    through = monitored(mlp, fresh(mlp), 20, **settings)
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    first = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    train(model, optimizer, batches(mlp, 9))
    torch.save([model.state_dict(), optimizer.state_dict(), first.state_dict()], tmp_path / "run.pt")
    a, b, c = torch.load(tmp_path / "run.pt", weights_only=True)
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    second = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
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


@pytest.mark.parametrize("settings", [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.03},
    {"momentum": 0.7, "dampening": 0.2},
], ids=str)
def test_parameter_groups_are_predicted(settings: dict[str, Any]) -> None:
    """Weights with decay and biases without, one layer with its own rate and no momentum: all partners move differently."""
    model = fresh(mlp)
    weights = [p for n, p in model.named_parameters() if n in ("0.weight", "3.weight")]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.2}, {"params": biases, "lr": 0.05},
         {"params": [model[2].weight], "lr": 0.005, "momentum": 0.0, "nesterov": False}], lr=0.02, **settings)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    for k, x in enumerate(batches(mlp, 60)):
        optimizer.param_groups[0]["lr"] = 0.03 / (1 + 0.1 * k)
        train(model, optimizer, iter([x]))
    assert len(errors(monitor)) == 120 and max(errors(monitor)) < 1e-12 and monitor.suspects() == []
    moved = [r["q"][0] for r in monitor.records if r["symmetry"] == "scaling of hidden units"]
    assert abs(moved[0] - moved[-1]) > 1e-4


def test_a_parameter_group_that_lies_is_found() -> None:
    """The false twin: the first parameter's pull comes from the symmetry, so a wrong gradient shows with groups as well."""
    model = with_forward(lambda m, x: m[3](m[2](LeakyBackward.apply(m[0](x)))))
    optimizer = torch.optim.SGD([{"params": [model[0].weight]}, {"params": [p for n, p in model.named_parameters() if n != "0.weight"],
                                 "lr": 0.01}], lr=0.02)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    train(model, optimizer, batches(mlp, 5))
    assert errors(monitor)[-1] > 1e-8


def test_parameters_without_gradient_at_some_steps_are_predicted() -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    for k, x in enumerate(batches(mlp, 12)):
        optimizer.zero_grad()
        if k % 3 == 1:  # all but the last layer rest: their gradients are None, and SGD leaves them and their buffers alone
            with torch.no_grad():
                h = model[:2](x)
            model[2:](h).square().mean().backward()
            model[2].weight.grad, model[2].bias.grad = None, None
            model[3].weight.grad, model[3].bias.grad = None, None
        else:
            model(x).square().mean().backward()
        optimizer.step()
    assert max(errors(monitor)) < 1e-12


@pytest.mark.parametrize("by_name", [False, True])
def test_closures_are_followed(by_name: bool) -> None:
    model = fresh(mlp)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    for x in batches(mlp, 10):
        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            return loss
        optimizer.step(**{"closure": closure}) if by_name else optimizer.step(closure)
    assert len(monitor.records) == 10 * len(monitor.laws) and max(errors(monitor)) < 1e-12 and monitor.suspects() == []


def test_frozen_parameters_are_not_watched() -> None:
    model = fresh(mlp)
    model[0].weight.requires_grad_(False)
    monitor = monitored(mlp, model, 3)
    assert "0.weight" in monitor.unwatched["scaling of hidden units"] and monitor.suspects() == []


@pytest.mark.parametrize("kind, why", [
    (torch.optim.Adam, "history of its gradients"), (torch.optim.AdamW, "history of its gradients"),
    (torch.optim.RMSprop, "history of its gradients"), (torch.optim.Rprop, "no exact recursion"),
])
def test_other_optimizers_are_watched_and_not_predicted(kind: Any, why: str) -> None:
    """Under Adam no Q is predicted; orthogonality holds as ever, and a wrong backward pass is found as ever."""
    for wrong in (False, True):
        model = with_forward(lambda m, x: m[3](m[2](LeakyBackward.apply(m[0](x))))) if wrong else fresh(mlp)
        optimizer = kind(model.parameters(), lr=0.01)
        monitor = symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
        train(model, optimizer, batches(mlp, 6))
        assert errors(monitor) == [] and set(monitor.unpredicted) == {law.label for law in monitor.laws}
        assert all(why in text and kind.__name__ in text and "\n" not in text for text in monitor.unpredicted.values())
        values = [r["q"][0] for r in monitor.records if r["symmetry"] == "scaling of hidden units"]
        assert abs(values[0] - values[-1]) > 1e-5  # measured, and not conserved
        assert [s.symmetry for s in monitor.suspects()] == (["scaling of hidden units"] if wrong else [])


def test_wrong_use_is_refused() -> None:
    model = fresh(batch_norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    symdisc.Monitor(catalog(batch_norm), model, optimizer)
    model.eval()
    with pytest.raises(BadInput, match="eval mode"):
        optimizer.step()
    with pytest.raises(BadInput, match="several points"):
        symdisc.Monitor(catalog(batch_norm), model, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(StateMismatch, match="no parameter"):
        symdisc.Monitor(catalog(mlp), model, optimizer, every=1)
    with pytest.raises(BadInput, match="every"):
        symdisc.Monitor(catalog(batch_norm), model, optimizer, every=0)


# --- what is shared between B(g, g) and B(g, v) ---------------------------------------------------------------------------
@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(20, 18), nn.Linear(18, 20)),
                                  lambda: nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2))], ids=["sketched", "units"])
def test_both_squares_are_what_each_form_gives(make: Any) -> None:
    """One reading of the gradient for two forms: u^T Q u of a wide basis, and 32 neighbouring units."""
    model = make().double()
    cat = symdisc.discover(model, (torch.randn(2, model[0].in_features, dtype=torch.float64),), solve=False)
    monitor = symdisc.Monitor(cat, model, torch.optim.SGD(model.parameters(), lr=0.1))
    (law,) = [law for law in monitor.laws if law.sketched]
    state, g, v = ({n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(3))
    gg, gv = law.squares(g, v, state)
    assert torch.allclose(gg, law.bilinear(g, g, state), rtol=1e-13) and torch.allclose(gv, law.bilinear(g, v, state), rtol=1e-13)
    assert not torch.allclose(gg, gv)
