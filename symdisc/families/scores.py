"""Scores of attention: where they end, and whether a value is the softmax of some."""

from __future__ import annotations

from typing import Any

from symdisc.opgraph import Op, OpGraph, Ref
from symdisc.spaces import Facts

__all__ = ["Scores"]

LOW = -1e4  # masks write less than this


class Scores:
    """Follows scores through scales and masks to a softmax."""

    def __init__(self, graph: OpGraph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts

    def end_in_softmax(self, value: str) -> bool:
        """Every user passes scores on (scaled, masked) to a softmax over the last axis."""
        for op in self.graph.users.get(value, ()):
            if op.packet in ("aten.softmax", "aten._softmax"):
                rank = len(op.shape or ())
                if op.args[1] % rank != rank - 1:
                    return False
            elif op.packet == "aten.scaled_dot_product_attention":
                if [i for i, a in enumerate(op.args) if isinstance(a, Ref) and a.name == value] != [3]:
                    return False  # as a query, a key or a value
            elif (op.packet == "aten.where" and self._masked(op, value)) or (
                    op.packet == "aten.masked_fill" and op.inputs[0] == value and self._low(op.args[2])):
                if not self.end_in_softmax(op.name):
                    return False
            elif op.packet in ("aten.view", "aten._unsafe_view", "aten.reshape"):
                if (op.shape or ())[-1:] != (self.graph.shape(value) or ())[-1:] or not self.end_in_softmax(op.name):
                    return False  # rows of scores must stay rows
            elif op.packet == "aten.gather" and op.inputs[0] == value and op.args[1] % len(op.shape or ()) == len(op.shape or ()) - 1:
                if not self.end_in_softmax(op.name):  # picked from a row, for a row
                    return False
            elif op.packet == "aten.add" and not op.kwargs and op.inputs.count(value) == 1 and op.shape == self.graph.shape(value):
                if not self.end_in_softmax(op.name):  # whatever else the scores are made of
                    return False
            elif op.packet in ("aten.mul", "aten.div", "aten.add", "aten.clone", "aten._to_copy", "aten.to") and op.inputs[0] == value:
                if any(self.graph.is_activation(n) for n in op.inputs if n != value) or not self.end_in_softmax(op.name):
                    return False
            else:
                return False
        return value not in self.graph.outputs

    def _masked(self, op: Op, value: str) -> bool:
        """Where the mask does not keep the value stands a number so low that softmax makes it zero."""
        others = [a for a in op.args[1:] if not (isinstance(a, Ref) and a.name == value)]
        return len(others) == 1 and self._low(others[0]) and not (isinstance(op.args[0], Ref) and op.args[0].name == value)

    def _low(self, written: Any) -> bool:
        return bool(written.name in self.facts.low if isinstance(written, Ref) else written < LOW)

    def weights(self, value: str) -> bool:
        """The value is a softmax over the last axis, laid out anew."""
        op = self.graph.by_name.get(value)
        while op is not None and op.packet in ("aten.clone", "aten._to_copy", "aten.to", "aten.dropout", "aten.expand", "aten.view"):
            op = self.graph.by_name.get(op.inputs[0])
        if op is None or op.packet not in ("aten.softmax", "aten._softmax"):
            return False
        rank = len(op.shape or ())
        return bool(op.args[1] % rank == rank - 1)
