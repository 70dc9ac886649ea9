"""Where the vectors along one axis of a value come from: layout and averages over places keep them whole."""

from __future__ import annotations

from math import prod
from typing import Any

from symdisc.opgraph import Op, OpGraph

__all__ = ["KEEPS", "REGROUPS", "SAME", "before"]

KEEPS = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "expand", "alias", "detach",
    "_to_copy", "to", "type_as", "t", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "contiguous", "flatten",
    "cat", "stack", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "index", "index_select", "repeat", "repeat_interleave", "roll", "flip", "unflatten",
)) | {"getitem"}  # what holds of each entry of the operands holds of each entry of the result

SAME = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))
REGROUPS = frozenset(f"aten.{n}" for n in ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"))
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
    return None if found is None else (name, found)


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
    if packet in ("aten.transpose", "aten.t", "aten.permute"):
        turn = list(range(rank))
        if packet == "aten.permute":
            turn = [d % rank for d in op.args[1]]
        else:
            a, b = (d % rank for d in (op.args[1:3] if packet == "aten.transpose" else (0, rank - 1)))
            turn[a], turn[b] = b, a
        return turn[axis]
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
