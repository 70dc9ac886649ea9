"""Teleport: the loss stays, the objective rises, balance is the least norm, and an action that is none is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

import symdisc
from symdisc.catalog import Catalog
from symdisc.cli import main
from symdisc.errors import BadInput, NotExact, NotProved
from symdisc.studies import Run
from symdisc.studies import teleport as study
from symdisc.studies.teleport import summary
from symdisc.studies.teleport_problems import PROBLEMS, Problem, regression
from symdisc.studies.teleport_published import FirstOrder as FirstOrderChain
from symdisc.studies.teleport_published import measure
from symdisc.studies.teleport_training import RULES, chosen
from symdisc.symmetry import Element
from symdisc.torchside.apply import act
from symdisc.torchside.capture import capture
from symdisc.torchside.curvature import Loss, lanczos
from symdisc.torchside.network import plain_kernels
from symdisc.torchside.teleport import OBJECTIVES, DataOrbit, LinearOrbit, assert_kept, balance, exponential, teleport

SOURCE = '''
import torch
from torch import nn

def factory():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(0.1), nn.Linear(6, 7), nn.LeakyReLU(0.1), nn.Linear(7, 3)), (torch.randn(4, 5),)

def stuck():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 3)), (torch.randn(4, 5),)
'''


class Block(nn.Module):
    """Linear-linear (GL), attention-free RMSNorm stream with a bias (rotations), a ReLU pair (scales)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(4, 5, bias=False)
        self.norm, self.c, self.d = nn.RMSNorm(5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(self.norm(self.b(self.a(x))))))


@cache
def problem(make: Callable[[], nn.Module], inputs: int, count: int = 12, outputs: int = 3) -> tuple[Catalog, dict[str, Tensor], Loss]:
    model = make().double().eval()
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(count, inputs, generator=draw, dtype=torch.float64)
    y = torch.randn(count, outputs, generator=draw, dtype=torch.float64)
    state = {n: t.detach().clone() for n, t in model.state_dict().items()}
    loss = Loss(lambda s: (functional_call(model, s, (x,)) - y).square().mean() / 2, tuple(dict(model.named_parameters())))
    return symdisc.discover(model, (x,)), state, loss


def perceptron(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(0.1), nn.Linear(6, 7), nn.LeakyReLU(0.1), nn.Linear(7, 3))


def block() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Block()


def smooth() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


# --- curvature --------------------------------------------------------------------------------------------------------
def test_sharpness_by_lanczos_is_the_dense_eigenvalue() -> None:
    _, state, loss = problem(smooth, 4)
    shapes = {n: t.shape for n, t in state.items()}
    theta = torch.cat([t.reshape(-1) for t in state.values()])

    def flat(v: Tensor) -> Tensor:
        parts = v.split([s.numel() for s in shapes.values()])
        return loss.function({n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)})

    dense = torch.autograd.functional.hessian(flat, theta)
    values, vectors = torch.linalg.eigh(dense)
    top = loss.top(state)
    assert top.value == pytest.approx(float(values[-1]), rel=1e-10)
    assert abs(float(top.vector @ vectors[:, -1])) == pytest.approx(1, abs=1e-8)
    v = torch.linspace(-1, 1, len(theta), dtype=torch.float64)
    assert torch.allclose(loss.product(state, v), dense @ v, atol=1e-12)


def test_lanczos_takes_the_largest_not_the_largest_in_size() -> None:
    d = torch.tensor([-9.0, 1.0, 2.0, 2.0, 0.5], dtype=torch.float64)
    found = lanczos(lambda v: d * v, torch.ones(5, dtype=torch.float64))
    assert found.value == pytest.approx(2.0, abs=1e-12) and found.residual < 1e-10


# --- the walk ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make, inputs, outputs", [(perceptron, 5, 3), (block, 3, 2)], ids=["perceptron", "block"])
def test_the_gradient_rises_and_the_loss_stays(make, inputs: int, outputs: int) -> None:  # type: ignore[no-untyped-def]
    cat, state, loss = problem(make, inputs, outputs=outputs)
    orbit = LinearOrbit.of(cat)
    found = teleport(orbit, state, loss, "gradient", steps=6)
    assert found.change < 1e-12 and abs(found.after - found.before) < 1e-12 * found.before
    assert found.values[-1] > 1.4 * found.values[0] and all(b > a for a, b in zip(found.values, found.values[1:], strict=False))
    assert found.values[-1] == pytest.approx(float(loss.gradient(found.state).square().sum()))
    again = cat.apply(state, orbit.element(found.path))
    assert all(torch.allclose(again[n], found.state[n], rtol=1e-12, atol=1e-13) for n in again)
    assert all(np.linalg.cond(f.array).max() < np.exp(2 * 0.1 + 1e-9) for f in orbit.element(found.path).factors if f.array.ndim == 3)


