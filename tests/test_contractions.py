"""Contractions written with letters: weights of several axes, and products of activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from brute import fibre, randomise
from networks.base import InputMaker, floats, tokens
from torch import Tensor, nn

import symdisc
from symdisc.conserved.evaluate import residual


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class Relative(nn.Module):
    """Attention with two heads stored [stream, heads, size] and keys of distances (Transformer-XL), a norm behind it."""

    def __init__(self, d: int = 5, heads: int = 2, size: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(7, d)
        self.q, self.k, self.v, self.o, self.r = (weight(d, heads, size) for _ in range(5))
        self.of_tokens, self.of_distances = weight(heads, size), weight(heads, size)
        self.shift, self.norm, self.head = weight(d), nn.LayerNorm(d), nn.Linear(d, 4)
        self.register_buffer("places", torch.randn(9, d), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        q, k, v = (torch.einsum("bih,hnd->bind", x, w) for w in (self.q, self.k, self.v))
        r = torch.einsum("jh,hnd->jnd", self.places, self.r)
        length = ids.shape[1]
        distance = torch.arange(length)[:, None] - torch.arange(length)[None] + length - 1
        near = torch.einsum("bind,bjnd->bnij", q + self.of_tokens, k)
        far = torch.einsum("bind,knd->bnik", q + self.of_distances, r).gather(-1, distance.expand(*near.shape))
        mixed = torch.einsum("bnij,bjnd->bind", (near + far).softmax(-1), v)
        return self.head(self.norm(x + torch.einsum("bind,hnd->bih", mixed, self.o) + self.shift))


class Grids(nn.Module):
    """A hidden layer laid out as a grid [3, 2] and read by a weight [outputs, 3, 2]; ``more`` uses the weight in another way."""

    def __init__(self, more: str = "") -> None:
        super().__init__()
        self.up, self.down, self.bias, self.more = weight(4, 3, 2), weight(3, 2, 5), weight(3, 2), more

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.einsum("bi,inm->bnm", x, self.up) + self.bias)
        if self.more == "grouped":  # every row of the grid has a matrix of its own: no axis is summed with all others
            return torch.einsum("bnm,nmo->bno", h, self.down)
        y = torch.einsum("bnm,nmo->bo", h, self.down)
        return y + self.down.square().sum() if self.more == "seen" else y


CASES: dict[str, tuple[Callable[[], nn.Module], InputMaker, int]] = {
    "relative attention": (Relative, tokens(7, 5), 4 * 9 + 6 + 5 + 5 + 4 + 6 + 1 + 5 + 5),
    "grids": (Grids, floats(4), 6),
    "grouped": (lambda: Grids("grouped"), floats(4), 6),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_of_several_axes(name: str) -> None:
    make, inputs, dimension = CASES[name]
    torch.manual_seed(2)
    model = randomise(make(), 2)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert cat.broken == () and all(s.status == "proved" for s in cat.symmetries)
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension == dimension
    element, state = cat.sample(seed=1, scale=0.3), {k: v.clone() for k, v in model.state_dict().items()}
    assert cat.verify(model, element).max_relative_change < 1e-9
    back = cat.apply(cat.apply(state, element), cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


def test_a_weight_that_is_also_read_otherwise_stays() -> None:
    """The sum of its squares sees every scale."""
    torch.manual_seed(2)
    model = randomise(Grids("seen"), 2)
    cat = symdisc.discover(model, floats(4)(0), solve=False)
    assert (cat.group_dimension, cat.broken) == (0, ())


def test_conserved_quantities_of_weights_of_several_axes() -> None:
    """The gradient is orthogonal to every generator, and balanced weights keep their laws."""
    torch.manual_seed(2)
    inputs = tokens(7, 5)
    model = randomise(Relative(), 2)
    cat = symdisc.discover(model, inputs(0), solve=False)
    model(*inputs(5)).square().sum().backward()
    gradient = {n: p.grad.numpy() if p.grad is not None else np.zeros(p.shape) for n, p in model.named_parameters()}
    state = {n: p.detach().numpy() for n, p in model.named_parameters()}
    laws = [q for q in cat.conserved if q.symmetry.name == "change of basis"]
    assert len(laws) == 2 and {q.status for q in laws} == {"conserved"}
    for q in cat.conserved:
        assert float(np.abs(residual(q, state, gradient)).max()) < 1e-9 < max(float(np.abs(g).max()) for g in gradient.values())
    assert all(text for text in (cat.to_latex(), cat.to_markdown(), cat.to_html()))
