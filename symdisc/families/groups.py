"""Constants that a group norm takes off: each group of channels loses its mean over channels and places.

A bias may hold any constant per group. A weight may hold one per group and input where there is a single place, for the constant
that it writes differs from place to place otherwise. Behind such a norm at a single place, what a weight reads along 1/gamma of one group
is a constant as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.invisible import Centred, Invisible
from symdisc.families.naming import LACKING, describe_affine
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["group_biases", "group_constants", "group_readers"]

PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))
NAME, CONDITION = "direction that is centred away", r"f(x + c \mathbf{1}_G) = f(x) \;\text{for each group } G"


def group_constants(classes: Classes, leaning: Mapping[str, int]) -> list[Symmetry]:
    """One additive group for each weight that group norms alone see, at a single place: a number per group and input.

    ``leaning`` are weights that have free directions along their inputs already, one for each of so many parts of them.
    """
    found: list[Symmetry] = []
    for use in classes.facts.dense:
        shape, places = classes.shape(use.parameter), classes.graph.shape(use.value) or ()
        if use.ins is None or use.rows is not None or use.out_axis != 0 or int(np.prod(places[2:])) != 1:
            continue
        groups = _groups(classes, use.parameter, use.value, shape, 0)
        if groups is not None and groups < shape[0]:
            found.append(_weight(use, groups, shape, leaning.get(use.parameter, 0)))
    return found


def group_biases(classes: Classes) -> list[Symmetry]:
    """One additive group for each bias that group norms alone see: a number per group."""
    found: list[Symmetry] = []
    for use in classes.facts.shifts:
        shape = classes.shape(use.parameter)
        if use.buffer or len(shape) != 1 or len(use.elements) != shape[0]:
            continue
        groups = _groups(classes, use.parameter, use.value, shape, use.axis)
        if groups is not None:
            found.append(_bias(use, groups, shape[0]))
    return found


def _groups(classes: Classes, parameter: str, value: str, shape: tuple[int, ...], axis: int) -> int | None:
    """The number of groups of the norms that alone see the value, past sums with others; the parameter has channels along ``axis``."""
    places = classes.graph.shape(value) or ()
    if len(classes.uses[parameter]) != 1 or value not in classes.graph.by_name or len(places) < 2 or places[1] != shape[axis]:
        return None
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


def _weight(use: DenseUse, groups: int, shape: tuple[int, ...], leans: int) -> Symmetry:
    """W_G + 1 a^T for each group; where W may lean along parts of its inputs anyway, the last input of each follows from that."""
    each, size, taps = shape[0] // groups, int(np.prod(shape[1:])), int(np.prod(shape[2:]))
    columns = np.arange(size)
    if leans:
        part = shape[1] // leans
        columns = columns[(columns // taps + 1) % part != 0]
    c, g, i = np.ix_(np.arange(each), np.arange(groups), columns)
    places = ((g * each + c) * size + i).reshape(each, 1, -1)
    n = places.shape[-1]
    move = Move("add", use.parameter, -1, Index.of(places))
    return describe_affine(NAME, "translation", n, (n,), (move,), (use.parameter,), [use.module], CONDITION,
                           r"W_G \mapsto W_G + \mathbf{1} a_G^\top")


def group_readers(invisible: Invisible, taken: Mapping[str, int]) -> list[Symmetry]:
    """Linear layers that read group-normed vectors: A, orthonormal, holds 1/gamma of each group; W + C A^T reads C A^T beta besides.

    ``taken`` names weights that may write any multiple of 1 already: there the columns of C sum to zero.
    """
    found = []
    for use in invisible.facts.dense:
        shape = invisible.classes.shape(use.parameter)
        whole = use.ins is not None and use.outs is not None and len(shape) == 2 and len(use.outs) == shape[use.out_axis]
        if not whole or not invisible.single(use.parameter):
            continue
        source = invisible.centred_source(use.source, grouped=True)
        if source is not None and source.groups > 1 and invisible.aligned(use, source.value):
            found += _reader(invisible, use, source, use.parameter in taken)
    return found


def _reader(invisible: Invisible, use: DenseUse, source: Centred, taken: bool) -> list[Symmetry]:
    assert use.ins is not None and use.outs is not None
    rows, n = len(use.outs), source.groups
    parts = Index.of(np.arange(len(use.ins)).reshape(1, n, -1))
    step = (Through("centred parts", "", index=parts, gain=source.gain, offset=source.offset),)
    moves = [Move("blind", use.parameter, use.in_axis, Index.of(np.arange(len(use.ins))[None, None, :]), through=step)]
    if source.shift is not None:
        bias = invisible.classes.bias(use)
        if bias is None or bias.buffer or not invisible.single(bias.parameter):
            return []
        index = Index.of(bias.elements[None, None, :])
        moves.append(Move("blind_bias", bias.parameter, -1, index, power=-1.0, through=step, extra=(source.shift, "")))
    if taken and rows == 1:
        return []
    return [describe_affine(LACKING, "outer0" if taken else "outer", (rows - taken) * n, (rows, n),
                            tuple(moves), parameters_of(moves), [use.module], r"\mathbf{1}_G^\top \hat x = 0 \;\text{for each group } G",
                            r"W \mapsto W + C A^\top,\; b \mapsto b - C A^\top \beta",
                            ("the norm's gain has no zero entry",) if source.gain else ())]