def test_the_direction_is_the_derivative() -> None:
    cat, state, loss = problem(block, 3, outputs=2)
    orbit = LinearOrbit.of(cat)
    assert {cat.symmetries[i].family for i in orbit.which} >= {"gl", "o", "scale"}
    a = [t.requires_grad_() for t in orbit.zero()]
    slope = torch.autograd.grad(loss.squared_gradient(orbit.move(state, a)), a)
    draw = torch.Generator().manual_seed(0)
    along = [torch.randn(t.shape, generator=draw, dtype=torch.float64) for t in a]
    step = 1e-5
    up, down = (float(loss.gradient(orbit.move(state, [s * step * t for t in along])).square().sum()) for s in (1, -1))
    assert sum(float((g * t).sum()) for g, t in zip(slope, along, strict=True)) == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_differentiable_kernels_are_the_kernels() -> None:
    cat, state, _ = problem(block, 3, outputs=2)
    draw = torch.Generator().manual_seed(3)
    for i in LinearOrbit.of(cat).which:
        s = cat.symmetries[i]
        g = exponential(s, 0.3 * torch.randn(s.shape, generator=draw, dtype=torch.float64))
        one, two = act(s, g.numpy(), state), LinearOrbit(cat, (i,)).move(state, [torch.zeros(s.shape, dtype=torch.float64)])
        assert all(torch.equal(two[n], state[n]) for n in one)
        tensor = act(s, g, state)  # type: ignore[arg-type]
        assert all(torch.allclose(one[n], tensor[n], rtol=1e-13, atol=1e-14) for n in one)


@pytest.mark.parametrize("objective, sign", [("sharpness", 1), ("flat", -1)])
def test_sharpness_goes_where_it_was_sent(objective: str, sign: int) -> None:
    cat, state, loss = problem(perceptron, 5)
    state = cat.apply(state, cat.sample(0, 0.5))  # away from balance, where both ways are open
    found = teleport(LinearOrbit.of(cat), state, loss, objective, steps=4)
    start, end = loss.top(state).value, loss.top(found.state).value
    assert found.change < 1e-12 and sign * (end - start) > 0.05 * start
    assert sign * found.values[-1] == pytest.approx(end, rel=1e-6)


def test_data_dependent_walk_keeps_the_batch_and_beats_the_linear_one() -> None:
    cat, state, loss = problem(perceptron, 5, count=4)
    linear = teleport(LinearOrbit.of(cat), state, loss, "gradient", steps=4, step=0.05)
    assert cat.captured is not None
    data = teleport(DataOrbit(cat.captured, state), state, loss, "gradient", steps=4, step=0.05)
    assert data.change < 1e-10 and data.values[-1] > linear.values[-1]


def test_more_samples_than_units_are_refused_with_the_reason() -> None:
    cat, state, loss = problem(perceptron, 5, count=20)
    assert cat.captured is not None
    with pytest.raises(NotExact, match="a batch of 20 is larger than the width"):
        teleport(DataOrbit(cat.captured, state), state, loss, "gradient", steps=2)


