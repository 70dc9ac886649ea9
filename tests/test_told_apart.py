"""Units that are no equals: what the graph says must be enough, so every proposal is judged before anything is run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symdisc.session import _Clock, _derived
from symdisc.symmetry import Discrete, Symmetry
from symdisc.torchside.capture import capture
from symdisc.torchside.check import TOLERANCE, Checker


class Net(nn.Module):
    """Linear maps by name, parameters by name, and what is made of them."""

    def __init__(self, maps: dict[str, tuple[int, int]], stored: dict[str, tuple[int, ...]], body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        for name, (i, o) in maps.items():
            self.add_module(name, nn.Linear(i, o))
        for name, shape in stored.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def token_gain(m: Net, x: Tensor) -> Tensor:
    return m.b(torch.relu(m.a(x).squeeze(-1) * m.g))


def chosen(m: Net, x: Tensor) -> Tensor:
    return m.c(torch.gather(m.a(x), 1, torch.topk(m.b(x), 2).indices))


def largest(m: Net, x: Tensor) -> Tensor:
    return m.c(torch.gather(torch.tanh(m.a(x)), 1, torch.tanh(m.b(x)).argmax(1, keepdim=True)))


def masked(m: Net, x: Tensor) -> Tensor:
    keep = torch.tensor([True, False, True, False])[:, None]
    return m.b(torch.relu(m.a(x)).masked_fill(keep, 1.0))


def masked_units(m: Net, x: Tensor) -> Tensor:
    return m.b(torch.relu(m.a(x)).masked_fill(torch.arange(4) < 1, 0.0))


def by_gate(m: Net, x: Tensor) -> Tensor:
    gate = (m.g(x) > 0).repeat_interleave(2, -1)
    return m.b(torch.relu(m.a(x)).masked_fill(gate, 0.0))


def top_of_groups(m: Net, x: Tensor) -> Tensor:
    best = torch.topk(torch.tanh(m.g(x)).view(-1, 2, 2), 1).values.squeeze(-1)
    return m.b(torch.topk(best, 2).values)


def routed_by_groups(m: Net, x: Tensor) -> Tensor:
    z = torch.sigmoid(m.g(x))
    best = torch.topk(z.view(-1, 2, 2), 1).values.squeeze(-1)
    keep = torch.zeros_like(best).scatter(1, torch.topk(best, 1).indices, 1.0)
    w = z.masked_fill(~keep.bool().repeat_interleave(2, -1), 0.0)
    return m.b((w.unsqueeze(-1) * torch.tanh(m.e(x)).view(-1, 4, 2)).sum(1))


def state_space(m: Net, x: Tensor) -> Tensor:
    step = F.softplus(m.dt(x)).unsqueeze(-1)
    rate = (-torch.exp(m.A)).unsqueeze(0)
    return m.o(torch.bmm(torch.exp(rate * step) * m.B(x).unsqueeze(1), m.C(x).unsqueeze(-1)).squeeze(-1))


def shared_gain(m: Net, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x).view(-1, 2, 3) * m.g).flatten(1))


def gain_used_twice(m: Net, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x) * m.g)) + m.d(torch.tanh(m.c(x) * m.g))


def normed_after_unknown(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(F.layer_norm(h + torch.fft.fft(h).real, (4,)))


def merged_at_places(m: Net, x: Tensor) -> Tensor:
    """Every value of a head meets the same scores, and a gain of its own."""
    h = m.a(x).view(-1, 2, 2) + torch.cumsum(m.c(x).unsqueeze(-1).expand(-1, -1, 2), -1)
    return m.b(torch.tanh(h.flatten(1) * m.g))


def sums_of_pairs(m: Net, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(torch.tanh(torch.stack([h[:, [0, 1]], h[:, [0, 2]]], 1).sum(-1)))


# name -> (network, shape of the input, order of the group of renumberings that is found)
CASES: dict[str, tuple[Callable[[], Net], tuple[int, ...], int]] = {
    "a gain over places of data": (lambda: Net({"a": (3, 1), "b": (4, 2)}, {"g": (4,)}, token_gain), (3, 4, 3), 1),
    "taken where others are largest": (lambda: Net({"a": (3, 4), "b": (3, 4), "c": (2, 2)}, {}, chosen), (6, 3), 24),
    "taken at the largest of others": (lambda: Net({"a": (3, 4), "b": (3, 4), "c": (1, 2)}, {}, largest), (6, 3), 24),
    "filled with one": (lambda: Net({"a": (3, 4), "b": (4, 2)}, {}, masked), (4, 3), 24),
    "some units masked": (lambda: Net({"a": (3, 4), "b": (4, 2)}, {}, masked_units), (5, 3), 1),
    "masked by gates": (lambda: Net({"a": (3, 4), "g": (3, 2), "b": (4, 2)}, {}, by_gate), (5, 3), 1),
    "the best of each group": (lambda: Net({"g": (3, 4), "b": (2, 2)}, {}, top_of_groups), (6, 3), 8),
    "routed group by group": (lambda: Net({"g": (3, 4), "e": (3, 8), "b": (2, 2)}, {}, routed_by_groups), (6, 3), 16),
    "a state space": (lambda: Net({"dt": (3, 2), "B": (3, 3), "C": (3, 3), "o": (2, 2)}, {"A": (2, 3)}, state_space), (5, 3), 2),
    "heads that share a gain": (lambda: Net({"a": (3, 6), "b": (6, 2)}, {"g": (3,)}, shared_gain), (5, 3), 1),
    "a gain used twice": (lambda: Net({"a": (3, 3), "b": (3, 2), "c": (3, 3), "d": (3, 2)}, {"g": (3,)}, gain_used_twice), (5, 3), 12),
    "behind an operator without a rule": (lambda: Net({"a": (3, 4), "b": (4, 2)}, {}, normed_after_unknown), (5, 3), 1),
    "units made one, then a gain": (lambda: Net({"a": (3, 4), "c": (3, 2), "b": (4, 2)}, {"g": (4,)}, merged_at_places), (5, 3), 1),
    "sums of pairs": (lambda: Net({"a": (3, 3), "b": (2, 2)}, {}, sums_of_pairs), (5, 3), 2),
}


def proposed(model: nn.Module, x: Tensor) -> tuple[list[Symmetry], list[Discrete], list[float]]:
    """What the graph allows, and how much each of it changes the function at three sets of weights."""
    captured = capture(model, (x,))
    families, discrete, facts, _ = _derived(captured, _Clock(None))
    checkers = [Checker(captured, facts.gained, seed) for seed in range(3)]
    changes = [max(c) for c in zip(*(k.judge(families, 0) for k in checkers), strict=True)]
    moves = [max(k.change(k.moved([(d, order)])) for k in checkers) for d in discrete if d.family == "permutation" for order in orders(d)]
    return families, discrete, changes + moves


def orders(d: Discrete) -> list[np.ndarray]:
    """The exchanges of two items, which generate the group."""
    found = []
    for a, b in itertools.combinations(range(d.shape[0]), 2):
        order = np.arange(d.shape[0])
        order[[a, b]] = b, a
        found.append(order)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_graph_alone_lets_nothing_false_through(name: str) -> None:
    make, shape, order = CASES[name]
    torch.manual_seed(0)
    model, x = make().double(), torch.randn(shape, dtype=torch.float64)
    _, discrete, changes = proposed(model, x)
    assert max(changes, default=0.0) < TOLERANCE
    assert math.prod(d.order for d in discrete if d.family == "permutation") == order
