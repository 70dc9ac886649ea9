"""Discrete factors: permutations of interchangeable units."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import factorial

import numpy as np

from symdisc.families.classes import Classes, components
from symdisc.families.dense import Space
from symdisc.families.emit import axis_vectors
from symdisc.families.hashing import add_to, mix, runs
from symdisc.families.links import Links
from symdisc.families.naming import common_path
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Discrete

__all__ = ["find_discrete"]


@dataclass
class _Bundle:
    """Groups of classes that are permuted together, unit by unit; ``moves`` None where an axis does not fit."""

    units: int
    moves: list[Move] | None = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    def put(self, where: np.ndarray, units: np.ndarray, move: tuple[str, str, int], rows: tuple[int, int] | None,
            module: str) -> None:
        """Positions ``where`` along an axis hold the given units; all units must stand there equally often."""
        if self.moves is None:
            return
        if len(where) % self.units or (np.bincount(units, minlength=self.units) != len(where) // self.units).any():
            self.moves = None
            return
        table = where[np.lexsort((where, units))].reshape(self.units, -1).T[:, :, None]
        kind, parameter, axis = move
        index = Index.of(table)
        if (parameter, axis, rows, index) not in self.seen:
            self.seen.add((parameter, axis, rows, index))
            self.moves.append(Move(kind, parameter, axis, index, rows=rows))
            self.modules.append(module)


def find_discrete(classes: Classes, spaces: list[Space]) -> list[Discrete]:
    """Units of one colour are treated alike by every operator: they may be permuted where no larger group mixes them."""
    links: Links = classes.links or Links(classes)
    open_ = np.ones(classes.count, dtype=bool)
    open_[classes.data] = False
    unknown = [u.outs for u in classes.facts.statistics if not classes.known(u.parameter)]
    for units in [*classes.facts.rigid, *(u for _, u, _ in classes.facts.marked), *unknown]:
        open_[classes(units)] = False
    for space in spaces:
        open_[space.classes] = False
    for units, why in classes.facts.fixed:
        if why == "output":
            open_[classes(units)] = False
    colours = links.colours
    candidates = np.flatnonzero(open_ & (colours != 0))
    group = np.full(classes.count, -1)
    kept = [candidates[rows] for rows in runs(colours[candidates])[1] if len(rows) > 1]
    for k, members in enumerate(sorted(kept, key=lambda m: int(m[0]))):
        group[members] = k
    bundle, unit, sizes = _bundles(classes, links, group)
    bundles = [_Bundle(n) for n in sizes]
    _collect(classes, bundles, bundle, unit)
    return [_permutation(b) for b in bundles if b.moves]


def _bundles(classes: Classes, links: Links, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(bundle per class or -1, unit per class, units per bundle): groups joined unit by unit are permuted together.

    Single classes (a common gate) do not transport a permutation. A unit must hold each of its groups once.
    """
    number, left, right = links.pairs()
    merged = _merged(classes)
    banned = _held(number, left, right, group, merged) | _held(number, right, left, group, merged)
    tied = (group[left] >= 0) & (group[right] >= 0)
    unit = components(classes.count, [(left[tied], right[tied])])
    members = np.flatnonzero(group >= 0)
    population = np.bincount(group[members], minlength=1)
    signature = np.zeros(classes.count, dtype=np.uint64)
    size, distinct = np.zeros(classes.count, dtype=np.int64), np.zeros(classes.count, dtype=np.int64)
    add_to(signature, unit[members], mix(group[members], 20))
    np.add.at(size, unit[members], 1)
    np.add.at(distinct, np.unique((unit[members] << 32) | group[members]) >> 32, 1)
    bundle, place = np.full(classes.count, -1), np.zeros(classes.count, dtype=np.int64)
    sizes: list[int] = []
    for rows in sorted(runs(signature[unit[members]])[1], key=lambda r: int(r[0])):
        part = members[rows]
        units, inverse = np.unique(unit[part], return_inverse=True)
        kinds = np.unique(group[part])
        whole = all(population[k] == int((group[part] == k).sum()) for k in kinds.tolist()) and not banned[kinds].any()
        if whole and len(units) > 1 and (size[units] == distinct[units]).all():
            bundle[part], place[part] = len(sizes), inverse
            sizes.append(len(units))
    return bundle, place, sizes


