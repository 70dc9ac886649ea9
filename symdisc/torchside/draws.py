"""Inputs to probe a network with: like the example, at many scales, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from symdisc.opgraph import OpGraph
from symdisc.torchside.domains import held, one_signed, ranges

__all__ = ["draw", "draws"]

Maker = Callable[[torch.Generator], Tensor]

# Samples differ in scale by about this factor (log-normal), so that the regions of piecewise functions are all met.
SPREAD = 0.7


def draw(graph: OpGraph, example: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """One set of inputs in float64, reproducible by ``seed``.

    Floats are normal with the example's spread, each sample at a scale of its own, positive where the network takes a root or a
    logarithm of them; whole numbers vary in their ranges, see ``domains``; masks and other switches stay as they are, unless
    nothing else varies.
    """
    return draws(graph, example, (seed,))[0]


def draws(graph: OpGraph, example: Sequence[Tensor], seeds: Iterable[int]) -> list[tuple[Tensor, ...]]:
    """A set of inputs for each seed, what is seen of graph and example looked at once."""
    whole = ranges(graph, example)
    fixed = held(graph, example, whole)
    if len(fixed) == len(graph.inputs):
        fixed = {n: x for n, x in fixed.items() if not x.is_floating_point()}
    positive = one_signed(graph, example)
    made = [_fixed(x) if name in fixed else _whole(x, *whole[name]) if name in whole else _normal(x, name in positive)
            for name, x in zip(graph.inputs, example, strict=True)]
    return [tuple(make(generator) for make in made) for generator in (torch.Generator().manual_seed(s) for s in seeds)]


def _fixed(x: Tensor) -> Maker:
    return lambda _: x.double() if x.is_floating_point() else x


def _whole(x: Tensor, low: int, high: int) -> Maker:
    return lambda generator: torch.randint(low, high + 1, x.shape, generator=generator).to(x.dtype)


def _normal(x: Tensor, positive: bool) -> Maker:
    value = x.detach().double()
    finite = value[torch.isfinite(value)]
    spread = float(finite.std()) if finite.numel() > 1 else 1.0
    spread = spread if spread > 1e-6 else 1.0

    def make(generator: torch.Generator) -> Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64) * spread
        if value.dim():
            noise = noise * torch.exp(SPREAD * torch.randn(value.shape[:1], generator=generator, dtype=torch.float64)).reshape(
                -1, *[1] * (value.dim() - 1))
        return noise.abs() if positive else noise

    return make
