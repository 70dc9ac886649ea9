"""Operator graph -> architecture graph: nodes (parameter-free nonlinear pieces) and the segments between them.

A *segment* is everything that is affine in the activations: parameterised linear maps, residual adds, layout. A *node* is a
maximal piece that is not: nonlinear operators joined through parameter-free linear ones. Every node input is then the
output of a segment, and the whole network is ``z_k = segment_k(theta, y, x)``, ``y_k = node_k(z_k)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from symdisc.opgraph import Op, OpGraph

__all__ = ["MULTILINEAR", "ArchGraph", "Node", "build", "is_linear", "known_linear"]

# affine in all activations jointly, whatever the number of them
ADDITIVE = frozenset(f"aten.{n}" for n in (
    "add", "sub", "rsub", "neg", "mean", "sum", "cumsum", "cat", "stack", "view", "_unsafe_view", "reshape", "clone", "transpose",
    "permute", "unsqueeze", "squeeze", "expand", "alias", "detach", "_to_copy", "to", "type_as", "t", "slice", "select", "split",
    "split_with_sizes", "chunk", "unbind", "repeat", "flip", "roll", "narrow", "contiguous", "unfold", "constant_pad_nd", "pad",
    "diagonal", "flatten", "movedim", "tile", "pixel_shuffle", "pixel_unshuffle", "im2col", "col2im", "slice_scatter",
    "select_scatter", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d", "tril", "triu",
    "positive", "trace", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "copy", "real",
    "imag", "view_as_real", "view_as_complex", "expand_as", "view_as", "unflatten", "swapaxes", "adaptive_avg_pool3d",
    "numpy_T", "mT", "hstack", "vstack", "concat", "ravel", "sum_to_size", "lift_fresh_copy", "fft_fft", "fft_ifft", "fft_rfft",
    "fft_irfft", "fft_fft2", "fft_fftn", "native_channel_shuffle", "channel_shuffle", "rot90", "diff",
)) | {"getitem"}
# affine in each operand, so affine while at most one operand is an activation
MULTILINEAR = frozenset(f"aten.{n}" for n in (
    "mul", "matmul", "mm", "bmm", "mv", "dot", "linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "addmm", "baddbmm", "addcmul", "einsum", "outer", "inner", "vdot", "kron",
    "tensordot", "bilinear", "addmv", "addbmm", "chain_matmul", "linalg_multi_dot", "ger", "addr",
))
# affine in the operands at these positions, while the others do not depend on activations
POSITIONAL = {
    "aten.div": (0,), "aten.where": (1, 2), "aten.masked_fill": (0,), "aten.embedding": (0,), "aten.index": (0,),
    "aten.index_select": (0,), "aten.gather": (0,), "aten.repeat_interleave": (0,), "aten.index_add": (0, 3),
    "aten.scatter_add": (0, 3), "aten.index_put": (0, 2), "aten.scatter": (0, 3), "aten.take": (0,), "aten.lerp": (0, 1),
    "aten.masked_scatter": (0, 2), "aten.true_divide": (0,),
}


def known_linear(packet: str) -> bool:
    """The operator is affine in at least one operand by its definition."""
    return packet in ADDITIVE or packet in MULTILINEAR or packet in POSITIONAL


def is_linear(graph: OpGraph, op: Op) -> bool:
    """The operator is affine in the activations that it reads (parameters and data held fixed)."""
    acts = [n for n in op.inputs if graph.is_activation(n)]
    if op.packet in ADDITIVE:
        return True
    if op.packet in MULTILINEAR:
        if op.packet in ("aten.addmm", "aten.baddbmm", "aten.addcmul", "aten.addmv", "aten.addbmm", "aten.addr"):
            acts = [n for n in op.inputs[1:] if graph.is_activation(n)]
        return len(acts) <= 1
    if op.packet in POSITIONAL:
        allowed: set[str] = set()
        for position in POSITIONAL[op.packet]:
            if position < len(op.args):
                allowed.update(n for n in _names(op.args[position]))
        return all(n in allowed for n in acts)
    return not acts and not _mixes(graph, op)


def _mixes(graph: OpGraph, op: Op) -> bool:
    """A theta-only and a data-only operand meet in an operator that is not multilinear."""
    return graph.is_activation(op.name)


def _names(arg: object) -> Iterable[str]:
    from symdisc.opgraph import refs

    return refs(arg)


@dataclass(frozen=True)
class Node:
    """A parameter-free nonlinear piece: ``outputs = f(inputs; context)``.

    ``inputs`` are values that depend on parameters; ``context`` values (masks, positions, constants, raw data) do not.
    ``ops`` are the operators inside, in execution order. ``packets`` name the nonlinear ones.
    """

    name: str
    ops: tuple[str, ...]
    inputs: tuple[str, ...]
    context: tuple[str, ...]
    outputs: tuple[str, ...]
    packets: tuple[str, ...]
    module: str


@dataclass(frozen=True)
class ArchGraph:
    """The cut operator graph. ``nodes`` in execution order; everything outside them is a segment."""

    graph: OpGraph
    nodes: tuple[Node, ...]

    @cached_property
    def node_of(self) -> dict[str, Node]:
        """Operator or output value name -> the node that contains it."""
        return {op: node for node in self.nodes for op in node.ops}

    @cached_property
    def produced(self) -> dict[str, Node]:
        return {value: node for node in self.nodes for value in node.outputs}

    def segment(self, target: str) -> tuple[tuple[Op, ...], tuple[str, ...], tuple[str, ...]]:
        """Operators, node outputs read, and parameter values read by the segment that ends in ``target``."""
        graph, need, ops = self.graph, {target}, []
        sources: set[str] = set()
        for op in reversed(graph.ops):
            if op.name not in need:
                continue
            if op.name in self.produced:
                sources.add(op.name)
                continue
            ops.append(op)
            need.update(op.inputs)
        params = tuple(v for v in graph.parameters if v in need)
        return tuple(reversed(ops)), tuple(sorted(sources)), params

    @cached_property
    def networkx(self) -> nx.MultiDiGraph:
        """Nodes, inputs and outputs as vertices; segments as edges labelled with the parameters that they carry."""
        g = nx.MultiDiGraph()
        for name in self.graph.inputs:
            g.add_node(name, kind="input", label=name)
        for node in self.nodes:
            label = " ".join(dict.fromkeys(p.removeprefix("aten.") for p in node.packets))
            g.add_node(node.name, kind="node", label=label, module=node.module)
        targets = [(z, node.name) for node in self.nodes for z in node.inputs]
        for out in self.graph.outputs:
            g.add_node(f"output:{out}", kind="output", label=out)
            targets.append((out, f"output:{out}"))
        for value, vertex in targets:
            _, sources, params = self._edge(value)
            names = tuple(self.graph.parameters[p] for p in params)
            origins = {self.produced[s].name if s in self.produced else s for s in sources}
            for origin in sorted(origins) or ["constant"]:
                g.add_edge(origin, vertex, value=value, parameters=names)
        return g

    def _edge(self, value: str) -> tuple[tuple[Op, ...], tuple[str, ...], tuple[str, ...]]:
        if value in self.produced:
            return (), (value,), ()
        ops, sources, params = self.segment(value)
        read = {n for op in ops for n in op.inputs}
        raw = tuple(n for n in self.graph.inputs if n in read or n == value)
        return ops, (*sources, *raw), params


class _Clusters:
    """Union-find over nonlinear operators, grown in execution order."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.parent: dict[str, str] = {}
        self.entry: dict[str, set[str]] = {}  # cluster -> roots of its inputs that are segment values
        self.roots: dict[str, frozenset[str]] = {}  # value -> where it comes from through parameter-free linear operators
        self.first: dict[str, str] = {}  # segment root -> first cluster that reads it

    def find(self, op: str) -> str:
        while self.parent[op] != op:
            self.parent[op] = self.parent[self.parent[op]]
            op = self.parent[op]
        return op

    def union(self, a: str, b: str) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[b] = a
            self.entry[a] |= self.entry.pop(b)

    def add(self, op: Op) -> None:
        """A nonlinear operator starts a cluster and joins those that feed it or share an input with it."""
        self.parent[op.name] = op.name
        self.entry[op.name] = set()
        for value in op.inputs:
            if not self.graph.varies(value):
                continue
            for root in self.roots.get(value, frozenset({value})):
                if root in self.parent:
                    self.union(root, op.name)
                else:
                    self.entry[self.find(op.name)].add(root)
                    if self.graph.is_activation(root):
                        self.union(self.first.setdefault(root, op.name), op.name)
        self.roots[op.name] = frozenset({op.name})

    def pass_through(self, op: Op) -> None:
        """A linear operator hands on the roots of its operands if it is free of parameters and mixes no strangers."""
        varying = [n for n in op.inputs if self.graph.varies(n)]
        if any(not self.graph.is_activation(n) for n in varying):
            self.roots[op.name] = frozenset({op.name})
            return
        roots = frozenset().union(*(self.roots.get(n, frozenset({n})) for n in varying))
        inner = {self.find(r) for r in roots if r in self.parent}
        outer = {r for r in roots if r not in self.parent}
        friendly = not inner or (len(inner) == 1 and outer <= self.entry[next(iter(inner))])
        if len(roots) == 1 or (friendly and (inner or len(roots) <= 1)):
            self.roots[op.name] = roots
        else:
            self.roots[op.name] = frozenset({op.name})


