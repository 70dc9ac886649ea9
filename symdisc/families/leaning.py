"""Readers of a centred vector that lean along 1/gamma: what they then write is a constant, and something later takes it away.

A norm hands on gamma * x + beta with 1^T x = 0, so W + a (1/gamma)^T writes the constant a sum(beta/gamma) beside W's own output.
A bias of W takes it at once (``Invisible.readers``). Without one the constant goes its way like any translation: to keys it
does nothing, values hand it on to the bias behind the output map, or to whatever else is added to the stream. Where not every
constant finds its way, the one that is alike for all rows may: W + c 1 (1/gamma)^T.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from symdisc.families.half_seen import CONDITION, NAME, half_seen
from symdisc.families.invisible import Centred, Invisible
from symdisc.families.naming import describe_affine
from symdisc.families.part_biases import own_bias
from symdisc.families.translations import Translations
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Symmetry

__all__ = ["leaning_readers"]


def leaning_readers(search: Translations, invisible: Invisible, taken: dict[str, int]) -> list[Symmetry]:
    """One symmetry for each run of rows whose constant is undone; ``taken`` names writers that are free along 1 already."""
    found = []
    for use in search.facts.dense:
        if use.ins is None or use.outs is None or use.rows is not None or not search.single(use.parameter):
            continue
        axis = invisible.axis_read(use)
        source = None if axis is None else invisible.centred_source(use.source, axis)
        if axis is None or source is None or source.shift is None or search.classes.bias(use) is not None:
            continue
        if not invisible.aligned(use, source.value, axis):
            continue
        vec = search.classes(use.outs)
        biased = [np.flatnonzero(np.isin(use.outs, s.units)) for s in search.shift.get(use.op, ()) if search.single(s.parameter)]
        alone = np.flatnonzero((np.bincount(vec)[vec] == 1) & (vec != search.classes.data))
        alone = np.setdiff1d(alone, np.concatenate([*biased, alone[:0]]))
        whole = _symmetry(search, use, source, alone, vec, taken) if len(alone) else None
        parts = [] if whole is not None else [alone[p] for p in search.origins.parts(vec[alone])] or [alone]
        runs = [run for part in parts for run in np.split(part, np.flatnonzero(np.diff(part) != 1) + 1) if len(run)]
        found += [s for s in (whole, *(_symmetry(search, use, source, run, vec, taken) for run in (*biased, *runs))) if s is not None]
    return found


def _symmetry(search: Translations, use: DenseUse, source: Centred, rows: np.ndarray, vec: np.ndarray,
              taken: dict[str, int]) -> Symmetry | None:
    assert use.outs is not None
    whole = len(rows) == len(vec)
    if not whole and (use.out_axis != 0 or (np.diff(rows) != 1).any()):
        return None
    undone = own_bias(search, use, use.outs[rows]) or search.undone(use.parameter, use.value, {int(c): k for k, c in enumerate(vec[rows])})
    if undone is None and (half := _half_seen(search, use, source, rows, vec)) is not None:
        return half
    n = len(rows)
    if undone is None and whole and use.parameter not in taken:  # a norm over several places side by side: it sees all but one constant
        undone, n = search.undone(use.parameter, use.value, dict.fromkeys(map(int, vec), 0)), 1
    if undone is None:
        return None
    shape = tuple(n if a == use.out_axis else 1 for a in range(len(search.classes.shape(use.parameter))))
    assert source.shift is not None
    total = Through("total", source.shift, offset=source.offset, gain=source.gain)
    first = _first(search, use, source, rows)
    moves = (first, *_behind(undone, total))
    names = parameters_of(moves)
    overlap = len(names) > 1 and all(p in taken for p in names)
    if n == 1 and overlap:
        return None
    return describe_affine(
        "constant read off a centred vector", "outer0" if overlap else "outer", n - overlap, shape, moves, names, [use.module],
        r"\mathbf{1}^\top \hat x = 0", r"W \mapsto W + a (1/\gamma)^\top,\; b' \mapsto b' - L a \textstyle\sum \beta/\gamma",
        ("the norm's gain has no zero entry",) if source.gain else ())


def _first(search: Translations, use: DenseUse, source: Centred, rows: np.ndarray) -> Move:
    assert use.outs is not None
    size = search.classes.shape(use.parameter)[use.in_axis]
    return Move("outer", use.parameter, use.in_axis, Index.of(np.arange(size)[None, None, :]), gain=source.gain, offset=source.offset,
                rows=None if len(rows) == len(use.outs) else (int(rows[0]), int(rows[-1]) + 1))


def _half_seen(search: Translations, use: DenseUse, source: Centred, rows: np.ndarray, vec: np.ndarray) -> Symmetry | None:
    """The constants that the next weight turns into multiples of 1, before a norm that does not see those."""
    found = half_seen(search, use.parameter, use.value, {int(c): k for k, c in enumerate(vec[rows])})
    if found is None or use.out_axis != 0:
        return None
    step, n = found
    move = replace(_first(search, use, source, rows), through=(step,))
    return describe_affine(NAME, "outer", n, (n,), (move,), (use.parameter,), [use.module], CONDITION,
                           r"W \mapsto W + B t (1/\gamma)^\top", ("the norm's gain has no zero entry",) if source.gain else ())


def _behind(moves: list[Move], step: Through) -> list[Move]:
    """The same moves for what ``step`` makes of the element."""
    return [replace(m, through=(step, *m.through)) for m in moves]
