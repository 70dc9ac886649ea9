"""Units chosen by value: maxout groups scale and are renumbered, odd functions of several operators flip signs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

Act = Callable[[Tensor], Tensor]


class Pieces(nn.Module):
    """3 units of 2 pieces each: ``choose`` makes [.., 3, 2] to [.., 3]."""

    def __init__(self, choose: Act) -> None:
        super().__init__()
        self.first, self.last, self.choose = nn.Linear(3, 6), nn.Linear(3, 2), choose

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.choose(self.first(x).unflatten(-1, (3, 2))))


class Between(nn.Module):
    def __init__(self, act: Act) -> None:
        super().__init__()
        self.first, self.last, self.act = nn.Linear(3, 4), nn.Linear(4, 2), act

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)))


def found(model: nn.Module) -> symdisc.Catalog:
    model = randomise(model, 0)
    cat = symdisc.discover(model, floats(3)(0), solve=False)
    assert cat.broken == () and cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    return cat


CHOICES: dict[str, tuple[Act, int, list[str]]] = {
    "largest": (lambda h: h.amax(-1), 3, ["S_2", "S_2", "S_2", "S_3"]),
    "least": (lambda h: h.min(-1).values, 3, ["S_2", "S_2", "S_2", "S_3"]),
    "of bent pieces": (lambda h: torch.tanh(h).amax(-1), 0, ["S_2", "S_2", "S_2", "S_3"]),
    "and one piece": (lambda h: h.amax(-1) + h[..., 0], 3, ["S_3"]),
    "of unlike pieces": (lambda h: (h * torch.tensor([1.0, 2.0], dtype=h.dtype)).amax(-1), 3, ["S_3"]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_maxout(name: str) -> None:
    choose, scales, groups = CHOICES[name]
    cat = found(Pieces(choose))
    assert sum(s.dimension for s in cat.symmetries if s.family == "scale") == scales
    assert [d.group for d in cat.discrete if d.family == "permutation"] == groups


@pytest.mark.parametrize("act, flips", [
    (F.softsign, 4), (lambda h: h / (1 + h.square()), 4), (lambda h: h.abs() * torch.tanh(h), 4), (lambda h: h.abs() + torch.tanh(h), 0),
    (lambda h: h / (1 + F.relu(h)), 0)])
def test_signs_of_odd_functions_written_out(act: Act, flips: int) -> None:
    cat = found(Between(act))
    assert [d.group for d in cat.discrete if d.family == "sign"] == ([f"(Z_2)^{flips}"] if flips else [])
