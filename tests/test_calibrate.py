"""Calibrated weights: every rectified unit switches, so a deep narrow network shows its generic rank."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symdisc.torchside.algebra import fibre
from symdisc.torchside.calibrate import _bends, calibrate
from symdisc.torchside.capture import Capture, capture
from symdisc.torchside.miniature import randomise
from symdisc.torchside.network import Network
from symdisc.torchside.remainder import float64_state

DEPTH, WIDTH = 5, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Block(nn.Module):
    """conv - batch norm - ReLU - conv - batch norm, added to its input, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                                  nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def chain() -> nn.Module:
    return nn.Sequential(*(m for _ in range(DEPTH) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())), nn.Linear(WIDTH, 1))


def residual() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, WIDTH, 1), Block(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 2))


def captured(model: nn.Module, example: Tensor) -> Capture:
    model = model.double().eval()
    randomise(model, 0)
    return capture(model, (example,))


def on(c: Capture, name: str) -> Tensor:
    """For each unit, the share of samples and places at which the value ``name`` is positive."""
    network = Network(c, float64_state(c), 1)
    run = network.function([name])
    shape = c.graph.by_name[name].shape
    values = torch.cat([run(network.parameters, *x).reshape(shape) for x in network.draws(0, 64)])
    return (values > 0).double().transpose(0, 1).flatten(1).mean(1)


@pytest.mark.parametrize(("build", "example"), [(chain, normal(4, WIDTH)), (residual, normal(2, 3, 3, 3))])
def test_every_unit_switches(build: Callable[[], nn.Module], example: Tensor) -> None:
    c = captured(build(), example)
    inputs = [op.inputs[0] for op in c.graph.ops if op.packet == "aten.relu"]
    before = torch.stack([on(c, n) for n in inputs])
    assert bool(((before < 0.05) | (before > 0.95)).any()), "the independent draw is to be a bad one here"
    calibrate(c, 0)
    after = torch.stack([on(c, n) for n in inputs])
    assert bool(((after > 0.15) & (after < 0.85)).all())


def test_the_rank_is_the_generic_one() -> None:
    """Each ReLU leaves one scale of each of its units, and nothing more, where all units switch."""
    c = captured(chain(), normal(4, WIDTH))
    collapsed = fibre(Network(c, float64_state(c), 1))[0].dimension
    calibrate(c, 0)
    assert fibre(Network(c, float64_state(c), 1))[0].dimension == DEPTH * WIDTH < collapsed


def test_both_ends_of_a_clamped_unit_are_met() -> None:
    c = captured(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 1, 1)), normal(4, 3, 4, 4))
    calibrate(c, 0)
    clamped = next(op for op in c.graph.ops if op.packet == "aten.hardtanh")
    network = Network(c, float64_state(c), 1)
    run = network.function([clamped.name])
    values = torch.cat([run(network.parameters, *x).reshape(clamped.shape) for x in network.draws(0, 32)])
    for end in (0.0, 6.0):
        assert bool(((values == end).double().mean((0, 2, 3)) > 0.02).all())


def test_repeats_by_seed_and_ties_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    model = Tied().double()
    c = capture(model, (normal(4, 3),))
    states = []
    for seed in (1, 1, 2):
        calibrate(c, seed)
        states.append(torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert model.second.weight is model.first.weight


class Scaled(nn.Module):
    """Scales and offsets that are buffers, but no statistics: constants of the architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("knots", torch.linspace(-1.0, 1.0, 3))
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x * self.scale) - self.knots) * self.scale


def test_constants_of_the_architecture_stay() -> None:
    c = captured(Scaled(), normal(4, 3))
    before = {n: t.clone() for n, t in c.tensors.items() if n in c.graph.buffers}
    calibrate(c, 0)
    assert len(before) == 2 and all(torch.equal(c.tensors[n], t) for n, t in before.items())


class Recurrence(nn.Module):
    """A state that every step reads twice, less a stored mean and over a root: there are 2^STEPS ways back from its end."""

    STEPS = 60

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        state = self.read(x)
        for _ in range(self.STEPS):
            state = (state - self.mean) * torch.sigmoid(state)
        return self.write(state)


def test_a_state_read_again_and_again_is_calibrated() -> None:
    c = captured(Recurrence(), normal(4, WIDTH))
    before = c.tensors["b_mean"].clone()
    calibrate(c)
    assert torch.equal(c.tensors["b_mean"], before), "no deviation is divided by: the constant is no statistic"


@pytest.mark.parametrize(("function", "bends"), [
    (nn.functional.relu, (0.0,)), (nn.functional.relu6, (0.0, 6.0)), (nn.Hardtanh(-2.0, 3.0), (-2.0, 3.0)),
    (nn.functional.hardswish, (-3.0, 3.0)),
    (nn.functional.selu, (0.0,)), (torch.abs, (0.0,)), (lambda x: x.clamp(-1, 2), (-1.0, 2.0)), (lambda x: x.clamp(max=3), (3.0,)),
    (torch.exp, ()), (torch.log, ()), (torch.sqrt, ()), (torch.reciprocal, ()),
])
def test_where_functions_bend_is_read_off_their_formulas(function: Callable[[Tensor], Tensor], bends: tuple[float, ...]) -> None:
    """Poles and edges are no bends: a unit moved there would have no value."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    graph = capture(Bent(), (normal(3, 2),)).graph
    assert [_bends(op) for op in graph.ops if op.name in graph.live] == [bends]
