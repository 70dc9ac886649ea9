"""Pairs U sigma(V x + b) in any captured network, found in its operator graph alone (no module names).

A *writer* is a linear map or convolution whose weight V nobody else uses. Everything that its output z reaches before the
next such maps is sigma: a pair exists when z reaches the outputs only through one value a, read by maps U. So sigma may be an
activation, a gate, a pool with a flatten, a norm, an attention core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symdisc.archgraph import is_linear
from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["Map", "Pair", "find_pairs"]

CONVS = {"aten.conv1d": 1, "aten.conv2d": 2}


@dataclass(frozen=True)
class Map:
    """One parameterised linear map of the graph: operator, the value it reads, canonical names of weight and bias.

    ``layout``: 'out in' (linear), 'in out' (addmm, matmul) or 'conv'; ``geometry`` the kernel, stride, padding and dilation.
    """

    op: str
    reads: str
    weight: str
    bias: str | None
    layout: str
    geometry: tuple[tuple[int, ...], ...] = ()

    def matrix(self, weight: Tensor) -> Tensor:
        """[out, in]; the input of a convolution is a patch."""
        return weight.T if self.layout == "in out" else weight.flatten(1)

    def weight_of(self, matrix: Tensor, like: Tensor) -> Tensor:
        return matrix.T.contiguous() if self.layout == "in out" else matrix.reshape(like.shape)

    def columns(self, value: Tensor) -> Tensor:
        """What the map multiplies, samples and positions as columns: [in, k]."""
        if self.layout != "conv":
            return value.reshape(-1, value.shape[-1]).T
        kernel, stride, padding, dilation = self.geometry
        if len(kernel) == 1:
            value = value.unsqueeze(-2)
            kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
        return F.unfold(value, kernel, dilation, padding, stride).transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Pair:
    """Writer V, b; readers U of the one value ``a``; ``width`` h of z, ``features`` of what the readers multiply.

    ``packets`` are the nonlinear operators of sigma, ``ops`` all of its operators in order.
    """

    writer: Map
    readers: tuple[Map, ...]
    z: str
    a: str
    width: int
    features: int
    ops: tuple[str, ...]
    packets: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.writer.weight} → {', '.join(r.weight for r in self.readers)}"

    @property
    def parameters(self) -> tuple[str, ...]:
        bias = (self.writer.bias,) if self.writer.bias else ()
        return (self.writer.weight, *bias, *(r.weight for r in self.readers))

    @property
    def sigma(self) -> str:
        return " ".join(p.removeprefix("aten.") for p in self.packets) or "identity"


def find_pairs(graph: OpGraph) -> tuple[Pair, ...]:
    """All pairs, in order of execution."""
    maps = {op.name: found for op in graph.ops if op.name in graph.live and (found := _map(graph, op)) is not None}
    pairs = [_pair(graph, maps, writer) for writer in maps.values()]
    return tuple(p for p in pairs if p is not None)


def _alone(graph: OpGraph, value: str) -> bool:
    """A parameter that one operator reads, once, and that is tied to no other."""
    name = graph.parameters[value]
    users = [o for o in graph.users.get(value, ()) if o.name in graph.live]
    twins = [v for v, n in graph.parameters.items() if n == name and v in graph.live]
    return len(users) == 1 and users[0].inputs.count(value) == 1 and len(twins) == 1


def _own(graph: OpGraph, arg: Any) -> str | None:
    return arg.name if isinstance(arg, Ref) and arg.name in graph.parameters and _alone(graph, arg.name) else None


def _map(graph: OpGraph, op: Op) -> Map | None:
    args = [*op.args, *(None,) * 7]
    if op.packet == "aten.addmm":
        bias_arg, x, weight_arg, layout = args[0], args[1], args[2], "in out"
    elif op.packet in ("aten.matmul", "aten.mm"):
        x, weight_arg, bias_arg, layout = args[0], args[1], None, "in out"
    elif op.packet == "aten.linear" or op.packet in CONVS:
        x, weight_arg, bias_arg, layout = args[0], args[1], args[2], "out in" if op.packet == "aten.linear" else "conv"
    else:
        return None
    weight, bias = _own(graph, weight_arg), _own(graph, bias_arg)
    plain = not op.kwargs and isinstance(x, Ref) and x.name not in graph.parameters
    if weight is None or not plain or (bias is None and bias_arg is not None):
        return None
    shape = graph.shape(weight) or ()
    geometry = _geometry(op, shape) if layout == "conv" else ()
    if geometry is None or (layout != "conv" and len(shape) != 2):
        return None
    return Map(op.name, x.name, graph.parameters[weight], graph.parameters[bias] if bias else None, layout, geometry)


def _geometry(op: Op, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...] | None:
    """Kernel, stride, padding, dilation; None for groups and for padding by name."""
    n = CONVS[op.packet]
    defaults: list[Any] = [1, 0, 1, 1]
    stride, padding, dilation, groups = [*op.args[3:7], *defaults[max(0, len(op.args) - 3):]]
    if groups != 1 or isinstance(padding, str):
        return None
    given = [tuple(v) if isinstance(v, (tuple, list)) else (v,) for v in (stride, padding, dilation)]
    return (tuple(shape[2:]), *(v if len(v) == n else v * n for v in given))


def _pair(graph: OpGraph, maps: dict[str, Map], writer: Map) -> Pair | None:
    z, region, exits = writer.op, [], {}
    frontier, seen = [z], {z}
    while frontier:
        value = frontier.pop()
        if value in graph.outputs:
            return None
        for user in graph.users.get(value, ()):
            if user.name not in graph.live or user.name in seen:
                continue
            seen.add(user.name)
            reader = maps.get(user.name)
            if reader is not None and reader.reads == value and user.inputs.count(value) == 1:
                exits[user.name] = reader
            else:
                region.append(user.name)
                frontier.append(user.name)
    values = {r.reads for r in exits.values()}
    if len(values) != 1 or any(n in exits for n in region) or len({r.geometry for r in exits.values()}) != 1:
        return None
    inside = [op for op in graph.ops if op.name in region]
    readers = tuple(exits[op.name] for op in graph.ops if op.name in exits)
    packets = tuple(dict.fromkeys(op.packet for op in inside if not is_linear(graph, op)))
    return Pair(writer, readers, z, readers[0].reads, _width(graph, writer), _features(graph, readers[0]),
                tuple(op.name for op in inside), packets)


def _value_of(graph: OpGraph, name: str) -> tuple[int, ...]:
    return graph.shapes[next(v for v, n in graph.parameters.items() if n == name)]


def _width(graph: OpGraph, m: Map) -> int:
    return _value_of(graph, m.weight)[1 if m.layout == "in out" else 0]


def _features(graph: OpGraph, m: Map) -> int:
    shape = _value_of(graph, m.weight)
    return shape[0] if m.layout == "in out" else int(torch.Size(shape[1:]).numel())
