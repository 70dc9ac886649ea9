"""The zoo: seeded factories, and the orbit dimensions that theory and measurement agree on."""

from __future__ import annotations

import pytest
import torch

import symdisc
from symdisc.errors import BadInput
from symdisc.zoo import ZOO, build

# the six miniatures, found by theory and by rank
MINIATURES = {"llama-tiny": 45, "llama-tiny-2kv": 57, "llama-tiny-eps": 27, "llama-tiny-ln": 83, "llama-tiny-ln-eps": 82, "gpt2-tiny": 155}
# one scale per hidden ReLU unit; nothing continuous for tanh; the linear network's 79 parameters make any affine map of 5 to 3
SMALL = {"mlp-relu": 6 + 4, "mlp-tanh": 0, "mlp-linear": 79 - (5 * 3 + 3)}


@pytest.mark.parametrize("name", ZOO)
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    (one, x), (two, y), (other, _) = build(name, 0), build(name, 0), build(name, 1)
    assert not one.training
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one(*x).isfinite().all() and one(*x).std() > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_nothing_stands_at_a_special_value(name: str) -> None:
    """Gains of exactly one and biases of zero would make false symmetries look true."""
    model, _ = build(name)
    for label, p in model.named_parameters():
        assert not torch.any((p == 0) | (p == 1)), label


@pytest.mark.parametrize("name, dimension", {**MINIATURES, **SMALL}.items())
def test_orbit_dimensions(name: str, dimension: int) -> None:
    model, x = build(name)
    x = tuple(t.double() if t.is_floating_point() else t for t in x)
    assert symdisc.discover(model.double(), x).orbit_dimension == dimension


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BadInput, match="the zoo has no 'tiger': it has mlp-relu"):
        build("tiger")
