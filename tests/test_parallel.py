"""Linear maps of one tensor whose results are added: named families alone against the oracle, and twins that must be refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute import fibre, randomise
from claims import assert_holds, assert_undone
from networks.base import floats
from torch import Tensor, nn

import symdisc

Shape = tuple[int, ...]


class Parallel(nn.Module):
    """tanh of a sum of maps of one tensor; ``join`` makes the sum from the source and the maps."""

    def __init__(self, maps: list[nn.Module], join: Callable[..., Tensor], head: nn.Module, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.maps, self.head = first or nn.Identity(), nn.ModuleList(maps), head
        self.scale, self.join = nn.Parameter(torch.ones(3)), join

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self.first(x), self.scale, *self.maps))


def linears(n: int, join: Callable[..., Tensor], head: nn.Module | None = None, first: nn.Module | None = None) -> nn.Module:
    return Parallel([nn.Linear(3, 3) for _ in range(n)], join, head or nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), first)


def convs(*maps: nn.Module, norm: bool = False, identity: bool = False) -> nn.Module:
    """y = sum of maps of x, each with a BatchNorm if asked for."""
    whole = [nn.Sequential(m, nn.BatchNorm2d(2)) if norm else m for m in maps] + ([nn.BatchNorm2d(2)] if identity else [])
    head = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    model = Parallel(whole, lambda x, _, *m: sum(f(x) for f in m[1:]) + m[0](x), head).eval()
    model(torch.zeros(1, 2, 4, 4))
    return model


LINE: Shape = (3,)
PLANE: Shape = (2, 4, 4)
CASES: dict[str, tuple[Callable[[], nn.Module], Shape, int]] = {
    # model, shape of an input, how much of it is trades of weights
    "two": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x)), LINE, 9),
    "three": (lambda: linears(3, lambda x, _, a, b, c: a(x) - (b(x) + 0.5 * c(x))), LINE, 18),
    "behind a gain": (lambda: linears(2, lambda x, s, a, b: x + a(x) + s * b(x)), LINE, 9),
    "in front of a norm": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x), nn.Sequential(nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 2))),
                           LINE, 6),
    "behind a norm": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x), None, nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))), LINE, 6),
    "kernels": (lambda: convs(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)), PLANE, 4),
    "dilated": (lambda: convs(nn.Conv2d(2, 2, 3, padding=2, dilation=2), nn.Conv2d(2, 2, 3, padding=1)), PLANE, 4),
    "depthwise": (lambda: convs(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1, groups=2)), PLANE, 18),
    "three kernels": (lambda: convs(nn.Conv2d(2, 2, (1, 3), padding=(0, 1)), nn.Conv2d(2, 2, (3, 1), padding=(1, 0)), nn.Conv2d(2, 2, 1)),
                      PLANE, 8),
    "reparametrised": (lambda: convs(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Conv2d(2, 2, 1, bias=False), norm=True, identity=True),
                       PLANE, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_parallel_maps_trade_weights(name: str) -> None:
    make, shape, trades = CASES[name]
    torch.manual_seed(1)
    model, inputs = randomise(make(), 1), floats(*shape)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = [s for s in cat.symmetries if s.name == "weights of parallel maps traded"]
    assert sum(s.dimension for s in found) == trades
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert_holds(cat, model)
    assert_undone(cat, model)


TWINS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "bent": (lambda: linears(2, lambda x, _, a, b: a(x) + torch.tanh(b(x))), LINE),
    "multiplied": (lambda: linears(2, lambda x, _, a, b: a(x) * b(x)), LINE),
    "other source": (lambda: linears(2, lambda x, _, a, b: a(x) + b(2 * x.sin())), LINE),
    "seen alone": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x) + b(x).sin()), LINE),
    "turned": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x).flip(-1)), LINE),
    "used twice": (lambda: linears(2, lambda x, _, a, b: a(x) + b(x) + b(x * x)), LINE),
    "other stride": (lambda: convs(nn.Conv2d(2, 2, 1, stride=2), nn.Conv2d(2, 2, 3)), PLANE),
    "other places": (lambda: convs(nn.Conv2d(2, 2, (1, 3), padding=(1, 0)), nn.Conv2d(2, 2, (3, 1), padding=(1, 0), stride=1)), PLANE),
}


@pytest.mark.parametrize("name", list(TWINS)[:-1])
def test_what_only_looks_parallel_does_not_trade(name: str) -> None:
    make, shape = TWINS[name]
    torch.manual_seed(1)
    model = randomise(make(), 1)
    cat = symdisc.discover(model, floats(*shape)(0), solve=False)
    assert not [s for s in cat.symmetries if s.name == "weights of parallel maps traded"]
    assert not [b for b in cat.broken if "parallel" in b.family]


def test_what_is_conserved_between_parallel_maps() -> None:
    """W - V under gradient flow; behind gains that are trained only the differential constraint."""
    torch.manual_seed(1)
    for name, status in (("two", "conserved"), ("behind a gain", "none")):
        model, inputs = randomise(CASES[name][0](), 1), floats(*LINE)
        cat = symdisc.discover(model, inputs(0), solve=False)
        laws = [q for q in cat.conserved if q.symmetry.name == "weights of parallel maps traded"]
        assert [q.status for q in laws] == [status]
        model(*inputs(4)).square().sum().backward()
        gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert float(laws[0].residual(dict(model.state_dict()), gradient).abs().max()) < 1e-10 if status == "conserved" else laws[0].reason
        assert "parallel maps" in cat.to_markdown() and cat.to_latex()
