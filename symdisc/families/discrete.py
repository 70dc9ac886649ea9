"""Discrete factors: permutations of interchangeable units and heads, sign flips of odd units."""

from __future__ import annotations

from collections import defaultdict
from math import factorial

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Space, _Finder
from symdisc.families.emit import _axis_vectors
from symdisc.families.naming import common_path
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Discrete

__all__ = ["find_discrete"]


def find_discrete(classes: Classes, spaces: list[Space]) -> list[Discrete]:
    """Units of one colour are treated alike by every operator, so they may be permuted (where no larger group mixes them)."""
    mixed = {c for s in spaces for c in s.places}
    for units, why in classes.facts.fixed:
        if why == "output":
            mixed.update(classes(units).tolist())
    groups: dict[int, list[int]] = defaultdict(list)
    finder = _Finder(classes)
    for c, k in finder.colours().items():
        if c != classes.data and c not in mixed and not classes.rotated[c]:
            groups[k].append(c)
    bundles = _bundles(finder, [g for g in groups.values() if len(g) > 1])
    found = [_permutation(classes, bundle) for bundle in bundles]
    return [d for d in found if d is not None]


def _bundles(finder: _Finder, groups: list[list[int]]) -> list[list[list[int]]]:
    """Groups that must be permuted together: joined by links, elementwise maps and products, matched unit by unit."""
    classes = finder.classes
    partner: dict[int, set[int]] = defaultdict(set)
    for ins, outs, _ in classes.facts.elementwise:
        for a, b in zip(classes(ins).tolist(), classes(outs).tolist(), strict=True):
            partner[a].add(b)
            partner[b].add(a)
    for out, a, b, _ in classes.facts.sums:
        for o, x, y in zip(*(classes(v).tolist() for v in (out, a, b)), strict=True):
            for p, q in ((o, x), (o, y)):
                partner[p].add(q)
                partner[q].add(p)
    for link in finder.links:
        for a, b in zip(link.left.tolist(), link.right.tolist(), strict=True):
            if a != b:
                partner[a].add(b)
                partner[b].add(a)
    number = {c: k for k, g in enumerate(groups) for c in g}
    bundles, used = [], set()
    for k, group in enumerate(groups):
        if k in used:
            continue
        reached = [_reach(c, partner, number) for c in group]
        kinds = [frozenset(number[c] for c in r) for r in reached]
        if len(set(kinds)) != 1 or any(len(r) != len(kinds[0]) for r in reached):
            used |= set().union(*kinds)
            continue
        used |= kinds[0]
        bundles.append([sorted(r, key=lambda c: number[c]) for r in reached])
    return bundles


def _reach(c: int, partner: dict[int, set[int]], number: dict[int, int]) -> set[int]:
    """Classes tied to ``c`` unit by unit; single classes (a common gate) do not transport a permutation."""
    seen, stack = {c}, [c]
    while stack:
        for d in partner.get(stack.pop(), ()):
            if d in number and d not in seen:
                seen.add(d)
                stack.append(d)
    return seen


def _permutation(classes: Classes, bundle: list[list[int]]) -> Discrete | None:
    """The symmetric group on the units of a bundle: all axes on which any of their classes sits."""
    unit = {c: u for u, members in enumerate(bundle) for c in members}
    moves, modules, seen = [], [], set()
    for use, axis, positions, vec, _ in _axis_vectors(classes):
        where: list[list[int]] = [[] for _ in bundle]
        for p, c in zip(positions.tolist(), vec.tolist(), strict=True):
            if c in unit:
                where[unit[c]].append(p)
        if not any(where):
            continue
        if len({len(w) for w in where}) != 1:
            return None
        rows = use.rows if isinstance(use, DenseUse) else None
        index = Index.of(np.array(where).T[:, :, None])
        key = (use.parameter, axis, rows, index)
        if key not in seen:
            seen.add(key)
            moves.append(Move("permute", use.parameter, axis, index, rows=rows))
            modules.append(use.module)
    for gain in classes.facts.gains:
        move = _gain_move(classes, gain, unit, len(bundle))
        if move is not None and (gain.parameter, move.index) not in seen:
            seen.add((gain.parameter, move.index))
            moves.append(move)
    if not moves:
        return None
    n = len(bundle)
    return Discrete("permutation of units", f"S_{n}", "permutation", common_path(modules), parameters_of(moves), factorial(n),
                    (n,), tuple(moves), rf"S_{{{n}}}")


def _gain_move(classes: Classes, gain, unit: dict[int, int], n: int) -> Move | None:  # type: ignore[no-untyped-def]
    """A gain permutes along with the units that it multiplies."""
    if len(np.unique(gain.elements)) < 2:
        return None
    where: list[list[int]] = [[] for _ in range(n)]
    for e, o, i in zip(gain.elements.tolist(), classes(gain.outs).tolist(), classes(gain.ins).tolist(), strict=True):
        u = unit.get(o, unit.get(i))
        if u is not None:
            where[u].append(e)
    if not any(where) or len({len(w) for w in where}) != 1:
        return None
    return Move("permute", gain.parameter, -1, Index.of(np.array(where).T[:, :, None]))
