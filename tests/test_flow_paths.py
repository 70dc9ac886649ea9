"""Sampled paths of a remainder without a name: they stop before kinks in the weights, and run back to where they came from."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from brute import generic_fibre, keeps_function, randomise
from networks.base import InputMaker, tokens
from run_networks import distance
from torch import nn

import symdisc
from symdisc.elements import sample_element
from symdisc.errors import Undecided


class Tied(nn.Module):
    """Embedding, one residual of relu units, the embedding again: a function of six tokens, so with kinks in the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.up, self.down = nn.Embedding(6, 4), nn.Linear(4, 3), nn.Linear(3, 4)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = 2.0 * self.e(ids)
        x = x + self.down(F.relu(self.up(x)))
        return x @ self.e.weight.mT / 4 + self.bias


@pytest.fixture(scope="module")
def tied() -> tuple[symdisc.Catalog, nn.Module, InputMaker]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    maker = tokens(6, 3)
    model = randomise(Tied(), 0)
    return symdisc.discover(model, maker(0)), model, maker


def test_the_dimension_is_that_of_the_fibre(tied: tuple[symdisc.Catalog, nn.Module, InputMaker]) -> None:
    catalog, model, maker = tied
    assert catalog.orbit_dimension == generic_fibre(model, maker).dimension
    assert any(s.family == "flow" for s in catalog.symmetries)


@pytest.mark.parametrize("seed, scale", [(1, 0.3), (3, 0.3), (3, 1.0)])
def test_what_is_sampled_keeps_the_function_and_runs_back(
    tied: tuple[symdisc.Catalog, nn.Module, InputMaker], seed: int, scale: float
) -> None:
    catalog, model, maker = tied
    state = dict(model.state_dict())
    g = catalog.sample(seed=seed, scale=scale)
    moved = catalog.apply(state, g)
    assert keeps_function(model, moved, [maker(500 + k) for k in range(6)]) < 1e-12
    assert distance(moved, state, list(state)) > 0.01
    assert distance(catalog.apply(moved, catalog.inverse(g)), state, list(state)) < 1e-12


def test_a_whole_path_along_the_same_vector_would_meet_a_kink(tied: tuple[symdisc.Catalog, nn.Module, InputMaker]) -> None:
    catalog, model, _ = tied
    g = sample_element(catalog.symmetries, catalog.discrete, 3, 0.3, True)
    with pytest.raises(Undecided, match="kinks"):
        catalog.apply(model.state_dict(), g)


def test_the_ends_of_a_path_serve_the_weights_of_that_path_only(tied: tuple[symdisc.Catalog, nn.Module, InputMaker]) -> None:
    """Other weights are moved by the vector: they keep their own function, though the element carries ends of another's."""
    catalog, model, maker = tied
    g = catalog.sample(seed=4, scale=0.02)
    inputs = [maker(500 + k) for k in range(6)]
    near = randomise(Tied(), 0)
    with torch.no_grad():
        near.down.bias += 0.01
    moved = catalog.apply(near.state_dict(), g)
    assert keeps_function(near, moved, inputs) < 1e-9
    other = keeps_function(model, moved, inputs)
    assert other > 1e-4, other
    false = replace(g, factors=tuple(replace(f, path=f.path and (f.path[0], f.path[1] + 0.01)) for f in g.factors))
    assert keeps_function(near, catalog.apply(near.state_dict(), false), inputs) < 1e-9
    assert keeps_function(model, catalog.apply(model.state_dict(), false), inputs) > 1e-4