@pytest.mark.parametrize("objective", ["gradient", "sharpness"])
def test_the_ascent_direction_is_the_derivative_of_the_objective(objective: str) -> None:
    """Two pairs share a weight, and the second's readers are computed from it: partial derivatives must not pass through both."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    for p in model.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    x = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    captured = capture(model, (x,))
    state = {n: t.detach() for n, t in model.state_dict().items()}
    loss = Loss(lambda s: torch.func.functional_call(model, s, (x,)).square().mean(), tuple(state))
    orbit, aim = DataOrbit(captured, state), OBJECTIVES[objective]
    with plain_kernels():
        hint = aim.value(loss, state, None)[1]
        a = [t.requires_grad_() for t in orbit.zero()]
        found = torch.autograd.grad(aim.slope(loss, orbit.move(state, a, check=False), hint), a)
        for k, part in enumerate(found):
            e = [torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(2)) * (i == k) for i, t in enumerate(a)]
            up, down = (aim.value(loss, orbit.move(state, [s * 1e-5 * t for t in e]), hint)[0] for s in (1, -1))
            assert float((part * e[k]).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-5) and up != down


# --- balance ----------------------------------------------------------------------------------------------------------
def test_balance_is_the_least_norm_of_the_orbit() -> None:
    cat, state, loss = problem(perceptron, 5)
    element, new = balance(cat, state, loss)
    assert isinstance(element, Element) and abs(loss(new) - loss(state)) < 1e-12
    assert all(float(np.abs(np.asarray(q.evaluate(new))).max()) < 1e-9 for q in cat.conserved if q.form)

    def norm(s: Mapping[str, Tensor]) -> float:
        return sum(float(t.square().sum()) for t in s.values())

    least = norm(new)
    others = [norm(cat.apply(new, cat.sample(seed, scale))) for seed in range(5) for scale in (1e-3, 0.1, 1.0)]
    assert least < norm(state) and min(others) > least * (1 - 1e-12) and max(others) > 1.1 * least


# --- false twins ------------------------------------------------------------------------------------------------------
class FirstOrder:
    """V -> (1 + T) V and U -> U (1 - T) on a pair of linear maps: an action up to T^2 only."""

    def zero(self) -> list[Tensor]:
        return [torch.zeros(4, 4, dtype=torch.float64)]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> dict[str, Tensor]:
        one = torch.eye(4, dtype=torch.float64)
        return {**state, "a.weight": (one + a[0]) @ state["a.weight"], "b.weight": state["b.weight"] @ (one - a[0])}


@pytest.mark.parametrize("objective", ["gradient", "flat"])
def test_a_first_order_action_is_refused(objective: str) -> None:
    _, state, loss = problem(block, 3, outputs=2)
    with pytest.raises(NotProved, match="not a symmetry"):
        teleport(FirstOrder(), state, loss, objective)


@pytest.mark.parametrize("after", [1 + 1e-8, 0.5, float("nan"), float("inf")])
def test_the_assertion_has_teeth(after: float) -> None:
    assert assert_kept(1.0, 1 + 1e-12) < 1e-11
    with pytest.raises(NotProved):
        assert_kept(1.0, after)


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teleport")
    (folder / "net.py").write_text(SOURCE)
    save_file({n: t.contiguous() for n, t in perceptron(2).state_dict().items()}, folder / "in.safetensors")
    draw = torch.Generator().manual_seed(8)
    save_file({"x": torch.randn(4, 5, generator=draw), "y": torch.randint(3, (4,), generator=draw)}, folder / "data.safetensors")
    save_file({"z": torch.zeros(2)}, folder / "wrong.safetensors")
    return folder


def command(files: Path, out: str, *more: str, factory: str = "factory") -> int:
    return main(["teleport", str(files / "in.safetensors"), "--model", f"{files / 'net.py'}:{factory}", "--out", str(files / out), *more])


@pytest.mark.parametrize("more", [("--objective", "gradient"), ("--objective", "flat", "--steps", "3"), ("--objective", "balance"),
                                  ("--objective", "gradient", "--on-batch", "--steps", "3")], ids=" ".join)
def test_the_command_writes_other_weights_of_equal_loss(files: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(files, "out.safetensors", "--data", str(files / "data.safetensors"), "--json", *more) == 0
    told = json.loads(capsys.readouterr().out)
    before, after = load_file(files / "in.safetensors"), load_file(files / "out.safetensors")
    assert told["written"] and {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    data = load_file(files / "data.safetensors")
    losses = [float(nn.functional.cross_entropy(functional_call(perceptron(), s, (data["x"],)), data["y"])) for s in (before, after)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and any((before[n] - after[n]).abs().max() > 1e-3 for n in before)
    assert told["objective_after"] != told["objective_before"] and not list(files.glob(".*"))


@pytest.mark.parametrize("more, message", [
    (("--objective", "sideways"), "objective"), (("--objective", "gradient", "--data", "nowhere.safetensors"), "no such file"),
    (("--objective", "balance", "--on-batch"), "balance"), (("--objective", "gradient", "--data", "WRONG"), "tensor"),
])
def test_bad_input_is_one_line(files: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(files / "wrong.safetensors") if a == "WRONG" else a for a in more]
    assert command(files, "never.safetensors", *arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == 1 and message in said[0] and not (files / "never.safetensors").exists()


def test_a_model_without_symmetry_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({n: t.contiguous() for n, t in nn.Sequential(nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 3)).state_dict().items()},
              files / "in2.safetensors")
    assert main(["teleport", str(files / "in2.safetensors"), "--model", f"{files / 'net.py'}:stuck", "--out",
                 str(files / "never.safetensors"), "--objective", "gradient"]) == 2
    assert "no continuous symmetry" in capsys.readouterr().err
    with pytest.raises(BadInput, match="objective 'up'"):
        teleport(FirstOrder(), {}, Loss(lambda s: torch.zeros(()), ()), "up")


# --- the study --------------------------------------------------------------------------------------------------------
def test_the_published_action_is_refused_where_the_exact_one_passes() -> None:
    instance = regression(0)
    found = teleport(instance.orbit, instance.state, instance.full, "gradient", steps=3)
    assert found.change < 1e-12 and found.values[-1] > found.values[0]
    with pytest.raises(NotProved, match="not a symmetry"):
        teleport(FirstOrderChain(instance.orbit.x), instance.state, instance.full, "gradient", steps=3)  # type: ignore[attr-defined]
    for optimiser in ("GD", "AdaGrad"):
        row = measure(optimiser, 1)
        assert row["refused"] and abs(row["change"]) > 0.1


@pytest.mark.parametrize("problem", PROBLEMS[:2], ids=lambda p: p.name)
def test_the_plane_turns_without_a_change_of_loss(problem: Problem) -> None:
    instance = problem.make(3)
    theta = instance.flat(instance.state)
    assert np.allclose(instance.gradient(theta, 0), instance.full.gradient(instance.state).numpy(), rtol=1e-12)
    new, found = instance.jump(theta, *problem.walk)
    assert found.change < 1e-12 and found.values[-1] > found.values[0] and np.abs(new - theta).max() > 1e-2


@pytest.mark.parametrize("name, torch_rule", [("GD", lambda p: torch.optim.SGD(p, 0.01)), ("Adam", lambda p: torch.optim.Adam(p, 0.01)),
                                              ("momentum", lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
                                              ("AdaGrad", lambda p: torch.optim.Adagrad(p, 0.01))])
def test_rules_are_those_of_torch(name: str, torch_rule) -> None:  # type: ignore[no-untyped-def]
    theta, rule = np.array([1.0, -2.0]), RULES[name]()
    p = torch.tensor(theta, requires_grad=True)
    optimizer = torch_rule([p])
    for t in range(5):
        g = np.array([np.cos(t), t - 2.5])
        p.grad = torch.from_numpy(g)
        optimizer.step()
        theta = rule(theta, g, 0.01)
    assert np.allclose(theta, p.detach().numpy(), rtol=1e-7)


def run_of(losses: list[float], seconds: list[float]) -> dict[str, object]:
    return {"losses": losses, "seconds": seconds, "walks": [], "accuracy": None}


@pytest.mark.parametrize("losses, seconds, verdict", [
    ([4.0, 1.0, 0.5], [0, 1, 2], "pays"), ([4.0, 1.0, 0.5], [0, 5, 6], "lower loss, not less time"),
    ([4.0, 3.0, 3.0], [0, 1, 2], "hurts"), ([4.0, 3.0, 1.001], [0, 1, 2], "mixed")])
def test_verdicts(losses: list[float], seconds: list[float], verdict: str) -> None:
    plain, other = run_of([4.0, 2.0, 1.0], [0, 1.5, 3]), run_of(losses, seconds)
    found = {"rates": {k: {"rate": 1.0, "at_end": False} for k in ("plain", "own")},
             "runs": {"plain": [plain] * 10, "same": [other] * 10, "own": [other] * 10}}
    assert summary(PROBLEMS[1], "GD", found, "own")["verdict"] == verdict


def test_the_study_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PROBLEMS", PROBLEMS[1:2])
    run = Run(tmp_path, quick=True)
    study.study(run)
    assert run.passed and {f.name for f in run.files} == {"summary.csv", "teleports.csv", "curves.csv", "published.csv", "order.csv",
                                                         "teleport.png", "teleport.svg", "README.md"}
    page, rows = (tmp_path / "README.md").read_text(), list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert len(rows) == 4 and all(f"| {r['verdict']} |" in page for r in rows if r["arm"] == "own")
    before = {f.name: f.read_bytes() for f in run.files}
    again = Run(tmp_path, quick=True)
    study.study(again)  # from its cells
    assert before == {f.name: f.read_bytes() for f in again.files}


def test_rates_are_chosen_by_divergence_first() -> None:
    rates = {"GD": (0.03, 0.1, 3.0)}  # Booth has curvature 18: above 2/18 gradient descent diverges
    assert chosen(replace(PROBLEMS[1], rates=rates), "GD", (), [0, 1]) == {"rate": 0.1, "lost": [0, 0, 2], "at_end": False}
