"""Units identified by residual adds become classes; what is frozen, killed, rotated is asked per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from symdisc.opgraph import OpGraph
from symdisc.spaces import DATA, DenseUse, Facts, GainUse, ShiftUse

__all__ = ["Classes", "Depthwise", "components", "rows_of", "units_of"]

Use = TypeVar("Use", DenseUse, ShiftUse)
OTHERWISE = " is used in another way"


def components(n: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Component number of each of ``n`` vertices joined by ``pairs``; the component of vertex 0 is 0."""
    if pairs:
        a, b = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
    else:
        a = b = np.zeros(0, dtype=np.int64)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _by_operator(uses: Sequence[Use]) -> dict[str, list[Use]]:
    found: dict[str, list[Use]] = {}
    for use in uses:
        found.setdefault(use.op, []).append(use)
    return found


def _compact(labels: np.ndarray, last: bool) -> np.ndarray:
    """``labels`` without repetition along the axes on which they do not change (the last one stays whole with ``last``)."""
    for axis in range(labels.ndim - last):
        first = labels[(slice(None),) * axis + (slice(0, 1),)]
        if labels.shape[axis] > 1 and (labels.strides[axis] == 0 or bool((labels == first).all())):
            labels = first
    return labels


def units_of(labels: np.ndarray) -> np.ndarray:
    """The distinct units of a value, in order."""
    return np.unique(_compact(labels, False))


def rows_of(labels: np.ndarray) -> np.ndarray:
    """The distinct vectors of units along the last axis of a value, [rows, size], in order."""
    cut = _compact(labels, True).reshape(-1, labels.shape[-1])
    return cut if len(cut) == 1 else np.unique(cut, axis=0)


def _single(uses: list[DenseUse | GainUse | ShiftUse]) -> bool:
    if len(uses) < 2:
        return len(uses) == 1
    entries = [np.arange(*u.rows) if isinstance(u, DenseUse) and u.rows is not None else u.elements if isinstance(u, ShiftUse)
               else None for u in uses]
    known = [e for e in entries if e is not None]
    apart = len(known) == len(uses) == len({u.op for u in uses}) and len({type(u) for u in uses}) == 1
    return apart and len(np.unique(np.concatenate(known))) == sum(map(len, known))


@dataclass(frozen=True)
class Depthwise:
    """A convolution of which each channel has a weight of its own: row k of the weight takes unit ``ins[k]`` to ``outs[k]``."""

    parameter: str
    module: str
    op: str
    ins: np.ndarray
    outs: np.ndarray


def _same_way(a: DenseUse | ShiftUse, b: DenseUse | GainUse | ShiftUse) -> bool:
    """Both apply the whole parameter along the same axes, or add the same entries of it."""
    if isinstance(a, DenseUse):
        return isinstance(b, DenseUse) and a.rows is None is b.rows and (a.out_axis, a.in_axis) == (b.out_axis, b.in_axis) and (
            a.outs is None) == (b.outs is None) and (a.ins is None) == (b.ins is None)
    return isinstance(b, ShiftUse) and a.axis == b.axis and np.array_equal(a.elements, b.elements)


