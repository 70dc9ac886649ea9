"""Layers that are used several times: what holds at each use in the same way holds of the layer; what differs between uses does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

D = 4


class Block(nn.Module):
    """Attention with one head and a perceptron; norms behind each (post-norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))
        self.up, self.down = nn.Linear(D, 3), nn.Linear(3, D)
        self.first, self.second = nn.LayerNorm(D, eps=0.05), nn.LayerNorm(D, eps=0.05)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x + self.o(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))))
        return self.second(x + self.down(F.gelu(self.up(x))))


class Shared(nn.Module):
    """One block, ``times`` over on raw data. ``twin`` changes one edge: "scores" puts the keys of the second use besides the outputs,
    "plain" reads the hidden units of the last use without a norm in front, "seen" adds what ``down`` writes to the outputs."""

    def __init__(self, times: int, twin: str = "") -> None:
        super().__init__()
        self.block, self.out, self.times, self.twin = Block(), nn.Linear(D, 5), times, twin

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.block(x)
        y = self.out(x)
        if self.twin == "scores":
            y = y + self.block.k(x).sum(-1, keepdim=True)
        if self.twin == "plain":
            y = y + self.block.up(x.square()).sum(-1, keepdim=True)
        return y + self.block.down(F.gelu(self.block.up(x))).square().sum(-1, keepdim=True) if self.twin == "seen" else y


def _found(model: nn.Module) -> tuple[symdisc.Catalog, dict[tuple[str, tuple[str, ...]], int]]:
    torch.manual_seed(4)
    double = randomise(model, 4)
    cat = symdisc.discover(double, floats(6, D, spread=1.0)(0), solve=False)
    assert cat.broken == () and cat.verify(double, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    short = {(s.name, tuple(p.removeprefix("block.").removesuffix(".weight") for p in s.parameters)): s.dimension for s in cat.symmetries}
    return cat, short


@pytest.mark.parametrize("times", [2, 3])
def test_all_that_a_shared_block_can_do_has_a_name(times: int) -> None:
    cat, found = _found(Shared(times))
    assert found[("bias without effect", ("k.bias",))] == D
    assert found[("translation traded between parameters", ("v.bias", "o.bias"))] == D
    assert found[("direction that is centred away", ("o",))] == D and found[("direction that is centred away", ("down",))] == 3
    assert found[("direction that a centred vector lacks", ("up", "up.bias"))] == 3
    assert cat.group_dimension == fibre(randomise(Shared(times), 4), floats(6, D, spread=1.0), seed=None).dimension


@pytest.mark.parametrize("twin, lost", [
    ("scores", {("bias without effect", ("k.bias",))}), ("plain", {("direction that a centred vector lacks", ("up", "up.bias"))}),
    ("seen", {("direction that is centred away", ("down",)), ("direction that is centred away", ("down.bias",))})])
def test_one_more_use_that_differs_takes_it_away(twin: str, lost: set[tuple[str, tuple[str, ...]]]) -> None:
    cat, found = _found(Shared(2, twin))
    assert lost <= _found(Shared(2))[1].keys() and not lost & found.keys()
    assert cat.group_dimension <= fibre(randomise(Shared(2, twin), 4), floats(6, D, spread=1.0), seed=None).dimension


class Adapted(nn.Module):
    """One layer used twice, each time with a low rank of its own, or twice the very same (``twin``)."""

    def __init__(self, bend: Callable[[Tensor], Tensor], twin: bool) -> None:
        super().__init__()
        self.bend, self.twin = bend, twin
        self.inward, self.layer, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.down, self.up = (nn.Parameter(torch.randn(2, 3, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x).tanh()
        for k in (0, 0 if self.twin else 1):
            h = self.bend(self.layer(h) + (h @ self.down[k]) @ self.up[k].mT)
        return self.out(h)


# two low ranks trade with each other and with the layer: 4; relu units, 3 of whose scales must keep the difference of both uses at rank
# two: 2. The twin: the layer absorbs all that the low rank used can be (6), and the other one is not used (6)
@pytest.mark.parametrize("bend, twin, dimension", [(F.relu, False, 6), (torch.tanh, False, 4), (torch.tanh, True, 12)])
def test_a_layer_fitted_to_its_first_use_is_looked_at_often(bend: Callable[[Tensor], Tensor], twin: bool, dimension: int) -> None:
    torch.manual_seed(0)
    maker = floats(2)
    initial = Adapted(bend, twin)
    model = randomise(initial, 0)
    cat = symdisc.discover(model, maker(0))
    assert cat.orbit_dimension == dimension == min(fibre(initial, maker, s).dimension for s in (10, 17))
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_with_one_layer_under_two_names_is_left_as_it_was(dtype: torch.dtype) -> None:
    """torch's functional_call forgets what stood there before it put the same tensor in twice."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.o = nn.Linear(3, 3), nn.Linear(3, 2)
            self.k = self.q

        def forward(self, x: Tensor) -> Tensor:
            return self.o(torch.relu(self.k(torch.relu(self.q(x)))))

    model, x = Twice().to(dtype), torch.randn(4, 3, dtype=dtype)
    before = {n: (p, p.detach().clone()) for n, p in model.named_parameters(remove_duplicate=False)}
    cat = symdisc.discover(model, (x,))
    assert symdisc.certify(cat).complete and cat.verify(model, cat.sample(0, 0.5)).passed and cat.conserved is not None
    for n, p in model.named_parameters(remove_duplicate=False):
        assert p is before[n][0] and torch.equal(p, before[n][1]) and p.is_leaf and p.requires_grad
