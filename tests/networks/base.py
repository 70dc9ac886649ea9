"""How a test network is written down: a factory, its inputs, and what theory says of its fibre."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from brute import InputMaker

Built = tuple[nn.Module, InputMaker]


@dataclass(frozen=True)
class Network:
    """One entry. Calling it gives (model, input maker, note); the model stands at torch's own initial values."""

    name: str
    make: Callable[[], Built]
    predicted: int | None  # fibre dimension by theory; None where only the oracle knows
    why: str
    tangent_only: bool = False  # J is blind to jumps here: the oracle counts more than the true symmetry

    def __call__(self) -> tuple[nn.Module, InputMaker, str]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, maker = self.make()
        said = f"predicted {self.predicted}: " if self.predicted is not None else ""
        return model, maker, said + self.why


NETWORKS: dict[str, Network] = {}


def add(
    name: str, make: Callable[[], Built], predicted: int | None = None, why: str = "", tangent_only: bool = False
) -> None:
    """Put one network into the registry; a second one of the same name is an error."""
    if name in NETWORKS:
        raise ValueError(f"two networks are called {name}")
    NETWORKS[name] = Network(name, make, predicted, why, tangent_only)


def network(name: str, predicted: int | None = None, why: str = "", tangent_only: bool = False) -> Callable:
    """Decorator form of `add`."""

    def wrap(make: Callable[[], Built]) -> Callable[[], Built]:
        add(name, make, predicted, why, tangent_only)
        return make

    return wrap


def floats(*shape: int, batch: int = 3, spread: float = 0.7) -> InputMaker:
    """Normal inputs [batch, *shape]; each sample at its own scale exp(spread * normal)."""
    return several(shape, batch=batch, spread=spread)


def several(*shapes: tuple[int, ...], batch: int = 3, spread: float = 0.7) -> InputMaker:
    """Several float inputs, drawn independently, each [batch, *shape]."""

    def maker(seed: int) -> tuple[Tensor, ...]:
        gen = torch.Generator().manual_seed(seed)
        out = []
        for shape in shapes:
            scale = torch.exp(spread * torch.randn(batch, *(1 for _ in shape), generator=gen, dtype=torch.float64))
            out.append(scale * torch.randn(batch, *shape, generator=gen, dtype=torch.float64))
        return tuple(out)

    return maker


def tokens(vocabulary: int, length: int, batch: int = 3, streams: int = 1) -> InputMaker:
    """Integer inputs [batch, length], uniform over the whole vocabulary; `streams` of them."""

    def maker(seed: int) -> tuple[Tensor, ...]:
        gen = torch.Generator().manual_seed(seed)
        return tuple(torch.randint(0, vocabulary, (batch, length), generator=gen) for _ in range(streams))

    return maker


class Fn(nn.Module):
    """A parameter-free function as a module."""

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *x: Tensor) -> Tensor:
        return self.fn(*x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = body[0] if len(body) == 1 else nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def mlp(sizes: tuple[int, ...], act: Callable[[], nn.Module], bias: bool = True) -> nn.Sequential:
    """Linear layers of the given sizes with `act()` between them."""
    layers: list[nn.Module] = []
    for i, (m, n) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(m, n, bias=bias)] + ([act()] if i < len(sizes) - 2 else [])
    return nn.Sequential(*layers)
