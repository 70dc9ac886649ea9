"""Spaces and scalings to symmetry records with moves on named parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Space
from symdisc.families.hashing import add_to, mix, runs, unique_pairs
from symdisc.families.naming import describe_dense, describe_torus
from symdisc.families.torus import Torus
from symdisc.moves import Index, Move, natural, parameters_of
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["axis_vectors", "emit_dense", "emit_torus"]


@dataclass(frozen=True)
class _Role:
    """One axis of one parameter as a group acts on it."""

    parameter: str
    axis: int
    rows: tuple[int, int] | None
    rep: str
    gain: str | None
    gain_power: int
    offset: float
    module: str
    copies: int


Roles = dict[_Role, np.ndarray]  # role -> positions [copies, blocks, size]


def axis_vectors(classes: Classes) -> Iterable[tuple[DenseUse | ShiftUse, int, np.ndarray, np.ndarray, bool]]:
    """(use, axis, positions, classes there, written or read) for every parameter axis that ranges over units."""
    for use in classes.facts.dense:
        if use.outs is not None:
            yield use, use.out_axis, np.arange(len(use.outs)), classes(use.outs), True
        if use.ins is not None:
            yield use, use.in_axis, np.arange(len(use.ins)), classes(use.ins), False
    for shift in classes.facts.shifts:
        pairs = unique_pairs(classes.coordinates(shift, shift.axis), classes(shift.units))
        if len(np.unique(pairs[0])) < pairs.shape[1]:  # units on several axes (biases of stacked experts): entry by entry
            yield shift, -1, shift.elements, classes(shift.units), True
        else:
            yield shift, shift.axis, pairs[0], pairs[1], True


def emit_dense(classes: Classes, spaces: list[Space]) -> list[Symmetry]:
    """One symmetry for all spaces that act on the same axes (the heads of a layer). A space of which some axis holds only a part
    of the units cannot be mixed there, and is left out."""
    owner, local = np.full(classes.count, -1), np.zeros(classes.count, dtype=np.int64)
    for k, space in enumerate(spaces):
        owner[space.classes], local[space.classes] = k, np.arange(len(space.classes))
    found: list[Roles] = [{} for _ in spaces]
    partial: set[int] = set()
    for use, axis, positions, vec, written in axis_vectors(classes):
        rows = use.rows if isinstance(use, DenseUse) else None
        mine = np.flatnonzero(owner[vec] >= 0)
        keys, groups = runs(owner[vec[mine]])
        for k, group in zip(keys.tolist(), groups, strict=True):
            space, places, at = spaces[k], positions[mine[group]], local[vec[mine[group]]]
            sides, parts = runs(space.gain[at] * 2 + space.dual[at])
            for side, part in zip(sides.tolist(), parts, strict=True):
                if not space.plane and (np.bincount(space.element[at[part]], minlength=space.size) * space.size != len(part)).any():
                    partial.add(k)
                    continue
                index = _positions(space, places[part], at[part])
                gain, dual = space.gains[side // 2], bool(side % 2) == written
                if gain is not None and not _beside(classes, space, gain, vec[mine[group[part]]], places[part]):
                    partial.add(k)  # a move reads the gain where it moves the weight
                    continue
                name, offset, front = gain if gain is not None else (None, 0.0, False)
                role = _Role(use.parameter, axis, rows, "g^-T" if dual else "g", name, 1 if written != front else -1, offset,
                             use.module, len(index))
                found[k].setdefault(role, index)
    groups_: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, space in ((k, s) for k, s in enumerate(spaces) if k not in partial):
        groups_[(space.family, space.size, tuple(sorted(str(r) for r in found[k])))].append(k)
    return [_dense_symmetry([spaces[k] for k in members], [found[k] for k in members]) for members in groups_.values()]


def _beside(classes: Classes, space: Space, gain: tuple[str, float, bool], units: np.ndarray, places: np.ndarray) -> bool:
    """The entry of a gain that each unit meets stands in the gain where the unit stands along the axis: the entry at the unit itself,
    or, where something that is the same for the whole space lies between them (a score of a router), at its element of the space."""
    at: dict[int, int] = {}
    for use in classes.facts.gains:
        if use.parameter == gain[0]:
            at.update(zip(classes(use.ins if gain[2] else use.outs).tolist(), use.elements.tolist(), strict=True))
    element = dict(zip(space.classes.tolist(), space.element.tolist(), strict=True))
    beside = {(element.get(c), p) for c, p in at.items()}
    return all(at[c] == p if c in at else (element[c], p) in beside for c, p in zip(units.tolist(), places.tolist(), strict=True))


def _positions(space: Space, places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[copies, blocks, size] from positions along an axis and the members of the space that stand there."""
    element = space.element[at]
    if space.plane:
        order = np.lexsort((places, space.classes[at], element))
        return places[order].reshape(space.blocks, -1, 2).transpose(1, 0, 2)
    order = np.lexsort((places, element))
    return places[order].reshape(space.size, -1).T[:, None, :]


