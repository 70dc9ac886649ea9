"""Writers into a vector of which all that reads it takes only a part: what they write along the other directions is lost.

Where R_1, R_2, ... with fewer rows together than the vector has entries are all that reads it, a layer that adds W y to it may write
anything in their common null space besides: W + A C with R_k A = 0, A orthonormal. A depends on the R_k, which stay as they are. The
last layer of a stream in front of a narrow head has it, and the shift that a condition makes for the last norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from symdisc.families.axes import ROUTES
from symdisc.families.classes import Classes, rows_of
from symdisc.families.naming import LACKING, describe_affine
from symdisc.families.origins import Origins
from symdisc.moves import Index, Move, Through
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse
from symdisc.symmetry import Symmetry

__all__ = ["unread_writers"]

CUTS = frozenset(f"aten.{n}" for n in ("split", "split_with_sizes", "chunk", "unbind", "slice", "select"))
SUMS = ("aten.add", "aten.sub")
# between two weights: the second has the same directions as the first
TRADES = frozenset(("weights of parallel maps traded", "factor traded for the weight beside it"))


def unread_writers(classes: Classes, mixed: np.ndarray, found: Sequence[Symmetry]) -> list[Symmetry]:
    """One symmetry for each weight, or part of its rows, that writes so; ``found`` are the other families, additive ones among them.

    Where any matrix may mix the vector (``mixed``) this is claimed only if everything that reads the space, taken together, sees all
    of it: no change of basis then moves one writer alone. Of parallel maps, which trade such directions, the largest has them.
    """
    beside: dict[str, list[Symmetry]] = {}
    for s in found:
        for name in s.parameters if s.family[:5] in ("trans", "outer", "free") else ():
            beside.setdefault(name, []).append(s)
    origins = Origins(classes)
    inside = np.zeros(classes.count, dtype=bool)
    inside[mixed] = True
    made: dict[str, list[Symmetry]] = {}
    for use in sorted(classes.facts.dense, key=lambda u: -int(np.prod(classes.shape(u.parameter)))):
        others = beside.get(use.parameter, [])
        if use.outs is None or use.rows is not None or not classes.single(use.parameter):
            continue
        if made.keys() & {p for s in others for p in s.parameters}:
            continue
        vec = classes(use.outs)
        claims = []
        for part in _vectors(origins, use.value, vec):
            readers = _all_readers(origins, use, vec[part])
            if readers and (not inside[vec[part]].any() or _seen_whole(classes, vec[part])):
                claims.append(_symmetry(classes, use, part, readers, others))
        if any(claims):
            made[use.parameter] = [s for s in claims if s is not None]
    order = list(dict.fromkeys(u.parameter for u in classes.facts.dense))
    return [s for name in sorted(made, key=order.index) for s in made[name]]


def _counted(others: Sequence[Symmetry], name: str, free: int) -> int | None:
    """How many of the directions other families of the weight have; None where that is not known.

    A weight that also reads along directions that never come (of a centred or a narrow vector) may write anything for those.
    """
    lost = 0
    for s in others:
        first = next(m for m in s.moves if m.parameter == name)
        if s.name in TRADES or first.kind == "centred":
            continue
        if first.kind == "blind" and s.parameters[0] == name:
            lost += free * s.shape[-1]
        elif s.name == LACKING and s.family == "outer" and len(s.shape) == 2 and s.dimension == s.shape[0]:
            lost += free
        else:
            return None
    return lost


def _rows(classes: Classes, use: DenseUse) -> int:
    shape = classes.shape(use.parameter)
    return int(np.prod(shape)) // shape[use.in_axis]


def _seen_whole(classes: Classes, units: np.ndarray) -> bool:
    """Everything that reads the space of the vectors sees all of it."""
    read = {u.parameter: _rows(classes, u) for u in classes.facts.dense if u.ins is not None and np.isin(units, classes(u.ins)).all()}
    return sum(read.values()) >= units.shape[1]


def _vectors(origins: Origins, value: str, vec: np.ndarray) -> list[np.ndarray]:
    """Places [copies, size] of the vectors that are written: the whole, its parts with a fate of their own, or pieces of maxima."""
    pieces = origins.pieces(vec)
    if pieces is not None:
        return [np.stack([np.flatnonzero(pieces == k) for k in range(int(pieces.max()) + 1)]).T]
    parts = origins.parts(vec) if _cut(origins.classes, value) else []
    return [part[None, :] for part in parts or [np.arange(len(vec))]]


def _cut(classes: Classes, value: str) -> bool:
    """Layout takes the value apart."""
    return any(op.packet in CUTS or (op.packet in ROUTES and _cut(classes, op.name)) for op in classes.graph.users.get(value, ()))


def _symmetry(classes: Classes, use: DenseUse, places: np.ndarray, readers: Sequence[DenseUse],
              others: Sequence[Symmetry]) -> Symmetry | None:
    columns = tuple(n for a, n in enumerate(classes.shape(use.parameter)) if a != use.out_axis)
    free = places.shape[1] - sum(_rows(classes, r) for r in readers)
    lost = _counted(others, use.parameter, free)
    if lost is None or lost >= int(np.prod(columns)) * free:
        return None
    steps = tuple(Through("columns", r.parameter, r.out_axis, r.in_axis) for r in readers)
    move = Move("blind", use.parameter, use.out_axis, Index.of(places[:, None, :]), through=steps)
    whose = "weight that reads the vector has" if len(steps) == 1 else "weights that read the vector together have"
    return describe_affine("direction that is never read", "outer", int(np.prod(columns)) * free - lost, (*columns, free), (move,),
                           (use.parameter,), [use.module], r"R A = 0,\; A^\top A = 1", r"W \mapsto W + A C", (f"the {whose} full rank",))


def _all_readers(origins: Origins, use: DenseUse, units: np.ndarray) -> tuple[DenseUse, ...]:
    """The weights that read the vector ``units`` [copies, size], in its order, that ``use`` writes; none if anything else sees it, or
    if they see all of it."""
    classes = origins.classes
    if len(np.unique(units)) < units.size or use.outs is None or np.isin(classes(use.outs), units).sum() != units.size:
        return ()
    readers: dict[str, DenseUse] = {}
    size = units.shape[1]
    for reader in _readers(origins, use.value, units):
        if reader is None:
            return ()
        one, vec = reader
        if one.ins is None or one.ins.ndim > 1 or one.rows is not None or one.parameter == use.parameter:
            return ()
        if not np.array_equal(classes(one.ins)[None, :], vec) or classes.shape(one.parameter)[one.in_axis] != len(one.ins):
            return ()
        size = vec.shape[1]
        readers[one.parameter] = one
    return tuple(readers.values()) if sum(_rows(classes, r) for r in readers.values()) < size else ()


def _readers(origins: Origins, value: str, units: np.ndarray) -> Iterable[tuple[DenseUse, np.ndarray] | None]:
    """(weight, vector) for weights that read the ``units`` [copies, size] of ``value`` behind layout, sums and maxima of the copies;
    None for anything else that sees them."""
    classes = origins.classes
    graph = classes.graph
    if value in graph.outputs:
        yield None
    for op in sorted(graph.users.get(value, ()), key=lambda u: u.packet in SUMS):  # the way along a stream last: a norm ends it
        if op.name not in graph.live or not _touches(classes, op, units):
            continue
        weights = [d for d in classes.facts.dense if d.op == op.name and d.source == value]
        chosen = origins.rows.get(op.name)
        if weights:
            yield (weights[0], units) if len(weights) == 1 else None
        elif chosen is not None and np.array_equal(np.sort(chosen[0], axis=1), np.sort(units.T, axis=1)):
            yield from _readers(origins, op.name, chosen[1][None, :])
        elif _passes(classes, op, value, units):
            yield from _readers(origins, op.name, units)
        else:
            yield None


def _touches(classes: Classes, op: Op, units: np.ndarray) -> bool:
    """The operator takes some of the units: all do but those that cut a part out."""
    labels = classes.facts.labels.get(op.name)
    cuts = op.target == "getitem" or op.packet in ("aten.slice", "aten.select")
    return not cuts or not isinstance(labels, np.ndarray) or bool(np.isin(units, classes(np.unique(labels[labels >= 0]))).any())


def _passes(classes: Classes, op: Op, value: str, units: np.ndarray) -> bool:
    """What is added to the operand, in one direction, is added to the result in the same direction."""
    if op.packet in ROUTES:
        return len(set(op.inputs)) == 1
    if op.packet in ("aten.mul", "aten.div") and len(op.inputs) == 1 and not op.kwargs:
        return isinstance(op.args[0], Ref)  # by a number
    if op.packet == "aten.mean":  # over places: the units stay what they are
        labels = classes.facts.labels.get(op.name)
        return isinstance(labels, np.ndarray) and bool(np.isin(units, classes(np.unique(labels[labels >= 0]))).all())
    if op.packet == "aten.matmul":  # sums over places with weights that the data make
        return len(set(op.inputs)) == 2 and op.inputs[1] == value and len(units) == 1 and all(
            _along_last(classes, name, units[0]) for name in (value, op.name))
    return op.packet in SUMS and not op.kwargs and len(set(op.inputs)) == len(op.inputs)


def _along_last(classes: Classes, name: str, vec: np.ndarray) -> bool:
    labels = classes.facts.labels.get(name)
    return isinstance(labels, np.ndarray) and labels.shape[-1] == len(vec) and bool((classes(rows_of(labels)) == vec).all())
