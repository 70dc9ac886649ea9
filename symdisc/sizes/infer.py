"""Walk through an operator graph and learn what its axis lengths are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from symdisc.opgraph import Op, OpGraph
from symdisc.sizes.atoms import Sizes, Unexplained
from symdisc.sizes.layout import LAYOUT
from symdisc.sizes.rules import COMPUTING, elementwise
from symdisc.sizes.walk import Axes, Rewrite, Rule, Walk

__all__ = ["Inferred", "infer_sizes"]

RULES: dict[str, Rule] = {**COMPUTING, **LAYOUT}


@dataclass
class Inferred:
    """``axes`` of every value, ``rewrites`` of the literals in operators' arguments, and what was not explained."""

    sizes: Sizes
    axes: dict[str, Axes]
    rewrites: dict[str, Rewrite] = field(default_factory=dict)
    unexplained: tuple[tuple[str, str], ...] = ()

    def shape(self, name: str, chosen: Mapping[int, int]) -> tuple[int, ...]:
        """Shape of a value when free atoms have the values ``chosen``."""
        return tuple(self.sizes.evaluate(a, chosen) for a in self.axes[name])


def infer_sizes(graph: OpGraph, fixed: Mapping[str, bool] | None = None) -> Inferred:
    """Axes of all values of ``graph`` as atoms. ``fixed`` names constants and buffers whose entries depend on their place.

    An operator without a rule, or whose rule does not explain the lengths met, pins all lengths that it touches.
    """
    walk = Walk(graph)
    for name, shape in graph.shapes.items():
        walk.axes[name] = walk.fresh(shape, pinned=bool((fixed or {}).get(name)))
    tied: dict[str, Axes] = {}
    for value, name in graph.parameters.items():
        for a, b in zip(tied.setdefault(graph.aliases.get(name, name), walk.axes[value]), walk.axes[value], strict=True):
            walk.unify(a, b)
    for op in (o for o in graph.ops if o.name in graph.live):
        _step(walk, op, RULES.get(op.packet, elementwise))
    return Inferred(walk.sizes, walk.axes, walk.rewrites, tuple(dict.fromkeys(walk.unexplained)))


def _step(walk: Walk, op: Op, rule: Rule) -> None:
    try:
        rule(walk, op)
        axes = walk.axes.get(op.name)
        if axes is not None and tuple(walk.sizes.value(a) for a in axes) != op.shape:
            raise Unexplained(f"lengths {[walk.sizes.value(a) for a in axes]} expected, {list(op.shape or ())} met")
        if axes is None and op.name not in walk.tuples:
            raise Unexplained("no rule")
    except (Unexplained, IndexError, TypeError) as error:
        walk.unexplained.append((op.packet, str(error)))
        walk.tuples.pop(op.name, None)
        walk.rewrites.pop(op.name, None)
        for name in op.inputs:
            walk.sizes.pin(*walk.axes.get(name, []), *[a for part in walk.tuples.get(name, []) for a in part])
        if op.shape is not None:
            walk.axes[op.name] = walk.fresh(op.shape, pinned=True)