def _dense_symmetry(spaces: list[Space], found: list[Roles]) -> Symmetry:
    moves, seen = [], set()
    first = spaces[0]
    for role in found[0]:
        index = Index.of(np.concatenate([roles[role] for roles in found], axis=1))
        place = (role.parameter, role.axis, role.rows, index)
        if place in seen:
            continue  # a tied weight: the other use asks for the same move
        seen.add(place)
        moves.append(Move("matmul", role.parameter, role.axis, index, role.rep, gain=role.gain,
                          gain_power=role.gain_power, offset=role.offset, rows=role.rows))
    modules = [r.module for r in found[0]]
    blocks = sum(s.blocks for s in spaces)
    symmetry = describe_dense(first.family, first.size, blocks, tuple(moves), parameters_of(moves), modules)
    return replace(symmetry, name="turns of rotary planes") if first.plane and first.family == "o" else symmetry


@dataclass(frozen=True)
class _Entry:
    """One way in which a scaling acts on one axis of one parameter."""

    parameter: str
    axis: int
    rows: tuple[int, int] | None
    power: float
    offset: float


Rows = tuple[int, int] | None
Effect = tuple[int, Rows, float, np.ndarray, np.ndarray, np.ndarray]  # axis, rows, offset, positions, variables, powers


def emit_torus(classes: Classes, torus: Torus) -> list[Symmetry]:
    """Free scalings grouped by the parameter axes that they act on."""
    table: dict[_Entry, list[np.ndarray]] = defaultdict(list)
    buffers = {s.parameter for s in classes.facts.shifts if s.buffer}
    done: set[tuple[str, tuple[int, int] | None]] = set()
    modules: dict[str, str] = {}
    for parameter, uses in classes.uses.items():
        for use in uses:
            part = use.rows if isinstance(use, DenseUse) else None
            if (parameter, part) in done and isinstance(use, DenseUse):
                continue
            done.add((parameter, part))
            modules.setdefault(parameter, use.module)
            for axis, rows, offset, positions, variables, powers in _effects(classes, torus, use):
                for power in np.unique(np.round(powers, 12)).tolist():
                    here = np.round(powers, 12) == power
                    table[_Entry(parameter, axis, rows, power, offset)].append(
                        unique_pairs(variables[here], positions[here]))
    entries = {e: unique_pairs(*np.concatenate(parts, axis=1)) for e, parts in table.items()}
    members = _alike(entries, torus)
    shares = _shared_out(entries, members, torus)
    return [_torus_symmetry(len(m), found, buffers, modules) for m, found in zip(members, shares, strict=True)]


def _shared_out(entries: dict[_Entry, np.ndarray], members: list[np.ndarray], torus: Torus) -> list[dict[_Entry, np.ndarray]]:
    """For each set of variables its entries, with the positions [copies, variables]."""
    owner = np.full(torus.count, -1, dtype=np.int64)
    for k, mine in enumerate(members):
        owner[mine] = k
    found: list[dict[_Entry, np.ndarray]] = [{} for _ in members]
    for entry, (variables, positions) in entries.items():
        keys, parts = runs(owner[variables])
        for k, part in zip(keys.tolist(), parts, strict=True):
            if k >= 0:  # pairs are sorted by variable, then position, and so are the members
                found[k][entry] = positions[np.sort(part)].reshape(len(members[k]), -1).T
    return found


def _alike(entries: dict[_Entry, np.ndarray], torus: Torus) -> list[np.ndarray]:
    """Variables grouped by the entries, with multiplicity, in which they appear."""
    signature = np.zeros(torus.count, dtype=np.uint64)
    for k, (variables, _) in enumerate(entries.values()):
        found, times = np.unique(variables, return_counts=True)
        add_to(signature, found, mix(mix(times), k + 100))
    active = torus.free[signature[torus.free] != 0]
    alike = (active[rows] for rows in runs(signature[active])[1])
    shared = [pairs for pairs in entries.values() if len(np.unique(pairs[1])) < pairs.shape[1]]
    return sorted((part for members in alike for part in _apart(shared, members, torus.count)), key=lambda v: int(v[0]))


