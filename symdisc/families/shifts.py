"""Translations as moves of parameters that are added: whole vectors, or those rows of a table that are used at a place."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from symdisc.families.classes import Classes
from symdisc.moves import Index, Move, Through
from symdisc.spaces import DenseUse, ShiftUse

__all__ = ["added", "by_coordinate", "row_by_row", "taken"]

Current = dict[int, int]  # class -> index into the translation vector


def added(classes: Classes, parameter: str, axis: int, positions: np.ndarray, value: str, together: np.ndarray) -> Move | None:
    """The translation of its origin, at ``positions`` along ``axis``, alike where ``together`` is; of a table, in the rows that ``value``
    takes from it, if it takes whole rows."""
    alike = [positions[together == k] for k in range(int(together.max()) + 1)]
    part = next((s for s in classes.facts.shifts if s.parameter == parameter and s.value == value and _partial(classes, s)), None)
    if part is None:
        return Move("add", parameter, axis, Index.of(np.stack(alike).T[:, None, :])) if len({*map(len, alike)}) == 1 else None
    where = classes.coordinates(part, axis)
    if len({*np.bincount(where)[positions].tolist()}) != 1:
        return None
    entries = [np.concatenate([part.elements[where == p] for p in some.tolist()]) for some in alike]
    return Move("add", parameter, -1, Index.of(np.stack(entries).T[:, None, :])) if len({*map(len, entries)}) == 1 else None


def _partial(classes: Classes, shift: ShiftUse) -> bool:
    """Some rows of a table."""
    shape = classes.shape(shift.parameter)
    return len(shape) > 1 and len(shift.elements) < int(np.prod(shape))


def _apart(classes: Classes, shift: ShiftUse) -> bool:
    """Several axes, and a unit for each entry: biases of heads stored [heads, size]."""
    shape = classes.shape(shift.parameter)
    return len([n for n in shape if n > 1]) > 1 and len(np.unique(classes(shift.units))) == int(np.prod(shape))


def taken(classes: Classes, shift: ShiftUse, current: Current, chain: tuple[Through, ...]) -> Move | None:
    """The parameter of ``shift`` takes away what comes along ``chain``."""
    number = not classes.shape(shift.parameter)  # of no axis
    axis = -1 if number or _partial(classes, shift) or _apart(classes, shift) else shift.axis
    where = shift.elements if axis < 0 else classes.coordinates(shift, axis)
    index = by_coordinate(where, classes(shift.units), current)
    return None if index is None else Move("add", shift.parameter, axis, index, power=-1.0, through=chain)


def row_by_row(classes: Classes, bias: ShiftUse, use: DenseUse, chain: tuple[Through, ...]) -> Move | None:
    """The bias of the same operator: its elements go with the rows of the weight, also where rows share a class (rotary planes)."""
    if use.outs is None or not np.array_equal(bias.units, use.outs):
        return None
    index = Index.of(classes.coordinates(bias, bias.axis)[None, None, :])
    return Move("add", bias.parameter, bias.axis, index, power=-1.0, through=chain)


def by_coordinate(where: np.ndarray, vec: np.ndarray, current: Current) -> Index | None:
    """Positions at which each coordinate of the translation is added: one, or as many as a constant vector has entries."""
    positions: dict[int, set[int]] = defaultdict(set)
    for w, c in zip(where.tolist(), vec.tolist(), strict=True):
        if c in current:
            positions[current[c]].add(w)
    if len({len(p) for p in positions.values()}) != 1:
        return None
    return Index.of(np.array([sorted(positions[k]) for k in sorted(positions)]).T[:, None, :])
