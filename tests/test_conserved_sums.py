"""Laws that sums of several factors give where none of them has one: streams behind BatchNorm, translations undone alike.

Each number is held against counts of laws of the network itself, against the derived system of all generators together, and against
gradient flow; and none may be found where an operator, a mode or a path of the network forbids it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from brute import randomise
from networks import ready
from networks.base import floats
from networks.convs import Residual
from test_conserved_derived import left
from test_conserved_forms import change, flowed
from torch import Tensor, nn

import symdisc
from symdisc.catalog import Catalog
from symdisc.conserved import ConservedQuantity
from symdisc.families.differences import differences
from symdisc.symmetry import WITHIN, Symmetry
from symdisc.torchside.brackets import independent_laws
from symdisc.torchside.remainder import float64_state, row_span, tangents

S, BN = nn.Sequential, nn.BatchNorm1d
STREAM, DIFFERENCE = "scale of the stream behind BatchNorm", "difference of translations undone alike"


class Beside(nn.Module):
    """Branches of one input, summed, or put one behind the other."""

    def __init__(self, *branches: nn.Module, joined: bool = False) -> None:
        super().__init__()
        self.branches, self.joined = nn.ModuleList(branches), joined

    def forward(self, x: Tensor) -> Tensor:
        found = [f(x) for f in self.branches]
        return torch.cat(found, 1) if self.joined else sum(found[1:], found[0])


def dense(n: int, m: int) -> nn.Linear:
    return nn.Linear(n, m, bias=False)


def conv(n: int, m: int) -> nn.Conv2d:
    return nn.Conv2d(n, m, 1, bias=False)


# name -> (network, shape of an input, laws, those without the sums)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "linear": (lambda: S(dense(3, 2), BN(2), dense(2, 3)), (3,), 2, 0),
    "wide": (lambda: S(dense(2, 3), BN(3), dense(3, 3)), (2,), 3, 0),
    "bias in front": (lambda: S(nn.Linear(3, 2), BN(2), nn.Linear(2, 3)), (3,), 4, 2),  # no constant combination of the others gives it
    "then clipped": (lambda: S(dense(3, 2), BN(2), dense(2, 3), BN(3), nn.ReLU6(), dense(3, 2)), (3,), 2, 0),
    "channels": (lambda: S(conv(2, 3), nn.BatchNorm2d(3), conv(3, 2), nn.BatchNorm2d(2), nn.ReLU6(), nn.Flatten(), dense(8, 2)),
                 (2, 2, 2), 3, 0),
    "pooled": (lambda: S(conv(2, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(3, 2)), (2, 4, 4), 3, 0),
    "two writers": (lambda: S(dense(2, 3), BN(3), Residual(dense(3, 4), BN(4), nn.ReLU6(), dense(4, 3), BN(3)), dense(3, 3)), (2,), 3, 0),
    "one writer plain": (lambda: S(dense(2, 3), Residual(dense(3, 4), BN(4), nn.ReLU6(), dense(4, 3), BN(3)), dense(3, 3)), (2,), 3, 0),
    "side by side": (lambda: S(Beside(S(dense(3, 2), BN(2)), S(dense(3, 2), BN(2))), dense(2, 3)), (3,), 4, 2),
    "two readers": (lambda: S(dense(3, 2), BN(2), Beside(S(dense(2, 3), nn.ReLU(), dense(3, 2)), S(dense(2, 3), nn.Tanh(), dense(3, 2)))),
                    (3,), 5, 3),
    "joined": (lambda: S(Beside(S(dense(3, 2), BN(2)), dense(3, 1), joined=True), dense(3, 3)), (3,), 3, 1),
}  # fmt: skip


@cache
def made(name: str) -> tuple[nn.Module, Tensor, Catalog]:
    make, shape, *_ = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(make().eval(), 2)
    (x,) = floats(*shape, spread=1.5)(0)
    return model, x, symdisc.discover(model, (x,), solve=False)


def named(cat: Catalog, name: str) -> list[ConservedQuantity]:
    return [q for q in cat.conserved if q.symmetry.name == name]


def without(cat: Catalog) -> Catalog:
    return cat.replace(symmetries=tuple(s for s in cat.symmetries if s.name not in (STREAM, DIFFERENCE)))


def on_parameters(cat: Catalog) -> list[Symmetry]:
    return [s for s in cat.symmetries if s.counts]


@pytest.mark.parametrize("name", ["linear", "bias in front", "pooled", "side by side", "two readers", "joined"])
def test_as_many_laws_as_the_network_has(name: str) -> None:
    """Their gradients are independent, brackets of the network's fields leave no more, and without the sums some are missing."""
    _, _, cat = made(name)
    laws, alone = NETS[name][2:]
    count = symdisc.count_laws(cat)
    assert (count.laws, count.found) == (laws, laws)
    assert independent_laws(without(cat), 0)[0] == alone


@pytest.mark.parametrize("name", NETS)
def test_directions_are_among_those_of_other_factors(name: str) -> None:
    model, _, cat = made(name)
    state, layout = float64_state(cat.captured), list(cat.captured.parameters)
    sums = [q.symmetry for q in named(cat, STREAM)]
    assert sums and all(not s.counts and s.note.startswith(WITHIN) and s.status == "proved" for s in sums)
    before, after = (row_span(tangents(s, state, layout)).shape[1] for s in (on_parameters(cat), [*on_parameters(cat), *sums]))
    assert before == after
    g = cat.sample(seed=1, scale=0.5)
    only = replace(g, factors=tuple(f for f in g.factors if f.kind == "continuous" and cat.symmetries[f.which].name == STREAM))
    witness = cat.verify(model, only)
    assert witness.max_relative_change < 1e-12 and witness.weights_changed > 1e-2


