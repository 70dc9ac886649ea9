"""Blocks that may be exchanged whole: heads, groups, experts, branches.

Two seeds of one kind (two heads, two operands of a sum) are followed through the ``Structure`` in parallel: what only one of
them touches must correspond to what only the other touches, what both touch stays. The exchange is accepted if it is an
automorphism: every edge at a moved vertex goes to an edge. Exchanges with one common block generate the symmetric group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np

from symdisc.families.classes import Classes, Depthwise
from symdisc.families.emit import axis_vectors
from symdisc.families.links import Links
from symdisc.families.naming import common_path
from symdisc.families.structure import Structure
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Discrete

__all__ = ["find_blocks"]

MOST = 60_000_000  # edges of the structure followed in all (some seconds); beyond it nothing more is proposed


class _Swapper:
    """Exchanges of two seeds, within a budget of edges."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self.left = structure, MOST
        self.image = np.arange(structure.size)  # of the exchange at hand; the identity between two of them

    def swap(self, a: int, b: int) -> np.ndarray | None:
        """The block of ``a`` above the block of ``b``, [2, n], or None if exchanging them is no automorphism."""
        if not self._alike(np.array([a]), np.array([b])):
            return None
        pairs = [np.array([[a], [b]])]
        self._move(pairs[0])
        good = self._followed(pairs)
        forward = np.concatenate(pairs, 1)
        good = good and self._automorphism(forward)
        self.image[forward] = forward
        return forward[:, np.argsort(forward[0])] if good else None

    def _followed(self, pairs: list[np.ndarray]) -> bool:
        """Adds to ``pairs`` ([2, n] each) what has to be exchanged along, one ring of neighbours after the other; False where
        two vertices that should correspond cannot."""
        while pairs[-1].size:
            found = self._matched(*pairs[-1])
            if found is None or not self._alike(*found):
                return False
            self._move(found)
            pairs.append(found)
        return True

    def _move(self, pairs: np.ndarray) -> None:
        self.image[pairs[0]], self.image[pairs[1]] = pairs[1], pairs[0]

    def _alike(self, u: np.ndarray, v: np.ndarray) -> bool:
        s = self.structure
        return bool((s.signature[u] == s.signature[v]).all() and s.free(u).all() and s.free(v).all())

    def _matched(self, u: np.ndarray, v: np.ndarray) -> np.ndarray | None:
        """Neighbours of each of ``u`` alone paired with neighbours of its partner in ``v`` alone, label by label, in their order;
        those that are already exchanged are left out. [2, n], or None where they do not pair up."""
        s, edges = self.structure, []
        for mine in (u, v):
            edges.append(s.edges(mine))
            self.left -= len(edges[-1][0])
        if self.left <= 0:
            return None
        sides, codes = [], [s.code(*e) for e in edges]
        for (owner, label, neighbour), mine, other in zip(edges, codes, reversed(codes), strict=True):
            alone = (self.image[neighbour] == neighbour) & ~np.isin(mine, other, assume_unique=True)
            sides.append((owner[alone], label[alone], neighbour[alone]))
        (owner, label, x), (partner, other, y) = sides
        if len(x) != len(y) or (owner != partner).any() or (label != other).any():
            return None
        found = np.unique(np.stack([x, y]), axis=1)
        once = len(np.unique(found)) == found.size  # each has one partner, and is on one side only
        return found if once else None

    def _automorphism(self, forward: np.ndarray) -> bool:
        """Every edge at an exchanged vertex goes to an edge."""
        s, moved = self.structure, np.sort(forward.ravel())
        owner, label, neighbour = s.edges(moved)
        there = np.searchsorted(moved, self.image[moved])  # edges are told by the place of their owner among the moved
        before, after = s.code(owner, label, neighbour), s.code(there[owner], label, self.image[neighbour])
        return bool(np.array_equal(before, np.sort(after)))


