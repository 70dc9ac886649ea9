"""Operators that do nothing, or more than anything reads, taken out of a graph: rules then meet what is left."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from symdisc.opgraph import Op, Ref
from symdisc.torchside.capture import Capture
from symdisc.torchside.interpret import ancestors, evaluate

__all__ = ["simplified"]

MOST = 64  # operators that a constant may be made by


def simplified(captured: Capture) -> Capture:
    """The same function of the same parameters: no products with ones (a mask that hides nothing), sums of what was stacked as sums."""
    live = (op for op in captured.graph.ops if op.name in captured.graph.live)
    changed = {op.name: new for op in live if (new := _without_ones(captured, op)) is not None}
    if not changed:
        return captured
    ops = tuple(changed.get(op.name, op) for op in captured.graph.ops)
    return replace(captured, graph=replace(captured.graph, ops=ops))


def _without_ones(captured: Capture, op: Op) -> Op | None:
    """x * 1 is x."""
    graph = captured.graph
    if op.packet != "aten.mul" or len(op.args) != 2 or len(set(op.inputs)) != 2:
        return None
    for name, other in (op.inputs, op.inputs[::-1]):
        if graph.varies(name) and not graph.roles[other] and graph.shape(name) == op.shape:
            value = constant(captured, other)
            if value is not None and bool((value == 1).all()):
                return replace(op, target="aten.alias.default", args=(Ref(name),), kwargs=())
    return None


def constant(captured: Capture, name: str) -> Tensor | None:
    """The value of what neither parameters, nor inputs, nor buffers decide; None where it is not at hand."""
    graph = captured.graph
    ops = ancestors(graph, [name])
    made = {op.name for op in ops}
    leaves = {n for op in ops for n in op.inputs if n not in made} | ({name} - made)
    known = {n: captured.tensors[n] for n in leaves if n in graph.constants and n in captured.tensors}
    if len(ops) > MOST or leaves - set(known) or any(t.is_meta for t in known.values()):
        return None
    try:
        found = evaluate(ops, known, [name])[name]
    except (RuntimeError, TypeError, ValueError):
        return None
    return found if isinstance(found, Tensor) else None
