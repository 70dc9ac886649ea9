"""Writers into a vector of which one narrow reader takes only a part: what they write along the other directions is lost.

Where R of r x d, r < d, is all that reads a vector, a layer that adds W y to it may write anything in the null space of R besides:
W + A C with R A = 0, A orthonormal. A depends on R, which stays as it is. The last layer of a stream in front of a narrow head has
it, and the shift that a condition makes for the last norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.families.origins import Origins
from symdisc.moves import Index, Move, Through
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse
from symdisc.symmetry import Symmetry

__all__ = ["unread_writers"]

ROUTES = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "expand", "alias", "detach", "_to_copy",
    "to", "contiguous", "flatten", "unflatten", "split", "split_with_sizes", "chunk", "unbind", "slice", "select")) | {"getitem"}


def unread_writers(classes: Classes, mixed: np.ndarray, found: Sequence[Symmetry]) -> list[Symmetry]:
    """One symmetry for each weight, or part of its rows, that writes so and to which no other symmetry adds anything.

    Where any matrix may mix the vector (``mixed``), those that leave the reader alone are these already.
    """
    taken = {m.parameter for s in found for m in s.moves if m.kind not in ("matmul", "scale", "affine_scale")}
    origins = Origins(classes)
    made = []
    for use in classes.facts.dense:
        if use.outs is None or use.rows is not None or use.parameter in taken or not classes.single(use.parameter):
            continue
        vec = classes(use.outs)
        if len(classes.shape(use.parameter)) != 2 or np.isin(vec, mixed).any():
            continue
        for part in origins.parts(vec) or [np.arange(len(vec))]:
            reader = _only_reader(classes, use, vec[part])
            made += [] if reader is None else [_symmetry(classes, use, part, reader)]
    return made


def _symmetry(classes: Classes, use: DenseUse, part: np.ndarray, reader: DenseUse) -> Symmetry:
    columns = classes.shape(use.parameter)[1 - use.out_axis]
    free = len(part) - classes.shape(reader.parameter)[reader.out_axis]
    step = Through("columns", reader.parameter, reader.out_axis, reader.in_axis)
    whole = len(part) == len(use.outs if use.outs is not None else ())
    move = Move("blind", use.parameter, use.out_axis, Index.of(part[None, None, :]), through=(step,),
                rows=None if whole else (int(part[0]), int(part[-1]) + 1))
    return describe_affine("direction that is never read", "outer", columns * free, (columns, free), (move,), (use.parameter,),
                           [use.module], r"R A = 0,\; A^\top A = 1", r"W \mapsto W + A C",
                           ("the weight that reads the vector has full rank",))


def _only_reader(classes: Classes, use: DenseUse, vec: np.ndarray) -> DenseUse | None:
    """The one weight that reads the units ``vec``, in their order, of what ``use`` writes; None if anything else does."""
    rows = np.flatnonzero(np.isin(classes(use.outs), vec)) if use.outs is not None else vec
    if len(np.unique(vec)) < len(vec) or len(rows) != len(vec) or (rows[-1] - rows[0] + 1 != len(rows)):
        return None
    if len(rows) < len(use.outs if use.outs is not None else ()) and use.out_axis != 0:
        return None
    readers: list[DenseUse | None] = []
    for reader in _readers(classes, use.value, vec):
        readers.append(reader)
        if reader is None or len(readers) > 1:
            return None
    one = readers[0] if readers else None
    if one is None or one.ins is None or one.ins.ndim > 1 or one.rows is not None or not classes.single(one.parameter):
        return None
    shape = classes.shape(one.parameter)
    fits = len(shape) == 2 and np.array_equal(classes(one.ins), vec) and one.parameter != use.parameter
    return one if fits and shape[one.out_axis] < len(vec) else None


def _readers(classes: Classes, value: str, vec: np.ndarray) -> Iterable[DenseUse | None]:
    """Weights that read the units ``vec`` of ``value`` behind layout and sums; None for anything else that sees them."""
    graph = classes.graph
    if value in graph.outputs:
        yield None
    for op in graph.users.get(value, ()):
        if op.name not in graph.live or not _touches(classes, op, value, vec):
            continue
        weights = [d for d in classes.facts.dense if d.op == op.name and d.source == value]
        if weights:
            yield weights[0] if len(weights) == 1 and not weights[0].padded else None
        elif _passes(classes, op):
            yield from _readers(classes, op.name, vec)
        else:
            yield None


def _touches(classes: Classes, op: Op, value: str, vec: np.ndarray) -> bool:
    """The operator takes some of the units: all do but those that cut a part out."""
    labels = classes.facts.labels.get(op.name)
    cuts = op.target == "getitem" or op.packet in ("aten.slice", "aten.select")
    return not cuts or not isinstance(labels, np.ndarray) or bool(np.isin(vec, classes(np.unique(labels[labels >= 0]))).any())


def _passes(classes: Classes, op: Op) -> bool:
    """What is added to the operand is added to the result."""
    if op.packet in ROUTES:
        return len(set(op.inputs)) == 1
    return op.packet == "aten.add" and not op.kwargs and len(set(op.inputs)) == len(op.inputs)
