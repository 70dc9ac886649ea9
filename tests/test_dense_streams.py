"""Streams that several BatchNorms read: concatenated features and pre-activation blocks, named families alone against the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc


class DenseLayer(nn.Module):
    """x -> (x, conv act bn x), as in DenseNet."""

    def __init__(self, i: int, growth: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.norm, self.act, self.conv = nn.BatchNorm2d(i), act(), nn.Conv2d(i, growth, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.act(self.norm(x)))], 1)


def densenet(bias: bool, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    last = [nn.BatchNorm2d(7), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3)]
    return nn.Sequential(nn.Conv2d(2, 3, 2, bias=bias), DenseLayer(3, 2, act), DenseLayer(5, 2, act), *last)


class PreActivation(nn.Module):
    """x + conv relu bn x; ``seen`` lets something nonlinear see the stream itself."""

    def __init__(self, seen: bool = False) -> None:
        super().__init__()
        self.norm, self.conv, self.seen = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, bias=False), seen

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.norm(x))) + (torch.tanh(x) if self.seen else 0.0)


def preactivation(seen: bool = False) -> nn.Module:
    last = [nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)]
    return nn.Sequential(nn.Conv2d(2, 3, 2), PreActivation(seen), PreActivation(), *last)


BLOCKS = ["S_3", "S_2", "S_2"]


@pytest.mark.parametrize("make, groups", [
    (lambda: densenet(False), BLOCKS), (lambda: densenet(True), BLOCKS), (lambda: densenet(False, nn.Tanh), BLOCKS),
    (preactivation, ["S_3"])])
def test_streams_behind_several_batchnorms(make: Callable[[], nn.Module], groups: list[str]) -> None:
    torch.manual_seed(0)
    model, inputs = randomise(make(), 1).eval(), floats(2, 4, 4, spread=1.5)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert (cat.group_dimension, cat.broken) == (fibre(model, inputs, seed=None).dimension, ())
    assert sorted(d.group for d in cat.discrete if d.family == "permutation") == sorted(groups)
    assert all(s.status == "proved" for s in cat.symmetries)
    element, state = cat.sample(seed=1, scale=0.3), {k: v.clone() for k, v in model.state_dict().items()}
    assert cat.verify(model, element).max_relative_change < 1e-9
    back = cat.apply(cat.apply(state, element), cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10


def test_a_stream_that_something_else_sees_keeps_its_scale() -> None:
    model, inputs = randomise(preactivation(True), 2).eval(), floats(2, 4, 4, spread=1.5)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert cat.broken == () and cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert not any("0.weight" in s.parameters for s in cat.symmetries)
