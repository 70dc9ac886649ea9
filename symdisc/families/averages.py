"""What means over places, and norms that take means off, do to a constant on its way."""

from __future__ import annotations

import numpy as np

from symdisc.families.classes import Classes, rows_of, units_of
from symdisc.families.origins import Origins
from symdisc.moves import Move, Through
from symdisc.opgraph import Op, OpGraph
from symdisc.spaces import Facts

__all__ = ["Averages"]

Current = dict[int, int]  # class -> index into the translation vector


class Averages:
    """Rules of operators by name; ``push`` follows the constant further."""

    classes: Classes
    graph: OpGraph
    facts: Facts
    origins: Origins

    def push(self, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """Moves that undo the translation ``current`` of ``value`` for all its users, or None."""
        raise NotImplementedError

    def _mean_over_data(self, op: Op) -> bool:
        before, after = self.facts.labels.get(op.inputs[0]), self.facts.labels.get(op.name)
        return before is not None and after is not None and set(units_of(before)) == set(units_of(after))

    def _layer_norm(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """A centring norm does not see the constant vector."""
        labels = self.facts.labels.get(value)
        if len(op.args[1]) != 1 or not isinstance(labels, np.ndarray):
            return None
        vectors = self.classes(rows_of(labels)).tolist()
        return [] if all(len({current.get(c, -1) for c in vector}) == 1 for vector in vectors) else None

    def _group_norm(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """A group norm sees no vector that is constant in each group."""
        labels = self.facts.labels.get(value)
        if not isinstance(labels, np.ndarray):
            return None
        groups = self.classes(rows_of(np.moveaxis(labels, 1, -1))).reshape(-1, labels.shape[1] // op.args[1]).tolist()
        return [] if all(len({current.get(c, -1) for c in group}) == 1 for group in groups) else None

    def _mean(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        users = self.graph.users.get(op.name, ())
        if users and all(u.packet == "aten.sub" and u.inputs == (value, op.name) for u in users):
            return []  # the subtraction answers for it
        return self.push(op.name, current, chain) if self._mean_over_data(op) else None

    def _amax(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """The largest over places moves with each of them, that of pieces with all of them together."""
        if self._mean_over_data(op):
            return self.push(op.name, current, chain)
        rows = self.origins.rows.get(op.name)
        if rows is None:
            return None
        moved = [{current.get(c, -1) for c in pieces} for pieces in rows[0].tolist()]
        if any(len(m) > 1 for m in moved):
            return None
        return self.push(op.name, {c: k for c, (k,) in zip(rows[1].tolist(), moved, strict=True) if k >= 0}, chain)

    _amin = _max = _min = _amax

    def _avg_pool2d(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        padding, counted = (op.args[k] if len(op.args) > k else default for k, default in ((3, 0), (5, True)))
        plain = padding in (0, (0,), (0, 0), ()) or (not counted and len(op.args) < 7)  # means of what is there keep constants
        return self.push(op.name, current, chain) if plain else None

    def _upsample_bilinear2d(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """Numbers between neighbours that all moved by the same have moved by it."""
        return self.push(op.name, current, chain)

    _upsample_nearest1d = _upsample_nearest2d = _upsample_nearest3d = _upsample_linear1d = _upsample_bilinear2d
    _upsample_trilinear3d = _upsample_bicubic2d = _upsample_bilinear2d
