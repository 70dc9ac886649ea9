"""One pair of a torch module on a batch, for many elements g: what stands before sigma is computed once, not once per g.

A *site* is a pair (segments.py) whose writer is a module of its own (nn.Linear, nn.Conv1d, nn.Conv2d), so that g can be put
behind that module; readers are any weights, named as in the state_dict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput
from symdisc.opgraph import OpGraph
from symdisc.torchside.capture import capture
from symdisc.torchside.datadep.batch import transport
from symdisc.torchside.datadep.network import run
from symdisc.torchside.datadep.segments import Pair, find_pairs
from symdisc.torchside.interpret import ancestors, evaluate
from symdisc.torchside.network import Network, plain_kernels

__all__ = ["Sigma", "Site", "between", "sites", "turn", "writer_module"]

Sigma = Callable[[Tensor], Tensor]

# exact types: a subclass may hand its weight to another function and never run as a module (the output layer of attention)
WRITERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def writer_module(pair: Pair) -> str:
    """Name of the module that V and b belong to."""
    return pair.writer.weight.removesuffix(".weight")


def turn(pair: Pair, z: Tensor, g: Tensor) -> Tensor:
    """g z, for z of any shape whose feature axis is that of the writer: the second of a convolution, else the last."""
    axis = 1 if pair.writer.layout == "conv" else -1
    return (z.movedim(axis, -1) @ g.mT).movedim(-1, axis)


def sites(model: nn.Module, pairs: tuple[Pair, ...]) -> list[Pair]:
    """The pairs whose writer is a module, in the order in which they run; raises BadInput when there is none."""
    modules = dict(model.named_modules())
    found = [p for p in pairs if p.writer.weight.endswith(".weight") and type(modules.get(writer_module(p))) in WRITERS]
    if not found:
        raise BadInput(f"{type(model).__name__} has no pair of a linear or convolution module and the weights that alone read it: an "
                       "ensemble needs such a pair")
    return found


def between(graph: OpGraph, pair: Pair) -> Sigma:
    """What the pair does between its maps, from z alone, in the dtype of z; where it reads more, calling it raises KeyError."""
    tail = ancestors(graph, [pair.a], [pair.z])

    def sigma(z: Tensor) -> Tensor:
        found: Tensor = evaluate(tail, {pair.z: z}, [pair.a], z.dtype)[pair.a]
        return found

    return sigma


class Site:
    """``pair`` (the last by default) of ``model`` in eval mode, captured for as many inputs as ``x`` [n, ...] has; float64.

    Raises BadInput when there is no such pair.
    """

    def __init__(self, model: nn.Module, x: Tensor, pair: Pair | None = None) -> None:
        quiet = copy.deepcopy(model).eval()
        captured = capture(quiet, (x,))
        found = sites(model, find_pairs(captured.graph))
        same = [p for p in found if pair is None or p.name == pair.name]
        if not same:
            raise BadInput(f"the model has no pair {pair.name if pair else ''}; it has {'; '.join(p.name for p in found)}")
        self.model, self.pair, self.x, self.graph = model, same[-1], x, captured.graph
        self.network = Network(captured, quiet.state_dict())
        self._tail = ancestors(captured.graph, [self.pair.a], [self.pair.z])
        made = {op.name for op in self._tail}
        self._outside = tuple(dict.fromkeys(n for op in self._tail for n in op.inputs if n not in made)) or (self.pair.z,)

    # --- weights ----------------------------------------------------------------------------------------------------------
    @property
    def V(self) -> Tensor:
        """[h, n], the input of a convolution being a patch."""
        return self.pair.writer.matrix(self.network.parameters[self.pair.writer.weight])

    @property
    def U(self) -> Tensor:
        """[m, f], the rows of all readers one below the other."""
        return torch.cat([r.matrix(self.network.parameters[r.weight]) for r in self.pair.readers])

    @property
    def bias(self) -> Tensor | float:
        """Behind U, [m]; 0 when a reader has none."""
        found = [self.network.parameters[r.bias] for r in self.pair.readers if r.bias]
        return torch.cat(found) if len(found) == len(self.pair.readers) else 0.0

    # --- activations ------------------------------------------------------------------------------------------------------
    def values(self, x: Tensor) -> dict[str, Tensor]:
        """What sigma reads on inputs of the shape of ``x``: z, and for a gate or a norm whatever else."""
        batch = (x.double() if x.is_floating_point() else x,)
        with torch.no_grad():
            return run(self.network, self.network.parameters, tuple(dict.fromkeys((self.pair.z, *self._outside))), batch)

    def sigma(self, z: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The value that the readers read, from z; ``values`` may be left out where sigma reads z alone."""
        env: dict[str, Any] = {**(values or {}), self.pair.z: z}
        with plain_kernels():
            return evaluate(self._tail, env, [self.pair.a], torch.float64)[self.pair.a]

    def activations(self, values: Mapping[str, Tensor], g: Tensor | None = None) -> Tensor:
        """sigma(g Z) [f, k], the columns that U multiplies: one per sample and position."""
        z = values[self.pair.z]
        return self.pair.readers[0].columns(self.sigma(z if g is None else turn(self.pair, z, g), values))

    # --- copies -----------------------------------------------------------------------------------------------------------
    def default_count(self) -> int:
        """As many samples as can be kept exactly: f columns, divided by the columns of one sample."""
        columns = self.activations(self.values(self.x)).shape[1] // len(self.x)
        return max(1, min(self.pair.features // columns, len(self.x)))

    def members(self, g: Tensor, count: int, completion: str, seed: int) -> Tensor:
        """U_k = U pi(g_k, Z_k)^-1 [K, m, f] for g [K, h, h], each on ``count`` of the inputs drawn with ``seed``.

        With all inputs asked there is nothing to draw. Raises NotExact as ``batch.transport``.
        """
        whole = count >= len(self.x)
        at = self if whole else Site(self.model, self.x[:count], self.pair)  # a graph is captured for one size of batch
        draw = torch.Generator().manual_seed(seed)
        values = at.values(self.x) if whole else {}
        made = []
        for one in g:
            if not whole:
                values = at.values(self.x[torch.randperm(len(self.x), generator=draw)[:count]])
            before, after = at.activations(values), at.activations(values, one)
            made.append(self.U @ transport(after, before, completion))
        return torch.stack(made)
