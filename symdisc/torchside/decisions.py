"""Whole numbers and truth values among the results of a model: kept by keeping the floating-point values that decide them.

A label is part of the function, and it has no derivative: directions that leave all scores alone to first order may move it. So the
values that are last in floating point on the way to it count as outputs: they freeze their units, they are compared, and they are
differentiated. That is more than a label asks for (it stays when its scores grow by a common factor): what is found is true, and a
symmetry that moves these values and flips no label is not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["Decider", "decided", "deciders", "inner_steps", "with_decisions"]

# operators that put entries along an axis in order: (place of the axis among the arguments, the axis where none is given)
ORDERS: dict[str, tuple[int, int | None]] = {
    "aten.argmax": (1, None), "aten.argmin": (1, None), "aten.max": (1, None), "aten.min": (1, None), "aten.topk": (2, -1),
    "aten.sort": (1, -1), "aten.argsort": (1, -1), "aten.kthvalue": (2, -1), "aten.median": (1, None)}
STEPS = frozenset(f"aten.{n}" for n in ("floor", "ceil", "round", "trunc", "sign", "heaviside", "floor_divide"))
ORDER = "_order"  # ends the name of a value that stands for another
COMPARISONS = frozenset(f"aten.{n}" for n in ("lt", "le", "gt", "ge", "eq", "ne"))
SIGNS = frozenset(f"aten.{n}" for n in ("sign", "sgn", "heaviside", "signbit", "logical_not"))
SOFT = frozenset(f"aten.{n}" for n in ("softmax", "_softmax", "log_softmax", "_log_softmax"))


def with_decisions(graph: OpGraph, results: Sequence[str]) -> OpGraph:
    """``graph`` with outputs from which ``results``, its results that are no floating-point numbers, follow.

    An order along an axis does not see what is added to all entries alike, so there the logarithms of shares stand for the values.
    Results that no parameter reaches ask for nothing.
    """
    ops: list[Op] = []
    added: list[str] = []
    for value, axes in _read(graph, results).items():
        axis = axes[0] if len(set(axes)) == 1 else None
        if value in graph.outputs or (axis is not None and _shares(graph, value, axis)):
            continue
        if axis is None:
            added.append(value)
            continue
        ops.append(Op(value + ORDER, "aten.log_softmax.int", (Ref(value), axis), (), graph.shape(value), _dtype(graph, value),
                      graph.by_name[value].module if value in graph.by_name else ""))
        added.append(ops[-1].name)
    return replace(graph, ops=(*graph.ops, *ops), outputs=(*graph.outputs, *added), decisions=tuple(added)) if added else graph


def decided(graph: OpGraph) -> list[str]:
    """What is said of results that are decided."""
    sources = [graph.by_name[d].inputs[0] if d.endswith(ORDER) else d for d in graph.decisions]
    names = dict.fromkeys(op.packet for s in sources for op in graph.users.get(s, ()) if op.packet in STEPS or not _is_float(op.dtype))
    if not sources:
        return []
    return ["what is decided (whole numbers, truth values among the outputs) is kept: "
            f"what {', '.join(names)} {'reads' if len(names) == 1 else 'read'} counts as an output; "
            "what would move it and flip no decision, such as a common scale, is not looked for"]


@dataclass(frozen=True)
class Decider:
    """A value, less another one or a number, of which steps read no more than its ``part``: the order along ``axis``, or the signs.

    ``part`` is "all" where they may read more than that.
    """

    value: str
    part: str = "all"
    axis: int | None = None
    less: str = ""
    number: float = 0.0


def inner_steps(graph: OpGraph) -> list[str]:
    """Values that vary by steps alone and that others read: routes, masks, codes."""
    steps = _steps(graph)
    return [op.name for op in graph.ops if op.name in steps and op.name in graph.live and graph.varies(op.name)
            and any(u.name not in steps and u.name in graph.live for u in graph.users.get(op.name, ()))]


def deciders(graph: OpGraph) -> tuple[Decider, ...]:
    """What the inner steps follow from."""
    found: dict[Decider, None] = {}
    for op, source in _reads(graph, inner_steps(graph)):
        axis = _axis(graph, op, source)
        if axis is not None:
            found[Decider(source, "order", axis)] = None
        elif op.packet in COMPARISONS:
            first, second = op.args[:2]
            less, number = (second.name, 0.0) if isinstance(second, Ref) else ("", float(second))
            found[Decider(first.name, "signs", None, less, number)] = None
        else:
            signs = op.packet in SIGNS and op.inputs[0] == source
            found[Decider(source, "signs" if signs else "all")] = None
    return tuple(found)


def _read(graph: OpGraph, results: Sequence[str]) -> dict[str, list[int | None]]:
    """The values that vary smoothly and are read on the way to ``results``, each with the axes along which it is put in order there."""
    found: dict[str, list[int | None]] = {}
    for op, source in _reads(graph, results):
        found.setdefault(source, []).append(_axis(graph, op, source))
    return found


def _reads(graph: OpGraph, results: Sequence[str]) -> Iterator[tuple[Op, str]]:
    """The operators on the way to ``results`` that read a value that varies smoothly, each with that value."""
    steps = _steps(graph)
    todo, seen = list(results), set(results)
    for name in todo:
        op = graph.by_name.get(name)
        for source in dict.fromkeys(op.inputs if op is not None and graph.varies(name) else ()):
            if op is None or not graph.varies(source):
                continue
            if source not in steps and _is_float(_dtype(graph, source)):
                yield op, source
            elif source not in seen:  # a step, or what gives several values of which one is
                seen.add(source)
                todo.append(source)


def _steps(graph: OpGraph) -> set[str]:
    """Values whose dependence on parameters is one of steps alone: whole numbers, truth values, and numbers made of these."""
    found: set[str] = set()
    for op in graph.ops:
        whole = bool(op.dtype) and not _is_float(op.dtype)
        moving = [n for n in op.inputs if graph.varies(n)]
        if whole or op.packet in STEPS or dict(op.kwargs).get("rounding_mode") or (moving and found.issuperset(moving)):
            found.add(op.name)
    return found


def _axis(graph: OpGraph, op: Op, source: str) -> int | None:
    """The axis of ``source`` along which ``op`` reads no more than the order of its entries."""
    shape = graph.shape(source) or ()
    if op.packet not in ORDERS or op.inputs != (source,) or not shape:
        return None
    place, usual = ORDERS[op.packet]
    axis = op.args[place] if len(op.args) > place else dict(op.kwargs).get("dim", usual)
    if axis is None:
        return 0 if len(shape) == 1 else None
    return int(axis) % len(shape)


def _shares(graph: OpGraph, value: str, axis: int) -> bool:
    """An output tells the values along the axis up to what is added to all of them."""
    rank = len(graph.shape(value) or ())
    return any(op.name in graph.outputs and op.packet in SOFT and op.inputs == (value,) and int(op.args[1]) % rank == axis
               for op in graph.users.get(value, ()))


def _dtype(graph: OpGraph, value: str) -> str:
    return graph.by_name[value].dtype if value in graph.by_name else graph.dtypes[value]


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
