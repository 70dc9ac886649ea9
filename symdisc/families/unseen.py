"""Vectors to which any multiple of 1 may be added: centring norms, softmax and what chooses the largest do not see it."""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from symdisc.families.axes import Merged, alone, before, merged_after, unmerged
from symdisc.families.classes import Classes, rows_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import GainUse

__all__ = ["Unseen"]

SOFT = frozenset(f"aten.{n}" for n in ("softmax", "_softmax", "log_softmax", "_log_softmax"))


class Unseen:
    """Follows the vectors along an axis of a value, wherever layout takes them, to all that reads them."""

    def __init__(self, classes: Classes) -> None:
        self.classes, self.graph, self.facts = classes, classes.graph, classes.facts
        self._known = lru_cache(maxsize=None)(self._unseen)

    def along(self, value: str, vector: np.ndarray) -> int | None:
        """The axis of ``value`` along which the classes ``vector`` stand, everywhere alike and in this order.

        Where one class is all there is, axes of equal length look alike (a map as wide as it has channels): the one along which most
        units differ, and the last of such.
        """
        labels = self.facts.labels.get(value)
        if not isinstance(labels, np.ndarray):
            return None
        differ = {}
        for axis in reversed(range(labels.ndim)):
            if labels.shape[axis] == len(vector):
                rows = rows_of(np.moveaxis(labels, axis, -1))
                if (self.classes(rows) == vector).all():
                    differ[axis] = len(np.unique(rows[0]))
        return max(differ, key=lambda a: differ[a], default=None)

    def __call__(self, value: str, axis: int) -> bool:
        """Adding any multiple of 1 along ``axis``, different at each place, changes nothing downstream."""
        return self._known(value, axis)

    def scaled(self, value: str, axis: int, units: np.ndarray) -> tuple[str, int, GainUse] | None:
        """(product, axis, gain) where the only thing that reads ``value`` multiplies it by a gain, one entry for each of ``units``."""
        while value not in self.graph.outputs:
            users = self._users(value)
            if len(users) != 1:
                return None
            use = self.gains.get(users[0].name)
            if use is not None:
                axis += len(users[0].shape or ()) - len(self.graph.shape(value) or ())
                mine = np.array_equal(use.elements, np.arange(len(units))) and np.array_equal(self.classes(use.ins), self.classes(units))
                return (use.value, axis, use) if mine and self.along(use.value, self.classes(use.outs)) == axis else None
            step = self.after(users[0], value, axis)
            if step is None:
                return None
            value, axis = users[0].name, step
        return None

    @cached_property
    def gains(self) -> dict[str, GainUse]:
        """Operator -> the vector that it multiplies by, entry by entry."""
        shapes = {g.parameter: self.classes.shape(g.parameter) for g in self.facts.gains}
        return {g.op: g for g in self.facts.gains if shapes[g.parameter] and max(shapes[g.parameter]) == int(np.prod(shapes[g.parameter]))}

    def _users(self, value: str) -> list[Op]:
        return [op for op in self.graph.users.get(value, ()) if op.name in self.graph.live]

    def _unseen(self, value: str, axis: int) -> bool:
        return value not in self.graph.outputs and all(self.blind(op, value, axis) for op in self._users(value))

    def blind(self, op: Op, value: str, axis: int) -> bool:
        """The operator, or all that reads its result, does not see multiples of 1 along ``axis`` of its operand ``value``."""
        shape = self.graph.shape(value) or ()
        last = axis == len(shape) - 1
        if op.packet == "aten.layer_norm":
            return last and tuple(op.args[1]) == shape[-1:]
        if op.packet in SOFT:
            return bool(op.args[1] % len(shape) == axis)
        if op.packet in ("aten.add", "aten.sub"):
            if op.packet == "aten.sub" and self.centres(op, value, axis):
                return True
            names = [a.name for a in op.args[:2] if isinstance(a, Ref)]
            after = axis + len(op.shape or ()) - len(shape)
            return (op.shape or ())[after] == shape[axis] and names.count(value) == 1 and self(op.name, after)
        if op.packet == "aten.mean" and self.after(op, value, axis) is None:
            return bool(self._users(op.name)) and all(u.packet == "aten.sub" and self.centres(u, value, axis) for u in self._users(op.name))
        if op.packet == "aten.cat" and op.inputs.count(value) == 1 and len(op.args) > 1 and op.args[1] % len(shape) != axis:
            return self(op.name, axis)  # places beside other places
        if op.packet == "aten.topk" and (op.args[2] if len(op.args) > 2 else dict(op.kwargs).get("dim", -1)) % len(shape) == axis:
            return all(u.args[1] == 1 or self(u.name, axis) for u in self._users(op.name))  # the order stays, the values move alike
        step = self.after(op, value, axis)
        return self._merged(op, unmerged(shape, axis)) if step is None else self(op.name, step)

    def _merged(self, op: Op, axes: Merged) -> bool:
        """The same of an axis that is a factor of another, until it stands by itself again."""
        after = merged_after(self.graph, op, axes)
        if after is None or op.name in self.graph.outputs:
            return False
        axis = alone(after)
        return self(op.name, axis) if axis is not None else all(self._merged(u, after) for u in self._users(op.name))

    def after(self, op: Op, value: str, axis: int) -> int | None:
        """The axis of the result to which layout, or a mean over places, brings the whole vectors."""
        size = (self.graph.shape(value) or ())[axis]
        found = (a for a, n in enumerate(op.shape or ()) if n == size and before(self.graph, op, a) == (value, axis))
        return next(found, None)

    def centres(self, op: Op, value: str, axis: int) -> bool:
        """op = value - mean(value over the axis)."""
        second = self.graph.by_name.get(op.args[1].name) if isinstance(op.args[1], Ref) else None
        if second is None or second.packet != "aten.mean" or second.inputs != (value,) or op.inputs[0] != value:
            return False
        dims = second.args[1] if len(second.args) > 1 else dict(second.kwargs).get("dim", ())
        rank = len(self.graph.shape(value) or ())
        return [d % rank for d in (dims if isinstance(dims, tuple) else (dims,))] == [axis % rank]
