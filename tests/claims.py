"""What tests of single families ask of a small network: weights drawn everywhere, a catalog that holds, elements that can be undone."""

from __future__ import annotations

import torch
from torch import nn

import symdisc

__all__ = ["assert_holds", "assert_undone", "generic"]

CHANGED, UNDONE = 1e-9, 1e-10


def generic(model: nn.Module, std: float = 0.5, seed: int = 1) -> nn.Module:
    """Random weights everywhere, in float64: gains of one and shifts of zero are special."""
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model.double()


def assert_holds(cat: symdisc.Catalog, model: nn.Module) -> None:
    """Nothing was refused, a random element leaves the function alone, and the catalog comes back from JSON."""
    assert cat.broken == ()
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < CHANGED
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def assert_undone(cat: symdisc.Catalog, model: nn.Module) -> None:
    """An element and then its inverse give the weights back."""
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    g = cat.sample(seed=1, scale=0.3)
    back = cat.apply(cat.apply(state, g), cat.inverse(g))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < UNDONE
