"""Graph networks of torch_geometric on a small fixed graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.coverage.builders import Built

__all__ = ["MODELS"]

NODES, FEATURES, HIDDEN, CLASSES = 7, 5, 4, 2  # as many features as units and more: fewer would hide parts of the attention vectors


class _Two(nn.Module):
    """Two graph layers with ReLU between them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x, edges)), edges)
        return out


def _edges() -> Tensor:
    """A ring with three chords, in both directions, and every loop: layers that add loops themselves drop the given ones first,
    and how many there are depends on the data, which export does not follow."""
    pairs = [(i, (i + 1) % NODES) for i in range(NODES)] + [(0, 3), (1, 5), (2, 6)]
    loops = [(i, i) for i in range(NODES)]
    return torch.tensor([*pairs, *[(b, a) for a, b in pairs], *loops]).T.contiguous()


def _of(make: Callable[[Any], nn.Module]) -> Callable[[], Built]:
    def built() -> Built:
        from torch_geometric import nn as pyg

        return Built(make(pyg), (torch.randn(NODES, FEATURES), _edges()))

    return built


def _mlp(i: int, o: int) -> nn.Module:
    return nn.Sequential(nn.Linear(i, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, o))


MODELS: Mapping[str, Callable[[], Built]] = {
    "pyg_gcn": _of(lambda g: _Two(g.GCNConv(FEATURES, HIDDEN, add_self_loops=False),
                                  g.GCNConv(HIDDEN, CLASSES, add_self_loops=False))),
    "pyg_gat": _of(lambda g: _Two(g.GATConv(FEATURES, HIDDEN, heads=2, add_self_loops=False),
                                  g.GATConv(2 * HIDDEN, CLASSES, add_self_loops=False))),
    "pyg_gin": _of(lambda g: _Two(g.GINConv(_mlp(FEATURES, HIDDEN), train_eps=True), g.GINConv(_mlp(HIDDEN, CLASSES)))),
    "pyg_sage": _of(lambda g: _Two(g.SAGEConv(FEATURES, HIDDEN), g.SAGEConv(HIDDEN, CLASSES))),
}
