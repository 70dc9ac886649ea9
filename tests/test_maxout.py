"""Units chosen by value: maxout groups scale and are renumbered, odd functions of several operators flip signs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import randomise
from claims import assert_holds, assert_undone, generic
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


class Stacked(nn.Module):
    """Two layers of maxout units and a head of two rows; ``mode``: "scaled" pieces differ by a factor, "seen" pieces are read besides,
    "bent" maxima go through tanh, "wide" heads read everything."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.first, self.second = nn.Linear(3, 8), nn.Linear(4, 6)
        self.last = nn.Linear(3, 4 if mode == "wide" else 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).unflatten(-1, (2, 4)).max(-2).values
        b = self.second(torch.tanh(a) if self.mode == "bent" else a).unflatten(-1, (3, 2))
        if self.mode == "scaled":
            b = b * torch.tensor([1.0, 2.0], dtype=b.dtype)
        out = self.last(b.amax(-1))
        return torch.cat([out, b[..., 0].sin()], -1) if self.mode == "seen" else out


@pytest.mark.parametrize("mode, shifts, unread", [("plain", 7, 4), ("wide", 7, 0), ("scaled", 4, 0), ("seen", 4, 0), ("bent", 3, 4)])
def test_translations_of_all_pieces_and_directions_never_read(mode: str, shifts: int, unread: int) -> None:
    model = generic(Stacked(mode), seed=2)
    cat = symdisc.discover(model, (3 * torch.randn(40, 3, dtype=torch.float64),), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.family == "translation") == shifts
    assert sum(s.dimension for s in cat.symmetries if s.name == "direction that is never read") == unread
    assert_holds(cat, model)
    assert_undone(cat, model)
    certificate = symdisc.certify(cat)
    assert cat.group_dimension == certificate.found <= certificate.fibre
    assert certificate.complete or mode in ("scaled", "seen")
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