def build(graph: OpGraph) -> ArchGraph:
    """Cut the operator graph into nodes and segments."""
    clusters = _Clusters(graph)
    linear: set[str] = set()
    for op in graph.ops:
        if op.name not in graph.live or not graph.is_activation(op.name):
            continue
        if is_linear(graph, op):
            linear.add(op.name)
            clusters.pass_through(op)
        else:
            clusters.add(op)
    groups: dict[str, list[str]] = {}
    for name in clusters.parent:
        groups.setdefault(clusters.find(name), []).append(name)
    nodes = [_node(graph, clusters, linear, members) for members in groups.values()]
    order = {op.name: i for i, op in enumerate(graph.ops)}
    return ArchGraph(graph, tuple(sorted(nodes, key=lambda n: order[n.ops[-1]])))


def _node(graph: OpGraph, clusters: _Clusters, linear: set[str], members: list[str]) -> Node:
    inside = set(members) | _internal(graph, clusters, linear, set(members))
    inside |= _closing_sums(graph, inside)
    ops = [op for op in graph.ops if op.name in inside]
    read = dict.fromkeys(n for op in ops for n in op.inputs if n not in inside)
    inputs = tuple(n for n in read if graph.varies(n))
    context = tuple(n for n in read if not graph.varies(n))
    outputs = tuple(op.name for op in ops if op.name in graph.outputs
                    or any(u.name not in inside and u.name in graph.live for u in graph.users.get(op.name, ())))
    outputs = _untuple(graph, inside, outputs)
    packets = tuple(graph.by_name[m].packet for m in members)
    return Node(f"node:{ops[-1].name}", tuple(op.name for op in ops), inputs, context, outputs, packets,
                graph.by_name[members[0]].module)


