"""Weights that are no layers: stored tensors multiplied by hand, from either side, where the data come in or further on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symdisc


class Stored(nn.Module):
    """relu between two stored weights [out, in] (or their transposes); the call says from which side they are applied."""

    def __init__(self, call: Callable[[Stored, Tensor], Tensor], turned: bool, bent: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call, self.bent = call, bent
        shapes = ((3, 4), (4, 5)) if turned else ((4, 3), (5, 4))
        self.W, self.U = (nn.Parameter(torch.randn(s)) for s in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


CALLS: dict[str, tuple[Callable[[Stored, Tensor], Tensor], bool, tuple[int, ...]]] = {
    "from the right": (lambda p, x: p.bent(x @ p.W) @ p.U, True, (8, 3)),
    "from the right, turned": (lambda p, x: p.bent(x @ p.W.T) @ p.U.t(), False, (8, 3)),
    "from the right, places": (lambda p, x: p.bent(x @ p.W) @ p.U, True, (2, 6, 3)),
    "from the left": (lambda p, x: p.U @ p.bent(p.W @ x), False, (3, 8)),
    "from the left, places": (lambda p, x: p.U @ p.bent(p.W @ x), False, (2, 3, 6)),
    "one vector": (lambda p, x: p.U @ p.bent(p.W @ x), False, (3,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_units_between_stored_weights_scale_and_change_places(name: str) -> None:
    call, turned, shape = CALLS[name]
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64)
    model = Stored(call, turned, torch.relu).double()
    cat = symdisc.discover(model, (x,), solve=False)
    assert ([(s.family, s.dimension, s.status) for s in cat.symmetries], cat.broken) == ([("scale", 4, "proved")], ())
    assert [d.order for d in cat.discrete] == [24]
    assert cat.verify(model, cat.sample(seed=0, scale=0.5)).max_relative_change < 1e-12
    other = symdisc.discover(Stored(call, turned, torch.tanh).double(), (x,), solve=False)
    assert not other.symmetries and sorted(d.order for d in other.discrete) == [16, 24]  # signs and permutations, no scales
