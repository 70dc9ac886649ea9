"""The state of a walk through an operator graph: axes of values so far, and the literals that are lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from symdisc.opgraph import Op, OpGraph
from symdisc.sizes.atoms import Sizes

__all__ = ["Axes", "Length", "Rewrite", "Rule", "Walk", "argument", "axis_of", "tensors"]

Axes = list[int]
Length = Callable[[int], int]
Rewrite = Callable[[Length], dict[int, Any]]
"""Given the new length of any atom, the arguments of an operator that change, by position."""


class Walk:
    """The state while walking: what the rules read and write."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph, self.sizes = graph, Sizes()
        self.axes: dict[str, Axes] = {}
        self.tuples: dict[str, list[Axes]] = {}
        self.rewrites: dict[str, Rewrite] = {}
        self.unexplained: list[tuple[str, str]] = []

    def fresh(self, shape: tuple[int, ...], pinned: bool = False) -> Axes:
        axes = [self.sizes.new(n) for n in shape]
        if pinned:
            self.sizes.pin(*axes)
        return axes

    def unify(self, a: int, b: int) -> None:
        """The same length; a one only broadcasts."""
        one = self.sizes.one
        if self.sizes.root(a) != one and self.sizes.root(b) != one:
            self.sizes.unify(a, b)

    def operand(self, arg: Any) -> Axes | None:
        """Axes of a tensor argument."""
        return self.axes.get(getattr(arg, "name", ""))

    def broadcast(self, *operands: Axes) -> Axes:
        """Axes of an elementwise result: aligned from the right, ones give way."""
        rank = max((len(o) for o in operands), default=0)
        out = []
        for k in range(-rank, 0):
            aligned = [o[k] for o in operands if len(o) >= -k]
            wide = [a for a in aligned if self.sizes.value(a) != 1]
            for other in wide[1:]:
                self.unify(wide[0], other)
            out.append(wide[0] if wide else self.sizes.one)
        return out


Rule = Callable[[Walk, Op], None]


def tensors(walk: Walk, op: Op) -> list[Axes]:
    """Axes of the tensor operands, in order."""
    return [walk.axes[n] for n in op.inputs if n in walk.axes]


def axis_of(op: Op, position: int, rank: int, default: int = 0) -> int:
    """An axis given as the argument at ``position`` or by the keyword ``dim``, counted from the left."""
    value = op.args[position] if len(op.args) > position else dict(op.kwargs).get("dim", default)
    return int(value) % max(rank, 1)


def argument(op: Op, position: int, name: str, default: Any = None) -> Any:
    """The argument at ``position``, or the keyword ``name``."""
    return op.args[position] if len(op.args) > position else dict(op.kwargs).get(name, default)
