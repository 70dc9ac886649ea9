"""Spaces and scalings to symmetry records with moves on named parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Space
from symdisc.families.naming import describe_dense, describe_torus
from symdisc.families.torus import Torus
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["emit_dense", "emit_torus"]


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


def _axis_vectors(classes: Classes) -> Iterable[tuple[DenseUse | ShiftUse, int, np.ndarray, np.ndarray, bool]]:
    """(use, axis, positions, classes there, written or read) for every parameter axis that ranges over units."""
    for use in classes.facts.dense:
        if use.outs is not None:
            yield use, use.out_axis, np.arange(len(use.outs)), classes(use.outs), True
        if use.ins is not None:
            yield use, use.in_axis, np.arange(len(use.ins)), classes(use.ins), False
    for shift in classes.facts.shifts:
        where = classes.coordinates(shift, shift.axis)
        pairs = np.unique(np.stack([where, classes(shift.units)]), axis=1)
        yield shift, shift.axis, pairs[0], pairs[1], True


def emit_dense(classes: Classes, spaces: list[Space]) -> list[Symmetry]:
    """One symmetry for all spaces that act on the same axes (the heads of a layer)."""
    member = {c: (k, place) for k, space in enumerate(spaces) for c, place in space.places.items()}
    found: list[dict[_Role, dict[int, list[int]]]] = [defaultdict(lambda: defaultdict(list)) for _ in spaces]
    for use, axis, positions, vec, written in _axis_vectors(classes):
        rows = use.rows if isinstance(use, DenseUse) else None
        for p, c in zip(positions.tolist(), vec.tolist(), strict=True):
            if c not in member:
                continue
            k, place = member[c]
            dual = place.dual == written
            role = _Role(use.parameter, axis, rows, "g^-T" if dual else "g", place.gain,
                         1 if written else -1, place.offset, use.module)
            found[k][role][c if spaces[k].plane else place.element].append(p)
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, space in enumerate(spaces):
        roles = tuple(sorted((str(r) for r in found[k])))
        groups[(space.family, space.size, roles)].append(k)
    return [_dense_symmetry(spaces, found, members) for members in groups.values()]


def _dense_symmetry(spaces: list[Space], found: list[dict[_Role, dict[int, list[int]]]], members: list[int]) -> Symmetry:
    moves, seen = [], set()
    first = spaces[members[0]]
    for role in found[members[0]]:
        index = Index.of(np.stack([_positions(spaces[k], found[k], role) for k in members], axis=1))
        place = (role.parameter, role.axis, role.rows, tuple(index.positions().ravel().tolist()))
        if place in seen:
            continue  # a tied weight: the other use asks for the same move
        seen.add(place)
        moves.append(Move("matmul", role.parameter, role.axis, index, role.rep, gain=role.gain,
                          gain_power=role.gain_power, offset=role.offset, rows=role.rows))
    modules = [r.module for r in found[members[0]]]
    return describe_dense(first.family, first.size, len(members), tuple(moves), parameters_of(moves), modules)


def _positions(space: Space, roles: dict[_Role, dict[int, list[int]]], role: _Role) -> np.ndarray:
    """[copies, size] positions of the elements along the axis of a role."""
    same = next(r for r in roles if r == role or str(r) == str(role))
    by_element = roles[same]
    if space.plane:
        return np.array([sorted(dict.fromkeys(positions)) for positions in by_element.values()])  # one copy per class
    return np.array([list(dict.fromkeys(by_element[e])) for e in range(space.size)]).T


Entry = tuple[str, int, tuple[int, int] | None, float, float]


def emit_torus(classes: Classes, torus: Torus) -> list[Symmetry]:
    """Free scalings grouped by the parameter axes that they act on."""
    effects: dict[int, dict[Entry, list[int]]] = defaultdict(lambda: defaultdict(list))
    buffers = {s.parameter for s in classes.facts.shifts if s.buffer}
    done: set[tuple[str, tuple[int, int] | None]] = set()
    modules: dict[str, str] = {}
    for parameter, uses in classes.uses.items():
        for use in uses:
            rows = use.rows if isinstance(use, DenseUse) else None
            if (parameter, rows) in done and isinstance(use, DenseUse):
                continue
            done.add((parameter, rows))
            modules.setdefault(parameter, use.module)
            for axis, offset, position, exponents in _effects(classes, torus, use):
                for variable, power in exponents.items():
                    effects[variable][(parameter, axis, rows, round(power, 12), offset)].append(position)
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for variable in torus.free:
        entries = effects.get(variable)
        if entries:
            key = tuple(sorted((str(e), len(set(p))) for e, p in entries.items()))
            groups[key].append(variable)
    return [_torus_symmetry(classes, effects, members, buffers, modules) for members in groups.values()]


def _effects(classes: Classes, torus: Torus, use):  # type: ignore[no-untyped-def]
    """(axis, offset, position, {variable: power}) for each position of a parameter that scales."""
    get = torus.exponents.get
    if isinstance(use, DenseUse):
        for axis, vec, sign in ((use.out_axis, use.outs, 1.0), (use.in_axis, use.ins, -1.0)):
            for p, c in enumerate(() if vec is None else classes(vec).tolist()):
                exponents = get(c)
                if exponents:
                    yield axis, 0.0, p, {v: sign * e for v, e in exponents.items()}
    elif isinstance(use, ShiftUse):
        for e, c in dict(zip(use.elements.tolist(), classes(use.units).tolist(), strict=True)).items():
            if get(c):
                yield -1, 0.0, e, get(c)
    else:
        seen = set()
        for e, i, o in zip(use.elements.tolist(), classes(use.ins).tolist(), classes(use.outs).tolist(), strict=True):
            total: dict[int, float] = defaultdict(float)
            for c, sign in ((o, 1.0), (i, -1.0)):
                for v, x in (get(c) or {}).items():
                    total[v] += sign * x
            total = {v: x for v, x in total.items() if abs(x) > 1e-12}  # type: ignore[assignment]
            if total and e not in seen:
                seen.add(e)
                yield -1, use.offset, e, total


def _torus_symmetry(classes: Classes, effects: dict[int, dict[Entry, list[int]]], members: list[int], buffers: set[str],
                    modules: dict[str, str]) -> Symmetry:
    moves = []
    for entry in effects[members[0]]:
        parameter, axis, rows, power, offset = entry
        table = np.stack([np.array(sorted(set(effects[v][entry]))) for v in members], axis=1)[:, :, None]
        kind = "affine_scale" if offset else "scale"
        moves.append(Move(kind, parameter, axis, Index.of(table), power=power, offset=offset, rows=rows))
    moves.sort(key=lambda m: (m.parameter, m.axis))
    names = parameters_of(moves)
    return describe_torus(len(members), tuple(moves), names, [modules[p] for p in names], bool(buffers & set(names)))
