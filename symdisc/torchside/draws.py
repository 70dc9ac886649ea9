"""Inputs to probe a network with: like the example, at many scales, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from symdisc.opgraph import OpGraph, refs

__all__ = ["draw", "draws", "kept", "vocabularies"]

Maker = Callable[[torch.Generator], Tensor]

# Samples differ in scale by about this factor (log-normal), so that the regions of piecewise functions are all met.
SPREAD = 0.7
# where each look-up along the first axis of its first argument takes the indices
LOOKUPS = {"aten.embedding": 1, "aten.embedding_bag": 1, "aten.index": 1}
INDEX_LAYOUT = frozenset(f"aten.{n}" for n in ("view", "_unsafe_view", "reshape", "clone", "alias", "detach", "_to_copy", "to",
                                               "unsqueeze", "squeeze", "expand", "slice", "select", "contiguous", "transpose",
                                               "permute", "t"))


def vocabularies(graph: OpGraph) -> dict[str, int]:
    """For each integer input that is looked up in a table, the number of rows of the smallest such table."""
    rows: dict[str, int] = {}
    origin = {n: n for n in graph.inputs}
    for op in graph.ops:
        if op.packet in INDEX_LAYOUT and op.inputs and op.inputs[0] in origin:
            origin[op.name] = origin[op.inputs[0]]
        if op.packet in LOOKUPS and len(op.args) > LOOKUPS[op.packet]:
            table, index = (list(refs(op.args[k])) for k in (0, LOOKUPS[op.packet]))
            source = origin.get(index[0]) if index else None
            shape = graph.shape(table[0]) if table else None
            if source is not None and shape:
                rows[source] = min(rows.get(source, shape[0]), shape[0])
    return rows


def draw(graph: OpGraph, example: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """One set of inputs in float64, reproducible by ``seed``.

    Floats are normal with the example's spread, each sample at a scale of its own, of one sign where the example is; token
    indices range over the whole vocabulary; masks and other switches stay as they are, unless nothing else varies.
    """
    return draws(graph, example, (seed,))[0]


def draws(graph: OpGraph, example: Sequence[Tensor], seeds: Iterable[int]) -> list[tuple[Tensor, ...]]:
    """A set of inputs for each seed, what is seen of graph and example looked at once."""
    tables = vocabularies(graph)
    switches = {n for n, x in zip(graph.inputs, example, strict=True) if kept(x, n in tables)}
    if len(switches) == len(graph.inputs):
        switches = {n for n, x in zip(graph.inputs, example, strict=True) if not x.is_floating_point() and n not in tables}
    made = [_fixed(x) if name in switches else _indices(x, tables.get(name)) if not x.is_floating_point() else _normal(x)
            for name, x in zip(graph.inputs, example, strict=True)]
    return [tuple(make(generator) for make in made) for generator in (torch.Generator().manual_seed(s) for s in seeds)]


def kept(x: Tensor, looked_up: bool) -> bool:
    """An additive mask, a mask of zeros and ones, an adjacency, an integer that is no index into a table: kept as given."""
    if not x.is_floating_point():
        return not looked_up
    finite = x[torch.isfinite(x)]
    both = bool((finite == 0).any()) and bool((finite == 1).any()) and bool(((finite == 0) | (finite == 1)).all())
    return finite.numel() < x.numel() or both


def _fixed(x: Tensor) -> Maker:
    return lambda _: x.double() if x.is_floating_point() else x


def _indices(x: Tensor, rows: int | None) -> Maker:
    return lambda generator: torch.randint(0, rows or 1, x.shape, generator=generator).to(x.dtype)


def _normal(x: Tensor) -> Maker:
    value = x.detach().double()
    finite = value[torch.isfinite(value)]
    spread = float(finite.std()) if finite.numel() > 1 else 1.0
    spread = spread if spread > 1e-6 else 1.0
    signed = bool(finite.min() < 0) or not bool(finite.any())

    def make(generator: torch.Generator) -> Tensor:
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64) * spread
        if value.dim():
            noise = noise * torch.exp(SPREAD * torch.randn(value.shape[:1], generator=generator, dtype=torch.float64)).reshape(
                -1, *[1] * (value.dim() - 1))
        return noise if signed else noise.abs()

    return make