def find_blocks(classes: Classes, links: Links, known: Sequence[Discrete] = ()) -> list[Discrete]:
    """Symmetric groups on exchangeable blocks; ``known`` are permutations of single units, which are not found again."""
    structure = Structure(classes, links)
    swapper, emit = _Swapper(structure), _Emitter(structure)
    found: list[Discrete] = []
    seen: dict[frozenset[str], list[set[frozenset[object]]]] = defaultdict(list)
    waiting: dict[frozenset[str], list[Discrete]] = defaultdict(list)
    for d in known:
        waiting[frozenset(d.parameters)].append(d)
    together: dict[frozenset[int], np.ndarray] = {}
    done = {("rows", op) for op, conv in classes.depthwise.items() if any(_permutes(d, conv) for d in known)}
    for key, chosen in structure.seeds.items():
        seeds = list(dict.fromkeys(chosen))
        if key in done or _again(swapper, seeds, together.get(frozenset(seeds))):
            continue
        for table in _groups(swapper, seeds):
            together.update((frozenset(row), table) for row in table.tolist())
            # without classes only summands change places, which a translation between them does as well
            factor = emit(table) if (table < classes.count).any() else None
            if factor is None:
                continue
            place = frozenset(factor.parameters)
            seen[place] += [_items(d) for d in waiting.pop(place, [])]
            items = _items(factor)
            if not any(items <= old for old in seen[place]):
                seen[place].append(items)
                found.append(factor)
    if swapper.left <= 0:
        classes.notes.append("the search for exchangeable heads, groups and branches was cut short; there may be more")
    return found


def _permutes(d: Discrete, conv: Depthwise) -> bool:
    """All channels of the convolution are already exchanged, one by one."""
    return any(m.parameter == conv.parameter and m.axis == 0 and m.rows is None and m.index.blocks == len(conv.outs) for m in d.moves)


def _again(swapper: _Swapper, seeds: list[int], table: np.ndarray | None) -> bool:
    """Whether the seeds lead to the blocks of ``table``, where they correspond: several vectors of one head do."""
    if table is None:
        return False
    block = swapper.swap(*seeds[:2])
    return block is not None and np.array_equal(block[0], np.sort(table[:, (table == seeds[0]).any(0)].ravel()))


def _items(d: Discrete) -> set[frozenset[object]]:
    """What each of the permuted items consists of: entries along axes, whole tensors."""
    items: list[set[object]] = [set() for _ in range(d.shape[0])]
    for m in d.moves:
        if m.kind == "exchange":
            items[m.index.start].add(m.parameter)
            continue
        positions = m.index.positions()
        for k, item in enumerate(items):
            item.update((m.parameter, m.axis, m.rows, int(p)) for p in positions[:, k].ravel())
    return {frozenset(item) for item in items}


def _groups(swapper: _Swapper, seeds: list[int]) -> Iterable[np.ndarray]:
    """Tables [vertices of a block, blocks] of what can be exchanged: column j holds what block j has in the place of the first.

    The first seed is compared with all others. Those that exchange with the least moved are its siblings; the rest is sorted in
    the same way, so that groups of groups are found too; seeds in two blocks that are known to be exchangeable are not compared,
    for what would exchange them is made of that and of an exchange within a block.
    """
    blocks: list[dict[int, int]] = []
    while len(seeds) > 1:
        first, *others = seeds
        by_support: dict[bytes, list[np.ndarray]] = {}
        joined: dict[int, bytes] = {}
        for seed in others:
            apart = any(b.get(first, -1) != b.get(seed, -1) and first in b and seed in b for b in blocks)
            block = None if apart else swapper.swap(first, seed)
            if block is not None:
                joined[seed] = block[0].tobytes()
                rows = by_support.setdefault(joined[seed], [block[0]])
                if not np.isin(block[1], np.concatenate(rows[1:] or [block[1][:0]])).any():
                    rows.append(block[1])
        for rows in by_support.values():
            table = np.stack(rows, 1)
            if len(np.unique(table)) == table.size:
                row, column = np.nonzero(np.isin(table, seeds))
                blocks.append(dict(zip(table[row, column].tolist(), column.tolist(), strict=True)))
                yield table
        least = min(by_support, key=len, default=b"")
        seeds = [s for s in others if joined.get(s) != least]


