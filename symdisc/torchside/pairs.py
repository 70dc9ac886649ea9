"""Pairs of dense layers U sigma(V x + b) of a torch model, found in its operator graph: where GL_h acts by data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput
from symdisc.opgraph import Op, OpGraph, Ref
from symdisc.torchside.capture import capture
from symdisc.torchside.interpret import call

__all__ = ["DensePair", "find_pairs"]

DENSE = "aten.linear"
# elementwise functions of one tensor; their other arguments must be numbers
POINTWISE = frozenset(f"aten.{n}" for n in (
    "relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh", "elu", "celu", "selu", "softplus", "mish", "hardtanh", "hardswish",
    "hardsigmoid", "relu6", "log_sigmoid", "sin", "cos", "exp", "erf", "square", "abs", "neg", "clamp", "pow", "mul", "add", "sub",
    "div"))


@dataclass(frozen=True)
class DensePair:
    """Dense modules ``lower`` (V, b) and ``upper`` (U) with sigma between them, and nothing else reading what is between.

    ``width`` is h, ``outputs`` the rows of U; ``sigma`` acts on tensors of any shape.
    """

    lower: str
    upper: str
    width: int
    outputs: int
    sigma: Callable[[Tensor], Tensor] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.lower} -> {self.upper} (h = {self.width})"

    def weights(self, model: nn.Module) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """V [h, n], b [h] or None, U [m, h] and the bias behind U, detached."""
        lower, upper = (_dense(model, n) for n in (self.lower, self.upper))
        found = (lower.weight, lower.bias, upper.weight, upper.bias)
        return tuple(None if t is None else t.detach() for t in found)  # type: ignore[return-value]

    def preactivations(self, model: nn.Module, *inputs: Any) -> Tensor:
        """V x + b on a batch, [n, h]; positions of a sequence count as samples."""
        seen: list[Tensor] = []
        handle = model.get_submodule(self.lower).register_forward_hook(lambda module, given, z: seen.append(z.detach()))
        try:
            with torch.no_grad():
                model(*inputs)
        finally:
            handle.remove()
        return seen[-1].reshape(-1, self.width)


def find_pairs(model: nn.Module, example: Sequence[Any]) -> list[DensePair]:
    """All pairs of ``nn.Linear`` modules with only elementwise functions between them, in the order in which they run.

    A layer that runs twice, shares its weight with another, or whose values are read elsewhere (a residual branch, a gate) is left
    out. Raises BadInput when there is no pair.
    """
    graph = capture(model, example).graph
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    found = [_pair(model, graph, op, readers) for op in graph.ops if op.packet == DENSE]
    pairs = [p for p in found if p is not None]
    if not pairs:
        raise BadInput(f"{type(model).__name__} has no two dense layers (nn.Linear) with only an elementwise function between them: "
                       "an ensemble needs such a pair")
    return pairs


def _pair(model: nn.Module, graph: OpGraph, lower: Op, readers: dict[str, list[Op]]) -> DensePair | None:
    chain: list[Op] = []
    name = lower.name
    while name not in graph.outputs and len(readers.get(name, [])) == 1:
        after = readers[name][0]
        if after.packet == DENSE:
            return _named(model, graph, lower, after, chain) if chain and _reads(after, name) else None
        if after.packet not in POINTWISE or after.inputs != (name,):
            return None
        chain.append(after)
        name = after.name
    return None


def _reads(op: Op, name: str) -> bool:
    return bool(op.args) and op.args[0] == Ref(name)


def _named(model: nn.Module, graph: OpGraph, lower: Op, upper: Op, chain: Sequence[Op]) -> DensePair | None:
    names = [_module(model, graph, op) for op in (lower, upper)]
    if None in names:
        return None
    first, second = (_dense(model, str(n)) for n in names)

    def sigma(z: Tensor, start: str = lower.name) -> Tensor:
        value = {start: z}
        for op in chain:
            value[op.name] = call(op, value)
        return value[chain[-1].name]

    return DensePair(str(names[0]), str(names[1]), first.out_features, second.out_features, sigma)


def _dense(model: nn.Module, name: str) -> nn.Linear:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def _module(model: nn.Module, graph: OpGraph, op: Op) -> str | None:
    """The nn.Linear that an operator came from, if it is its only use and its weight belongs to no other module."""
    weight = op.args[1]
    name = graph.parameters.get(weight.name) if isinstance(weight, Ref) else None
    if name is None or not name.endswith(".weight") or name in graph.aliases.values():
        return None
    uses = sum(weight.name in other.inputs for other in graph.ops)
    path = name.removesuffix(".weight")
    return path if uses == 1 and isinstance(model.get_submodule(path), nn.Linear) else None
