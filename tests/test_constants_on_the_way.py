"""Constants on their way past token layers, layer scales and weights without a bias: named families alone against the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from torch import Tensor, nn

import symdisc
from symdisc.elements import sample_array
from symdisc.torchside.apply import act

TOKENS = 3


class Mixer(nn.Module):
    """Channels in, one layer over the tokens beside a skip, channels out; ``norm`` and ``scale`` say what stands between."""

    def __init__(self, norm: Callable[[], nn.Module], scale: bool, last: bool = True, hidden: bool = True) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 4), nn.Linear(4, 5)
        self.first, self.last = norm(), norm() if last else nn.Identity()
        self.tokens = nn.Sequential(nn.Linear(TOKENS, 4), nn.GELU(), nn.Linear(4, TOKENS)) if hidden else nn.Linear(TOKENS, TOKENS)
        self.scale = nn.Parameter(torch.ones(4)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.tokens(self.first(x).mT).mT
        y = self.last(x + (y if self.scale is None else self.scale * y))
        return self.leave(F.gelu(y))


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class Gate(nn.Module):
    """u * (W v + b) over the tokens, v normed."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.tokens, self.leave = nn.Linear(5, 8), nn.LayerNorm(4), nn.Linear(TOKENS, TOKENS), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.enter(x)).chunk(2, -1)
        return self.leave(u * self.tokens(self.norm(v).mT).mT)


class Attention(nn.Module):
    """Normed values through an output map without a bias, before a norm; ``width`` is the size of each of two heads."""

    def __init__(self, width: int, bias: bool, norm: Callable[[], nn.Module] = lambda: nn.LayerNorm(4)) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 4, bias=False), nn.Linear(4, 5)
        self.first, self.last = norm(), norm()
        self.q, self.k = (nn.Linear(4, 4, bias=False) for _ in range(2))
        self.v, self.o = nn.Linear(4, 2 * width, bias=bias), nn.Linear(2 * width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.first(x)
        q, k, v = (m(y).unflatten(-1, (2, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.leave(self.last(x + self.o(y)))


class Pyramid(nn.Module):
    """Two maps of different sizes, the smaller one enlarged, beside each other before a convolution of one tap."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv1d(TOKENS, 4, 1), nn.Conv1d(4, 4, 2, 2)
        self.near, self.far, self.join = nn.Conv1d(4, 3, 1), nn.Conv1d(4, 3, 1), nn.Conv1d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.enter(x))
        y = F.interpolate(self.far(F.gelu(self.down(x))), size=x.shape[-1], mode="linear", align_corners=False)
        return self.join(torch.cat([self.near(x), y], 1))


class Token(nn.Module):
    """A class token before patches, a table added to both, a norm at once."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.token, self.table = nn.Linear(5, 4), nn.Parameter(torch.zeros(1, 1, 4)), nn.Embedding(TOKENS + 1, 4)
        self.norm, self.leave = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.enter(x)], 1) + self.table(torch.arange(TOKENS + 1))
        return self.leave(F.gelu(self.norm(x)))


def norm() -> nn.Module:
    return nn.LayerNorm(4)


NETS: dict[str, Callable[[], nn.Module]] = {
    "mixer": lambda: Mixer(norm, False), "affine": lambda: Mixer(Affine, True), "gate": Gate,
    "attention": lambda: Attention(2, False), "attention, wide": lambda: Attention(3, False), "attention, bias": lambda: Attention(3, True),
    "attention, narrow": lambda: Attention(1, True), "pyramid": Pyramid, "token": Token,
}


def made(name: str) -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
    torch.manual_seed(0)

    def maker(seed: int) -> tuple[Tensor, ...]:
        return (torch.randn(4, TOKENS, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),)

    return randomise(NETS[name]().double(), 1), maker


@pytest.mark.parametrize("name", NETS)
def test_every_constant_is_named(name: str) -> None:
    model, maker = made(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert cat.broken == ()
    assert cat.group_dimension == fibre(model, maker, 1).dimension
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-10
    assert symdisc.Catalog.from_json(cat.to_json()) == cat


@pytest.mark.parametrize("width, found", [(1, 0), (2, 1), (3, 3)])
def test_constants_written_along_one(width: int, found: int) -> None:
    """n - d + 1 of them where the values are n wide and the stream d; one direction more changes the function."""
    torch.manual_seed(0)
    x = (torch.randn(4, TOKENS, 5, dtype=torch.float64),)
    for bias in (False, True):
        model = randomise(Attention(width, bias).double(), 1)
        mine = [s for s in symdisc.discover(model, x, solve=False).symmetries if s.name == "constant that the next weight writes along 1"]
        assert sum(s.dimension for s in mine) == found
    assert not [s for s in symdisc.discover(Attention(width, True, lambda: nn.RMSNorm(4)).double(), x, solve=False).symmetries
                if s.name == "constant that the next weight writes along 1"]
    if found:
        import numpy as np

        state = {k: v.detach() for k, v in model.state_dict().items()}
        moved = act(mine[0], sample_array(mine[0], np.random.default_rng(0), 0.3), state)["v.bias"] - state["v.bias"]
        written = state["o.weight"] @ moved
        assert float((written - written.mean()).abs().max()) < 1e-12 < float(moved.abs().max())


class Rated(nn.Module):
    """One number for each of six rows, and one number for all."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.all = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(()))

    def forward(self, i: Tensor) -> Tensor:
        return torch.tanh(self.rows[i] + self.all)


def test_a_number_without_axes_takes_a_translation() -> None:
    model = Rated().double()
    cat = symdisc.discover(model, (torch.arange(6),), solve=False)
    assert (cat.group_dimension, cat.broken) == (1, ()) and cat.symmetries[0].parameters == ("rows", "all")
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-12 and symdisc.certify(cat).complete
