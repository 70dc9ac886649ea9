"""The same symmetry at many places is one row: numbers in module paths that count layers become an index.

``encoder.layer.0.x ... encoder.layer.5.x`` is ``encoder.layer.n.x`` with n in 0..5; a name in the next layer is
``encoder.layer.n+1.x``. The first number of each name is tried first, then the second (experts inside layers).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

__all__ = ["INDICES", "Group", "Place", "merge", "shorten", "spans"]

INDICES = "nmkj"
_NUMBER = re.compile(r"\d+")
_INDEX = re.compile(r"\d+|[nmkj]([+-]\d+)?")


@dataclass(frozen=True)
class Place:
    """What stands at one place: names (a site first, then parameters) and whatever else must agree."""

    names: tuple[str, ...]
    rest: Hashable = ()


@dataclass(frozen=True)
class Group:
    """Places that differ in a layer number only.

    ``members`` number the places; ``names`` have the index in place of the layer number.
    ``ranges`` gives for each index its values, in the order of ``INDICES``; it is empty for a single place.
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    ranges: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def legend(self) -> str:
        """``n = 0…5``: empty for a single place."""
        return ", ".join(f"{index} = {spans(values)}" for index, values in self.ranges)

    def spread(self, name: str) -> str:
        """A name with its index replaced by the values: ``encoder.layer.[0…5].x``."""
        for index, values in self.ranges:
            name = ".".join(f"[{spans(values)}]" if part == index else part for part in name.split("."))
        return name


def merge(places: Sequence[Place], depth: int = 2, first_index: int = 0) -> tuple[Group, ...]:
    """Merge places that are equal up to a number, in order of appearance."""
    groups = [Group(p.names, (k,)) for k, p in enumerate(places)]
    for level in range(depth):
        index = INDICES[first_index + level]
        groups = _merge_level(groups, [places[g.members[0]].rest for g in groups], level, index)
    return tuple(groups)


def _merge_level(groups: list[Group], rests: list[Hashable], level: int, index: str) -> list[Group]:
    alike: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)  # key -> (number, group)
    patterns: dict[int, tuple[str, ...]] = {}
    for k, (group, rest) in enumerate(zip(groups, rests, strict=True)):
        base = next((b for b in (_number(n, level) for n in group.names) if b is not None), None)
        if base is None:
            continue
        patterns[k] = tuple(_relative(n, level, base, index) for n in group.names)
        alike[(patterns[k], group.ranges, rest)].append((base, k))
    merged: dict[int, Group] = {}
    absorbed: set[int] = set()
    for members in alike.values():
        numbers = [b for b, _ in members]
        if len(members) < 2 or len(set(numbers)) < len(numbers):
            continue
        first = members[0][1]
        everyone = tuple(m for _, k in members for m in groups[k].members)
        merged[first] = replace(
            groups[first],
            names=patterns[first],
            members=everyone,
            ranges=(*groups[first].ranges, (index, tuple(numbers))),
        )
        absorbed |= {k for _, k in members[1:]}
    return [merged.get(k, g) for k, g in enumerate(groups) if k not in absorbed]


def _slot(name: str, level: int) -> tuple[list[str], int | None]:
    """The parts of a name and where its ``level``-th number or index stands."""
    parts = name.split(".")
    slots = [k for k, part in enumerate(parts) if _INDEX.fullmatch(part)]
    return parts, slots[level] if level < len(slots) else None


def _number(name: str, level: int) -> int | None:
    parts, slot = _slot(name, level)
    return int(parts[slot]) if slot is not None and _NUMBER.fullmatch(parts[slot]) else None


def _relative(name: str, level: int, base: int, index: str) -> str:
    parts, slot = _slot(name, level)
    if slot is not None and _NUMBER.fullmatch(parts[slot]):
        offset = int(parts[slot]) - base
        parts[slot] = index + (f"{offset:+d}" if offset else "")
    return ".".join(parts)


def spans(values: Sequence[int]) -> str:
    """0…5 for consecutive numbers, 0, 2…6 otherwise."""
    ordered = sorted(values)
    runs: list[list[int]] = []
    for v in ordered:
        if runs and v == runs[-1][-1] + 1:
            runs[-1].append(v)
        else:
            runs.append([v])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}{'…' if len(r) > 2 else ', '}{r[-1]}" for r in runs)


def shorten(name: str, path: str) -> str:
    """``name`` seen from the module ``path``: without it when it lies below, else ``…`` and what differs."""
    parts, way = name.split("."), path.split(".") if path else []
    common = 0
    while common < min(len(parts) - 1, len(way)) and parts[common] == way[common]:
        common += 1
    rest = ".".join(parts[common:])
    return rest if common == len(way) or not common else f"…{rest}"