def _internal(graph: OpGraph, clusters: _Clusters, linear: set[str], members: set[str]) -> set[str]:
    """Linear operators on a path from one member to another."""
    inside: set[str] = set()
    frontier = [n for m in members for n in graph.by_name[m].inputs]
    after = _descendants(graph, members, linear)
    while frontier:
        name = frontier.pop()
        if name in linear and name in after and name not in inside and not (clusters.roots[name] == {name}):
            inside.add(name)
            frontier.extend(graph.by_name[name].inputs)
    return inside


def _descendants(graph: OpGraph, members: set[str], linear: set[str]) -> set[str]:
    """Values reached from a member through linear operators only."""
    reached: set[str] = set()
    for op in graph.ops:
        if op.name in linear and any(n in members or n in reached for n in op.inputs):
            reached.add(op.name)
    return reached


def _closing_sums(graph: OpGraph, inside: set[str]) -> set[str]:
    """Sums whose summands are all made here from products: their terms mean nothing apart (gates, mixtures of experts)."""
    added: set[str] = set()
    products = {"aten.mul", "aten.bmm", "aten.matmul"}
    for op in graph.ops:
        here = inside | added
        varying = [n for n in op.inputs if graph.varies(n)]
        if op.name in here or not varying or not all(n in here for n in varying) or op.name not in graph.live:
            continue
        private = all(all(u.name in here or u.name == op.name for u in graph.users[n]) for n in varying)
        made = all(graph.by_name[n].packet in products or n in added for n in varying)
        several = len(varying) > 1 and op.packet in ("aten.add", "aten.sub")
        if private and made and (several or op.packet == "aten.sum"):
            added.add(op.name)
    return added


def _untuple(graph: OpGraph, inside: set[str], outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Replace tuple-valued outputs by their elements."""
    flat: list[str] = []
    for name in outputs:
        if graph.by_name[name].shape is not None:
            flat.append(name)
        else:
            flat.extend(u.name for u in graph.users.get(name, ()) if u.target == "getitem" and u.name in graph.live)
    return tuple(dict.fromkeys(flat))
