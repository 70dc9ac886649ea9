"""Products of stored tensors entry by entry, a b, broadcast: what multiplies an entry of a divides the entries of b that it meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from symdisc.families.naming import describe_torus
from symdisc.moves import Index, Move
from symdisc.opgraph import Op, Ref
from symdisc.symmetry import Symmetry
from symdisc.torchside.capture import Capture
from symdisc.torchside.charts import PASS, Made

__all__ = ["scales_between_factors"]


def scales_between_factors(captured: Capture, moved: frozenset[str]) -> list[Symmetry]:
    """One positive scale for each set of entries that hang together in a product, of tensors that serve it alone.

    Tensors in ``moved`` have families of their own, which may contain these; they are left to those.
    """
    made = Made(captured)
    found: list[Symmetry] = []
    for op in made.values:
        names = [a.name for a in op.args[:2] if isinstance(a, Ref)] if op.packet == "aten.mul" else []
        if len(names) == 2 and not op.kwargs and all(len(made.sources.get(n, ())) == 1 for n in names):
            one, other = (next(iter(made.sources[n])) for n in names)
            if one != other and not {one, other} & moved and all(_serves(made, n, op) for n in (one, other)):
                found += _scales(made, op, names, (one, other))
    return found


def _serves(made: Made, name: str, product: Op) -> bool:
    """Nothing is made of the parameter but copies in other layouts, and nothing reads those but the product."""
    graph = made.graph
    frontier = [v for v, n in graph.parameters.items() if n == name]
    while frontier:
        value = frontier.pop()
        users = [u for u in graph.users.get(value, ()) if u.name in graph.live]
        if value in graph.outputs or any(u.name != product.name and u.packet not in PASS for u in users):
            return False
        frontier += [u.name for u in users if u.name != product.name]
    return True


def _scales(made: Made, op: Op, values: list[str], names: tuple[str, str]) -> Iterator[Symmetry]:
    entries = made.run(values, lambda _, t: torch.arange(t.numel(), dtype=torch.float64).reshape(t.shape))
    if entries is None:
        return
    a, b = (np.asarray(t.broadcast_to(op.shape or ()).reshape(-1).long()) for t in entries)
    sizes = [int(np.prod(made.graph.shapes[next(v for v, n in made.graph.parameters.items() if n == name)])) for name in names]
    met = coo_matrix((np.ones(len(a)), (a, sizes[0] + b)), shape=(sum(sizes),) * 2)
    _, label = connected_components(met, directed=False)
    units, label = np.unique(label, return_inverse=True)
    parts = np.split(label, [sizes[0]])
    counts = [np.bincount(p, minlength=len(units)) for p in parts]
    if any(len(set(c.tolist())) != 1 or c[0] == 0 for c in counts):
        return  # entries that are not used, or sets of different sizes
    moves = tuple(Move("scale", name, -1, Index.of(np.argsort(part, kind="stable").reshape(len(units), -1).T[:, :, None]), power=power)
                  for name, part, power in zip(names, parts, (1.0, -1.0), strict=True))
    modules = [n.rpartition(".")[0] for n in names]
    yield replace(describe_torus(len(units), moves, names, modules, False), name="scale between factors",
                  condition=r"(c\, a)(c^{-1} b) = a b,\; c > 0")
