"""A layer used several times: what it reads is written by maps at first, and by a centring norm from then on.

What the norm hands on is y = gamma n + beta with n orthogonal to 1, so l . (y - beta) = 0 with l = 1/gamma, and
A: x -> x + t 1 l . (x - beta) leaves it where it is. What the maps write may go by A, whose readers undo it at every use:
W -> W S^-1 with S = 1 + t 1 l^T, and what that makes of beta goes to their biases. Anything else that reads what the maps write must not
see multiples of 1: a residual that ends in a centring norm. Where no use of a layer reads the norm the change of basis holds this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from symdisc.families.axes import SAME
from symdisc.families.classes import Classes, rows_of
from symdisc.families.naming import describe_affine
from symdisc.families.origins import Origins
from symdisc.families.unseen import Unseen
from symdisc.moves import Index, Move, parameters_of
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["NAME", "recurring_shears", "shear"]

NAME = "shear of what a layer reads at first"
CONDITION = r"l^\top (y - \beta) = 0 \;\text{for}\; y = \Gamma \hat x + \beta,\; l = 1/\gamma"
FORMULA = r"x \mapsto x + t\, \mathbf{1}\, l^\top (x - \beta)"
GENERIC = "no gain is zero, nor is the sum of 1/gamma"


@dataclass(frozen=True)
class _Source:
    """What stands behind centring norms: a gain and a constant added to it, or neither."""

    size: int
    gain: str | None = None
    offset: float = 0.0
    shift: str | None = None


@dataclass
class _Pool:
    """The uses of weights that read what so many norms hand on; ``alone`` if nothing else sees more of it than a centring norm does."""

    norms: int = 0
    read: set[int] = field(default_factory=set)
    alone: bool = True

    def add(self, everything: set[int] | None, some: set[int] | None) -> None:
        self.norms += 1
        self.read |= some or set()
        self.alone = self.alone and everything is not None


@dataclass(frozen=True)
class _Written:
    """A value that maps and stored vectors write, and the uses of weights (by number) that read it."""

    terms: tuple[DenseUse | ShiftUse, ...]
    vector: np.ndarray
    read: frozenset[int]


def recurring_shears(classes: Classes) -> list[Symmetry]:
    """One symmetry for each set of layers that read what maps write, and at other uses what norms with the same gain and shift do."""
    if all(len(uses) < 2 for uses in classes.uses.values()):
        return []
    return list(_Finder(classes).run())


def shear(move: Move, places: Sequence[int] | np.ndarray, source: GainUse) -> Move | None:
    """The move of what the matrix move ``move`` acts on by 1 + t 1 l^T, l = 1/gain, where unit k stands at ``places[k]`` of the gain."""
    if not np.array_equal(places, np.arange(len(places))) or move.gain is not None:
        return None
    return Move("shear", move.parameter, move.axis, move.index, rep=move.rep, rows=move.rows, gain=source.parameter, offset=source.offset)


class _Finder:
    def __init__(self, classes: Classes) -> None:
        self.classes, self.graph, self.facts = classes, classes.graph, classes.facts
        self.unseen, self.origins = Unseen(classes), Origins(classes)
        self.reading: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.writing: dict[str, list[DenseUse]] = defaultdict(list)
        for k, use in enumerate(self.facts.dense):
            self.reading[use.op, use.source].append(k)
            self.writing[use.value].append(use)

    def run(self) -> Iterator[Symmetry]:
        pools: dict[_Source, _Pool] = defaultdict(_Pool)
        for op in self.graph.ops:
            if op.packet == "aten.layer_norm" and op.name in self.graph.live and op.shape and tuple(op.args[1]) == op.shape[-1:]:
                value, source = self._source(op)
                rows = self._vectors(value)
                everything = self._read(value, len(op.shape) - 1, rows[0], True) if len(rows) == 1 else None
                pools[source].add(everything, self._read(value, len(op.shape) - 1, rows[0], False) if len(rows) == 1 else None)
        written = [w for value in dict.fromkeys(self._ends()) if (w := self._written(value)) is not None]
        for source, pool in pools.items():
            again = self._names(pool.read)
            kept = self._closed([w for w in written if len(w.vector) == source.size], pool.read)
            parts = [p for p in self._parts(kept) if again & self._names(k for w in p for k in w.read)]
            found = [self._symmetry(source, part, self._names(k for w in part for k in w.read)) for part in parts]
            yield from (f for f in found if f is not None)
            together = [w for part in parts for w in part]
            met = pool.read.union(*(w.read for w in together))
            biased = all(self._bias([d for d in self.facts.dense if d.parameter == n]) for n in self._names(met))
            moved = source.shift is not None and len(self.classes.uses[source.shift]) == pool.norms
            if together and pool.alone and moved and not (biased and None not in found):  # else the first and a translation make it
                whole = self._symmetry(source, together, self._names(met), False) if all(self._undoes(k, met) for k in met) else None
                if whole is not None:
                    yield whole

    def _names(self, uses: Iterable[int]) -> set[str]:
        return {self.facts.dense[k].parameter for k in uses}

    # --- what norms hand on -----------------------------------------------------------------------------------------------
    def _source(self, norm: Op) -> tuple[str, _Source]:
        """The value behind a norm, its gain and its shift, as far as each is all that reads what stands before."""
        value, size = norm.name, int(norm.args[1][0])
        gain = next((g for g in self.facts.gains if g.source == value and self._entrywise(value, g, "aten.mul")), None)
        value = value if gain is None else gain.value
        shift = next((s for s in self.facts.shifts if self._entrywise(value, s, "aten.add")), None)
        source = _Source(size, None if gain is None else gain.parameter, 0.0 if gain is None else gain.offset,
                         None if shift is None else shift.parameter)
        return value if shift is None else shift.value, source

    def _entrywise(self, value: str, use: GainUse | ShiftUse, packet: str) -> bool:
        """The only operator that reads ``value`` puts entry k of the parameter to entry k of the vectors."""
        op, size = self.graph.by_name.get(use.op), (self.graph.shape(value) or ())[-1]
        return (op is not None and op.packet == packet and not op.kwargs and self._alone(value, use.op)
                and np.array_equal(use.elements, np.arange(size)) and self.classes.shape(use.parameter)[-1:] == (size,))

    def _vectors(self, value: str) -> np.ndarray:
        """The distinct vectors of classes along the last axis, [rows, size]."""
        labels = self.facts.labels.get(value)
        return np.unique(self.classes(rows_of(labels)), axis=0) if isinstance(labels, np.ndarray) and labels.ndim else np.zeros((0, 0))

    def _alone(self, value: str, op: str) -> bool:
        users = [u for u in self.graph.users.get(value, ()) if u.name in self.graph.live]
        return value not in self.graph.outputs and [u.name for u in users] == [op] and users[0].inputs.count(value) == 1

    # --- what maps write --------------------------------------------------------------------------------------------------
    def _ends(self) -> Iterator[str]:
        """Sums of what maps write, none of them part of another."""
        for use in self.facts.dense:
            if use.outs is not None and self.classes.single(use.parameter):
                value = use.value
                while (after := self._summed(value)) is not None:
                    value = after
                yield value

    def _summed(self, value: str) -> str | None:
        """The one sum, or layout, that a value goes into."""
        users = [u for u in self.graph.users.get(value, ()) if u.name in self.graph.live]
        if len(users) != 1 or not self._alone(value, users[0].name):
            return None
        after = users[0]
        whole = after.packet in SAME or (after.packet == "aten.add" and self._terms(after.name) is not None)
        return after.name if whole else None

    def _written(self, value: str) -> _Written | None:
        terms, shape = self._terms(value), self.graph.shape(value)
        if not terms or not shape:
            return None
        first = next((t for t in terms if isinstance(t, DenseUse)), None)
        if first is None or first.outs is None:
            return None
        vector = self.classes(first.outs)
        axis = self.unseen.along(value, vector)
        read = None if axis is None else self._read(value, axis, vector, True)
        whole = all(self._whole(t, vector) for t in terms)
        return _Written(tuple(terms), vector, frozenset(read)) if read and whole and len(set(vector.tolist())) == len(vector) else None

    def _whole(self, term: DenseUse | ShiftUse, vector: np.ndarray) -> bool:
        """The positions of the axis are the units of the vector, in this order."""
        if not self.classes.single(term.parameter) or term.parameter in self.classes.otherwise:
            return False
        if isinstance(term, DenseUse):
            return term.rows is None and term.outs is not None and np.array_equal(self.classes(term.outs), vector)
        at = self.origins.writer(term)
        return at is not None and not term.buffer and np.array_equal(at[1][np.argsort(at[0])], vector)

    def _terms(self, value: str) -> list[DenseUse | ShiftUse] | None:
        """The weights and stored vectors whose sum the value is; the parts are read by nothing else."""
        op, here = self.graph.by_name.get(value), self.writing.get(value, [])
        if op is None:
            return None
        if here:
            bias = self.classes.bias(here[0])
            mine = self.classes.shifts_at.get(op.name, [])
            return [here[0], *mine] if len(here) == 1 and len(mine) <= 1 and mine == ([] if bias is None else [bias]) else None
        if op.packet in SAME and len(op.inputs) == 1:
            return self._terms(op.inputs[0]) if self._alone(op.inputs[0], op.name) else None
        shifts = self.classes.shifts_at.get(op.name, [])
        if op.packet != "aten.add" or op.kwargs or len(op.inputs) != 2 or len(shifts) > 1:
            return None
        found: list[DenseUse | ShiftUse] = list(shifts)
        for name in (n for n in op.inputs if self.graph.is_activation(n)):
            more = self._terms(name) if self._alone(name, op.name) and self.graph.shape(name) == op.shape else None
            if more is None:
                return None
            found += more
        return found if len(found) > 1 else None

    # --- what reads it ----------------------------------------------------------------------------------------------------
    def _read(self, value: str, axis: int, vector: np.ndarray, all_of_it: bool) -> set[int] | None:
        """Uses of weights that read the vectors along an axis, wherever layout takes them; with ``all_of_it`` None where anything else
        sees multiples of 1. ``vector`` [size] are their classes."""
        if all_of_it and value in self.graph.outputs:
            return None
        found: set[int] = set()
        for op in (u for u in self.graph.users.get(value, ()) if u.name in self.graph.live):
            here = self.reading.get((op.name, value), [])
            if here and all(np.array_equal(self.classes(ins), vector) for k in here if (ins := self.facts.dense[k].ins) is not None):
                found |= set(here)
                continue
            if self.unseen.blind(op, value, axis):
                continue
            step = self.unseen.after(op, value, axis)
            more = None if step is None or here else self._read(op.name, step, vector, all_of_it)
            if more is None and all_of_it:
                return None
            found |= more or set()
        return found

    def _closed(self, written: list[_Written], pool: set[int]) -> list[_Written]:
        """Those of which every reader, at every use, reads another of them or what the norms hand on."""
        kept, before = written, -1
        while len(kept) != before:
            before, met = len(kept), pool.union(*(w.read for w in kept))
            kept = [w for w in kept if all(self._undoes(k, met) for k in w.read)]
        return kept

    def _undoes(self, number: int, met: set[int]) -> bool:
        """The weight of the use is met nowhere but by such vectors, and is a matrix that nothing else is made of."""
        name = self.facts.dense[number].parameter
        uses = [(k, d) for k, d in enumerate(self.facts.dense) if d.parameter == name]
        plain = name not in self.classes.otherwise and all(d.rows is None and not d.padded and d.ins is not None for _, d in uses)
        return (plain and len(self.classes.shape(name)) == 2 and len(self.classes.uses[name]) == len(uses)
                and self.classes.times(name) == len(uses) and met.issuperset(k for k, _ in uses))

    def _parts(self, kept: list[_Written]) -> list[list[_Written]]:
        """Those that share a reader together."""
        parts: list[tuple[set[str], list[_Written]]] = []
        for w in kept:
            names, members = {self.facts.dense[k].parameter for k in w.read}, [w]
            for other in [p for p in parts if p[0] & names]:
                parts.remove(other)
                names, members = names | other[0], other[1] + members
            parts.append((names, members))
        return [members for _, members in parts]

    # --- the symmetry -----------------------------------------------------------------------------------------------------
    def _symmetry(self, source: _Source, part: list[_Written], readers: set[str], about: bool = True) -> Symmetry | None:
        """The shear about beta; or about zero, where biases are missing: then beta moves, and so does all that reads it."""
        index, fixed = Index.of(np.arange(source.size)[None, None, :]), source.shift if about else None

        def by(parameter: str, axis: int, rep: str, centred: bool = False) -> Move:
            extra = (fixed,) if centred and fixed is not None else ()
            return Move("shear", parameter, axis, index, rep=rep, gain=source.gain, offset=source.offset, extra=extra)

        moves: list[Move] = []
        for w in part:
            centre = next((t for t in w.terms if self._constant(t)), None)
            if centre is None and fixed is not None:
                return None  # nothing takes t 1 l . beta
            moves += [by(t.parameter, t.out_axis if isinstance(t, DenseUse) else t.axis, "g", t is centre) for t in w.terms]
        if not about and source.shift is not None:
            moves.append(by(source.shift, -1, "g"))
        for name in sorted(readers):
            uses = [d for d in self.facts.dense if d.parameter == name]
            move = by(name, uses[0].in_axis, "g^-T")
            moves.append(move)
            if fixed is not None:
                bias = self._bias(uses)
                if bias is None:
                    return None
                moves.append(Move("shear_bias", bias, 0, index, gain=source.gain, offset=source.offset, extra=(name, fixed), inner=(move,)))
        names = parameters_of(moves)
        if len(names) < len(moves) or {source.gain, fixed} & set(names):
            return None
        sites = [t.module for w in part for t in w.terms]
        return describe_affine(NAME, "translation", 1, (1,), tuple(moves), names, sites, CONDITION,
                               FORMULA if about else FORMULA.replace(r" (x - \beta)", " x"), (GENERIC,))

    def _constant(self, term: DenseUse | ShiftUse) -> bool:
        """Added at every place, once: the bias of a map, a row of a table that is looked up, a stored vector as it is."""
        op = self.graph.by_name[term.op]
        if isinstance(term, DenseUse):
            return op.packet == "aten.embedding"
        return term.op in self.writing or any(self.graph.parameters.get(n) == term.parameter for n in op.inputs)

    def _bias(self, uses: list[DenseUse]) -> str | None:
        """The one vector that every use adds to all that the weight puts out, and that nothing else adds."""
        found = [self.classes.bias(u) for u in uses]
        names = {b.parameter for b in found if b is not None}
        if None in found or len(names) != 1:
            return None
        name = names.pop()
        whole = all(b is not None and np.array_equal(b.elements, np.arange(len(b.units))) and not b.buffer for b in found)
        single = len(self.classes.uses[name]) == len(uses) and len(self.classes.shape(name)) == 1
        return name if whole and single and name not in self.classes.otherwise else None
