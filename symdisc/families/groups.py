"""Constants that a group norm takes off: each group of channels loses its mean over channels and places.

A bias may hold any constant per group. A weight may hold one per group and input where there is a single place, for the constant
that it writes differs from place to place otherwise.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["group_constants"]

PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))
NAME, CONDITION = "direction that is centred away", r"f(x + c \mathbf{1}_G) = f(x) \;\text{for each group } G"


def group_constants(classes: Classes, leaning: Collection[str] = ()) -> list[Symmetry]:
    """One additive group for each writer that group norms alone see: a number per group for a bias, per group and input for a weight.

    ``leaning`` are weights that have a free direction along their inputs already.
    """
    found: list[Symmetry] = []
    for use in classes.everything():
        if len(classes.uses[use.parameter]) != 1 or not isinstance(use, (DenseUse, ShiftUse)) or use.value not in classes.graph.by_name:
            continue
        shape, places = classes.shape(use.parameter), classes.graph.shape(use.value) or ()
        axis = use.out_axis if isinstance(use, DenseUse) else use.axis
        groups = _groups(classes, use.value) if len(places) > 1 and shape and places[1] == shape[axis] else None
        if groups is None or (shape[axis] == groups and isinstance(use, DenseUse)):
            continue
        if isinstance(use, ShiftUse) and not use.buffer and len(shape) == 1 and len(use.elements) == shape[0]:
            found.append(_bias(use, groups, shape[0]))
        elif isinstance(use, DenseUse) and use.ins is not None and use.rows is None and axis == 0 and int(np.prod(places[2:])) == 1:
            found.append(_weight(use, groups, shape, use.parameter in leaning))
    return found


def _groups(classes: Classes, value: str) -> int | None:
    """The number of groups (the least, which divides the others) of the norms that alone see the value, past sums with others."""
    graph, found, frontier = classes.graph, set(), [value]
    while frontier:
        here = frontier.pop()
        if here in graph.outputs:
            return None
        for op in (u for u in graph.users.get(here, ()) if u.name in graph.live):
            if op.packet == "aten.group_norm" and op.inputs[0] == here:
                found.add(int(op.args[1]))
            elif op.packet in PASS or _sum(classes, op, here):
                frontier.append(op.name)
            else:
                return None
    return next(iter(found)) if len(found) == 1 else None


def _sum(classes: Classes, op: Op, value: str) -> bool:
    names = [a.name for a in op.args[:2] if isinstance(a, Ref)]
    return op.packet in ("aten.add", "aten.sub") and names.count(value) == 1 and op.shape == classes.graph.shape(value)


def _bias(use: ShiftUse, groups: int, size: int) -> Symmetry:
    places = use.elements[np.argsort(use.elements)].reshape(groups, size // groups).T[:, None, :]
    move = Move("add", use.parameter, 0, Index.of(places))
    return describe_affine(NAME, "translation", groups, (groups,), (move,), (use.parameter,), [use.module], CONDITION,
                           r"b_G \mapsto b_G + t_G \mathbf{1}")


def _weight(use: DenseUse, groups: int, shape: tuple[int, ...], leans: bool) -> Symmetry:
    """W_G + 1 a^T for each group; where W may lean along its inputs anyway, the last input follows from that."""
    each, size = shape[0] // groups, int(np.prod(shape[1:]))
    columns = np.arange(size - 1 if leans else size)
    c, g, i = np.ix_(np.arange(each), np.arange(groups), columns)
    places = ((g * each + c) * size + i).reshape(each, 1, -1)
    n = places.shape[-1]
    move = Move("add", use.parameter, -1, Index.of(places))
    return describe_affine(NAME, "translation", n, (n,), (move,), (use.parameter,), [use.module], CONDITION,
                           r"W_G \mapsto W_G + \mathbf{1} a_G^\top")
