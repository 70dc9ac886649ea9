"""All symmetry of a network on a fixed data set: D - rank J there, beside what the generators span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import NotExact, Undecided
from symdisc.exact import null_space
from symdisc.torchside.capture import Capture
from symdisc.torchside.datadep.network import batch_of, generators, run
from symdisc.torchside.datadep.segments import Map, Pair, find_pairs
from symdisc.torchside.network import Network, jacobian_rows

__all__ = ["OnData", "blind_rows", "count_on_data"]


@dataclass(frozen=True)
class OnData:
    """``fibre`` = D - rank J on the batch; ``acting`` dimensions are spanned by the pairs' generators, ``blind`` by changes of single
    maps that the batch does not see, ``catalog`` by the catalog's, ``found`` by all together. ``outside`` is how far they leave the
    fibre (relative), ``refused`` the pairs that have no exact action on this batch, with the reason."""

    fibre: int
    found: int
    acting: int
    blind: int
    catalog: int
    outside: float
    refused: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.found == self.fibre


def count_on_data(captured: Capture, state: dict[str, Tensor], inputs: Sequence[Any] | None = None,
                  catalog_rows: np.ndarray | None = None) -> OnData:
    """Dimensions of symmetry on the batch; ``catalog_rows`` [count, D] are tangents of the catalog's families (optional).

    Raises Undecided when a rank has no clear gap.
    """
    network, batch = Network(captured, state), batch_of(captured, inputs)
    jac = jacobian_rows(network.function(network.graph.outputs), network.parameters, [batch])
    fibre = null_space(jac, what="Jacobian on the batch")
    pairs = find_pairs(captured.graph)
    acting, refused = _acting(network, pairs, batch)
    maps = {m.op: m for p in pairs for m in (p.writer, *p.readers)}
    blind = np.concatenate([blind_rows(network, m, batch) for m in maps.values()] or [np.zeros((0, network.size))])
    known = np.zeros((0, network.size)) if catalog_rows is None else catalog_rows
    together = _unit(np.concatenate([acting, blind, known]))
    outside = float(np.abs(together - (together @ fibre.basis) @ fibre.basis.T).max()) if len(together) else 0.0
    return OnData(fibre.dimension, _rank(together), _rank(_unit(acting)), _rank(_unit(blind)), _rank(_unit(known)), outside,
                  tuple(refused))


def _acting(network: Network, pairs: Sequence[Pair], batch: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    rows, refused = [np.zeros((0, network.size))], []
    for p in pairs:
        try:
            rows.append(generators(network, p, batch).detach().numpy())
        except NotExact as error:
            refused.append(f"{p.name}: {error}")
    return np.concatenate(rows), refused


def blind_rows(network: Network, m: Map, batch: Sequence[Any]) -> np.ndarray:
    """Changes of one map (weight and bias) with no effect on its outputs on the batch: [count, D]."""
    with torch.no_grad():
        x = m.columns(run(network, network.parameters, [m.reads], batch)[m.reads])
    seen = torch.cat([x, torch.ones(1, x.shape[1], dtype=x.dtype)]) if m.bias else x
    unseen = torch.from_numpy(null_space(seen.T.numpy(), what=f"inputs of {m.weight} on the batch").basis.T.copy())
    weight = network.parameters[m.weight]
    outs = m.matrix(weight).shape[0]
    rows = []
    for direction in unseen:
        for i in range(outs):
            change = torch.zeros(outs, len(direction), dtype=torch.float64)
            change[i] = direction
            found = {m.weight: m.weight_of(change[:, :x.shape[0]], weight)}
            if m.bias:
                found[m.bias] = change[:, -1]
            rows.append(torch.cat([found[n].reshape(-1) if n in found else torch.zeros(p.numel(), dtype=torch.float64)
                                   for n, p in network.parameters.items()]).numpy())
    return np.stack(rows) if rows else np.zeros((0, network.size))


def _unit(rows: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(rows, axis=1)
    return rows[size > 1e-12] / size[size > 1e-12, None]


def _rank(rows: np.ndarray) -> int:
    if not len(rows):
        return 0
    try:
        return null_space(rows, what="generators on the batch").rank
    except Undecided as error:
        raise Undecided(f"{error} (generators on the batch)") from error
