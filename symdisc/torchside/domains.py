"""What values an input may take beside those of the example: indices and labels their whole range, counts others of their kind.

An integer says nothing of its range. Where it picks rows of a table, directly or after sums and products with numbers, or one of so
many classes, the table gives it; where it is turned into a floating-point number (a time step, a pixel) it is a quantity. Masks,
switches and the edges of a graph stay as they are given: with others the network would be another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from symdisc.opgraph import Op, OpGraph, Ref, refs

__all__ = ["held", "one_signed", "ranges", "vocabularies"]

Range = tuple[int, int]  # lowest and highest value

# where each look-up along the first axis of its first argument takes the indices
LOOKUPS = {"aten.embedding": 1, "aten.embedding_bag": 1, "aten.index": 1}
LAYOUT = frozenset(f"aten.{n}" for n in ("view", "_unsafe_view", "reshape", "clone", "alias", "detach", "_to_copy", "to", "unsqueeze",
                                         "squeeze", "expand", "slice", "select", "contiguous", "transpose", "permute", "t"))
JOINS = frozenset({"aten.cat", "aten.stack"})
NUMBERWISE: dict[str, Callable[..., Tensor]] = {
    "aten.add": torch.add, "aten.sub": torch.sub, "aten.rsub": torch.rsub, "aten.mul": torch.mul, "aten.remainder": torch.remainder,
    "aten.floor_divide": torch.floor_divide, "aten.clamp": torch.clamp, "aten.clamp_min": torch.clamp_min, "aten.clamp_max":
    torch.clamp_max, "aten.neg": torch.neg, "aten.abs": torch.abs, "aten.fmod": torch.fmod}
DENSE = frozenset(f"aten.{n}" for n in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d", "convolution",
                                        "einsum"))
POSITIVE = frozenset(f"aten.{n}" for n in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "xlogy", "lgamma", "digamma", "acosh"))
FARTHEST = 2**22  # values that are looked at: a date in seconds would fill the memory
LEAST_COUNT = 15  # a quantity ranges at least so far


def vocabularies(graph: OpGraph) -> dict[str, int]:
    """For each integer input that is looked up in a table, the number of rows of the smallest such table."""
    rows: dict[str, int] = {}
    origin = {n: n for n in graph.inputs}
    for op in graph.ops:
        if op.packet in LAYOUT and op.inputs and op.inputs[0] in origin:
            origin[op.name] = origin[op.inputs[0]]
        for index, count in _lookups(graph, op):
            if index in origin:
                rows[origin[index]] = min(rows.get(origin[index], count), count)
    return rows


def ranges(graph: OpGraph, example: Sequence[Tensor]) -> dict[str, Range]:
    """The inputs of an integer type that vary."""
    found: dict[str, Range] = {}
    rows = vocabularies(graph)
    for name, x in zip(graph.inputs, example, strict=True):
        if not x.is_floating_point() and x.dtype != torch.bool and not x.is_complex():
            known = _Uses(graph, name, x).range
            if known is None and name in rows:
                known = 0, rows[name] - 1
            if known is not None:
                found[name] = known
    return found


def held(graph: OpGraph, example: Sequence[Tensor], known: dict[str, Range] | None = None) -> dict[str, Tensor]:
    """The inputs that keep the example's values: masks of -inf, of zeros and ones or of truth values, integers without a range.

    Features that weights read are no mask, though the example has zeros and ones there.
    """
    varies = ranges(graph, example) if known is None else known
    return {n: x for n, x in zip(graph.inputs, example, strict=True) if n not in varies and _is_switch(graph, n, x)}


def one_signed(graph: OpGraph, example: Sequence[Tensor]) -> frozenset[str]:
    """Inputs without a negative entry that are taken roots or logarithms of before any weight is read: negative ones mean nothing there."""
    found = {n for n, x in zip(graph.inputs, example, strict=True) if x.is_floating_point() and bool((x >= 0).all()) and bool(x.any())}
    made: dict[str, set[str]] = {n: {n} for n in found}  # value -> the inputs among ``found`` that it is made of
    needed: set[str] = set()
    for op in graph.ops if found else ():
        sources = set().union(*(made.get(n, set()) for n in op.inputs))
        if sources and "theta" not in graph.roles[op.name]:
            made[op.name] = sources
            root = op.packet == "aten.pow" and isinstance(op.args[-1], float) and not op.args[-1].is_integer()
            needed |= sources if root or op.packet in POSITIVE else set()
    return frozenset(needed)


def _is_switch(graph: OpGraph, name: str, x: Tensor) -> bool:
    if not x.is_floating_point():
        return True
    return not bool(x.isfinite().all()) or (_bits(x) and not _read_by_weights(graph, name))


def _bits(x: Tensor) -> bool:
    """Zeros and ones, both of them."""
    return bool((x == 0).any()) and bool((x == 1).any()) and bool(((x == 0) | (x == 1)).all())


def _read_by_weights(graph: OpGraph, name: str) -> bool:
    """The input reaches a product with parameters by layout alone: features, where a mask or an adjacency meets activations."""
    same = {name}
    for op in graph.ops:
        if not same.intersection(op.inputs):
            continue
        if op.packet in LAYOUT | JOINS:
            same.add(op.name)
        elif op.packet in DENSE and any(graph.roles[n] == {"theta"} for n in op.inputs):
            return True
    return False


def _lookups(graph: OpGraph, op: Op) -> Iterator[tuple[str, int]]:
    """(the index, the rows that there are)"""
    if op.packet in LOOKUPS and len(op.args) > LOOKUPS[op.packet]:
        table, index = (list(refs(op.args[k])) for k in (0, LOOKUPS[op.packet]))
        shape = graph.shape(table[0]) if table else None
        if index and shape:
            yield index[0], shape[0]
    elif op.packet == "aten.one_hot" and len(op.args) > 1 and isinstance(op.args[1], int) and op.args[1] > 0:
        yield op.inputs[0], op.args[1]
    elif op.packet == "aten.scatter" and len(op.inputs) == 2 and not graph.roles[op.inputs[0]]:  # one number among constants
        yield op.inputs[1], (graph.shape(op.inputs[0]) or (0,))[int(op.args[1])]


@dataclass
class _Uses:
    """What an integer input is used for, followed through layout and through arithmetic with numbers.

    ``images`` holds, for each value made of it so, what it is for every value of ``grid``.
    """

    graph: OpGraph
    name: str
    example: Tensor
    limits: list[Tensor] = field(default_factory=list)  # of the grid, which values a table allows
    quantity: bool = False
    others: bool = False

    def __post_init__(self) -> None:
        low, high = self.extent
        tables = [count for op in self.graph.ops for _, count in _lookups(self.graph, op)]
        reach = min(2 * max(high, -low, *tables, 0) + LEAST_COUNT, FARTHEST)
        self.grid = torch.arange(-reach, reach + 1)
        self.images = {self.name: self.grid}
        for op in self.graph.ops:
            if self.images.keys() & op.inputs and op.name in self.graph.live:
                self._use(op)

    @property
    def extent(self) -> Range:
        """Lowest and highest value of the example."""
        return (0, 0) if self.example.is_meta or not self.example.numel() else (int(self.example.min()), int(self.example.max()))

    @property
    def range(self) -> Range | None:
        """None where the input has to stay as it is."""
        low, high = self.extent
        if self.limits:
            allowed = reduce(torch.logical_and, self.limits)
            start = low - int(self.grid[0])
            if not 0 <= start < len(allowed) or not bool(allowed[start]):
                return None
            before, after = ((~allowed[:start].flip(0)).nonzero(), (~allowed[start:]).nonzero())
            reach = self.grid[-1]
            first = low - int(before[0]) if len(before) else -int(reach)
            last = low + int(after[0]) - 1 if len(after) else int(reach)
            return self._of_kind(first, last)
        if not self.quantity or self.others or (low >= 0 and high <= 1):
            return None
        far = max(2 * high, -2 * low, LEAST_COUNT)
        return self._of_kind(-far if low < 0 else 0, far)

    def _of_kind(self, low: int, high: int) -> Range:
        kind = torch.iinfo(self.example.dtype)
        return max(low, kind.min), min(high, kind.max)

    def _use(self, op: Op) -> None:
        source = next((n for n in op.inputs if n in self.images), "")
        limits = [(self.images[index] >= 0) & (self.images[index] < count)
                  for index, count in _lookups(self.graph, op) if index in self.images]
        limits += self._compared(op, source)
        if limits:
            self.limits += limits
        elif op.dtype.startswith(("float", "bfloat")) and self.graph.roles[op.name] == {"data"}:
            self.quantity = True
        elif op.packet in LAYOUT and len(op.inputs) == 1:
            self.images[op.name] = self.images[source]
        elif op.packet in NUMBERWISE and len(op.inputs) == 1 and "int" in op.dtype:
            args = [self.images[a.name] if isinstance(a, Ref) else a for a in op.args]
            self.images[op.name] = NUMBERWISE[op.packet](*args, **{k: v for k, v in op.kwargs if k in ("min", "max", "alpha")})
        else:
            self.others = True

    def _compared(self, op: Op, source: str) -> list[Tensor]:
        """Compared with 0, 1, 2, ...: one of so many classes."""
        if op.packet != "aten.eq" or len(op.inputs) != 2:
            return []
        made = self.graph.by_name.get(next(n for n in op.inputs if n != source) if op.inputs[0] != op.inputs[1] else "")
        while made is not None and made.packet in LAYOUT:
            made = self.graph.by_name.get(made.inputs[0])
        if made is None or made.packet != "aten.arange" or not all(isinstance(a, (int, float)) for a in made.args):
            return []
        classes = torch.arange(*made.args)
        low, high = math.ceil(float(classes.min())), math.floor(float(classes.max()))
        return [(self.images[source] >= low) & (self.images[source] <= high)]
