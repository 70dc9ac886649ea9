"""Keys that one constant query meets (a learned probe that pools tokens): the scores see them along that query alone.

With c = W_q p + b_q the same for every input, c . (W_k x) does not change when W_k is moved by A t, A orthonormal with A^T c = 0. A depends
on the weights that make the query, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from symdisc.families.axes import ROUTES
from symdisc.families.classes import Classes, rows_of
from symdisc.families.naming import LACKING, describe_affine
from symdisc.moves import Index, Move, Through
from symdisc.spaces import DenseUse, Dual
from symdisc.symmetry import Symmetry

__all__ = ["keys_of_constant_queries"]


def keys_of_constant_queries(classes: Classes, mixed: np.ndarray, found: Sequence[Symmetry]) -> list[Symmetry]:
    """One symmetry for each head of a constant query.

    What changes of basis (``mixed``) and the readers among ``found`` contain is not counted.
    """
    leaning = {m.parameter for s in found for m in s.moves if m.kind == "outer" and s.name == LACKING}
    owner = _owners(classes)
    made = []
    graph = classes.graph
    for dual in classes.facts.duals:
        if all("data" in graph.roles[n] for n in graph.by_name[dual.op].inputs):
            continue  # both sides depend on the input
        for left, right in zip(dual.left, dual.right, strict=True):
            for query, key in ((left, right), (right, left)):
                asks = owner[classes(query)]
                if (asks < 0).any() or "data" in classes.graph.roles[classes.facts.dense[int(asks[0])].op]:
                    continue  # the query changes with the data: nearly all do
                symmetry = _symmetry(classes, dual, query, key, mixed, leaning)
                made += [] if symmetry is None else [symmetry]
    return made


def _owners(classes: Classes) -> np.ndarray:
    """For each class the number of the one weight that writes it, or -1."""
    owner, times = np.full(classes.count, -1), np.zeros(classes.count, dtype=np.int64)
    for k, use in enumerate(classes.facts.dense):
        if use.outs is not None:
            vec = np.unique(classes(use.outs))
            owner[vec] = k
            times[vec] += 1
    return np.where(times == 1, owner, -1)


def _symmetry(classes: Classes, dual: Dual, query: np.ndarray, key: np.ndarray, mixed: np.ndarray, leaning: set[str]) -> Symmetry | None:
    asks, answers = _writer(classes, dual, query), _writer(classes, dual, key)
    if asks is None or answers is None or "data" in classes.graph.roles[asks[0].op] or not classes.single(answers[0].parameter):
        return None
    constant = _constant(classes, *asks)
    if constant is None or (answers[0].parameter == asks[0].parameter and answers[0].rows == asks[0].rows):
        return None
    use, rows = answers
    columns, size = classes.shape(use.parameter)[1], len(key)
    assert asks[0].ins is not None
    turned = np.isin(classes(np.concatenate([query, key, asks[0].ins])), mixed).all()
    count = (size - 1) * (columns - (size if turned else 0) - (use.parameter in leaning))
    if count <= 0:
        return None
    step, extra = constant
    move = Move("blind", use.parameter, 0, Index.of(np.arange(size)[None, None, :]), through=(step,), rows=rows, extra=extra)
    note = f"of {(size - 1) * columns} some are changes of basis, or directions that a centred vector lacks"
    made = describe_affine("direction that a constant query does not meet", "outer", count, (columns, size - 1), (move,), (use.parameter,),
                           [use.module], r"c = W_q p + b_q,\; A^\top c = 0,\; A^\top A = 1", r"W_k \mapsto W_k + A t^\top",
                           ("the constant query is not zero",))
    return replace(made, note=note) if count < (size - 1) * columns else made


def _writer(classes: Classes, dual: Dual, units: np.ndarray) -> tuple[DenseUse, tuple[int, int]] | None:
    """The matrix whose rows (first, last + 1) write the units, when layout and scales alone lie between it and the scores."""
    uses = [u for u in classes.facts.dense if u.outs is not None and np.isin(classes(u.outs), classes(units)).any()]
    if len(uses) != 1 or uses[0].out_axis != 0 or len(classes.shape(uses[0].parameter)) != 2:
        return None
    outs = classes(uses[0].outs) if uses[0].outs is not None else units
    at = np.flatnonzero(np.isin(outs, classes(units)))
    together = np.array_equal(outs[at], classes(units)) and at[-1] - at[0] + 1 == len(at)
    if not together or not _only_scored(classes, uses[0].value, outs[at], dual.op):
        return None
    first = (uses[0].rows[0] if uses[0].rows else 0) + int(at[0])
    return uses[0], (first, first + len(at))


def _only_scored(classes: Classes, value: str, vec: np.ndarray, end: str) -> bool:
    """Nothing sees the classes ``vec`` of ``value`` but the operator ``end``."""
    graph, frontier = classes.graph, [value]
    while frontier:
        name = frontier.pop()
        if name in graph.outputs:
            return False
        for op in graph.users.get(name, ()):
            labels = classes.facts.labels.get(op.name)
            elsewhere = isinstance(labels, np.ndarray) and not np.isin(classes(np.unique(labels)), vec).any()
            if op.name == end or op.name not in graph.live or (op.packet in ROUTES and elsewhere):
                continue
            scales = op.packet in ("aten.mul", "aten.div") and len(op.inputs) == 1 and op.inputs[0] == name
            if not scales and (op.packet not in ROUTES or len(set(op.inputs)) != 1):
                return False
            frontier.append(op.name)
    return True


def _constant(classes: Classes, use: DenseUse, rows: tuple[int, int]) -> tuple[Through, tuple[str, str]] | None:
    """How the weight makes the query of a stored vector: the step, and (vector, bias)."""
    labels = classes.facts.labels.get(use.source)
    if not isinstance(labels, np.ndarray) or use.ins is None or use.ins.ndim != 1 or len(rows_of(labels)) != 1:
        return None
    stored = [s for s in classes.facts.shifts if np.isin(s.units, use.ins).any()]
    whole = len(stored) == 1 and stored[0].table and np.array_equal(stored[0].units, use.ins) and not stored[0].buffer
    if not whole or not np.array_equal(stored[0].elements, np.arange(len(use.ins))) or stored[0].parameter == use.parameter:
        return None
    if int(np.prod(classes.shape(stored[0].parameter))) != len(use.ins):
        return None
    biases = [s for s in classes.facts.shifts if s.op == use.op]
    bias = classes.bias(use)
    if len(biases) > 1 or (biases and bias is None):
        return None
    start = rows[0] - (use.rows[0] if use.rows else 0)
    index = None if bias is None else Index.of(bias.elements[None, None, start:start + rows[1] - rows[0]])
    step = Through("written", use.parameter, use.in_axis, use.out_axis, index, rows=rows)
    return step, (stored[0].parameter, "" if bias is None else bias.parameter)
