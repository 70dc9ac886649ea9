"""Directions that an operator cannot see: 1 before a centring norm or a softmax, 1/gamma after a centring norm or before a gain
that scales what is added to such a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from symdisc.families.axes import before
from symdisc.families.classes import Classes, rows_of
from symdisc.families.hashing import unique_pairs
from symdisc.families.naming import LACKING, describe_affine
from symdisc.families.taps import constant_taps
from symdisc.families.unseen import Unseen
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["Centred", "Invisible"]


@dataclass(frozen=True)
class Centred:
    """``value`` = (gain + offset) * (a vector orthogonal to 1, in each of its ``groups`` equal parts) + shift."""

    value: str
    gain: str | None = None
    shift: str | None = None
    offset: float = 0.0
    groups: int = 1


class Invisible:
    """Finds writers whose constant-along-1 part is unseen, and readers that see a vector orthogonal to 1/gamma."""

    def __init__(self, classes: Classes) -> None:
        self.classes, self.graph, self.facts = classes, classes.graph, classes.facts
        self.unseen = Unseen(classes)

    def single(self, parameter: str) -> bool:
        return self.classes.single(parameter)

    # --- writers ------------------------------------------------------------------------------------------------------
    def writers(self) -> list[Symmetry]:
        """Parameters that may write any multiple of 1, or of 1/lambda where the stream takes lambda times what they write."""
        found = []
        for use in self.facts.dense:
            uses = [use] if self.single(use.parameter) else self.classes.alike(use)
            if use.outs is None or use.rows is not None:
                continue
            free, gain = _everywhere([self._free(u.value, self.classes(u.outs), u.outs)
                                      for u in uses if isinstance(u, DenseUse) and u.outs is not None])
            if free:
                found.append(self._outer(use.parameter, use.out_axis, use.module, None, gain))
        for shift in self.facts.shifts:
            shape = self.classes.shape(shift.parameter)
            shifts = [shift] if self.single(shift.parameter) else self.classes.alike(shift)
            if shift.buffer or not shape or any(u.value not in self.graph.by_name for u in shifts):
                continue
            free, gain = _everywhere([self._free_shift(u, shape) for u in shifts if isinstance(u, ShiftUse)])
            if not free:
                continue
            rows = self._rows(shift.elements, shape, shift.axis)
            if rows is not None:
                found.append(self._outer(shift.parameter, shift.axis, shift.module, rows, gain))
            elif gain is None and shift.axis == len(shape) - 1:
                found += self._of_rows(shift, shape[-1])
        return found

    def _free_shift(self, shift: ShiftUse, shape: tuple[int, ...]) -> tuple[bool, GainUse | None]:
        """The same of what is added, along the axis of the units or row by row."""
        pairs = unique_pairs(self.classes.coordinates(shift, shift.axis), self.classes(shift.units))
        alike = pairs.shape[1] == shape[shift.axis]
        return self._free(shift.value, pairs[1], shift.units) if alike else (self._free_rows(shift), None)

    @staticmethod
    def _of_rows(shift: ShiftUse, size: int) -> list[Symmetry]:
        """Any number added to each of some rows of a table, if they are used whole."""
        rows = np.unique(shift.elements // size)[:, None] * size + np.arange(size)
        if not np.array_equal(np.sort(shift.elements), rows.ravel()):
            return []
        move = Move("add", shift.parameter, -1, Index.of(rows.T[:, None, :]))
        return [describe_affine("direction that is centred away", "translation", len(rows), (len(rows),), (move,), (shift.parameter,),
                                [shift.module], r"f(x + c\mathbf{1}) = f(x)", r"T_r \mapsto T_r + t_r \mathbf{1}")]

    def _free(self, value: str, vector: np.ndarray, units: np.ndarray) -> tuple[bool, GainUse | None]:
        """Whether any multiple of 1 may be added to the vectors ``vector`` of ``value``, or to their products with a gain; and the gain."""
        axis = self.unseen.along(value, vector) if len(vector) > 1 else None
        if axis is None:
            return False, None
        scaled = self.unseen.scaled(value, axis, units)
        return (self.unseen(value, axis), None) if scaled is None else (self.unseen(*scaled[:2]), scaled[2])

    def _free_rows(self, shift: ShiftUse) -> bool:
        """Whether any multiple of 1 may be added to each row of a table whose rows meet vectors of their own (class token, patches)."""
        labels, shape = self.facts.labels.get(shift.value), self.classes.shape(shift.parameter)
        last = len(shape) - 1
        if not isinstance(labels, np.ndarray) or shift.axis != last or labels.shape[-1] != shape[-1] or shape[-1] < 2:
            return False
        where, here = self.classes.coordinates(shift, last), rows_of(labels)
        aligned = all(np.array_equal(np.unique(shift.units[where == k]), np.unique(here[:, k])) for k in range(shape[-1]))
        return aligned and self.unseen(shift.value, labels.ndim - 1)

    @staticmethod
    def _rows(elements: np.ndarray, shape: tuple[int, ...], axis: int) -> tuple[int, int] | None:
        """(first, last + 1) of the rows of a table that are used, if those are whole and without a gap."""
        if len(elements) == int(np.prod(shape)):
            return 0, shape[0]
        used = len(elements) // shape[axis]
        first = int(elements.min()) // shape[axis]
        full = len(shape) == 2 and axis == 1 and len(elements) == used * shape[1]
        return (first, first + used) if full and int(elements.max()) == (first + used) * shape[1] - 1 else None

    def _outer(self, parameter: str, axis: int, module: str, rows: tuple[int, int] | None, gain: GainUse | None) -> Symmetry:
        shape = self.classes.shape(parameter)
        rows = None if rows == (0, shape[0]) else rows
        used = shape if rows is None else (rows[1] - rows[0], *shape[1:])
        cut = tuple(1 if a == axis else s for a, s in enumerate(used))
        name, offset = (None, 0.0) if gain is None else (gain.parameter, gain.offset)
        move = Move("outer", parameter, axis, Index.of(np.arange(shape[axis])[None, None, :]), gain=name, offset=offset, rows=rows)
        formula = r"W \mapsto W + \mathbf{1} a^\top" if gain is None else r"W \mapsto W + (1/\lambda) a^\top"
        return describe_affine("direction that is centred away", "outer", int(np.prod(cut)), cut, (move,), (parameter,), [module],
                               r"f(x + c\mathbf{1}) = f(x)", formula, () if gain is None else ("the gain has no zero entry",))

    # --- readers ------------------------------------------------------------------------------------------------------
    def readers(self, taken: dict[str, int]) -> list[Symmetry]:
        """Weights that read a centred vector: the part along 1/gamma meets a constant, which the bias absorbs."""
        found = []
        for use in self.facts.dense:
            conv = "conv" in self.graph.by_name[use.op].packet
            uses = [use] if self.single(use.parameter) else self.classes.alike(use)
            if use.ins is None or not uses or (conv and (use.rows is not None or len(uses) > 1)):
                continue
            chains = [self._centred(u, conv) for u in uses if isinstance(u, DenseUse)]
            chain = chains[0]
            if chain is None or any(c is None or replace(c, value=chain.value) != chain for c in chains):
                continue
            taps = constant_taps(self.graph, self.graph.by_name[use.op]) if use.padded and chain.shift is not None else None
            if use.padded and chain.shift is not None and (taps is None or not taps[1].size):
                continue
            symmetry = self._reader(use, chain, use.parameter in taken, taps)
            if symmetry is not None:
                found.append(symmetry)
        return found

    def _centred(self, use: DenseUse, conv: bool) -> Centred | None:
        """The centred vector that a weight reads as it stands."""
        axis = len(self.graph.shape(use.source) or ()) - (len(self.classes.shape(use.parameter)) - 1 if conv else 1)
        chain = self.centred_source(use.source, axis)
        return chain if chain is not None and self.aligned(use, chain.value, axis) else None

    def axis_read(self, use: DenseUse) -> int | None:
        """The axis of its source that a weight contracts, if it reads one place at a time: a linear layer, a kernel of one tap."""
        shape = self.classes.shape(use.parameter)
        conv = "conv" in self.graph.by_name[use.op].packet
        if conv and (int(np.prod(shape[2:])) > 1 or use.padded or use.out_axis != 0):
            return None
        return len(self.graph.shape(use.source) or ()) - (len(shape) - 1 if conv else 1)

    def aligned(self, use: DenseUse, value: str, axis: int = -1) -> bool:
        """The weight reads the vectors along ``axis`` of ``value`` as they stand."""
        labels = self.facts.labels.get(value)
        assert use.ins is not None
        return isinstance(labels, np.ndarray) and labels.shape[axis] == len(use.ins) and bool(
            (self.classes(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])[0]) == self.classes(use.ins)).all())

    @cached_property
    def shift_at(self) -> dict[str, ShiftUse]:
        """Operator -> the vector that it adds."""
        return {s.op: s for s in self.facts.shifts if not s.buffer and len(self.classes.shape(s.parameter)) == 1}

    def centred_source(self, value: str, axis: int = -1, grouped: bool = False) -> Centred | None:
        """What the vectors along an axis of ``value`` are made of when they are gain * centred + shift, each optional, or means
        of such over places. A group norm centres where it sees a single place; those of several groups are told if ``grouped``."""
        found, axis = Centred(value), axis % len(self.graph.shape(value) or (1,))
        while True:
            op = self.graph.by_name.get(value)
            if op is None or not op.inputs:
                return None
            last = axis == len(op.shape or ()) - 1
            if last and ((op.packet == "aten.layer_norm" and len(op.args[1]) == 1) or (
                    op.packet == "aten.sub" and self.unseen.centres(op, op.inputs[0], axis))):
                return found
            if op.packet == "aten.group_norm" and axis == 1 and (grouped or op.args[1] == 1) and int(np.prod((op.shape or ())[2:])) == 1:
                return replace(found, groups=int(op.args[1]))
            acts = [n for n in op.inputs if "data" in self.graph.roles[n]]  # a norm may stand right behind raw data
            if len(acts) == 2 and op.packet in ("aten.mul", "aten.div") and self.graph.shape(acts[1]) == (*(op.shape or ())[:-1], 1):
                if not last:
                    return None
                value = acts[0]  # one factor for each vector: a centred one stays centred
            elif op.packet == "aten.add" and len(acts) == 1 and self._entries(self.shift_at, op, axis) and not (found.shift or found.gain):
                found, value = replace(found, shift=self.shift_at[op.name].parameter), acts[0]
            elif op.packet == "aten.mul" and len(acts) == 1 and self._entries(self.unseen.gains, op, axis) and not found.gain:
                use = self.unseen.gains[op.name]
                found, value = replace(found, gain=use.parameter, offset=use.offset), acts[0]
            else:
                step = before(self.graph, op, axis)
                if step is None:
                    return None
                value, axis = step

    def _entries(self, table: Mapping[str, GainUse | ShiftUse], op: Op, axis: int) -> bool:
        """The operator brings in a vector, one entry to each place along ``axis``, in order."""
        use, labels = table.get(op.name), self.facts.labels.get(op.name)
        if use is None or not isinstance(labels, np.ndarray):
            return False
        if axis == labels.ndim - 1 and len(self.classes.shape(use.parameter)) == 1:
            return True
        units = use.units if isinstance(use, ShiftUse) else use.outs
        rows = rows_of(np.moveaxis(labels, axis, -1))
        return len(rows) == 1 and np.array_equal(use.elements, np.arange(labels.shape[axis])) and np.array_equal(
            self.classes(rows[0]), self.classes(units))

    def _reader(self, use: DenseUse, source: Centred, taken: bool, taps: tuple[np.ndarray, np.ndarray] | None) -> Symmetry | None:
        """With ``taps`` (``constant_taps``) only those combinations of the taps of a kernel of which the border makes no image."""
        gain, offset = source.gain, source.offset
        shape = self.classes.shape(use.parameter)
        assert use.outs is not None
        cut = tuple(1 if a == use.in_axis else len(use.outs) if a == use.out_axis else n for a, n in enumerate(shape))
        spread: list[tuple[Through, ...]] = [(), ()]
        if taps is not None:
            cut = (len(use.outs), len(taps[1]))
            spread = [(Through("taps", "", index=Index.of(numbers[None])),) for numbers in (taps[0], taps[1][:, None])]
        index = Index.of(np.arange(shape[use.in_axis])[None, None, :])
        moves = [Move("outer", use.parameter, use.in_axis, index, gain=gain, offset=offset, rows=use.rows, through=spread[0])]
        if source.shift is not None:
            bias = self.classes.bias(use)
            if bias is None or self.classes.times(bias.parameter) != self.classes.times(use.parameter):
                return None
            rows = _run(bias, self.classes.shape(bias.parameter))
            moves.append(Move("outer_bias", bias.parameter, 0, Index.of(np.arange(len(use.outs))[None, None, :]),
                              power=-1.0, gain=gain, offset=offset, rows=rows, extra=(source.shift,), through=spread[1]))
        count = int(np.prod(cut)) - (int(np.prod(cut)) // len(use.outs) if taken else 0)
        family = "outer0" if taken else "outer"
        return describe_affine(LACKING, family, count, cut, tuple(moves), parameters_of(moves),
                               [use.module], r"\mathbf{1}^\top \hat x = 0",
                               r"W \mapsto W + a (1/\gamma)^\top,\; b \mapsto b - a \textstyle\sum \beta/\gamma",
                               ("the norm's gain has no zero entry",) if gain else ())


def _everywhere(found: list[tuple[bool, GainUse | None]]) -> tuple[bool, GainUse | None]:
    """What holds at every use of a parameter; behind a gain only where there is one use."""
    if len(found) == 1:
        return found[0]
    return bool(found) and all(free and gain is None for free, gain in found), None


def _run(shift: ShiftUse, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(first, last + 1) of the entries that an operator adds when they are a part of the parameter."""
    first, last = int(shift.elements.min()), int(shift.elements.max()) + 1
    return None if (last - first,) == shape else (first, last)
