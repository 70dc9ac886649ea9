"""Operators that choose by value, contract oddly or write to places: what survives them is found, and what does not is refused.

Each network is judged by its fibre (the rank of its Jacobian), so that nothing is missing and nothing false is in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.catalog import Catalog

G = 7


class Net(nn.Module):
    """x -> W2 . body(W1 . x), with what ``body`` needs."""

    def __init__(self, body: Callable[[Tensor], Tensor], inner: int = 3, outer: int = 3) -> None:
        super().__init__()
        self.up, self.down, self.body = nn.Linear(2, inner), nn.Linear(outer, 2), body

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.body(self.up(x)))


def _found(body: Callable[[Tensor], Tensor], shape: tuple[int, ...], **sizes: int) -> Catalog:
    torch.manual_seed(G)
    net, x = Net(body, **sizes).double(), torch.randn(*shape, dtype=torch.float64)
    cat = symdisc.discover(net, (x,), solve=False)
    assert cat.verify(net, cat.sample(seed=1, scale=0.3)).passed
    return cat


def _scaled(cat: Catalog) -> int:
    return sum(s.dimension for s in cat.symmetries if s.name == "scaling of hidden units")


def _gelu_after(h: Tensor) -> Tensor:
    return torch.nn.functional.gelu(h)


# name -> (what follows, [batch, ...] of the input, scales of hidden units, order of the discrete part)
OVER_DATA = {
    "largest over places": (lambda h: torch.relu(h).amax(1), 3),
    "largest two, with their places": (lambda h: torch.relu(h).topk(2, dim=1)[0].sum(1), 3),
    "sorted": (lambda h: torch.relu(h).sort(1)[0][:, -1], 3),
    "max over an axis": (lambda h: torch.relu(h).max(1)[0], 3),
    "gathered where the largest is": (lambda h: torch.relu(h).gather(1, torch.relu(h).argmax(1, keepdim=True))[:, 0], 3),
    "maximum with zero": (lambda h: torch.maximum(h, torch.zeros((), dtype=h.dtype)).mean(1), 3),
    "written over, place by place": (lambda h: torch.select_scatter(torch.relu(h), torch.relu(h[:, 0]) * 2, 1, 1).mean(1), 3),
    "kept where positive": (lambda h: (h * (h > 0)).mean(1), 3),
    "2-norm over places": (lambda h: torch.linalg.vector_norm(torch.relu(h), dim=1), 3),
}
# the same with something that does not scale or is not the same for all units: their false twins
REFUSED = {
    "largest of GELU": (lambda h: _gelu_after(h).amax(1), 0),
    "places compared with one": (lambda h: (h * (h > 1)).mean(1), 0),
    "maximum with a constant": (lambda h: torch.maximum(h, torch.full((), 0.3, dtype=h.dtype)).mean(1), 0),
    "written over by a constant": (lambda h: torch.relu(torch.select_scatter(h, torch.ones_like(h[:, 0]), 1, 1)).mean(1), 0),
    "sorted by units": (lambda h: torch.relu(h).sort(-1)[0].mean(1), 0),
}


@pytest.mark.parametrize("name", [*OVER_DATA, *REFUSED])
def test_scales_over_an_axis_of_data(name: str) -> None:
    body, scales = {**OVER_DATA, **REFUSED}[name]
    cat = _found(body, (5, 4, 2))
    assert _scaled(cat) == scales, [(s.name, s.dimension) for s in cat.symmetries]
    assert not [b for b in cat.broken if b.family == "all"]  # every operator has a rule


def test_units_chosen_by_value_may_be_renumbered_and_not_scaled() -> None:
    """top-k over units (a router): scattered back to their places they can be exchanged; at fixed places they cannot."""
    def routed(h: Tensor) -> Tensor:
        values, places = h.softmax(-1).topk(2, dim=-1)
        return torch.zeros_like(h).scatter(-1, places, values)

    free = _found(routed, (6, 2))
    assert math.prod(d.order for d in free.discrete) == 6 and _scaled(free) == 0
    sign = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    tied = _found(lambda h: routed(h) * sign * (h.softmax(-1) + sign), (6, 2))
    assert math.prod(d.order for d in tied.discrete) == 1


def test_sums_of_products_over_units_keep_one_scale() -> None:
    """Scores between channels: the units that are mixed by them share one scale; with GELU before, none is left."""
    def channels(h: Tensor) -> Tensor:
        scores = (torch.tanh(h).transpose(1, 2) @ torch.tanh(h)).softmax(-1)
        return (scores @ torch.relu(h).transpose(1, 2)).transpose(1, 2)

    def own(h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        return (torch.tanh(a).transpose(1, 2) @ torch.tanh(a)).softmax(-1).matmul(torch.relu(b).transpose(1, 2)).transpose(1, 2)

    both = _found(own, (5, 4, 2), inner=6)
    assert sum(s.dimension for s in both.symmetries) == 1
    assert not _found(channels, (5, 4, 2)).symmetries


class Kernel(nn.Module):
    """A depthwise convolution whose kernel is stored with an axis of length 1, and a weight applied from the left."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(2, 3), act
        self.kernel, self.left = nn.Parameter(torch.randn(3, 1, 2)), nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.nn.functional.conv1d(self.up(x).transpose(1, 2), self.kernel.squeeze(1).unsqueeze(1), groups=3)
        return self.left @ self.act(h)


@pytest.mark.parametrize("act, dimension", [(torch.relu, 6), (torch.tanh, 3)])
def test_kernels_stored_with_an_axis_of_one_and_weights_from_the_left(act: Callable[[Tensor], Tensor], dimension: int) -> None:
    torch.manual_seed(G)
    net, x = Kernel(act).double(), torch.randn(3, 4, 2, dtype=torch.float64)
    cat = symdisc.discover(net, (x,), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.counts) == dimension and not [b for b in cat.broken if b.family == "all"]
    assert symdisc.certify(cat).complete