# --- to moves -----------------------------------------------------------------------------------------------------------
class _Emitter:
    """Tables of blocks turned into moves; what stands on which axis is looked up once for all of them."""

    def __init__(self, structure: Structure) -> None:
        self.structure, classes = structure, structure.classes
        self.names = {v: k for k, v in structure.names.items()}
        self.place, self.item = np.full(structure.size, -1), np.full(structure.size, -1)  # of a vertex in the table at hand
        number = {id(use): structure.names[("dense", k)] for k, use in enumerate(classes.facts.dense)}
        self.axes: list[_Axis] = []
        for use, axis, positions, vec, _ in axis_vectors(classes):
            rows = use.rows if isinstance(use, DenseUse) else None
            self.axes.append(_Axis(use.parameter, use.module, axis, positions, vec, rows, number[id(use)] if rows else -1))
        for gain in (*classes.facts.gains, *classes.facts.statistics):
            elements, first = np.unique(gain.elements, return_index=True)
            if len(elements) > 1:
                self.axes.append(_Axis(gain.parameter, gain.module, -1, elements, classes(gain.outs)[first]))
        held = [np.unique(a.classes) for a in self.axes] or [np.zeros(0, dtype=np.int64)]
        where, classes_there = np.repeat(np.arange(len(held)), list(map(len, held))), np.concatenate(held)
        order = np.argsort(classes_there, kind="stable")
        self._where, self._start = where[order], np.searchsorted(classes_there[order], np.arange(classes.count + 1))

    def _touched(self, table: np.ndarray) -> list[_Axis]:
        """The axes on which classes of the table stand."""
        moved = table[table < self.structure.classes.count]
        found = [self._where[self._start[v]:self._start[v + 1]] for v in moved.tolist()]
        return [self.axes[k] for k in np.unique(np.concatenate(found)).tolist()] if found else []

    def __call__(self, table: np.ndarray) -> Discrete | None:
        """Moves of the symmetric group on the blocks: positions along axes, rows of grouped weights, whole tensors."""
        self.place[table], self.item[table] = np.arange(len(table))[:, None], np.arange(table.shape[1])[None, :]
        moves, modules = _tensors(table, self.names)
        whole = {m.parameter for m in moves}
        for axis in self._touched(table):
            if axis.parameter in whole or (axis.vertex >= 0 and self.item[axis.vertex] >= 0):
                continue
            index = _places(axis.positions, self.place[axis.classes], self.item[axis.classes], table.shape[1])
            if index is not None:
                moves.append(Move("permute", axis.parameter, axis.axis, index, rows=axis.rows))
                modules.append(axis.module)
        moves = list(dict.fromkeys([*moves, *_rows(self.structure, table, self.names, whole)]))
        self.place[table] = self.item[table] = -1
        if not moves:
            return None
        n = table.shape[1]
        return Discrete("permutation of blocks", f"S_{n}", "permutation", common_path(modules), parameters_of(moves), factorial(n),
                        (n,), tuple(moves), rf"S_{{{n}}}")


@dataclass(frozen=True)
class _Axis:
    """An axis of a parameter, or the entries of a gain, with the classes that stand there; ``vertex`` of one group of a weight."""

    parameter: str
    module: str
    axis: int
    positions: np.ndarray
    classes: np.ndarray
    rows: tuple[int, int] | None = None
    vertex: int = -1


def _places(positions: np.ndarray, place: np.ndarray, item: np.ndarray, items: int) -> Index | None:
    """[1, items, size] positions along an axis, in the order of the vertices that stand there."""
    mine = np.flatnonzero(item >= 0)
    if not len(mine) or (np.bincount(item[mine], minlength=items) != len(mine) // items).any():
        return None
    order = np.lexsort((positions[mine], place[mine], item[mine]))
    return Index.of(positions[mine][order].reshape(1, items, -1))


def _tensors(table: np.ndarray, names: dict[int, tuple[Any, ...]]) -> tuple[list[Move], list[str]]:
    """Whole parameters and buffers that change places."""
    moves = []
    for row in table:
        if names.get(int(row[0]), ("",))[0] == "tensor":
            tensors = tuple(str(names[int(v)][1]) for v in row)
            moves += [Move("exchange", t, -1, Index(1, 1, 1, k), extra=tensors) for k, t in enumerate(tensors)]
    return moves, [m.parameter.rsplit(".", 1)[0] for m in moves if "." in m.parameter]


def _rows(structure: Structure, table: np.ndarray, names: dict[int, tuple[Any, ...]], whole: set[str]) -> list[Move]:
    """Groups of a grouped weight that change places: its rows, ordered by their units where units stand along them."""
    dense = structure.classes.facts.dense
    found: dict[str, list[np.ndarray]] = {}
    rank = {int(v): k for column in table.T for k, v in enumerate(column.tolist())}
    for row in table:
        if names.get(int(row[0]), ("",))[0] != "dense":
            continue
        uses = [dense[int(names[int(v)][1])] for v in row]
        if uses[0].rows is None or uses[0].parameter in whole:
            continue
        rows = []
        for use in uses:
            first, last = use.rows  # type: ignore[misc]
            vec = use.outs if use.out_axis == 0 else use.ins if use.in_axis == 0 else None
            key = [0] * (last - first) if vec is None else [rank.get(int(c), -1) for c in structure.classes(vec)]
            rows.append(first + np.argsort(key, kind="stable"))
        found.setdefault(uses[0].parameter, []).append(np.array(rows))
    return [Move("permute", p, 0, Index.of(np.concatenate(rows, 1)[None])) for p, rows in found.items()]
