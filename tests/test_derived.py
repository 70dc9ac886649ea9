"""Laws counted by the derived systems of the one-forms of symmetries: the numbers of the exact count and of brackets, from neither."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import randomise
from claims import generic
from test_laws_models import FLOATS, MODELS, Residual, S, made
from test_narrow_streams import Narrow
from torch import nn

import symdisc
from symdisc.errors import NotProved, Undecided
from symdisc.laws import count_laws
from symdisc.laws.count import _counted
from symdisc.torchside import brackets, derived


def rooted(name: str) -> symdisc.Catalog:
    torch.manual_seed(0)
    model, x = FLOATS[name][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return symdisc.discover(model.train(), (x,), solve=False)


NAMELESS = {"conv, linear": 3, "attention, rotary": 2}  # directions that only a flow, or the complete linear system, covers


@pytest.mark.parametrize("name", [n for n in MODELS if n not in NAMELESS])
def test_the_exact_number(name: str) -> None:
    cat = made(name)
    counted = derived.count(cat, 0)
    assert (cat.parameter_count - counted.span, counted.found, counted.closed) == (MODELS[name][1], MODELS[name][1], True)


@pytest.mark.parametrize("name", ["softmax", "grouped conv", "attention, biases", "tokens"])
def test_the_number_does_not_rest_on_known_laws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one law known the systems fall to the same end, where no further curvature is seen."""
    monkeypatch.setattr(brackets.Brackets, "laws", lambda self, cat: (np.zeros((0, self.network.size)), ()))
    cat = made(name)
    counted = derived.count(cat, 0)
    assert (cat.parameter_count - counted.span, counted.found, counted.closed) == (MODELS[name][1], 0, True)


@pytest.mark.parametrize("name", FLOATS)
def test_brackets_of_fields_tell_the_same(name: str) -> None:
    cat = rooted(name)
    one, other = count_laws(cat), brackets.count(cat, 0)
    assert (one.laws, one.found) == (cat.parameter_count - other.span, other.found) == (FLOATS[name][1],) * 2
    assert one.evidence.proof == "float64, derived systems" and not one.complete


def test_more_than_one_system_is_taken() -> None:
    """The first derived system of a norm's shifts beside its gains holds a form that the second loses: of 9 forms 4, then 3 are left."""
    torch.manual_seed(0)
    net = S(nn.Linear(3, 3), Residual(S(nn.LayerNorm(3), nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3))), nn.LayerNorm(3), nn.Linear(3, 2))
    cat = symdisc.discover(randomise(net, 1).eval(), (torch.randn(4, 3, dtype=torch.float64),), solve=False)
    counted, other = derived.count(cat, 0), brackets.count(cat, 0)
    assert counted.closed and counted.depth > 2 and counted.span == other.span


def test_a_law_that_is_none_is_refused() -> None:
    """Of ReLU units, where tanh stands."""
    known = symdisc.discover(S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.randn(5, 3),)).symmetries
    with pytest.raises(NotProved, match="changes the outputs"):
        derived.count(made("tanh").replace(symmetries=known), 0)


def test_a_rotation_is_no_law_though_it_moves_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direction of a rotation vanishes on all fields, as gradients of laws do; the first derived system tells them apart."""
    cat = made("attention")
    laws = brackets.Brackets.laws

    def claimed(self: brackets.Brackets, cat: symdisc.Catalog) -> tuple[np.ndarray, tuple[str, ...]]:
        known, formulas = laws(self, cat)
        rows = self.network.jacobian(self.point, self.network.draws(0, 60))
        kernel = np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows):]
        outside = kernel - kernel @ np.linalg.pinv(known) @ known
        return np.concatenate([known, outside[:1] / np.linalg.norm(outside[0])]), (*formulas, "none")

    monkeypatch.setattr(brackets.Brackets, "laws", claimed)
    with pytest.raises(NotProved, match="no combination"):
        derived.count(cat, 0)


@pytest.mark.parametrize("name", NAMELESS)
def test_directions_without_a_field_leave_it_open(name: str) -> None:
    with pytest.raises(Undecided, match=f"^{NAMELESS[name]} directions .* belong to no symmetry"):
        derived.count(made(name), 0)


def test_symmetries_that_are_not_all_tell_nothing() -> None:
    cat = made("attention")
    rest = tuple(s for s in cat.symmetries if s.counts)[1:]
    with pytest.raises(Undecided, match="belong to no symmetry"):
        derived.count(cat.replace(symmetries=rest), 0)


def test_linear_fields_without_a_name_count_too() -> None:
    """The same number from the generators as matrices, with no move to run."""
    cat = made("attention")
    counted = derived.count(_nameless(cat), 0)
    assert cat.parameter_count - counted.span == MODELS["attention"][1]


def _nameless(cat: symdisc.Catalog) -> symdisc.Catalog:
    """The catalog with one family found again by the complete linear system."""
    from symdisc.torchside.algebra import Algebra
    from symdisc.torchside.remainder import float64_state, linear_remainder, tangents

    kept = [s for s in cat.symmetries if s.counts][1:]
    algebra = Algebra.of(cat.captured, cat.graph, float64_state(cat.captured))
    rows = tangents(kept, float64_state(cat.captured), list(algebra.network.layout))
    more, _ = linear_remainder(cat.captured, algebra, rows)
    assert more and all(s.family == "linear" for s in more)
    return cat.replace(symmetries=(*kept, *(replace(s, site="again") for s in more)))


def test_where_an_action_has_no_derivative_brackets_count() -> None:
    """Directions that a reader never meets have a basis found by numbers."""
    torch.manual_seed(0)
    cat = symdisc.discover(generic(Narrow("no bias")), (torch.randn(9, 8, dtype=torch.float64),), solve=False)
    assert any(m.kind == "blind" for s in cat.symmetries for m in s.moves)
    with pytest.raises(Undecided, match="no derivatives side by side"):
        derived.count(cat, 0)
    exact, counted = count_laws(cat), _counted(cat, 0)
    assert not counted.closed and cat.parameter_count - counted.span == exact.laws >= counted.found


def test_a_network_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "LIMIT", 10)
    with pytest.raises(Undecided, match="too many for a rank"):
        derived.count(made("tanh"), 0)
