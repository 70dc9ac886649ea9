"""What folding records about a network: units of feature spaces and how operators and parameters relate them.

A *unit* is one coordinate of a feature space (a channel, a hidden unit, a head coordinate). Every element of every
activation carries the number of its unit; layout operators are run on these numbers, so any reshaping is followed exactly.
Unit 0 stands for what cannot change (raw data), unit -1 for zeros put in by padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["DATA", "Alike", "DenseUse", "Dual", "Facts", "GainUse", "Norm", "PAD", "ShiftUse"]

DATA = 0
PAD = -1


@dataclass(frozen=True)
class DenseUse:
    """A weight that maps units to units without structure: entry [.., o, .., i, ..] links ``outs[o]`` and ``ins[.., i]``.

    ``ins`` is [copies, in]; a reader of flattened pixels sees each unit several times, which ``in_index`` keeps as
    positions. ``rows`` restricts a grouped kernel to the rows of one group. ``outs`` or ``ins`` is None where that axis
    ranges over data (vocabulary rows of an embedding, output logits stay units that are fixed elsewhere).
    """

    parameter: str
    op: str
    module: str
    out_axis: int
    outs: np.ndarray | None
    in_axis: int
    ins: np.ndarray | None
    value: str
    source: str
    rows: tuple[int, int] | None = None
    padded: bool = False


@dataclass(frozen=True)
class GainUse:
    """A parameter multiplied entrywise: element ``elements[j]`` (flat) takes unit ``ins[j]`` to ``outs[j]``."""

    parameter: str
    op: str
    module: str
    elements: np.ndarray
    ins: np.ndarray
    outs: np.ndarray
    value: str
    source: str
    offset: float = 0.0
    buffer: bool = False


@dataclass(frozen=True)
class ShiftUse:
    """A parameter added: element ``elements[j]`` (flat) is added to unit ``units[j]``; ``axis`` carries the units."""

    parameter: str
    op: str
    module: str
    axis: int
    elements: np.ndarray
    units: np.ndarray
    value: str
    buffer: bool = False
    table: bool = False


@dataclass(frozen=True)
class Dual:
    """Two vectors of units contracted with each other (query and key): [blocks, size] each."""

    left: np.ndarray
    right: np.ndarray
    op: str


@dataclass(frozen=True)
class Norm:
    """A vector of units normalised: covariant under O(n), or under the O(n-1) that fixes 1 when ``centred``."""

    ins: np.ndarray
    outs: np.ndarray
    centred: bool
    eps: float
    op: str


@dataclass(frozen=True)
class Alike:
    """An operator that treats the units of each row alike, and the rows alike: softmax, the groups of a group norm. [rows, size]."""

    ins: np.ndarray
    outs: np.ndarray
    op: str


@dataclass
class Facts:
    """Everything that folding found, in terms of unit numbers."""

    units: int = 1
    same: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    powers: list[tuple[np.ndarray, np.ndarray, float]] = field(default_factory=list)  # s[b] = p * s[a]
    sums: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = field(default_factory=list)  # s[o] = s[a] + p * s[b]
    fixed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    killed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    rotated: list[np.ndarray] = field(default_factory=list)
    dense: list[DenseUse] = field(default_factory=list)
    gains: list[GainUse] = field(default_factory=list)
    shifts: list[ShiftUse] = field(default_factory=list)
    duals: list[Dual] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    copies: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    elementwise: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)
    opaque: list[tuple[str, str]] = field(default_factory=list)  # (operator, why)
    statistics: list[GainUse] = field(default_factory=list)  # buffers that scale units: seen by permutations alone
    rigid: list[np.ndarray] = field(default_factory=list)  # units with constants of their own: they stay in place
    totals: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)  # units summed, and the unit of their sum
    weighted: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)  # the score that weighs units of values
    marked: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)  # entry of a constant, and the unit that it meets
    alike: list[Alike] = field(default_factory=list)
    void: set[tuple[str, str]] = field(default_factory=set)  # (parameter, operator): a weight applied to zeros
    signed: set[str] = field(default_factory=set)  # weights whose entries keep their signs
    constant: set[str] = field(default_factory=set)  # folded operators that see parameters but no data
    low: set[str] = field(default_factory=set)  # constants so low that softmax makes zeros of them
    offsets: dict[str, np.ndarray] = field(default_factory=dict)  # bias -> the constant added behind each of its flat elements
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def gained(self) -> frozenset[str]:
        """Names of what multiplies units one by one."""
        return frozenset(u.parameter for u in self.gains)

    def fresh(self, n: int) -> np.ndarray:
        """``n`` new unit numbers."""
        first = self.units
        self.units += n
        return np.arange(first, first + n, dtype=np.int64)
