"""Values put beside each other, changed place by place, and taken apart again: each goes its own way."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["BY_PLACE", "taken_apart"]

BY_PLACE = frozenset(f"aten.{n}" for n in (
    "add", "sub", "mul", "div", "clone", "alias", "detach", "_to_copy", "contiguous", "dropout", "gelu", "relu", "silu", "tanh", "sigmoid",
    "layer_norm", "rms_norm", "linear"))  # each place along an axis apart, unless the axis is one of those that are normed or contracted
SHIFTS = frozenset(f"aten.{n}" for n in ("add", "mul", "clone", "alias", "dropout"))


def taken_apart(graph: OpGraph, op: Op) -> dict[str, tuple[Op, ...]]:
    """For a class token beside patches, a table added to both, and slices of the sum that part them again: the operators in place of
    the last one in between and of the slices. Empty where the op does not begin such a way."""
    if op.packet != "aten.cat" or op.shape is None or len(set(op.inputs)) < len(op.inputs):
        return {}
    axis = (int(op.args[1]) if len(op.args) > 1 else 0) % len(op.shape)
    ends = [0, *accumulate((graph.shape(n) or ())[axis] for n in op.inputs)]
    way: list[Op] = []
    last, cut = op, False
    while True:
        users = [u for u in graph.users.get(last.name, ()) if u.name in graph.live]
        if last.name in graph.outputs or not users:
            return {}
        ranges = [_range(u, axis, ends[-1]) for u in users]
        if all(r is not None for r in ranges):
            break
        if len(users) != 1 or not _shifts(graph, users[0], last.name):
            return {}
        last = users[0]
        way.append(last)
        cut = cut or any(_along(graph, n, last, axis) is not None for n in last.inputs)
    inside = [next((k for k, (a, b) in enumerate(pairwise(ends)) if r is not None and a <= r[0] < r[1] <= b), None) for r in ranges]
    if not cut or None in inside:
        return {}
    made, sources = [], {}
    for k in sorted({k for k in inside if k is not None}):
        ops, sources[k] = _part(graph, op.inputs[k], way, axis, (ends[k], ends[k + 1]))
        made += ops
    found: dict[str, tuple[Op, ...]] = {last.name: (last, *made)}
    for user, part, r in zip(users, inside, ranges, strict=True):
        assert part is not None and r is not None
        found[user.name] = (replace(user, args=(Ref(sources[part]), axis, r[0] - ends[part], r[1] - ends[part])),)
    return found


def _range(op: Op, axis: int, length: int) -> tuple[int, int] | None:
    """(first, last + 1) of the places that a slice takes along the axis."""
    if op.packet != "aten.slice" or op.kwargs or len(op.args) > 4:
        return None
    dim, first, last = (op.args[k] if len(op.args) > k else None for k in (1, 2, 3))
    if (dim or 0) % len(op.shape or ()) != axis:
        return None
    first = first or 0
    first, last = (min(n + length if n < 0 else n, length) for n in (first, length if last is None else last))
    return (first, last) if first < last else None


def _shifts(graph: OpGraph, op: Op, value: str) -> bool:
    """The operator changes each place by itself, perhaps with what is stored for it."""
    others = [n for n in op.inputs if n != value]
    stored = all("data" not in graph.roles[n] for n in others)
    return op.packet in SHIFTS and op.inputs.count(value) == 1 and stored and op.shape == graph.shape(value)


def _along(graph: OpGraph, name: str, op: Op, axis: int) -> int | None:
    """The axis of a stored operand that goes with the ``axis`` of the result, if it has an entry for each place."""
    shape = graph.shape(name) or ()
    at = axis - len(op.shape or ()) + len(shape)
    return at if "data" not in graph.roles[name] and at >= 0 and shape[at] == (op.shape or ())[axis] > 1 else None


def _part(graph: OpGraph, source: str, way: list[Op], axis: int, span: tuple[int, int]) -> tuple[list[Op], str]:
    """The operators of the way on one of the values, and the value that they end in."""
    ops: list[Op] = []
    for step in way:
        before, names = source, {}
        for name in step.inputs:
            at = _along(graph, name, step, axis)
            if at is not None:
                shape = tuple(span[1] - span[0] if a == at else n for a, n in enumerate(graph.shape(name) or ()))
                names[name] = f"{step.name}_{name}_from_{span[0]}"
                ops.append(Op(names[name], "aten.slice.Tensor", (Ref(name), at, *span), (), shape, step.dtype, step.module))

        def renamed(arg: Any, names: dict[str, str] = names, before: str = before) -> Any:
            return arg if not isinstance(arg, Ref) else Ref(before if "data" in graph.roles[arg.name] else names.get(arg.name, arg.name))

        source = f"{step.name}_from_{span[0]}"
        shape = tuple(span[1] - span[0] if a == axis else n for a, n in enumerate(step.shape or ()))
        ops.append(replace(step, name=source, args=tuple(map(renamed, step.args)), shape=shape))
    return ops, source