def _apart(shared: list[np.ndarray], members: np.ndarray, count: int) -> list[np.ndarray]:
    """Variables of one kind that scale the same place (both factors of a product read from one tensor), told apart: in a move
    every place stands once. ``shared`` holds the (variables, positions) in which a place stands more than once."""
    if not shared:
        return [members]
    signature = np.zeros(count, dtype=np.uint64)
    for k, (variables, positions) in enumerate(shared):
        mine = np.isin(variables, members)
        order = np.lexsort((variables[mine], positions[mine]))
        places = positions[mine][order]
        new = np.flatnonzero(np.diff(places, prepend=places[:1] - 1))
        rank = np.arange(len(places)) - np.repeat(new, np.diff(new, append=len(places)))
        if rank.any():
            add_to(signature, variables[mine][order], mix(rank + 1, k + 1))
    return [members[rows] for rows in runs(signature[members])[1]]


def _effects(classes: Classes, torus: Torus, use: DenseUse | GainUse | ShiftUse) -> Iterator[Effect]:
    """What the scalings do to a parameter."""
    if isinstance(use, DenseUse):
        yield from _dense_effects(classes, torus, use)
    elif isinstance(use, ShiftUse):
        elements, first = np.unique(use.elements, return_index=True)
        owner, variables, powers = torus.expand(classes(use.units)[first])
        if (offsets := classes.facts.offsets.get(use.parameter)) is None:
            yield -1, None, 0.0, elements[owner], variables, powers
            return
        for offset in np.unique(offsets[elements]).tolist():
            here = offsets[elements[owner]] == offset
            yield -1, None, offset, elements[owner[here]], variables[here], powers[here]
    else:
        elements, first = np.unique(use.elements, return_index=True)
        outs, ins = torus.expand(classes(use.outs)[first]), torus.expand(classes(use.ins)[first])
        owner = np.concatenate([outs[0], ins[0]])
        variables = np.concatenate([outs[1], ins[1]])
        powers = np.concatenate([outs[2], -ins[2]])
        owner, variables, total = _summed(owner, variables, powers)
        yield -1, None, use.offset, elements[owner], variables, total


def _dense_effects(classes: Classes, torus: Torus, use: DenseUse) -> Iterator[Effect]:
    """One axis each. Rows of a grouped weight that read one unit, as in a depthwise convolution, scale with it: all channels are alike."""
    sides = [(use.out_axis, use.outs, 1.0), (use.in_axis, use.ins, -1.0)]
    first, last = use.rows or (0, 0)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for axis, vec, sign in sides:
        if vec is None:
            continue
        owner, variables, powers = torus.expand(classes(vec))
        if use.rows is None or (axis and len(vec) > 1):
            yield axis, use.rows, 0.0, owner, variables, sign * powers
        elif axis == 0:
            rows.append((first + owner, variables, sign * powers))
        else:
            each = np.arange(first, last)
            rows.append((np.repeat(each, len(variables)), np.tile(variables, len(each)), np.tile(sign * powers, len(each))))
    if rows:
        yield 0, None, 0.0, *_summed(*(np.concatenate(x) for x in zip(*rows, strict=True)))


def _summed(owner: np.ndarray, variables: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with each (owner, variable) once, its powers added up; what cancels is left out."""
    keys, inverse = np.unique((owner << 32) | variables, return_inverse=True)
    total = np.bincount(inverse, powers, len(keys)) if len(keys) else powers
    keep = np.abs(total) > 1e-12
    return keys[keep] >> 32, keys[keep] & 0xFFFFFFFF, total[keep]


def _torus_symmetry(count: int, entries: dict[_Entry, np.ndarray], buffers: set[str], modules: dict[str, str]) -> Symmetry:
    moves = [Move("affine_scale" if e.offset else "scale", e.parameter, e.axis, Index.of(table[:, :, None]), power=e.power,
                  offset=e.offset, rows=e.rows) for e, table in entries.items()]
    moves.sort(key=lambda m: (natural(m.parameter), m.axis))
    names = parameters_of(moves)
    return describe_torus(count, tuple(moves), names, [modules[p] for p in names], bool(buffers & set(names)))