class Classes:
    """Facts seen through the identification of units. Class 0 is raw data."""

    def __init__(self, graph: OpGraph, facts: Facts) -> None:
        self.graph, self.facts = graph, facts
        self.of = components(facts.units, facts.same)
        self.count = int(self.of.max()) + 1
        self.data = int(self.of[DATA])
        self.links: Any = None
        self.notes: list[str] = []
        self._single: dict[str, bool] = {}
        self._shapes = {name: graph.shapes[value] for table in (graph.buffers, graph.parameters)
                        for value, name in table.items()}
        self._freeze_unrecorded()

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Class numbers of an array of units (padding counts as data)."""
        return np.asarray(self.of[np.where(units < 0, 0, units)])

    @cached_property
    def fixed(self) -> np.ndarray:
        """Boolean per class: no scaling."""
        mask = np.zeros(self.count, dtype=bool)
        mask[self.data] = True
        for units, _ in self.facts.fixed:
            mask[self(units)] = True
        return mask

    @cached_property
    def killed(self) -> np.ndarray:
        """Boolean per class: no mixing; rotations by constants are kept apart."""
        mask = np.zeros(self.count, dtype=bool)
        mask[self.data] = True
        for units, why in self.facts.killed:
            if why != "constant factor per unit":
                mask[self(units)] = True
        for conv in self.depthwise.values():  # each channel has a weight of its own
            mask[self(np.concatenate([conv.ins, conv.outs]))] = True
        return mask

    @cached_property
    def rotated(self) -> np.ndarray:
        mask = np.zeros(self.count, dtype=bool)
        for units in self.facts.rotated:
            mask[self(units)] = True
        return mask

    def everything(self) -> list[DenseUse | GainUse | ShiftUse]:
        """All uses of parameters."""
        return [*self.facts.dense, *self.facts.gains, *self.facts.shifts]

    # --- parameters ---------------------------------------------------------------------------------------------------
    @cached_property
    def uses(self) -> dict[str, list[DenseUse | GainUse | ShiftUse]]:
        """Everything that each parameter does."""
        found: dict[str, list[DenseUse | GainUse | ShiftUse]] = {}
        for use in self.everything():
            found.setdefault(use.parameter, []).append(use)
        return found

    @cached_property
    def dense_at(self) -> dict[str, list[DenseUse]]:
        """The uses of weights by operator."""
        return _by_operator(self.facts.dense)

    @cached_property
    def shifts_at(self) -> dict[str, list[ShiftUse]]:
        """What is added, by operator."""
        return _by_operator(self.facts.shifts)

    def single(self, parameter: str) -> bool:
        """Everything that an entry of the parameter does is done by one operator: one use, or uses of different entries."""
        if parameter not in self._single:
            self._single[parameter] = _single(self.uses.get(parameter, []))
        return self._single[parameter]

    @cached_property
    def depthwise(self) -> dict[str, Depthwise]:
        """By operator; those of raw data, whose channels are told apart, are left out."""
        found: dict[str, list[DenseUse]] = {}
        for use in self.facts.dense:
            if use.rows is not None and "conv" in self.graph.by_name[use.op].packet:
                found.setdefault(use.op, []).append(use)
        return {op: d for op, uses in found.items() if (d := self._depthwise(uses)) is not None}

    def _depthwise(self, uses: list[DenseUse]) -> Depthwise | None:
        first = uses[0]
        ins, outs = (np.concatenate([np.zeros(0, dtype=np.int64) if v is None else v for v in side])
                     for side in zip(*((u.ins, u.outs) for u in uses), strict=True))
        single = len(ins) == len(outs) == len(uses) and [u.rows for u in uses] == [(k, k + 1) for k in range(len(uses))]
        known = single and len({u.parameter for u in uses}) == 1 and bool((self(ins) != self.data).all())
        return Depthwise(first.parameter, first.module, first.op, ins, outs) if known else None

    def alike(self, use: DenseUse | ShiftUse) -> list[DenseUse] | list[ShiftUse]:
        """All uses of the parameter where a layer that is used several times does the same each time and ``use`` is the first."""
        uses = self.uses[use.parameter]
        if len(uses) < 2 or uses[0] is not use or len({u.op for u in uses}) < len(uses) or not all(_same_way(use, u) for u in uses):
            return []
        dense, shifts = [u for u in uses if isinstance(u, DenseUse)], [u for u in uses if isinstance(u, ShiftUse)]
        return dense or shifts

    def times(self, parameter: str) -> int:
        """How often a layer uses the parameter: 1 for ``single`` ones, 0 where the uses differ."""
        uses = self.uses.get(parameter, [])
        first = uses[0] if uses else None
        return 1 if self.single(parameter) else len(self.alike(first)) if isinstance(first, (DenseUse, ShiftUse)) else 0

    def bias(self, use: DenseUse) -> ShiftUse | None:
        """What the operator of a dense weight adds to all outputs of the weight, in their order."""
        here = (s for s in self.facts.shifts if s.op == use.op)
        return next((s for s in here if use.outs is not None and np.array_equal(s.units, use.outs)), None)

    def shape(self, parameter: str) -> tuple[int, ...]:
        return self._shapes[parameter]

    def coordinates(self, use: ShiftUse | GainUse, axis: int) -> np.ndarray:
        """Position along ``axis`` of each element that a gain or shift uses."""
        shape = self.shape(use.parameter)
        stride = int(np.prod(shape[axis + 1:], dtype=np.int64))
        return (use.elements // stride) % shape[axis] if shape else np.zeros_like(use.elements)

    def _freeze_unrecorded(self) -> None:
        """A parameter that also acts in a way that was not recorded stays as it is, and so does what it is recorded to touch; a gain
        lets its units scale together."""
        graph = self.graph
        recorded = {(u.parameter, u.op) for u in self.everything()} | self.facts.void
        for value, name in graph.parameters.items():
            for op in self._meetings(value):
                if (name, op) not in recorded:
                    for use in self.uses.get(name, []):
                        units = use.units if isinstance(use, ShiftUse) else np.concatenate(
                            [v for v in (use.outs, use.ins) if v is not None])
                        why = name + OTHERWISE
                        if isinstance(use, GainUse):
                            self.facts.powers.append((use.ins, use.outs, 1.0))
                            self.facts.rigid.append(units[units >= 0])
                        else:
                            self.facts.fixed.append((units[units >= 0], why))
                        self.facts.killed.append((units[units >= 0], why))
        self.uses  # noqa: B018  (cached after the facts are complete)

    @cached_property
    def otherwise(self) -> frozenset[str]:
        """Parameters that also act in a way that was not recorded."""
        return frozenset(why.removesuffix(OTHERWISE) for _, why in self.facts.killed if why.endswith(OTHERWISE))

    def known(self, buffer: str) -> bool:
        """Everything that a buffer does is recorded."""
        value = next(v for v, n in self.graph.buffers.items() if n == buffer)
        seen = {u.op for u in self.facts.statistics if u.parameter == buffer} | {u.op for u in self.facts.shifts if u.parameter == buffer}
        return self._meetings(value) <= seen

    def _meetings(self, value: str) -> set[str]:
        """Operators at which a parameter, possibly re-laid-out, meets activations or data; written constants included."""
        found: set[str] = set()
        frontier = [value]
        written = {s.op for s in self.facts.shifts}
        while frontier:
            name = frontier.pop()
            if name in written:
                found.add(name)
                continue
            for op in self.graph.users.get(name, ()):
                if op.name not in self.graph.live:
                    continue
                if self.graph.is_activation(op.name) or op.name in self.facts.constant:
                    found.add(op.name)
                else:
                    frontier.append(op.name)
        return found