def _merged(classes: Classes) -> np.ndarray:
    """Boolean per class: several units of one vector are in it, since something reads them side by side with one weight."""
    found = np.zeros(classes.count, dtype=bool)
    facts = classes.facts
    vectors = [v for n in facts.norms for v in (n.ins, n.outs)] + [v for g in facts.gains for v in (g.ins, g.outs)]
    vectors += [v for ins, outs, _ in facts.elementwise for v in (ins, outs)] + [row for a in facts.alike for row in a.ins]
    vectors += [v for conv in classes.depthwise.values() for v in (conv.ins, conv.outs)]
    for vector in vectors:
        units = np.unique(vector)
        kinds, count = np.unique(classes(units), return_counts=True)
        found[kinds[count > 1]] = True
    found[classes.data] = False
    return found


def _held(number: np.ndarray, mine: np.ndarray, other: np.ndarray, group: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """Boolean per group: its units are tied one by one to different classes that stay in place, or to several units that are one
    class (``merged``)."""
    held = np.zeros(int(group.max(initial=-1)) + 1, dtype=bool)
    outside = np.flatnonzero((group[mine] >= 0) & (group[other] < 0))
    for rows in runs((number[outside] << 32) | group[mine[outside]])[1]:
        at = outside[rows]
        if other[at].min() != other[at].max() or merged[other[at]].any():
            held[group[mine[at[0]]]] = True
    return held


def _collect(classes: Classes, bundles: list[_Bundle], bundle: np.ndarray, unit: np.ndarray) -> None:
    """Every axis of every parameter on which permuted classes stand."""
    for use, axis, positions, vec, _ in axis_vectors(classes):
        if use.op in classes.depthwise and isinstance(use, DenseUse):
            continue
        rows = use.rows if isinstance(use, DenseUse) else None
        mine = np.flatnonzero(bundle[vec] >= 0)
        keys, parts = runs(bundle[vec[mine]])
        for k, part in zip(keys.tolist(), parts, strict=True):
            at = mine[part]
            bundles[k].put(positions[at], unit[vec[at]], ("permute", use.parameter, axis), rows, use.module)
    for conv in classes.depthwise.values():
        _carried(conv.parameter, conv.module, 0, np.arange(len(conv.outs)), classes(conv.outs), classes(conv.ins), bundles, bundle, unit)
    for gain in (*classes.facts.gains, *classes.facts.statistics):
        elements, first = np.unique(gain.elements, return_index=True)
        if len(elements) > 1:
            outs, ins = classes(gain.outs)[first], classes(gain.ins)[first]
            _carried(gain.parameter, gain.module, -1, elements, outs, ins, bundles, bundle, unit)


def _carried(parameter: str, module: str, axis: int, places: np.ndarray, outs: np.ndarray, ins: np.ndarray, bundles: list[_Bundle],
             bundle: np.ndarray, unit: np.ndarray) -> None:
    """A gain permutes along with the units that it multiplies, a depthwise weight with its channels."""
    carrier = np.where(bundle[outs] >= 0, outs, ins)
    mine = np.flatnonzero(bundle[carrier] >= 0)
    keys, parts = runs(bundle[carrier[mine]])
    for k, part in zip(keys.tolist(), parts, strict=True):
        at = mine[part]
        bundles[k].put(places[at], unit[carrier[at]], ("permute", parameter, axis), None, module)


def _permutation(bundle: _Bundle) -> Discrete:
    """The symmetric group on the units of a bundle."""
    assert bundle.moves
    n = bundle.units
    return Discrete("permutation of units", f"S_{n}", "permutation", common_path(bundle.modules),
                    parameters_of(bundle.moves), factorial(n), (n,), tuple(bundle.moves), rf"S_{{{n}}}")
