"""A kink that no value reaches behind a norm, at weights of usual size: it is there all the same, and forbids the scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import keeps_function, randomise
from torch import nn

import symdisc
from symdisc.archgraph import build
from symdisc.torchside import algebra
from symdisc.torchside.capture import capture
from symdisc.torchside.remainder import float64_state


def normed(kind: str, bend: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    """A norm, a bend, a linear reader; in train mode, so that BatchNorm takes the statistics of the batch."""
    generator = torch.Generator().manual_seed(0)
    if kind == "layer":
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), bend, nn.Linear(4, 2))
        return randomise(model, 0), torch.randn(6, 3, generator=generator, dtype=torch.float64)
    norm = nn.BatchNorm2d(4) if kind == "batch" else nn.GroupNorm(2, 4)
    model = nn.Sequential(nn.Conv2d(2, 4, 2, bias=False), norm, bend, nn.Conv2d(4, 2, 2))
    return randomise(model, 0), torch.randn(4, 2, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind, centred", [("batch", 0), ("group", 0), ("layer", 4)])
def test_a_scale_that_would_reach_the_kink_is_not_claimed(kind: str, centred: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, x = normed(kind, nn.Hardtanh(-9.0, 9.0))
    catalog = symdisc.discover(model, (x,))
    assert catalog.orbit_dimension == centred, [s.name for s in catalog.symmetries]
    assert any("local surplus" in note for note in catalog.notes)
    moved = catalog.apply(dict(model.state_dict()), catalog.sample(seed=1, scale=3.0))
    assert keeps_function(model, moved, [(x,), (2 * x,)]) < 1e-9


@pytest.mark.parametrize("kind, centred", [("batch", 0), ("group", 0), ("layer", 4)])
def test_without_the_kink_the_scale_is_found(kind: str, centred: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, x = normed(kind, nn.ReLU())
    catalog = symdisc.discover(model, (x,))
    assert catalog.orbit_dimension == centred + 4
    moved = catalog.apply(dict(model.state_dict()), catalog.sample(seed=1, scale=3.0))
    assert keeps_function(model, moved, [(x,), (2 * x,)]) < 1e-9


@pytest.mark.parametrize("answers, generic", [((None, None), 4), ((None, 1), 4), ((1, 2), 4), ((1, 1), 1)])
def test_loud_weights_count_only_where_both_draws_agree(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[int | None, ...], generic: int
) -> None:
    """A gain behind a GroupNorm has four directions at these weights; other weights that decide nothing take none away."""
    model, x = normed("group", nn.ReLU())
    captured = capture(model, (x,))
    found = algebra.Algebra.of(captured, build(captured.graph), float64_state(captured))
    told = iter((None,) * (2 + algebra.CALIBRATED) + answers)
    assert found.outputs[0].dimension == 4
    monkeypatch.setattr(algebra, "_fibre_dimension", lambda network: next(told))
    assert found.generic_fibre(0) == generic


class Squeezed(nn.Module):
    """Expansion, a filter for each channel, squeeze and excitation, projection; every norm takes the statistics of the batch."""

    def __init__(self, bend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.bend = bend
        self.up, self.filter = nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.down, self.squeeze, self.excite = nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.one, self.two, self.three = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bend(self.two(self.filter(self.bend(self.one(self.up(x))))))
        share = self.excite(self.squeeze(h.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x + self.three(self.down(h * share))


# the relu units of the squeeze keep their 2 scales; the 4 + 4 behind the norms are there only where nothing is clamped at 6
@pytest.mark.parametrize("bend, dimension", [(F.relu6, 2), (lambda x: x.clamp(0, 6), 2), (F.relu, 10)])
def test_both_kinks_of_a_function_called_by_any_name_are_met(bend: Callable[[torch.Tensor], torch.Tensor], dimension: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    model = randomise(Squeezed(bend), 13)
    catalog = symdisc.discover(model, (x,))
    assert catalog.orbit_dimension == dimension, [s.name for s in catalog.symmetries]
    moved = catalog.apply(dict(model.state_dict()), catalog.sample(seed=1, scale=0.3))
    assert keeps_function(model, moved, [(x,), (2 * x,)]) < 1e-9
