"""Which features of a node can mix: connected blocks of the node's own Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from symdisc.archgraph import ArchGraph, Node
from symdisc.torchside.derivatives import jacobian_at
from symdisc.torchside.interpret import ancestors, evaluate
from symdisc.torchside.network import Network, plain_kernels, real_entries

__all__ = ["node_blocks"]

# A node with a larger Jacobian than this is not taken apart: its features may then only scale, each alone.
LARGEST = 4_000_000


def node_blocks(network: Network, arch: ArchGraph, draws: Sequence[tuple[Tensor, ...]]) -> dict[str, list[np.ndarray]]:
    """For each node (by name) the index sets of its flattened outputs that share an input, found at a few draws."""
    graph = network.graph
    read = dict.fromkeys(v for node in arch.nodes for v in (*node.inputs, *node.context) if v in graph.by_name)
    ops = ancestors(graph, read)
    patterns: dict[str, Any] = {}
    for x in draws:
        env: dict[str, Any] = {**network.fixed, **dict(zip(graph.inputs, x, strict=True))}
        env.update({v: network.parameters[n] for v, n in graph.parameters.items()})
        with torch.no_grad(), plain_kernels():
            values = {**env, **evaluate(ops, env, list(read), torch.float64)}
        for node in arch.nodes:
            found = _pattern(node, arch, values)
            patterns[node.name] = found if node.name not in patterns or found is None else _union(patterns[node.name], found)
    return {name: _components(p) for name, p in patterns.items() if p is not None}


def _union(a: Any, b: Any) -> Any:
    return a if a is None else a | b


def _pattern(node: Node, arch: ArchGraph, values: dict[str, Any]) -> np.ndarray | None:
    """Non-zero entries of d outputs / d inputs, [outputs, inputs], complex numbers as two entries; None where it is too large."""
    graph = arch.graph
    ops = ancestors(graph, node.outputs, (*node.inputs, *node.context))
    tensors = {n: values[n] for n in node.inputs if isinstance(values[n], Tensor)}
    pairs = {n for n, v in tensors.items() if v.is_complex()}
    inputs = {n: torch.view_as_real(v) if n in pairs else v for n, v in tensors.items() if n in pairs or v.is_floating_point()}
    rest = {n: values[n] for n in (*node.inputs, *node.context) if n not in inputs}

    def run(z: dict[str, Tensor]) -> Tensor:
        given = {n: torch.view_as_complex(v) if n in pairs else v for n, v in z.items()}
        out = evaluate(ops, {**rest, **given}, node.outputs, torch.float64)
        return torch.cat([real_entries(out[o]).reshape(-1) for o in node.outputs])

    try:
        with plain_kernels():
            with torch.no_grad():
                count = run(inputs).numel()
            if count * sum(z.numel() for z in inputs.values()) > LARGEST:
                return None
            return jacobian_at(run, inputs).ne(0).numpy()
    except RuntimeError:
        return None  # no derivative rule: nothing is known of the blocks, so each feature stands alone


def _components(pattern: np.ndarray) -> list[np.ndarray]:
    outputs, inputs = pattern.shape
    rows, columns = np.nonzero(pattern)
    n = outputs + inputs
    links = coo_matrix((np.ones(len(rows)), (rows, columns + outputs)), shape=(n, n))
    labels = connected_components(links, directed=False)[1][:outputs]
    order = np.argsort(labels, kind="stable")
    cuts = np.nonzero(np.diff(labels[order]))[0] + 1
    return [np.sort(b) for b in np.split(order, cuts)]
