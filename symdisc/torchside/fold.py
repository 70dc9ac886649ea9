"""Fold an operator graph: number the units of every activation and record what operators and parameters do to them.

Layout operators (view, permute, slice, cat, expand, ...) are executed by torch on integer tensors of unit numbers, so
that any reshaping is followed exactly. The other operators add facts (``symdisc.spaces.Facts``). An unknown operator
freezes the units that it touches and is reported: incomplete, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.opgraph import Op, OpGraph, Ref, refs
from symdisc.spaces import DATA, PAD, Facts, ShiftUse
from symdisc.torchside import foldrules
from symdisc.torchside.capture import Capture
from symdisc.torchside.foldrules.offsets import Added, settle
from symdisc.torchside.foldrules.packed import distinct_pairs, shrink
from symdisc.torchside.interpret import call

__all__ = ["Folder", "fold"]

LAYOUT = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "expand", "alias",
    "detach", "_to_copy", "to", "type_as", "t", "slice", "select", "split", "split_with_sizes", "chunk", "unbind",
    "repeat", "flip", "roll", "narrow", "contiguous", "unfold", "diagonal", "flatten", "movedim", "tile",
    "pixel_shuffle", "pixel_unshuffle", "expand_as", "unflatten", "index", "index_select", "gather", "repeat_interleave", "swapaxes",
    "lift_fresh_copy", "view_as", "neg", "tril", "triu", "positive", "dropout", "constant_pad_nd", "pad",
    "copy",
)) | {"getitem"}
SAME_PLACES = frozenset(f"aten.{n}" for n in (
    "clone", "alias", "detach", "_to_copy", "to", "type_as", "contiguous", "neg", "positive", "dropout"))
PADS = frozenset(("aten.constant_pad_nd", "aten.pad"))
ENTRYWISE = frozenset(f"aten.{n}" for n in (
    "add", "sub", "rsub", "mul", "div", "neg", "sqrt", "rsqrt", "reciprocal", "pow", "exp", "log", "abs", "clamp", "clamp_min"))
LOW = -1e4  # masks of scores write less than this
SHAPED = frozenset(f"aten.{n}" for n in (  # constants that take the shape of a value and nothing else
    "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"))
LOOKUPS = frozenset(f"aten.{n}" for n in ("index", "index_select", "gather"))


def fold(capture: Capture) -> Facts:
    """Facts about the units of a captured model. Works on meta tensors: only shapes are needed."""
    folder = Folder(capture)
    folder.run()
    return folder.facts


class Folder:
    """The state of folding: labels of activations, facts so far, constants evaluated where they have values."""

    def __init__(self, capture: Capture) -> None:
        self.graph: OpGraph = capture.graph
        self.capture = capture
        self.facts = Facts()
        self.labels: dict[str, Tensor] = {}
        self.tuples: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self._elements: dict[str, tuple[str, Tensor, float] | None] = {}
        self.added: list[Added] = []

    # --- running --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        self._fixed_values()
        self.facts.low = {n for n, v in self.values.items() if isinstance(v, Tensor) and v.dim() == 0 and float(v) < LOW}
        for op in self.graph.ops:
            if op.name in self.graph.live and (self.graph.is_activation(op.name) or self._is_state(op)):
                self.step(op)
        settle(self, self.added)
        for out in self.graph.outputs:
            if out in self.labels:
                self.facts.fixed.append((self.units(self.labels[out]), "output"))
                self.facts.killed.append((self.units(self.labels[out]), "output"))
        self.facts.labels = {k: v.numpy() for k, v in self.labels.items() if isinstance(v, Tensor)}

    def _is_state(self, op: Op) -> bool:
        """What a layer makes of a constant (the zero state of a recurrent layer) carries that layer's units; so does a masked table."""
        masked = op.packet == "aten.where" and any(isinstance(a, (int, float)) and a < LOW for a in op.args[1:])
        found = self.graph.varies(op.name) and (masked or any(n in self.facts.constant for n in op.inputs) or (
            op.packet == "aten.linear" and (not self.graph.roles[op.inputs[0]] or self.elements(op.inputs[0]) is not None)))
        if found:
            self.facts.constant.add(op.name)
        return found

    def moves(self, name: str) -> bool:
        """The value carries units: an activation, or what a layer makes of a constant."""
        return self.graph.is_activation(name) or name in self.facts.constant

    def step(self, op: Op) -> None:
        rule: Callable[[Folder, Op], None] | None = foldrules.RULES.get(op.packet)
        if op.packet in LAYOUT and self._layout(op):
            return self._compact(op.name)
        if rule is None:
            rule = foldrules.elementwise
        rule(self, op)
        self._compact(op.name)

    def _compact(self, name: str) -> None:
        """Store labels that repeat along an axis as an expanded view, so that later steps see them once."""
        labels = self.labels.get(name)
        if isinstance(labels, Tensor):
            (cut,), shape = shrink(labels)
            for axis in range(cut.dim()):
                first = cut.narrow(axis, 0, 1) if cut.shape[axis] > 1 else cut
                if first is not cut and bool((cut == first).all()):
                    cut = first
            self.labels[name] = cut.expand(shape)

    def _layout(self, op: Op) -> bool:
        """Run a layout operator on the unit numbers; False if an index operand is itself an activation."""
        if op.packet in SAME_PLACES:
            labels = self.operand(op.inputs[0])
            if labels is not None:
                self.labels[op.name] = labels
            return labels is not None
        names = list(dict.fromkeys(op.inputs))
        movable = set(refs(op.args[:1])) if op.packet != "aten.copy" else set(names)
        if any(self.graph.is_activation(n) and n not in movable for n in names):
            return False
        if op.packet in LOOKUPS and any(self.graph.roles[n] for n in names if n not in movable):
            return self._lookup(op)
        env: dict[str, Any] = {}
        for name in names:
            env[name] = self.operand(name) if name in movable else self.values.get(name)
            if env[name] is None:
                return False
        if op.packet in PADS:
            op = _with_pad_value(op)
        result = call(op, env)
        if isinstance(result, Tensor):
            self.labels[op.name] = result
        else:
            self.tuples[op.name] = result
            self.labels[op.name] = result  # type: ignore[assignment]
        return True

    def _lookup(self, op: Op) -> bool:
        """Rows chosen by data: any row may come, so all entries along the indexed axes share their units."""
        labels = self.operand(op.inputs[0])
        if labels is None or op.shape is None:
            return False
        if op.packet == "aten.index":
            axes = [a for a, i in enumerate(op.args[1]) if i is not None]
        else:
            axes = [int(op.args[1]) % labels.dim()]
        for axis in axes:
            first = labels.narrow(axis, 0, 1)
            self.unite(first.expand_as(labels), labels)
            labels = first.expand_as(labels)
        env = {n: torch.zeros(self.graph.shape(n) or (), dtype=torch.int64) for n in op.inputs}
        env[op.inputs[0]] = labels
        self.labels[op.name] = call(op, env)
        return True

    # --- operands -------------------------------------------------------------------------------------------------
    def operand(self, name: str) -> Any:
        """Unit numbers of any value: activations as recorded, raw data and constants DATA, parameters as constants."""
        if name in self.labels:
            return self.labels[name]
        if self.graph.varies(name):
            found = self.written(name)
            return self._sum_of_stored(name) if found is None else found
        shape, value = self.graph.shape(name), self.values.get(name)
        zero = isinstance(value, Tensor) and value.numel() > 0 and name not in self.graph.buffers and not bool(value.any())
        return None if shape is None else torch.full((), PAD if zero else DATA, dtype=torch.int64).expand(shape)

    def _sum_of_stored(self, name: str) -> Tensor | None:
        """Units for the sum of parameters (a class token and its place in the table of positions), laid out anew."""
        op = self.graph.by_name.get(name)
        stored = op is not None and not self.graph.is_activation(name) and (op.packet == "aten.add" or op.packet in LAYOUT)
        if op is None or not stored or op.kwargs or any(self.operand(n) is None for n in op.inputs):
            return None
        if not all(n in self.labels for n in op.inputs if self.graph.varies(n)):
            return None
        self.facts.constant.update(n for n in (name, *op.inputs) if self.graph.varies(n))
        self.step(op)
        return self.labels.get(name)

    def written(self, name: str) -> Tensor | None:
        """Units for a parameter that enters as an activation (a class token): one per element, recorded as a shift."""
        found = self.elements(name)
        if found is None:
            return None
        parameter, index, _ = found
        flat, inverse = torch.unique(index, return_inverse=True)
        units = self.facts.fresh(len(flat))
        shape = self.graph.shapes[self.value_of(parameter)]
        self.facts.shifts.append(ShiftUse(parameter, name, "", len(shape) - 1, flat.numpy(), units, name, table=True))
        self.labels[name] = torch.from_numpy(units)[inverse].reshape(index.shape)
        return self.labels[name]

    @cached_property
    def _values(self) -> dict[str, str]:
        """Canonical state_dict name -> the first value that holds the tensor."""
        both = {**self.graph.parameters, **self.graph.buffers}
        return {name: value for value, name in reversed(both.items())}

    @staticmethod
    def lays_out(op: Op) -> bool:
        """The operator moves numbers to other places, and does nothing else."""
        return op.packet in LAYOUT and op.packet != "aten.neg"

    def value_of(self, parameter: str) -> str:
        return self._values[parameter]

    def elements(self, name: str, buffers: bool = False) -> tuple[str, Tensor, float] | None:
        """For a re-laid-out parameter: its state_dict name, the flat element at each place, a constant added."""
        if name not in self._elements:
            self._elements[name] = self._find_elements(name)
        found = self._elements[name]
        if found is not None and found[0] in self.graph.buffers.values() and (not buffers or found[0] in self.capture.unsaved):
            return None
        return found

    def _find_elements(self, name: str) -> tuple[str, Tensor, float] | None:
        graph = self.graph
        known = graph.parameters.get(name) or graph.buffers.get(name)
        if known is not None:
            shape = graph.shapes[name]
            return known, torch.arange(int(np.prod(shape))).reshape(shape), 0.0
        op = graph.by_name.get(name)
        if op is None or not op.inputs:
            return None
        if op.target == "getitem":
            return self._part(graph.by_name.get(op.inputs[0]), int(op.args[1]))
        if op.packet == "aten.cat":
            return self._rejoined(op)
        layout = op.packet in LAYOUT or op.packet == "aten.embedding"
        inner = self._find_elements(op.inputs[0]) if len(set(op.inputs)) == 1 or layout else None
        if inner is None:
            return None
        parameter, index, offset = inner
        if op.packet == "aten.embedding":
            rows = self.values.get(op.inputs[1])
            return None if rows is None else (parameter, index[rows], offset)
        if op.packet == "aten.add" and len(op.args) == 2 and isinstance(op.args[1], (int, float)):
            return parameter, index, offset + float(op.args[1])
        if op.packet in LAYOUT and op.packet not in ("aten.neg", "aten.tril", "aten.triu"):
            env = {n: self.values.get(n) for n in op.inputs}
            env[op.inputs[0]] = index
            if any(v is None for v in env.values()):
                return None
            if op.packet in ("aten._to_copy", "aten.to", "aten.type_as"):
                return inner
            result = call(op, env)
            return (parameter, result, offset) if isinstance(result, Tensor) else None
        return None

    def _part(self, split: Op | None, which: int) -> tuple[str, Tensor, float] | None:
        """The elements in one part of a split parameter."""
        inner = None if split is None or split.packet not in LAYOUT or len(split.inputs) != 1 else self._find_elements(split.inputs[0])
        if split is None or inner is None:
            return None
        return inner[0], call(split, {split.inputs[0]: inner[1]})[which], inner[2]

    def _rejoined(self, op: Op) -> tuple[str, Tensor, float] | None:
        """Parts of one parameter put beside each other."""
        parts = [self._find_elements(n) for n in op.inputs]
        found = [p for p in parts if p is not None]
        if len(found) < len(parts) or len({(p[0], p[2]) for p in found}) != 1:
            return None
        return found[0][0], torch.cat([p[1] for p in found], op.args[1] if len(op.args) > 1 else 0), found[0][2]

    def buffers_behind(self, name: str) -> list[tuple[str, Tensor]] | None:
        """(buffer, flat element at each place) for a value made from buffers entry by entry; None where it is not so made."""
        graph = self.graph
        if name in graph.buffers:
            if graph.buffers[name] in self.capture.unsaved:
                return None
            shape = graph.shapes[name]
            return [(graph.buffers[name], torch.arange(int(np.prod(shape))).reshape(shape))]
        op = graph.by_name.get(name)
        if op is None or graph.roles[name] or op.shape is None:
            return None
        if op.packet in LAYOUT and len(set(op.inputs)) == 1:
            inner = self.buffers_behind(op.inputs[0])
            return None if inner is None else [(b, call(op, {op.inputs[0]: index})) for b, index in inner]
        if op.packet not in ENTRYWISE:
            return None
        found: list[tuple[str, Tensor]] = []
        for operand in op.inputs:
            inner = self.buffers_behind(operand)
            if inner is None:
                return None
            found += [(b, index.expand(op.shape)) for b, index in inner]
        return found

    def _fixed_values(self) -> None:
        """Evaluate everything that depends neither on parameters nor on data, where tensors have values."""
        graph = self.graph
        self.values = {n: t for n, t in self.capture.tensors.items() if n not in graph.parameters and not t.is_meta}
        for op in graph.ops:
            if graph.roles[op.name] or op.name not in graph.live:
                continue
            known = self.values
            if op.packet in SHAPED and op.inputs[0] not in known:
                like = torch.zeros((), dtype=getattr(torch, self._dtype(op.inputs[0])))
                known = {**known, op.inputs[0]: like.expand(graph.shape(op.inputs[0]) or ())}
            if all(n in known for n in op.inputs):
                try:
                    self.values[op.name] = call(op, known)
                except (RuntimeError, TypeError, ValueError):
                    continue  # a constant that cannot be evaluated here is treated as unknown

    def _dtype(self, name: str) -> str:
        return self.graph.dtypes.get(name) or (self.graph.by_name[name].dtype if name in self.graph.by_name else "") or "float32"

    # --- facts ----------------------------------------------------------------------------------------------------
    @staticmethod
    def units(labels: Tensor) -> np.ndarray:
        found: np.ndarray = torch.unique(shrink(labels)[0][0]).numpy()
        return found[found > PAD]

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Elementwise identification (residual add); broadcasting as torch does."""
        (a, b), _ = shrink(a, b)
        a, b = a.reshape(-1), b.reshape(-1)
        open_ = (a != b) & (a > PAD) & (b > PAD)
        if bool(open_.any()):
            pairs, _ = distinct_pairs(a[open_], b[open_])
            self.facts.same.append((pairs[0].numpy(), pairs[1].numpy()))

    def freeze(self, labels: Tensor, why: str) -> None:
        """No scaling and no mixing of these units."""
        units = self.units(labels)
        self.facts.fixed.append((units, why))
        self.facts.killed.append((units, why))

    def kill(self, labels: Tensor, why: str) -> None:
        """No mixing of these units (scalings may survive)."""
        self.facts.killed.append((self.units(labels), why))

    def vector(self, labels: Tensor, axis: int) -> Tensor:
        """Units along one axis, [size]; units at different places of the other axes are identified."""
        (cut,), _ = shrink(labels)
        moved = cut.movedim(axis, -1).reshape(-1, cut.shape[axis]).expand(-1, labels.shape[axis])
        first = moved[0]
        if moved.shape[0] > 1:
            rows = torch.unique(moved, dim=0)
            if rows.shape[0] > 1:
                first = rows.max(0).values
                self.unite(first.expand_as(rows), rows)
        return first

    def vectors(self, labels: Tensor) -> Tensor:
        """Distinct rows of units along the last axis, [rows, size]."""
        (cut,), shape = shrink(labels)
        rows = cut.reshape(-1, cut.shape[-1]).expand(-1, shape[-1])
        return rows if len(rows) == 1 else torch.unique(rows, dim=0)

    def fresh_like(self, key: Tensor) -> Tensor:
        """New units, one for each distinct value (or distinct column of values) of ``key`` [k, ...]."""
        (key,), shape = shrink(key)
        flat = key.reshape(key.shape[0], -1)
        if len(flat) == 1:
            distinct, inverse = torch.unique(flat[0], return_inverse=True)
        else:
            distinct, inverse = torch.unique(flat, dim=1, return_inverse=True)
        units = torch.from_numpy(self.facts.fresh(distinct.shape[-1]))
        return units[inverse].reshape(key.shape[1:]).expand(shape[1:])

    def varying_axes(self, labels: Tensor) -> list[int]:
        """Axes along which the unit changes: the feature axes."""
        (cut,), _ = shrink(labels)
        return [a for a in range(cut.dim()) if cut.shape[a] > 1 and not bool((cut == cut.narrow(a, 0, 1)).all())]

    def uniform(self, labels: Tensor, other: str | float | int) -> bool:
        """A factor is the same for all units (it may differ between tokens or samples); statistics that are equal today do not count."""
        if not isinstance(other, str):
            return True
        axes = self.varying_axes(labels)
        shape = self.graph.shape(other) or ()
        full = (1,) * (labels.dim() - len(shape)) + tuple(shape)
        if all(full[a] == 1 for a in axes):
            return True
        value = self.values.get(other)
        if value is None or not isinstance(value, Tensor) or self.buffers_behind(other):
            return False
        value = value.reshape(full)
        return all(full[a] == 1 or bool((value == value.narrow(a, 0, 1)).all()) for a in axes)


def _with_pad_value(op: Op) -> Op:
    """Padding with zeros writes PAD; padding with anything else writes DATA."""
    args = list(op.args)
    value = args[2] if len(args) > 2 and op.packet == "aten.constant_pad_nd" else 0
    mark = PAD if not value else DATA
    return Op(op.name, "aten.constant_pad_nd.default", (args[0], args[1], mark), (), op.shape, op.dtype, op.module)


def reference(arg: Any) -> str | None:
    """The name behind an argument, if it is a value of the graph."""
    return arg.name if isinstance(arg, Ref) else None
