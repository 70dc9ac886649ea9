"""Constants that the next weight turns into multiples of 1, in front of a centring norm that does not see those.

W_O a is a multiple of 1 for n - d + 1 directions a, if W_O is d x n with n >= d. A value bias, or values that lean along 1/gamma, may
have any such a added where W_O has no bias that would take it away. The directions depend on W_O, which stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move, Through
from symdisc.spaces import ShiftUse
from symdisc.symmetry import Symmetry

if TYPE_CHECKING:
    from symdisc.families.translations import Translations

__all__ = ["CONDITION", "NAME", "half_seen", "half_seen_bias"]

NAME, CONDITION = "constant that the next weight writes along 1", r"W_O B t \in \mathbb{R} \mathbf{1},\; f(x + c \mathbf{1}) = f(x)"


def half_seen(search: Translations, origin: str, value: str, current: dict[int, int]) -> tuple[Through, int] | None:
    """(what makes these translations of ``value``, how many they are), if one weight, and nothing else, sees them."""
    search.ends = []
    undone, ends, search.ends = search.undone(origin, value, current), search.ends, None
    if undone != [] or len(ends) != 1 or len(set(current.values())) != len(current):
        return None
    rows = search.classes.shape(ends[0].parameter)[ends[0].keep]
    return (ends[0], len(current) - rows + 1) if len(current) >= rows else None


def half_seen_bias(search: Translations, shift: ShiftUse, positions: np.ndarray, vec: np.ndarray) -> list[Symmetry | None]:
    """Such translations of a bias, or of the parts of it that have a fate of their own."""
    found: list[Symmetry | None] = []
    for part in search.origins.parts(vec) or [np.arange(len(vec))]:
        half = half_seen(search, shift.parameter, shift.value, {int(c): k for k, c in enumerate(vec[part])})
        if half is not None:
            move = Move("add", shift.parameter, shift.axis, Index.of(positions[part][None, None, :]), through=(half[0],))
            found.append(describe_affine(NAME, "translation", half[1], (half[1],), (move,), (shift.parameter,), [shift.module], CONDITION,
                                         r"b \mapsto b + B t"))
    return found
