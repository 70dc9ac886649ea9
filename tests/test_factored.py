"""Products of stored tensors, entry by entry: each set of entries that meet has a scale of its own, if they serve the product alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc

NAME = "scale between factors"


class Net(nn.Module):
    def __init__(self, shape: tuple[int, ...], call: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.a, self.b, self.out = (nn.Parameter(torch.randn(s)) for s in (shape, (4, 3, 2), (2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.call(self, x)) @ self.out.T


def read(p: Net, x: Tensor, weight: Tensor) -> Tensor:
    """A spline of two bumps on every edge, their heights made of two tensors."""
    bumps = torch.stack([torch.sin(x), torch.cos(2 * x)], -1)
    return F.linear(bumps.flatten(-2), weight.flatten(1))


CASES: dict[str, tuple[tuple[int, ...], Callable[[Net, Tensor], Tensor], int]] = {
    "a number for each edge": ((4, 3), lambda p, x: read(p, x, p.a.unsqueeze(-1) * p.b), 12),
    "a number for each unit": ((4, 1, 1), lambda p, x: read(p, x, p.b * p.a), 4),
    "a number for each bump": ((2,), lambda p, x: read(p, x, p.a * p.b), 2),
    "edge by edge": ((4, 3, 2), lambda p, x: read(p, x, p.a * p.b), 24),
    "read elsewhere too": ((4, 3), lambda p, x: read(p, x, p.a.unsqueeze(-1) * p.b) + F.linear(x, p.a), 0),
    "a sum": ((4, 3), lambda p, x: read(p, x, p.a.unsqueeze(-1) + p.b), 0),
    "bent": ((4, 3), lambda p, x: read(p, x, p.a.exp().unsqueeze(-1) * p.b), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_scales_between_factors(name: str) -> None:
    shape, call, count = CASES[name]
    torch.manual_seed(0)
    model, x = Net(shape, call).double(), torch.randn(40, 3, dtype=torch.float64)
    cat = symdisc.discover(model, (x,), solve=False)
    found = [s for s in cat.symmetries if s.name == NAME]
    assert sum(s.dimension for s in found) == count and not cat.broken
    assert cat.verify(model, cat.sample(seed=0, scale=0.5)).max_relative_change < 1e-12
    if count:
        assert [s.dimension for s in cat.symmetries] == [count]
        certificate = symdisc.certify(cat)
        assert certificate.complete and certificate.fibre == count
        (law,) = cat.conserved
        state = {n: p.detach() for n, p in model.named_parameters()}
        assert abs(float(law.evaluate(state).sum())) == pytest.approx(abs(float((state["a"] ** 2).sum() - (state["b"] ** 2).sum())) / 2)
        counted = symdisc.count_laws(cat)
        assert counted.found == count and counted.laws == count
