"""Blocks that may be exchanged whole: heads, groups, experts, branches.

Two seeds of one kind (two heads, two operands of a sum) are followed through the ``Structure`` in parallel: what only one of
them touches must correspond to what only the other touches, what both touch stays. The exchange is accepted if it is an
automorphism: every edge at a moved vertex goes to an edge. Exchanges with one common block generate the symmetric group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import factorial
from typing import Any

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.emit import axis_vectors
from symdisc.families.links import Links
from symdisc.families.naming import common_path
from symdisc.families.structure import Structure
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Discrete

__all__ = ["find_blocks"]

MOST = 4_000_000  # edges of the structure followed in all (some seconds); beyond it nothing more is proposed
LARGE = 40_000  # classes beyond which following single vertices would take minutes


class _Swapper:
    """Exchanges of two seeds, within a budget of vertices."""

    def __init__(self, structure: Structure) -> None:
        self.structure, self.left = structure, MOST
        self.image = np.arange(structure.size)

    def swap(self, a: int, b: int) -> dict[int, int] | None:
        """The block of ``a`` mapped to the block of ``b``, or None if exchanging them is no automorphism."""
        forward, moved = {a: b}, {a: b, b: a}
        frontier = [(a, b)]
        while frontier:
            u, v = frontier.pop()
            self.left -= 20 + len(self.structure.around(u)[0])
            found = self._matched(u, v, moved) if self.left > 0 and self._alike(u, v) else None
            if found is None:
                return None
            for x, y in found:
                if x in moved or y in moved or x == y:
                    if moved.get(x) != y:
                        return None
                    continue
                forward[x] = moved[x] = y
                moved[y] = x
                frontier.append((x, y))
        return forward if self._automorphism(moved) else None

    def _alike(self, u: int, v: int) -> bool:
        s = self.structure
        return (s.free(u) and s.free(v) and s.colour.get(u) == s.colour.get(v)
                and np.array_equal(np.sort(s.around(u)[0]), np.sort(s.around(v)[0])))

    def _matched(self, u: int, v: int, moved: dict[int, int]) -> list[tuple[int, int]] | None:
        """Neighbours of u alone paired with neighbours of v alone, label by label, in their order."""
        size = self.structure.size
        a, b = self.structure.codes(u), self.structure.codes(v)
        sides = []
        for mine in (np.setdiff1d(a, b, assume_unique=True), np.setdiff1d(b, a, assume_unique=True)):
            sides.append([c for c in np.sort(mine).tolist() if c % size not in moved])
        if len(sides[0]) != len(sides[1]) or any(x // size != y // size for x, y in zip(*sides, strict=True)):
            return None
        return list(dict.fromkeys((x % size, y % size) for x, y in zip(*sides, strict=True)))

    def _automorphism(self, moved: dict[int, int]) -> bool:
        s, image = self.structure, self.image
        vertices, targets = np.array(list(moved)), np.array(list(moved.values()))
        image[vertices] = targets
        good = True
        for v, w in moved.items():
            label, neighbour = s.around(v)
            if not np.array_equal(np.sort(label * s.size + image[neighbour]), np.sort(s.codes(w))):
                good = False
                break
        image[vertices] = vertices
        return good


def find_blocks(classes: Classes, links: Links, known: Sequence[Discrete] = ()) -> list[Discrete]:
    """Symmetric groups on exchangeable blocks; ``known`` are permutations of single units, which are not found again."""
    if classes.count > LARGE:
        classes.notes.append(f"exchanges of whole heads, groups and branches were not looked for: more than {LARGE} units")
        return []
    structure = Structure(classes, links)
    swapper = _Swapper(structure)
    found: list[Discrete] = []
    seen: dict[frozenset[str], list[set[frozenset[object]]]] = defaultdict(list)
    waiting: dict[frozenset[str], list[Discrete]] = defaultdict(list)
    for d in known:
        waiting[frozenset(d.parameters)].append(d)
    for seeds in structure.seeds.values():
        for table in _groups(swapper, list(dict.fromkeys(seeds))):
            # without classes only summands change places, which a translation between them does as well
            factor = _emit(structure, table) if (table < classes.count).any() else None
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
    the same way, so that groups of groups are found too.
    """
    while len(seeds) > 1:
        first, *others = seeds
        by_support: dict[frozenset[int], list[dict[int, int]]] = {}
        joined: dict[int, frozenset[int]] = {}
        for seed in others:
            forward = swapper.swap(first, seed)
            if forward is not None:
                joined[seed] = frozenset(forward)
                maps = by_support.setdefault(joined[seed], [])
                if all(frozenset(m.values()).isdisjoint(forward.values()) for m in maps):
                    maps.append(forward)
        for support, maps in by_support.items():
            order = sorted(support)
            table = np.array([order, *([m[v] for v in order] for m in maps)]).T
            if len(np.unique(table)) == table.size:
                yield table
        least = min(by_support, key=len, default=frozenset())
        seeds = [s for s in others if joined.get(s) != least]


# --- to moves -----------------------------------------------------------------------------------------------------------
def _emit(structure: Structure, table: np.ndarray) -> Discrete | None:
    """Moves of the symmetric group on the blocks: positions along axes, rows of grouped weights, whole tensors."""
    classes = structure.classes
    place = np.full(structure.size, -1)
    item = np.full(structure.size, -1)
    place[table] = np.arange(len(table))[:, None]
    item[table] = np.arange(table.shape[1])[None, :]
    names = {v: k for k, v in structure.names.items()}
    number = {id(use): structure.names[("dense", k)] for k, use in enumerate(classes.facts.dense)}
    moves, modules = _tensors(table, names)
    whole = {m.parameter for m in moves}
    for use, axis, positions, vec, _ in axis_vectors(classes):
        if use.parameter in whole:
            continue
        grouped = isinstance(use, DenseUse) and use.rows is not None
        if grouped and item[number[id(use)]] >= 0:
            continue
        index = _places(positions, place[vec], item[vec], table.shape[1])
        if index is None:
            continue
        moves.append(Move("permute", use.parameter, axis, index, rows=use.rows if isinstance(use, DenseUse) else None))
        modules.append(use.module)
    for gain in (*classes.facts.gains, *classes.facts.statistics):
        if gain.parameter not in whole:
            elements, first = np.unique(gain.elements, return_index=True)
            outs = classes(gain.outs)[first]
            index = _places(elements, place[outs], item[outs], table.shape[1]) if len(elements) > 1 else None
            if index is not None:
                moves.append(Move("permute", gain.parameter, -1, index))
                modules.append(gain.module)
    moves += _rows(structure, table, names, whole)
    moves = list(dict.fromkeys(moves))
    if not moves:
        return None
    n = table.shape[1]
    return Discrete("permutation of blocks", f"S_{n}", "permutation", common_path(modules), parameters_of(moves), factorial(n),
                    (n,), tuple(moves), rf"S_{{{n}}}")


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
