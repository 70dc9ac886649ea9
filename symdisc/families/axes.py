"""Where the vectors along one axis of a value come from: layout and averages over places keep them whole."""

from __future__ import annotations

from math import prod
from typing import Any

from symdisc.opgraph import Op, OpGraph

__all__ = ["KEEPS", "REGROUPS", "ROUTES", "SAME", "TURNS", "Merged", "alone", "before", "merged_after", "turned", "unmerged"]

KEEPS = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "expand", "alias", "detach",
    "_to_copy", "to", "type_as", "t", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "contiguous", "flatten",
    "cat", "stack", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "index", "index_select", "repeat", "repeat_interleave", "roll", "flip", "unflatten",
)) | {"getitem"}  # what holds of each entry of the operands holds of each entry of the result

# one operand laid out anew, or a part of it
ROUTES = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "expand", "alias", "detach", "_to_copy",
    "to", "contiguous", "flatten", "unflatten", "split", "split_with_sizes", "chunk", "unbind", "slice", "select")) | {"getitem"}
SAME = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))
REGROUPS = frozenset(f"aten.{n}" for n in ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"))
TURNS = frozenset(f"aten.{n}" for n in ("transpose", "permute", "t"))
Merged = tuple[tuple[tuple[int, bool], ...], ...]  # each axis as (length, followed or not) of the factors that it is a product of
PARTS = frozenset(f"aten.{n}" for n in ("split", "split_with_sizes", "chunk"))


def before(graph: OpGraph, op: Op, axis: int) -> tuple[str, int] | None:
    """(operand, axis) such that every vector along ``axis`` of the result is one along that axis of the operand, or a mean of such.

    ``axis`` counts from 0. None where the operator is not known to keep vectors together.
    """
    if op.target == "getitem":
        return _part(graph, op, axis)
    name = op.inputs[0]
    if op.packet == "aten.gather" and op.args[1] % len(op.shape or (1,)) != axis and _alike(graph, op.inputs[1], axis):
        return name, axis
    if len(set(op.inputs)) != 1 or op.shape is None:
        return None
    found = _axis(op, axis, graph.shape(name) or (), op.shape)
    return (name, found) if found is not None else _before_merged(graph, op, axis)


def unmerged(shape: tuple[int, ...], axis: int) -> Merged:
    """The factors of a value's axes when the one to follow stands by itself."""
    return tuple(((n, a == axis),) for a, n in enumerate(shape))


def alone(axes: Merged) -> int | None:
    """Where the axis that is followed stands by itself again."""
    whole = [[f for f in factors if f[0] > 1] for factors in axes]
    return next((a for a, factors in enumerate(whole) if len(factors) == 1 and factors[0][1]), None)


def merged_after(graph: OpGraph, op: Op, axes: Merged) -> Merged | None:
    """The factors behind a view or a turn of the axes (patches of images are cut so); None for other operators."""
    if len(op.inputs) != 1 or op.shape is None:
        return None
    if op.packet in SAME:
        return axes
    if op.packet in REGROUPS:
        return _regroup(axes, op.shape)
    return tuple(axes[a] for a in turned(op, len(axes))) if op.packet in TURNS else None


def _before_merged(graph: OpGraph, op: Op, axis: int) -> tuple[str, int] | None:
    """Upwards through views and turns, in which the axis may be a factor of another, to where it stands by itself."""
    axes: Merged | None = unmerged(op.shape or (), axis)
    here: Op | None = op
    while here is not None and axes is not None and len(here.inputs) == 1:
        if here.packet in REGROUPS:
            axes = _regroup(axes, graph.shape(here.inputs[0]) or ())
        elif here.packet in TURNS:
            turn = turned(here, len(axes))
            axes = tuple(axes[turn.index(a)] for a in range(len(axes)))
        elif here.packet not in SAME:
            return None
        found = None if axes is None else alone(axes)
        if found is not None:
            return here.inputs[0], found
        here = graph.by_name.get(here.inputs[0])
    return None


def _regroup(axes: Merged, shape: tuple[int, ...]) -> Merged | None:
    """The same factors in other axes; None where the one that is followed would be cut."""
    factors = [f for factors in axes for f in factors if f[0] > 1]
    found = []
    for n in shape:
        mine: list[tuple[int, bool]] = []
        while n > 1:
            if not factors:
                return None
            size, followed = factors.pop(0)
            if n % size == 0:
                mine.append((size, followed))
                n //= size
            elif size % n == 0 and not followed:
                mine.append((n, False))
                factors.insert(0, (size // n, False))
                n = 1
            else:
                return None
        found.append(tuple(mine))
    return tuple(found)


def _alike(graph: OpGraph, index: str, axis: int) -> bool:
    """The index is the same all along an axis: one column, repeated."""
    op = graph.by_name.get(index)
    source = None if op is None or op.packet not in ("aten.repeat", "aten.expand") else graph.shape(op.inputs[0])
    return source is not None and len(source) == len(graph.shape(index) or ()) and source[axis] == 1


def _part(graph: OpGraph, op: Op, axis: int) -> tuple[str, int] | None:
    """One of the parts into which a value is taken apart along another axis."""
    whole = graph.by_name.get(op.inputs[0])
    if whole is None or len(whole.inputs) != 1:
        return None
    rank = len(graph.shape(whole.inputs[0]) or ())
    if whole.packet == "aten.unbind":
        return whole.inputs[0], axis + (axis >= _argument(whole, 1, "dim", 0) % rank)
    if whole.packet in PARTS and _argument(whole, 2, "dim", 0) % rank != axis:
        return whole.inputs[0], axis
    return None


def _argument(op: Op, position: int, key: str, default: Any) -> Any:
    return op.args[position] if len(op.args) > position else dict(op.kwargs).get(key, default)


def _axis(op: Op, axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    packet, rank = op.packet, len(old)
    if packet in SAME:
        return axis
    if packet in REGROUPS:
        return _regrouped(axis, old, new)
    if packet in TURNS:
        return turned(op, rank)[axis]
    if packet == "aten.expand":
        at = axis - (len(new) - rank)
        return at if at >= 0 and old[at] == new[axis] else None
    if packet in ("aten.slice", "aten.roll", "aten.flip"):
        dims = _argument(op, 2 if packet == "aten.roll" else 1, "dims", 0 if packet == "aten.slice" else ())
        dims = dims if isinstance(dims, tuple) else (dims,)
        return axis if dims and all(d % rank != axis for d in dims) else None
    if packet == "aten.select":
        return axis + (axis >= op.args[1] % rank)
    if packet == "aten.mean":
        return _averaged(op, axis, rank)
    return axis if "avg_pool" in packet and _pools_plainly(op, axis, rank) else None


def turned(op: Op, rank: int) -> list[int]:
    """The axis of the operand that each axis of the result is."""
    if op.packet == "aten.permute":
        return [d % rank for d in op.args[1]]
    turn = list(range(rank))
    a, b = (d % rank for d in (op.args[1:3] if op.packet == "aten.transpose" else (0, rank - 1)))
    turn[a], turn[b] = b, a
    return turn


def _regrouped(axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    """The axis of the same length with as much in front of it."""
    front = prod(new[:axis])
    return next((a for a, n in enumerate(old) if n == new[axis] and prod(old[:a]) == front and prod(old[a + 1:]) == prod(new[axis + 1:])
                 and n > 1), None)


def _averaged(op: Op, axis: int, rank: int) -> int | None:
    dims = _argument(op, 1, "dim", None)
    dims = dims if isinstance(dims, tuple) else (dims,)
    if None in dims or not dims:
        return None
    gone = sorted(d % rank for d in dims)
    if not _argument(op, 2, "keepdim", False):
        for d in gone:
            axis += axis >= d
    return None if axis in gone else axis


def _pools_plainly(op: Op, axis: int, rank: int) -> bool:
    """Means over windows without padding, along the axes behind ``axis``."""
    spatial = int(op.packet.removesuffix("d")[-1])
    padding = 0 if "adaptive" in op.packet else _argument(op, 3, "padding", 0)
    return axis < rank - spatial and padding in (0, (), (0,), (0, 0), (0, 0, 0))
