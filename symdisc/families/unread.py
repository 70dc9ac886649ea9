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
        for part in _vectors(origins, vec):
            reader = _only_reader(origins, use, vec[part])
            made += [] if reader is None else [_symmetry(classes, use, part, reader)]
    return made


def _vectors(origins: Origins, vec: np.ndarray) -> list[np.ndarray]:
    """Places [copies, size] of the vectors that are written: the whole, its parts with a fate of their own, or pieces of maxima."""
    pieces = origins.pieces(vec)
    if pieces is not None:
        return [np.stack([np.flatnonzero(pieces == k) for k in range(int(pieces.max()) + 1)]).T]
    return [part[None, :] for part in origins.parts(vec) or [np.arange(len(vec))]]


def _symmetry(classes: Classes, use: DenseUse, places: np.ndarray, reader: DenseUse) -> Symmetry:
    columns = classes.shape(use.parameter)[1 - use.out_axis]
    free = places.shape[1] - classes.shape(reader.parameter)[reader.out_axis]
    step = Through("columns", reader.parameter, reader.out_axis, reader.in_axis)
    move = Move("blind", use.parameter, use.out_axis, Index.of(places[:, None, :]), through=(step,))
    return describe_affine("direction that is never read", "outer", columns * free, (columns, free), (move,), (use.parameter,),
                           [use.module], r"R A = 0,\; A^\top A = 1", r"W \mapsto W + A C",
                           ("the weight that reads the vector has full rank",))


def _only_reader(origins: Origins, use: DenseUse, units: np.ndarray) -> DenseUse | None:
    """The one weight that reads the vector ``units`` [copies, size], in its order, that ``use`` writes; None if anything else does."""
    classes = origins.classes
    if len(np.unique(units)) < units.size or use.outs is None or np.isin(classes(use.outs), units).sum() != units.size:
        return None
    readers: list[tuple[DenseUse, np.ndarray] | None] = []
    for reader in _readers(origins, use.value, units):
        readers.append(reader)
        if reader is None or len(readers) > 1:
            return None
    if not readers or readers[0] is None:
        return None
    one, vec = readers[0]
    if one.ins is None or one.ins.ndim > 1 or one.rows is not None or not classes.single(one.parameter):
        return None
    shape = classes.shape(one.parameter)
    fits = len(shape) == 2 and np.array_equal(classes(one.ins)[None, :], vec) and one.parameter != use.parameter
    return one if fits and shape[one.out_axis] < vec.shape[1] else None


def _readers(origins: Origins, value: str, units: np.ndarray) -> Iterable[tuple[DenseUse, np.ndarray] | None]:
    """(weight, vector) for weights that read the ``units`` [copies, size] of ``value`` behind layout, sums and maxima of the copies;
    None for anything else that sees them."""
    classes = origins.classes
    graph = classes.graph
    if value in graph.outputs:
        yield None
    for op in graph.users.get(value, ()):
        if op.name not in graph.live or not _touches(classes, op, units):
            continue
        weights = [d for d in classes.facts.dense if d.op == op.name and d.source == value]
        chosen = origins.rows.get(op.name)
        if weights:
            yield (weights[0], units) if len(weights) == 1 and not weights[0].padded else None
        elif chosen is not None and np.array_equal(np.sort(chosen[0], axis=1), np.sort(units.T, axis=1)):
            yield from _readers(origins, op.name, chosen[1][None, :])
        elif _passes(classes, op):
            yield from _readers(origins, op.name, units)
        else:
            yield None


def _touches(classes: Classes, op: Op, units: np.ndarray) -> bool:
    """The operator takes some of the units: all do but those that cut a part out."""
    labels = classes.facts.labels.get(op.name)
    cuts = op.target == "getitem" or op.packet in ("aten.slice", "aten.select")
    return not cuts or not isinstance(labels, np.ndarray) or bool(np.isin(units, classes(np.unique(labels[labels >= 0]))).any())


def _passes(classes: Classes, op: Op) -> bool:
    """What is added to the operand is added to the result."""
    if op.packet in ROUTES:
        return len(set(op.inputs)) == 1
    return op.packet == "aten.add" and not op.kwargs and len(set(op.inputs)) == len(op.inputs)
