"""Small networks, their catalogs and training loops for the tests of the monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import symdisc


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3))


def batch_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)


def wide() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 24), nn.Linear(24, 18), nn.Linear(18, 5))


SHAPES = {mlp: (16, 4), batch_norm: (16, 4), attention: (3, 5, 8), wide: (16, 20)}


@cache
def catalog(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> symdisc.Catalog:
    torch.manual_seed(0)
    return symdisc.discover(make().to(dtype).train(), (torch.randn(SHAPES[make], dtype=dtype),), solve=False)


def fresh(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return make().to(dtype).train()


def batches(make: Callable[[], nn.Module], steps: int, dtype: torch.dtype = torch.float64, skip: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for k in range(skip + steps):
        x = torch.randn(SHAPES[make], dtype=dtype, generator=generator)
        if k >= skip:
            yield x


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterator[Tensor]) -> None:
    for x in data:
        optimizer.zero_grad()
        out = model(x)
        (out - x.mean(-1, keepdim=True).tanh()).square().mean().backward()
        optimizer.step()


def monitored(make: Callable[[], nn.Module], model: nn.Module, steps: int, dtype: torch.dtype = torch.float64,
              **settings: Any) -> symdisc.Monitor:
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.02, **settings})
    monitor = symdisc.Monitor(catalog(make), model, optimizer, every=1)
    train(model, optimizer, batches(make, steps, dtype))
    return monitor


def errors(monitor: symdisc.Monitor) -> list[float]:
    return [r["error"] for r in monitor.records if r["error"] is not None]


def with_forward(forward: Callable[[nn.Sequential, Tensor], Tensor]) -> nn.Module:
    model = fresh(mlp)
    object.__setattr__(model, "forward", lambda x: forward(model, x))  # type: ignore[arg-type]
    return model
