"""Biases that are joined from several parameters: queries and values have one each, keys have none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from symdisc.moves import Index, Move, Through
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, ShiftUse

if TYPE_CHECKING:
    from symdisc.families.translations import Translations

__all__ = ["own_bias", "taken_by_rows"]


def own_bias(search: Translations, use: DenseUse, outs: np.ndarray) -> list[Move]:
    """What takes a translation of the outputs ``outs`` of a weight away: the bias that its operator adds to just these."""
    own = [s for s in search.shift.get(use.op, ()) if search.single(s.parameter) and np.array_equal(s.units, outs)]
    return [_taken(own[0], ())] if own else []


def taken_by_rows(search: Translations, op: Op, use: DenseUse, biases: list[ShiftUse], chain: tuple[Through, ...],
                  step: Through) -> list[Move] | None:
    """Each of ``biases`` takes its outputs' part of a translation that comes along ``chain`` and ``step``; the rest goes on."""
    assert use.outs is not None
    if use.out_axis != 0 or use.rows is not None:
        return None
    owner = np.full(len(use.outs), -1)
    for k, bias in enumerate(biases):
        owner[np.isin(use.outs, bias.units)] = k
    moves: list[Move] = []
    vec = search.classes(use.outs)
    for run in np.split(np.arange(len(vec)), np.flatnonzero(np.diff(owner)) + 1):
        longer = (*chain, replace(step, rows=(int(run[0]), int(run[-1]) + 1)))
        k = owner[run[0]]
        if k >= 0 and np.array_equal(use.outs[run], biases[k].units):
            moves.append(_taken(biases[k], longer))
            continue
        after = {int(c): i for i, c in enumerate(vec[run])}
        part = search.push(op.name, after, longer) if k < 0 and len(after) == len(run) else None
        part = _leaning(search, use, run, step) if part is None and k < 0 and not chain else part
        if part is None:
            return None
        moves += part
    return moves


def _leaning(search: Translations, use: DenseUse, run: np.ndarray, step: Through) -> list[Move] | None:
    """The rows ``run`` lean along the inverse gain of the centred vector that they read, as much as the shift behind the norm moved."""
    source = search.centred(use.source) if search.single(use.parameter) else None
    if source is None or source.shift != search.origin or step.index is None:
        return None
    return [Move("centred", use.parameter, use.in_axis, step.index, gain=source.gain, offset=source.offset, extra=(search.origin,),
                 rows=(int(run[0]), int(run[-1]) + 1))]


def _taken(bias: ShiftUse, chain: tuple[Through, ...]) -> Move:
    return Move("add", bias.parameter, -1, Index.of(bias.elements[None, None, :]), power=-1.0, through=chain)
