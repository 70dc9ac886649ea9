"""Translations that the same weights undo in the same way: their difference needs these weights no more.

Where b + t and b' + t are both undone by c - V t, the one by b + t and b' - t moves constants alone. It is the sum of two factors, and it
has a charge, sum b - sum b', that neither of them has: c - V t is no gradient field, as V is trained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from symdisc.families.naming import common_path
from symdisc.moves import Move, parameters_of
from symdisc.symmetry import WITHIN, Symmetry

__all__ = ["differences"]

Undone = tuple[tuple[Move, float], ...]  # moves that read weights, with the power of the first taken out


def differences(found: Sequence[Symmetry]) -> list[Symmetry]:
    """For each set of translations of as many numbers undone alike: the first less each other one; listed for their charges."""
    alike: dict[tuple[tuple[int, ...], Undone], list[tuple[Symmetry, float]]] = defaultdict(list)
    for s in found:
        undone = [m for m in s.moves if _reads(m)]
        if s.family == "translation" and s.counts and undone and all(m.kind == "add" for m in s.moves):
            powers = {replace(m, power=1.0): m.power for m in undone}
            first = powers[min(powers, key=str)]
            alike[s.shape, tuple(sorted(((m, p / first) for m, p in powers.items()), key=str))].append((s, first))
    return [d for (one, first), *others in alike.values() for other, power in others for d in _difference(one, other, first / power)]


def _reads(move: Move) -> bool:
    return any(step.reads for step in move.through)


def _difference(one: Symmetry, other: Symmetry, ratio: float) -> Iterator[Symmetry]:
    """``one`` by t and ``other`` by -ratio t; nothing where they move the same."""
    powers: dict[Move, float] = defaultdict(float)
    for s, factor in ((one, 1.0), (other, -ratio)):
        for m in s.moves:
            if not _reads(m):
                powers[replace(m, power=1.0)] += factor * m.power
    moves = tuple(replace(m, power=p) for m, p in powers.items() if p)
    if moves:
        yield replace(one, name="difference of translations undone alike", site=common_path([one.site, other.site]),
                      parameters=parameters_of(moves), moves=moves, condition=r"W (x + t) + W (x' - t) = W x + W x'",
                      formula=r"b \mapsto b + t,\; b' \mapsto b' - t", counts=False,
                      note=f"{WITHIN}: two translations that the same weights undo")
