"""Translations: what one bias adds, something downstream takes away or cannot see."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from symdisc.families.averages import Averages
from symdisc.families.axes import KEEPS
from symdisc.families.batchnorm import variance_behind
from symdisc.families.classes import Classes, units_of
from symdisc.families.half_seen import half_seen_bias
from symdisc.families.invisible import Invisible
from symdisc.families.mixing import behind_gain, constant_along, merged, past_gain
from symdisc.families.naming import describe_affine
from symdisc.families.origins import Origins
from symdisc.families.part_biases import taken_by_rows
from symdisc.families.scores import Scores
from symdisc.families.shifts import added, by_coordinate, row_by_row, taken
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["Translations"]

Current = dict[int, int]  # class -> index into the translation vector at this point


class Translations(Averages):
    """Searches, for each parameter that is added, for a way to undo a constant added to it."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.graph, self.facts = classes.graph, classes.facts
        self.order = {op.name: i for i, op in enumerate(self.graph.ops)}
        self.dense, self.shift = classes.dense_at, classes.shifts_at
        self.gain: dict[str, GainUse] = {g.op: g for g in self.facts.gains}
        self.origins = Origins(classes)
        self.times, self.twins = 1, frozenset()  # type: int, frozenset[str]
        self.depth, self.ends = 0, None  # type: int, list[Through] | None
        self.scores = Scores(self.graph, self.facts)
        invisible = Invisible(classes)
        self.centred, self.unseen = invisible.centred_source, invisible.unseen

    def single(self, parameter: str) -> bool:
        """Every entry of the parameter is used by one operator, or as often as what is followed at each of its uses."""
        return self.classes.times(parameter) == self.times

    # --- origins ------------------------------------------------------------------------------------------------------
    def find(self, invisible: dict[str, int], done: Collection[str] = ()) -> list[Symmetry]:
        """One symmetry per origin but those ``done``; ``invisible`` names parameters whose shift along 1 is free by itself already."""
        origins = [(shift, origin) for shift in self.facts.shifts
                   if not shift.buffer and shift.parameter not in done and self.single(shift.parameter)
                   and (origin := self.origins.writer(shift) or self.origins.apart(shift)) is not None]
        alone = [s for shift, origin in origins if shift.parameter not in invisible and (s := self._free(shift, *origin)) is not None]
        invisible = {**invisible, **{s.parameters[0]: 1 for s in alone}}
        found: list[Symmetry | None] = [*alone]
        for shift, origin in origins:
            whole = self.along(shift.parameter, shift.axis, *origin, shift.value, shift.module, invisible)
            if whole is not None:
                found.append(whole)
                continue
            parts = [self.along(shift.parameter, shift.axis, origin[0][part], origin[1][part], shift.value, shift.module, invisible)
                     for part in self.origins.parts(origin[1])]  # a fused bias: queries, keys and values each have a fate of their own
            together = None if any(parts) else self.origins.pieces(origin[1])
            if together is not None:
                parts.append(self.along(shift.parameter, shift.axis, *origin, shift.value, shift.module, invisible, together))
            if not any(parts) and shift.parameter not in invisible:
                parts.append(self.constant(shift.parameter, shift.axis, *origin, shift.value, shift.module, invisible))
            found += parts if any(parts) else half_seen_bias(self, shift, *origin)
        left = [s for s in self.facts.shifts if not s.buffer and s.parameter not in {*done, *self.twins}]
        found += [s for shift in left if self.classes.alike(shift) for s in self._at_every_use(shift, invisible)]
        found += merged(self, {*invisible, *done}, invisible)
        for use in self.facts.dense:
            if use.ins is None and use.outs is not None and self.single(use.parameter) and use.parameter not in done:
                vec = self.classes(use.outs)
                start = (use.parameter, use.out_axis, np.arange(len(vec)), vec, use.value, use.module, invisible)
                whole = self.along(*start)
                found.append(whole if whole is not None or use.parameter in invisible else self.constant(*start))
        return [s for s in found if s is not None]

    def _at_every_use(self, shift: ShiftUse, invisible: dict[str, int]) -> Iterator[Symmetry]:
        """Translations of a bias of a layer that is used several times, undone in the same way at each use: of all of it, or of a part."""
        uses = [u for u in self.classes.alike(shift) if isinstance(u, ShiftUse)]
        origins = [o for o in map(self.origins.writer, uses) if o is not None]
        if not origins or len(origins) < len(uses) or any(not np.array_equal(o[0], origins[0][0]) for o in origins):
            return
        (positions, vec), whole = origins[0], np.arange(len(origins[0][0]))
        self.times = len(uses)
        for part in [whole, *self.origins.parts(vec)]:
            currents = [dict(zip(o[1][part].tolist(), range(len(part)), strict=True)) for o in origins]
            moves = [self.undone(u.parameter, u.value, c) for u, c in zip(uses, currents, strict=True)]
            if moves[0] is None or any(m != moves[0] for m in moves):
                continue
            found = self.along(shift.parameter, shift.axis, positions[part], vec[part], shift.value, shift.module, invisible)
            if found is not None:
                yield found
            if part is whole:
                break
        self.times = 1

    def _free(self, shift: ShiftUse, positions: np.ndarray, vec: np.ndarray) -> Symmetry | None:
        """The constant vector, if nothing at all sees it, though other translations are seen."""
        if self.undone(shift.parameter, shift.value, dict.fromkeys(map(int, vec), 0)) != []:
            return None
        if self.undone(shift.parameter, shift.value, {int(c): i for i, c in enumerate(vec)}) == []:
            return None
        return self.constant(shift.parameter, shift.axis, positions, vec, shift.value, shift.module, {})

    def constant(self, parameter: str, axis: int, positions: np.ndarray, vec: np.ndarray, value: str, module: str,
                  invisible: dict[str, int]) -> Symmetry | None:
        """The constant vector alone, which norms do not see."""
        one = np.zeros(len(vec), dtype=np.int64)
        return self.along(parameter, axis, positions, vec, value, module, invisible, one) if len(vec) > 1 else None

    def along(self, parameter: str, axis: int, positions: np.ndarray, vec: np.ndarray, value: str, module: str,
              invisible: dict[str, int], together: np.ndarray | None = None) -> Symmetry | None:
        """The translation of one parameter undone by others; ``together`` numbers the coordinates that move alike."""
        together = np.arange(len(vec)) if together is None else together
        current = dict(zip(vec.tolist(), together.tolist(), strict=True))
        if self.classes.data in current:
            return None
        moves = self.undone(parameter, value, current)
        first = added(self.classes, parameter, axis, positions, value, together)
        if moves is None or first is None:
            return None
        n = int(together.max()) + 1
        all_moves = (first, *moves)
        names = parameters_of(all_moves)
        overlap = all(p in invisible for p in names) and bool(moves)
        family = "translation0" if overlap else "translation"
        count = n - 1 if overlap else n
        if not count:
            return None
        name = "bias without effect" if not moves else "translation traded between parameters"
        return describe_affine(name, family, count, (n,), all_moves, names, [module],
                               r"f(x + t) = f(x)" if not moves else r"W (x + t) + (b - W t) = W x + b",
                               r",\; ".join(rf"\texttt{{{p.replace('_', chr(92) + '_')}}} \mapsto \cdot + L_{{{k}}} t"
                                            for k, p in enumerate(names)))

    def undone(self, origin: str, value: str, current: Current) -> list[Move] | None:
        """Moves of other parameters than ``origin`` that undo the translation ``current`` of ``value``, or None."""
        self.begin(origin, self.order.get(value, -1))
        return self.push(value, current, ())

    def begin(self, origin: str, start: int) -> None:
        """Forget what was pushed: a translation of ``origin`` is followed from operator number ``start`` on."""
        self.origin, self.start, self.depth = origin, start, 0
        self.pushed: dict[str, tuple[Current, tuple[Through, ...]]] = {}

    # --- pushing forward ----------------------------------------------------------------------------------------------
    def push(self, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """Moves that undo the translation ``current`` of ``value`` for all its users, or None."""
        if value in self.graph.outputs or self.depth > 4000:
            return None
        labels = self.facts.labels.get(value)
        if isinstance(labels, np.ndarray):
            if not self._touched(labels, current) or (constant_along(labels) and self.unseen(value, labels.ndim - 1)):
                return []
        moves: list[Move] = []
        self.pushed[value] = current, chain
        for op in self.graph.users.get(value, ()):
            if op.name not in self.graph.live:
                continue
            self.depth += 1
            part = self._cross(op, value, current, chain)
            if part is None:
                return None
            moves += part
        return moves

    def _touched(self, labels: np.ndarray, current: Current) -> bool:
        return any(int(c) in current for c in self.classes(units_of(labels)))

    def _cross(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        if op.packet in KEEPS and list(op.inputs).count(value) == 1:
            if op.packet in ("aten.cat", "aten.stack"):
                return self._joined(op, value, current, chain)
            return self.push(op.name, current, chain)
        rule = getattr(self, "_" + op.packet.removeprefix("aten."), None)
        return None if rule is None else rule(op, value, current, chain)

    def _joined(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        """Values beside each other: those with the same units must carry the same translation."""
        if any(self._besides(n, value, op, current) and not self._moved(n, current, chain) for n in op.inputs if n != value):
            return None
        return [] if self.pushed.get(op.name) == (current, chain) else self.push(op.name, current, chain)

    def _moved(self, name: str, current: Current, chain: tuple[Through, ...]) -> bool:
        """The value is made, by layout alone, of one that carries the same translation."""
        while self.pushed.get(name) != (current, chain):
            op = self.graph.by_name.get(name)
            if op is None or op.packet not in KEEPS or len(set(op.inputs)) != 1:
                return False
            name = op.inputs[0]
        return True

    def _besides(self, name: str, value: str, join: Op, current: Current) -> bool:
        """The same units, or none, at places where nothing was added (keys from elsewhere, a class token, one zero key more)."""
        labels, own = self.facts.labels.get(name), self.facts.labels.get(value)
        if isinstance(labels, np.ndarray) and self._touched(labels, current):
            return True
        axis = int(join.args[1]) if len(join.args) > 1 else 0
        if join.packet == "aten.stack" or not isinstance(own, np.ndarray) or own.shape[axis] == 1:
            return False
        moved = np.moveaxis(own, axis, 0)
        empty = not isinstance(labels, np.ndarray) or bool((labels <= 0).all())
        return empty and bool((moved == moved[:1]).all())

    def _add(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        names = [a.name for a in op.args[:2] if isinstance(a, Ref)]
        if names.count(value) != 1 or op.kwargs or (op.packet == "aten.sub" and names[0] != value):
            return None
        for other in (*([n for n in names if n != value]), op.name):
            sign = (Through("scale", "", offset=-1.0),) if op.packet == "aten.sub" and other != op.name else ()
            move = self._absorbed_by(other, op, current, (*chain, *sign))
            if move is not None:
                return [move]
        return self.push(op.name, current, chain)

    def _sub(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        second = op.args[1].name if isinstance(op.args[1], Ref) else ""
        mean = self.graph.by_name.get(second)
        if mean is not None and mean.packet == "aten.mean" and mean.inputs == (value,):
            return [] if self._mean_over_data(mean) else None
        others = [n for n in op.inputs if n != value]
        if len(others) == 1 == list(op.inputs).count(value) and not op.kwargs and self.pushed.get(others[0]) == (current, chain) and (
                self.graph.shape(others[0]) == op.shape == self.graph.shape(value)):
            return []  # a mean over neighbours less the value itself: both carry the constant
        return self._add(op, value, current, chain)

    def _linear(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        uses = self.dense.get(op.name, [])
        if len(uses) != 1 or uses[0].source != value:
            return None
        use = uses[0]
        assert use.ins is not None and use.outs is not None
        positions: list[list[int]] = [[] for _ in range(max(current.values()) + 1)]
        for p, c in enumerate(self.classes(use.ins).tolist()):
            if c in current:
                positions[current[c]].append(p)
        if len({len(p) for p in positions}) != 1 or not positions[0]:
            return None
        index = Index.of(np.array(positions).T[:, None, :])
        step = Through("dense", use.parameter, use.in_axis, use.out_axis, index, rows=use.rows)
        if use.padded:  # what taps beyond the border miss must be missed by what makes up for it
            move = None if chain else self._centred(use, index)
            return None if move is None else [move]
        longer = (*chain, step)
        after = {int(c): i for i, c in enumerate(self.classes(use.outs))}
        biases = [s for s in self.shift.get(op.name, []) if s.parameter != self.origin and self.single(s.parameter)]
        if biases and any(set(s.units.tolist()) != set(use.outs.tolist()) for s in biases):
            return taken_by_rows(self, op, use, biases, chain, step)
        for bias in biases:
            found = row_by_row(self.classes, bias, use, longer) or taken(self.classes, bias, after, longer)
            return None if found is None else [found]
        move = None if chain else self._centred(use, index)
        if move is not None:
            return [move]
        if len(after) != len(use.outs):
            return None
        pushed = self.push(op.name, after, longer)
        last = len(op.shape or ()) - 1
        whole = not chain and self.ends is not None and (op.shape or ())[last:] == (len(after),)
        if pushed is None and whole and self.unseen(op.name, last):
            assert self.ends is not None
            self.ends.append(replace(step, kind="unseen"))
            return []
        return pushed

    def _centred(self, use: DenseUse, index: Index) -> Move | None:
        """A reader of a centred vector keeps what it makes of the shift, tap by tap, by what it makes of 1/gamma."""
        if use.rows is not None or not self.single(use.parameter):
            return None
        conv = len(self.classes.shape(use.parameter)) - 1 if "conv" in self.graph.by_name[use.op].packet else 1
        source = self.centred(use.source, -conv)
        if source is None or source.shift != self.origin:
            return None
        return Move("centred", use.parameter, use.in_axis, index, gain=source.gain, offset=source.offset, extra=(self.origin,))

    _addmm = _conv1d = _conv2d = _conv3d = _matmul_dense = _linear

    def _mul(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        use = self.gain.get(op.name)
        if use is not None:
            return past_gain(self, op, use, current, chain)
        number = next((a for a in op.args[:2] if isinstance(a, (int, float))), None)
        if number is not None:
            return self.push(op.name, current, (*chain, Through("scale", "", offset=float(number))))
        other = next((n for n in op.inputs if n != value), None)
        variance = variance_behind(self.graph, other) if other else None
        if variance is None:
            return None
        where = self._channels(value, current, self.classes.shape(variance[0])[0])
        if where is None:
            return None
        return self.push(op.name, current, (*chain, Through("rsqrt", variance[0], index=Index.of(where[None, None, :]),
                                                            offset=variance[1])))

    def _channels(self, value: str, current: Current, size: int) -> np.ndarray | None:
        """Where each coordinate of the translation stands along the axis of ``size`` channels."""
        labels = self.facts.labels.get(value)
        if not isinstance(labels, np.ndarray) or labels.ndim < 2 or len(set(current.values())) != len(current):
            return None
        for axis in (1, -1):
            if labels.shape[axis] == size:
                row = self.classes(np.moveaxis(labels, axis, -1).reshape(-1, size)[0])
                at = {current[c]: p for p, c in enumerate(row.tolist()) if c in current}
                if len(at) == len(current):
                    return np.array([at[k] for k in sorted(at)])
        return None

    def _scaled_dot_product_attention(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        roles = [i for i, a in enumerate(op.args[:4]) if isinstance(a, Ref) and a.name == value]
        if roles == [1]:  # the same vector added to all keys adds a constant to each row of scores
            return [] if self._everywhere(value, -2, current) else None
        after = self._renamed(value, op.name, current) if roles == [2] else None
        return self.push(op.name, after, chain) if after is not None else None

    def _matmul(self, op: Op, value: str, current: Current, chain: tuple[Through, ...]) -> list[Move] | None:
        if self.dense.get(op.name):
            return self._linear(op, value, current, chain)
        factors = op.args[1:3] if op.packet == "aten.baddbmm" else op.args[:2]
        left, right = (a.name if isinstance(a, Ref) else "" for a in factors)
        if value == right and value != left:
            if any(d.op == op.name for d in self.facts.duals):
                return [] if self.scores.end_in_softmax(op.name) and self._everywhere(right, -1, current) else None
            after = self._renamed(right, op.name, current)
            return self.push(op.name, after, chain) if self.scores.weights(left) and after is not None else None
        return None

    def _everywhere(self, value: str, axis: int, current: Current) -> bool:
        """Each place along ``axis`` carries the translation: keys and values that are learned may stand beside those that move."""
        labels = self.facts.labels.get(value)
        if not isinstance(labels, np.ndarray) or labels.ndim < -axis:
            return True
        units, where = np.unique(self.classes(labels), return_inverse=True)
        moved = np.array([current.get(int(c), -1) for c in units])[where].reshape(labels.shape)
        return bool((moved == np.take(moved, [0], axis)).all())

    def _renamed(self, before: str, after: str, current: Current) -> Current | None:
        """The translation in terms of the classes of ``after``, a weighted mean of ``before`` along the last but one axis."""
        la, lb = self.facts.labels.get(before), self.facts.labels.get(after)
        if not isinstance(la, np.ndarray) or not isinstance(lb, np.ndarray) or la.shape[-1] != lb.shape[-1]:
            return None
        if not self._everywhere(before, -2, current):
            return None
        if la.ndim == lb.ndim > 2 and la.shape[-3] not in (1, lb.shape[-3]):  # one value head for several query heads
            la = np.repeat(la[..., :1, :], lb.shape[-3] // la.shape[-3], -3)
        if la.ndim != lb.ndim or la.ndim < 2 or any(x not in (1, y) for x, y in zip(la.shape[:-2], lb.shape[:-2], strict=True)):
            return None
        rows = lb[..., :1, :] if bool((lb == lb[..., :1, :]).all()) else lb  # several heads may stand along the rows
        old = np.broadcast_to(self.classes(la[..., :1, :]), rows.shape)
        pairs = set(zip(old.reshape(-1).tolist(), self.classes(rows).reshape(-1).tolist(), strict=True))
        found = {new: current[old] for old, new in pairs if old in current}
        return found if len(found) == sum(old in current for old, _ in pairs) else None

    _bmm = _matmul
    _baddbmm = _matmul

    # --- absorbing ----------------------------------------------------------------------------------------------------
    def _absorbed_by(self, value: str, at: Op, current: Current, chain: tuple[Through, ...]) -> Move | None:
        """A later parameter that is added to ``value`` and to nothing else takes the translation away."""
        op = self.graph.by_name.get(value)
        if op is None or self.order[op.name] <= self.start:
            return None
        if value != at.name and [u.name for u in self.graph.users.get(value, ()) if u.name in self.graph.live] != [at.name]:
            return None
        if value in self.graph.outputs and value != at.name:
            return None
        for shift in self.shift.get(op.name, []):
            if not shift.buffer and shift.parameter != self.origin and self.single(shift.parameter):
                writer = self.origins.writer(shift) or self.origins.entries(shift)
                if writer is not None and set(current) <= set(writer[1].tolist()):
                    return taken(self.classes, shift, current, chain)
        for use in self.dense.get(op.name, []):
            if use.ins is None and use.outs is not None and self.single(use.parameter) and use.parameter != self.origin:
                vec = self.classes(use.outs)
                if set(vec.tolist()) == set(current):
                    index = by_coordinate(np.arange(len(vec)), vec, current)
                    return None if index is None else Move("add", use.parameter, use.out_axis, index, power=-1.0, through=chain)
        if op.packet == "aten.mul" and op.name in self.gain and value != at.name:
            return behind_gain(self, self.gain[op.name], current, chain)
        over_places = op.packet in ("aten.amax", "aten.amin", "aten.mean") and self._mean_over_data(op)
        if value != at.name and (op.packet in KEEPS or op.packet == "aten.add" or over_places):
            for name in op.inputs:
                move = self._absorbed_by(name, op, current, chain) if name in self.graph.by_name else None
                if move is not None:
                    return move
        return None
