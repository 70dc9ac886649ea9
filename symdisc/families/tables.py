"""Tables added entry by entry: positions after class token and patches, biases of attention scores.

What a writer adds to unit u at every place, a table takes away where it meets u: the class token and row 0 of the position
table, the bias of the patches and all other rows. And a table added to scores may hold any constant per head, for softmax
does not see it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from symdisc.families.axes import KEEPS
from symdisc.families.classes import Classes, components
from symdisc.families.naming import describe_affine
from symdisc.families.translations import Translations
from symdisc.moves import Index, Move
from symdisc.spaces import ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["constants_of_scores", "table_trades"]


def table_trades(classes: Classes, invisible: dict[str, int]) -> list[Symmetry]:
    """w_u + t_u and T_e - t_u for the entries e of a table that meet unit u of the writer w."""
    found = []
    for table in _tables(classes):
        for writer in classes.facts.shifts:
            if writer.parameter != table.parameter and _lone(classes, writer) and _only_meets(classes, writer, table):
                symmetry = _trade(classes, writer, table, invisible)
                found += [] if symmetry is None else [symmetry]
    return found


def _lone(classes: Classes, shift: ShiftUse) -> bool:
    """The parameter does this and nothing else, one element to each unit or several."""
    return not shift.buffer and len(classes.uses.get(shift.parameter, ())) == 1


def _tables(classes: Classes) -> Iterator[ShiftUse]:
    """Tables that are added to a value, each entry to one unit."""
    for shift in classes.facts.shifts:
        labels = classes.facts.labels.get(shift.op)
        if _lone(classes, shift) and isinstance(labels, np.ndarray) and _added(classes, shift):
            if np.array_equal(np.unique(labels), np.unique(shift.units)):
                yield shift


def _added(classes: Classes, shift: ShiftUse) -> bool:
    op = classes.graph.by_name.get(shift.op)
    return op is not None and op.packet == "aten.add"


def _only_meets(classes: Classes, writer: ShiftUse, table: ShiftUse) -> bool:
    """Layout alone lies between what the writer writes and the addition of the table, and nothing else sees it."""
    graph, frontier = classes.graph, [writer.value]
    if writer.value == table.op or not np.isin(writer.units, table.units).all() or len(np.unique(writer.units)) != len(writer.units):
        return False
    if set(np.unique(classes.facts.labels.get(writer.value, np.zeros(1)))) != set(writer.units):
        return False
    while frontier:
        value = frontier.pop()
        if value in graph.outputs:
            return False
        for op in graph.users.get(value, ()):
            if op.name == table.op or op.name not in graph.live:
                continue
            if op.packet not in KEEPS or "pool" in op.packet or op.inputs.count(value) != 1:
                return False
            frontier.append(op.name)
    return True


def _trade(classes: Classes, writer: ShiftUse, table: ShiftUse, invisible: dict[str, int]) -> Symmetry | None:
    met = [table.elements[table.units == u] for u in writer.units.tolist()]
    if len({len(m) for m in met}) != 1:
        return None
    moves = (Move("add", writer.parameter, -1, Index.of(writer.elements[None, None, :])),
             Move("add", table.parameter, -1, Index.of(np.stack(met, 1)[:, None, :]), power=-1.0))
    n, names = len(writer.units), (writer.parameter, table.parameter)
    overlap = all(p in invisible for p in names)
    if n == 1 and overlap:
        return None
    return describe_affine("translation traded between parameters", "translation0" if overlap else "translation", n - overlap, (n,),
                           moves, names, [writer.module, table.module], r"(b + t) + (T - t) = b + T", r"b \mapsto b + t,\; T \mapsto T - t")


def constants_of_scores(classes: Classes) -> list[Symmetry]:
    """Constants that softmax does not see: one for each set of entries of a table that share a row of scores."""
    search = Translations(classes)
    found = []
    for name, uses in classes.uses.items():
        shifts = [u for u in uses if isinstance(u, ShiftUse) and not u.buffer and isinstance(classes.facts.labels.get(u.op), np.ndarray)]
        if not shifts or len(shifts) != len(uses):
            continue
        if not all((_added(classes, u) or _written(classes, u)) and search.scores.end_in_softmax(u.op) for u in shifts):
            continue
        groups = _groups(classes, shifts)
        for size in sorted({*map(len, groups)}):  # rows of a class token have entries of their own, fewer than the others
            alike = np.array([g for g in groups if len(g) == size])
            n, move = len(alike), Move("add", name, -1, Index.of(alike.T[:, None, :]))
            found.append(describe_affine("constant that softmax does not see", "translation", n, (n,), (move,), (name,), [shifts[0].module],
                                         r"\operatorname{softmax}(s + c \mathbf{1}) = \operatorname{softmax}(s)", r"T_h \mapsto T_h + c_h"))
    return found


def _written(classes: Classes, shift: ShiftUse) -> bool:
    """The table stands for itself, a unit for each entry (behind a mask, or handed to attention as it is)."""
    return shift.table and shift.value == shift.op and set(np.unique(classes.facts.labels[shift.op])) == set(shift.units.tolist())


def _groups(classes: Classes, shifts: list[ShiftUse]) -> list[list[int]]:
    """Entries of the table that must move together: all that meet one unit (a head), or all where heads share entries."""
    size = int(np.prod(classes.shape(shifts[0].parameter)))
    pairs = []
    for shift in shifts:
        labels = classes.facts.labels[shift.op]
        if not _added(classes, shift):
            rows = np.unique(labels.reshape(-1, labels.shape[-1]), axis=0)
            entry = dict(zip(shift.units.tolist(), shift.elements.tolist(), strict=True))
            places = np.vectorize(entry.__getitem__, otypes=[np.int64])(rows)
            pairs.append((np.broadcast_to(places[:, :1], places.shape).ravel(), places.ravel()))
            continue
        apart = np.array_equal(np.unique(labels), np.unique(shift.units))
        key = shift.units if apart else np.zeros(len(shift.units), dtype=np.int64)
        first = {u: e for u, e in zip(key.tolist(), shift.elements.tolist(), strict=True)}
        pairs.append((shift.elements, np.array([first[u] for u in key.tolist()], dtype=np.int64)))
    of = components(size, pairs)
    used = np.unique(np.concatenate([s.elements for s in shifts]))
    groups: dict[int, list[int]] = defaultdict(list)
    for e in used.tolist():
        groups[int(of[e])].append(e)
    return list(groups.values())