@pytest.mark.parametrize("name", ["linear", "bias in front", "joined"])
def test_derived_system_of_all_generators_leaves_as_many(name: str) -> None:
    """No closed combination is looked for: the curvature of all forms together bounds the number of laws from above."""
    _, _, cat = made(name)
    state, layout = float64_state(cat.captured), list(cat.captured.parameters)
    assert left(on_parameters(cat), state, layout) == NETS[name][2]


@pytest.mark.parametrize("name", ["linear", "wide", "bias in front", "pooled", "side by side", "joined"])  # without kinks
def test_they_stay_along_gradient_flow(name: str) -> None:
    model, x, cat = made(name)
    laws, alone = NETS[name][2:]
    start, end = flowed(model, x, 0.5)
    sums = named(cat, STREAM)
    assert sum(q.dimension for q in cat.conserved if q.status == "conserved") == laws
    assert sum(q.dimension for q in sums) == laws - alone
    for q in sums:
        assert change(q, start, end) < 1e-10
        for k, term in enumerate(q.terms):
            assert change(replace(q, terms=q.terms[:k] + q.terms[k + 1:]), start, end) > 1e-5, term.move.parameter


NEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "bent behind": (lambda: S(dense(3, 2), BN(2), nn.Tanh(), dense(2, 3)), (3,), False),
    "data beside": (lambda: S(Residual(dense(3, 3), BN(3)), dense(3, 2)), (3,), False),
    "batch statistics": (lambda: S(dense(3, 2), BN(2), dense(2, 3)), (3,), True),
    "no gain": (lambda: S(dense(3, 2), BN(2, affine=False), dense(2, 3)), (3,), False),
    "seen": (lambda: S(dense(3, 2), BN(2)), (3,), False),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_have_none(name: str) -> None:
    make, shape, train = NEAR[name]
    torch.manual_seed(0)
    model = randomise(make(), 2).train(train)
    (x,) = floats(*shape, batch=5, spread=1.0)(0)
    cat = symdisc.discover(model, (x,), solve=False)
    assert not named(cat, STREAM)
    count = symdisc.count_laws(cat)
    assert count.laws == count.found == sum(q.dimension for q in cat.conserved if q.status == "conserved")


def test_formula_is_written_for_each_unit() -> None:
    _, _, cat = made("linear")
    (q,) = named(cat, STREAM)
    assert "0.weight" not in q.latex()
    assert r"Q_{u} = \frac{{\texttt{1.bias}}_{u}^{2}}{2} + \frac{{\texttt{1.weight}}_{u}^{2}}{2} - \sum_{k=1}^{3}" in q.latex()
    assert STREAM in cat.to_latex() and "within others" in cat.to_markdown()
    state = float64_state(cat.captured)
    by_hand = (state["1.weight"].square() + state["1.bias"].square() - state["2.weight"].square().sum(0)) / 2
    assert np.allclose(np.asarray(q.evaluate(state)), by_hand.numpy(), rtol=0, atol=1e-14)


def test_other_flows() -> None:
    _, _, cat = made("linear")

    def under(flow: str, **values: float) -> ConservedQuantity:
        return next(q for q in cat.conserved_under(flow, **values) if q.symmetry.name == STREAM)

    assert (under("weight_decay", lam=0.1).status, under("weight_decay", lam=0.1).rate) == ("decays", "1/5")
    assert under("momentum", tau=1, lam=0).status == "driven"
    assert under("adamw").status == "none" and under("adamw").reason


# --- translations that the same weights undo ------------------------------------------------------------------------------
@pytest.mark.parametrize("name, laws", [("mixer_gelu_norm", 7)])
def test_translations_undone_alike(name: str, laws: int) -> None:
    model, inputs, _ = ready(name)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = named(cat, DIFFERENCE)
    count = symdisc.count_laws(cat)
    assert (count.laws, count.found) == (laws, laws) and independent_laws(without(cat), 0)[0] == laws - len(found)
    state, layout = float64_state(cat.captured), list(cat.captured.parameters)
    sums = [*on_parameters(cat), *(q.symmetry for q in found)]
    assert len({row_span(tangents(s, state, layout)).shape[1] for s in (on_parameters(cat), sums)}) == 1
    start, end = flowed(model, *inputs(0), 0.5)
    for q in found:
        assert len(q.terms) == 2 and change(q, start, end) < 1e-10
        assert change(replace(q, terms=q.terms[:1]), start, end) > 1e-4


def test_translations_undone_by_other_weights_stay_apart() -> None:
    """Two biases, each with a reader of its own: no difference; twice the reader's move: the ratio is kept."""
    model = randomise(S(Beside(S(nn.Linear(3, 2), nn.Linear(2, 2)), S(nn.Linear(3, 2), nn.Linear(2, 2)))), 1)
    cat = symdisc.discover(model, floats(3)(0), solve=False)
    traded = [s for s in cat.symmetries if s.family == "translation"]
    assert len(traded) > 1 and not named(cat, DIFFERENCE)
    (one, *_) = [s for s in traded if any(m.through for m in s.moves)]
    twice = replace(one, moves=tuple(replace(m, power=2 * m.power) if m.through else m for m in one.moves))
    (d,) = differences([one, twice])
    assert [m.power for m in d.moves] == [0.5] and not differences([one, one])
