"""Operators that do nothing, or more than anything reads, taken out of a graph: rules then meet what is left."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from symdisc.archgraph import known_linear
from symdisc.curves import curve
from symdisc.opgraph import Op, OpGraph, Ref
from symdisc.torchside.capture import Capture
from symdisc.torchside.composed import X, composed
from symdisc.torchside.interpret import ancestors, evaluate
from symdisc.torchside.parts import BY_PLACE, taken_apart

__all__ = ["simplified"]

MOST = 64  # operators that a constant may be made by


def simplified(captured: Capture, tables: bool = True) -> Capture:
    """The same function of the same parameters, said with less.

    No products with ones (a mask that hides nothing); of tokens put beside each other and read at one place, that place alone on the way
    from there; of tokens put beside each other, shifted by a table and taken apart again, each with its rows of the table; sums of what
    was stacked as sums; functions of what is looked up in a table as what is looked up in their table, if ``tables``.
    """
    graph = captured.graph
    changed: dict[str, tuple[Op, ...]] = {}
    for op in graph.ops:
        if op.name in graph.live and graph.is_activation(op.name):
            changed.update(_without_ones(captured, op) or _one_place(graph, op) or _of_stacked(graph, op)
                           or (_of_table(graph, op) if tables else {}) or taken_apart(graph, op))
    if not changed:
        return captured
    ops = tuple(new for op in graph.ops for new in changed.get(op.name, (op,)))
    return replace(captured, graph=replace(graph, ops=ops))


def _without_ones(captured: Capture, op: Op) -> dict[str, tuple[Op, ...]]:
    """x * 1 is x."""
    graph = captured.graph
    if op.packet != "aten.mul" or len(op.args) != 2 or len(set(op.inputs)) != 2:
        return {}
    for name, other in (op.inputs, op.inputs[::-1]):
        if graph.varies(name) and not graph.roles[other] and graph.shape(name) == op.shape:
            value = constant(captured, other)
            if value is not None and bool((value == 1).all()):
                return {op.name: (replace(op, target="aten.alias.default", args=(Ref(name),), kwargs=()),)}
    return {}


def _one_place(graph: OpGraph, op: Op) -> dict[str, tuple[Op, ...]]:
    """A place along an axis picked of what was made, place by place, of values put beside each other: made of the one that has it."""
    if op.packet != "aten.select":
        return {}
    axis, place = (int(a) for a in op.args[1:3])
    way: list[Op] = []
    value = op.inputs[0]
    axis, place = axis % len(graph.shape(value) or ()), place % (graph.shape(value) or ())[axis]
    while True:
        made, readers = graph.by_name.get(value), [u.name for u in graph.users[value] if u.name in graph.live]
        if made is None or value in graph.outputs or readers != [(way or [op])[-1].name]:
            return {}
        if made.packet == "aten.cat":
            break
        if not _by_place(graph, made, axis):
            return {}
        way.append(made)
        value = next(n for n in made.inputs if "data" in graph.roles[n])
    if (int(made.args[1]) if len(made.args) > 1 else 0) % len(made.shape or ()) != axis:
        return {}
    for part in made.inputs:
        length = (graph.shape(part) or ())[axis]
        if place < length:
            break
        place -= length
    row = Op(f"{op.name}_read", "aten.slice.Tensor", (Ref(part), axis, place, place + 1), (), _cut(made.shape, axis), made.dtype, op.module)
    found: dict[str, tuple[Op, ...]] = {}
    source = row.name
    for step in reversed(way):
        arguments = tuple(Ref(source) if isinstance(a, Ref) and "data" in graph.roles[a.name] else a for a in step.args)
        found[step.name] = (*((row,) if not found else ()), replace(step, args=arguments, shape=_cut(step.shape, axis)))
        source = step.name
    last = replace(op, args=(Ref(source), axis, 0))
    return {**found, op.name: (last,) if found else (row, last)}


def _cut(shape: tuple[int, ...] | None, axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else n for a, n in enumerate(shape or ()))


def _by_place(graph: OpGraph, op: Op, axis: int) -> bool:
    """Each place along the axis is made of that place of the one activation that the operator reads."""
    shape, acts = op.shape or (), [n for n in op.inputs if "data" in graph.roles[n]]
    if op.packet not in BY_PLACE or len(acts) != 1 or graph.shape(acts[0]) is None or len(graph.shape(acts[0]) or ()) != len(shape):
        return False
    if op.packet in ("aten.layer_norm", "aten.rms_norm"):
        return axis < len(shape) - len(op.args[1])
    if op.packet == "aten.linear":
        return axis < len(shape) - 1 and op.inputs[0] == acts[0]
    others = (graph.shape(n) or () for n in op.inputs if n != acts[0])
    spread = (axis - len(shape) + len(s) for s in others)
    return graph.shape(acts[0]) == shape and all(a < 0 for a in spread)


def _of_stacked(graph: OpGraph, op: Op) -> dict[str, tuple[Op, ...]]:
    """The sum or mean over the axis along which values were stacked is that of the values."""
    stack = graph.by_name.get(op.inputs[0]) if op.packet in ("aten.mean", "aten.sum") and len(op.args) == 2 and not op.kwargs else None
    if stack is None or stack.packet != "aten.stack" or stack.shape is None or len(stack.inputs) < 2:
        return {}
    dims, along = op.args[1], (int(stack.args[1]) if len(stack.args) > 1 else 0) % len(stack.shape)
    if [d % len(stack.shape) for d in (dims if isinstance(dims, tuple) else (dims,))] != [along]:
        return {}
    first, *rest = stack.inputs
    ops: list[Op] = []
    for k, name in enumerate(rest):
        added = f"{op.name}_of_{k + 2}" if k + 1 < len(rest) or op.packet == "aten.mean" else op.name
        ops.append(replace(op, name=added, target="aten.add.Tensor", args=(Ref(first), Ref(name))))
        first = added
    if op.packet == "aten.mean":
        ops.append(replace(op, target="aten.mul.Tensor", args=(Ref(first), 1.0 / len(stack.inputs))))
    return {op.name: tuple(ops)}


def _of_table(graph: OpGraph, op: Op) -> dict[str, tuple[Op, ...]]:
    """A one-to-one function of what is looked up in a table, and nowhere else, is looked up in the table's function."""
    found = graph.by_name.get(op.inputs[0]) if len(op.inputs) == 1 else None
    if found is None or found.packet != "aten.embedding" or known_linear(op.packet) or not isinstance(found.args[0], Ref):
        return {}
    table = found.args[0].name
    readers = [[u.name for u in graph.users.get(v, ()) if u.name in graph.live] for v in (found.name, table)]
    if table not in graph.parameters or readers != [[op.name], [found.name]] or {found.name, table} & set(graph.outputs):
        return {}
    formula = composed(graph, op, {found.name: X})
    if formula is None or curve(str(formula)) is None:
        return {}
    arguments = tuple(Ref(table) if isinstance(a, Ref) else a for a in op.args)
    made = replace(op, name=f"{op.name}_of_table", args=arguments, shape=graph.shape(table))
    return {op.name: (made, replace(found, name=op.name, args=(Ref(made.name), *found.args[1:])))}


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
