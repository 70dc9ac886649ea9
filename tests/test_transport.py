"""Laws of deep networks: brackets in the open directions alone count what brackets in all directions count, and refuse what they refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from test_laws_models import FLOATS, MODELS, S, made
from torch import nn

import symdisc
from symdisc.errors import NotProved, Undecided
from symdisc.laws import count_laws
from symdisc.laws.count import _in_floats
from symdisc.torchside import brackets, transport


def rooted(name: str) -> symdisc.Catalog:
    torch.manual_seed(0)
    model, x = FLOATS[name][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return symdisc.discover(model.train(), (x,), solve=False)


@pytest.mark.parametrize("name", ["tanh", "silu, relu", "conv, linear", "conv, relu, pool", "attention", "attention, rotary", "tokens"])
def test_open_directions_tell_the_exact_number(name: str) -> None:
    cat = made(name)
    counted = transport.count(cat, 0)
    assert (cat.parameter_count - counted.span, counted.found) == (MODELS[name][1],) * 2


@pytest.mark.parametrize("name", FLOATS)
def test_both_ways_in_float64_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cat = rooted(name)
    one = count_laws(cat)
    monkeypatch.setattr(brackets, "WORK", 0)
    assert brackets.quick(cat) is False
    monkeypatch.setattr(brackets, "count", None)  # not asked any more
    other = count_laws(cat)
    assert (one.laws, one.found) == (other.laws, other.found) == (FLOATS[name][1],) * 2
    assert other.evidence.proof == "float64" and not other.complete


def test_rounding_is_no_rank() -> None:
    """What nobody knows as a law stays open: without the known ones the span is the same, and no larger."""
    cat = made("attention")
    counted = transport.count(cat.replace(symmetries=()), 0)
    assert counted.found == 0 and cat.parameter_count - counted.span == MODELS["attention"][1]


def test_a_law_that_is_none_is_refused() -> None:
    """Of ReLU units, where tanh stands: fields tell."""
    relu = S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    known = symdisc.discover(relu, (torch.randn(5, 3),)).symmetries
    with pytest.raises(NotProved):
        transport.count(made("tanh").replace(symmetries=known), 0)


def test_a_rotation_is_no_law_though_it_moves_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direction of a rotation vanishes on all fields, as gradients of laws do; brackets tell them apart."""
    cat = made("conv, linear")
    laws = brackets.Brackets.laws

    def claimed(self: brackets.Brackets, cat: symdisc.Catalog) -> tuple[np.ndarray, tuple[str, ...]]:
        known, formulas = laws(self, cat)
        rows = self.network.jacobian(self.point, self.network.draws(0, 60))
        kernel = np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows):]
        outside = kernel - kernel @ np.linalg.pinv(known) @ known
        return np.concatenate([known, outside[:1] / np.linalg.norm(outside[0])]), (*formulas, "none")

    monkeypatch.setattr(brackets.Brackets, "laws", claimed)
    with pytest.raises(NotProved, match="along a bracket"):
        transport.count(cat, 0)


def test_a_network_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LIMIT", 10)
    with pytest.raises(Undecided, match="too many for brackets"):
        transport.count(made("tanh"), 0)


def test_a_number_that_rounding_may_move_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cat = made("attention")
    assert transport.count(cat, 0).decided
    monkeypatch.setattr(transport, "MIN_GAP", 1e14)  # nothing stands out of the rounding
    counted = transport.count(cat, 0)
    told = _in_floats(cat, counted, 0, "")
    assert not counted.decided and told.laws > told.found == 12 and told.evidence.proof == "float64 without a gap"
    assert told.summary == "at least 12, these in closed form; whether there are more, float64 leaves open"
