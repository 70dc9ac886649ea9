"""Constants that several parameters add together, because a layer used several times reads what each of them is added to.

A layer used once takes a constant away for itself (``Translations``). Used at every turn of a loop it takes the same constant at every
turn, so all that it reads must carry the same. Where the vectors that do have one length d, each carries a number times one t in R^d;
the numbers solve linear equations: sums add up, a bias behind a reader takes W t times one number at all its uses, and whatever else
reads a vector wants zero there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from symdisc.exact import null_space
from symdisc.families.axes import ROUTES
from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.families.unseen import Unseen
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["joint_translations"]

NAME = "translation traded between parameters"
CONDITION = r"W (x_k + t) + (b - W t) = W x_k + b \;\text{for every}\; x_k \text{ that } W \text{ reads}"


@dataclass(frozen=True)
class _Carried:
    """A number times t for each variable, and the axis along which t stands."""

    axis: int
    numbers: dict[int, Fraction]


def joint_translations(classes: Classes, found: Sequence[Symmetry], invisible: Collection[str]) -> list[Symmetry]:
    """The translations in which layers that are used several times take part, less those that are ``found``; ``invisible`` names
    parameters of which a multiple of 1 is free by itself."""
    several: dict[str, list[DenseUse]] = defaultdict(list)
    for use in classes.facts.dense:
        if use.ins is not None:
            several[use.parameter].append(use)
    sizes = {uses[0].ins.shape[-1] for name, uses in several.items()  # type: ignore[union-attr]
             if len(uses) > 1 and classes.times(name) == len(uses)}
    made: list[Symmetry] = []
    for d in sorted(sizes):
        for one in (False, True):
            made += _Loop(classes, int(d), one).run([*found, *made], invisible)
    return made


class _Loop:
    """Vectors of ``size`` units, wherever they stand; with ``one`` t is a multiple of 1, which centring norms do not see."""

    def __init__(self, classes: Classes, size: int, one: bool) -> None:
        self.classes, self.graph, self.facts, self.size, self.one = classes, classes.graph, classes.facts, size, one
        places = np.arange(size)
        self.index = Index.of(places[:, None, None] if one else places[None, None, :])
        self.unseen, self.otherwise = Unseen(classes), classes.otherwise
        self.dense, self.shift = classes.dense_at, classes.shifts_at
        self.moves: list[Move] = []  # what each variable moves, by one t
        self.several: list[bool] = []  # whether a parameter that is used several times is among it
        self.numbers: dict[tuple[str, str], int] = {}
        self.equations: list[dict[int, Fraction]] = []
        self.carried: dict[str, _Carried] = {}

    def run(self, found: Sequence[Symmetry], invisible: Collection[str]) -> list[Symmetry]:
        for op in self.graph.ops:
            if op.name in self.graph.live:  # also what has several results: its parts are not followed, so it wants zero
                self._follow(op)
        for name in self.graph.outputs:
            self._zero(name)
        if not any(self.several):
            return []
        matrix = np.array([[Fraction(row.get(k, 0)) for k in range(len(self.moves))] for row in self.equations] or
                          [[Fraction(0)] * len(self.moves)], dtype=object)
        solutions = [np.array([Fraction(int(x)) for x in row], dtype=object) for row in null_space(matrix).basis.T]
        known = self._known(matrix, found, invisible)
        made = []
        for solution in sorted(solutions, key=lambda s: int((s != 0).sum())):
            if _rank([*known, solution]) > len(known):
                known.append(solution)
                made.append(self._symmetry(solution, invisible))
        return [s for s in made if s.dimension]

    # --- the equations ----------------------------------------------------------------------------------------------------
    def _follow(self, op: Op) -> None:
        """What the result of an operator carries, and what its operands must not."""
        moved = [n for n in dict.fromkeys(op.inputs) if n in self.carried]
        if self.dense.get(op.name):
            return self._map(op, moved)
        if op.packet in ("aten.add", "aten.sub") and not op.kwargs and self._sum(op, moved):
            return
        if len(moved) == 1 and list(op.inputs).count(moved[0]) == 1:
            before = self.carried[moved[0]]
            number = self._number(op)
            if number is not None:
                self.carried[op.name] = _Carried(before.axis, {k: c * number for k, c in before.numbers.items()})
                return
            axis = self.unseen.after(op, moved[0], before.axis)
            if axis is not None:
                self.carried[op.name] = _Carried(axis, before.numbers)
                return
        for name in moved:
            self._seen(op, name)

    def _seen(self, op: Op, name: str) -> None:
        """An operator sees more of a value than centring norms do."""
        if not (self.one and self.unseen.blind(op, name, self.carried[name].axis)):
            self._zero(name)

    def _zero(self, name: str) -> None:
        if name in self.carried:
            self.equations.append(self.carried[name].numbers)

    @staticmethod
    def _number(op: Op) -> Fraction | None:
        """A whole or simple number that everything is multiplied by."""
        if op.packet not in ("aten.mul", "aten.div") or op.kwargs or len(op.args) != 2 or not isinstance(op.args[0], Ref):
            return None
        factor = op.args[1]
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not factor:
            return None
        return Fraction(factor) if op.packet == "aten.mul" else 1 / Fraction(factor)

    def _map(self, op: Op, moved: Sequence[str]) -> None:
        """A weight: its bias takes what the weight makes of t, and may be an origin itself."""
        uses = self.dense[op.name]
        use, bias = uses[0], self.classes.bias(uses[0])
        alone = len(uses) == 1 and use.rows is None and len(self.shift.get(op.name, [])) == int(bias is not None)
        own = bias if alone and bias is not None and self._free(bias) else None
        taken = self._taken(use, own) if alone else None
        if taken is not None:
            source = self.carried.get(use.source)
            reads = source is not None and source.axis == self._axis(op, use.source)
            if reads:
                assert source is not None
                self.equations.append({**source.numbers, taken: source.numbers.get(taken, Fraction(0)) - 1})
            else:
                self.equations.append({taken: Fraction(1)})
            moved = [n for n in moved if n != use.source or not reads]
        for name in moved:
            self._seen(op, name)
        origin = self._origin(op, use, own) if alone else None
        if origin is not None:
            self.carried[op.name] = _Carried(self._axis(op, op.name), {origin: Fraction(1)})

    def _axis(self, op: Op, value: str) -> int:
        """Along which a weight reads or writes vectors."""
        rank = len(self.graph.shape(value) or ())
        return rank - int(op.packet.removesuffix("d")[-1]) - 1 if "conv" in op.packet else rank - 1

    def _taken(self, use: DenseUse, bias: ShiftUse | None) -> int | None:
        """The variable of the bias behind a reader, if every use of the bias is behind a use of this reader."""
        if use.ins is None or use.ins.shape[-1] != self.size or use.ins.ndim != 1 or use.padded or bias is None:
            return None
        if self.graph.by_name[use.op].packet not in ("aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d"):
            return None
        uses = self.classes.uses[use.parameter]
        ops = {u.op for u in uses}
        if self.classes.times(use.parameter) != len(uses) or {u.op for u in self.classes.uses[bias.parameter]} != ops:
            return None
        step = Through("dense", use.parameter, use.in_axis, use.out_axis, self.index)
        index = Index.of(np.arange(len(bias.elements))[None, None, :])
        return self._variable(("taken", bias.parameter), Move("add", bias.parameter, 0, index, power=-1.0, through=(step,)), len(uses) > 1)

    def _origin(self, op: Op, use: DenseUse, bias: ShiftUse | None) -> int | None:
        if use.outs is None or len(use.outs) != self.size or (op.shape or ())[self._axis(op, op.name)] != self.size:
            return None
        if op.packet == "aten.embedding" and use.ins is None and self.classes.single(use.parameter) and use.parameter not in self.otherwise:
            return self._variable(("added", use.parameter), Move("add", use.parameter, use.out_axis, self.index), False)
        if bias is None or op.packet == "aten.embedding":
            return None
        several = len(self.classes.uses[bias.parameter]) > 1
        return self._variable(("added", bias.parameter), Move("add", bias.parameter, 0, self.index), several)

    def _free(self, bias: ShiftUse) -> bool:
        """A vector that is added, entry by entry, to all that the operator puts out, here and at its other uses."""
        uses = self.classes.uses[bias.parameter]
        here = [u for u in uses if isinstance(u, ShiftUse) and not u.buffer and not u.table and self.dense.get(u.op)
                and np.array_equal(u.elements, np.arange(len(u.units))) and len({d.parameter for d in self.dense[u.op]}) == 1]
        return (len(here) == len(uses) == len({u.op for u in uses}) and len(self.classes.shape(bias.parameter)) == 1
                and len({self.dense[u.op][0].parameter for u in here}) == 1 and bias.parameter not in self.otherwise)

    def _variable(self, key: tuple[str, str], move: Move, several: bool) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.moves)
            self.moves.append(move)
            self.several.append(several)
        return self.numbers[key]

    def _sum(self, op: Op, moved: Sequence[str]) -> bool:
        """Numbers add up; a stored vector that is added is a variable. False where a sum is of another kind."""
        names = [a.name for a in op.args[:2] if isinstance(a, Ref)]
        shape = op.shape or ()
        if len(names) != 2 or len(set(names)) != 2:
            return len(names) == 1 and len(moved) == 1 and self._keep(op, moved[0])
        total: dict[int, Fraction] = {}
        axes = set()
        for sign, name in zip((1, -1 if op.packet == "aten.sub" else 1), names, strict=True):
            if name in self.carried:
                part = self.carried[name]
                axis = part.axis + len(shape) - len(self.graph.shape(name) or ())
                if shape[axis] != self.size:
                    return False
                axes.add(axis)
                for k, c in part.numbers.items():
                    total[k] = total.get(k, Fraction(0)) + sign * c
        added = self.shift.get(op.name, [])
        stored = self._stored(op, added[0]) if len(added) == 1 and op.packet == "aten.add" else None
        if stored is not None:
            axes.add(len(shape) - 1)
            total[stored] = total.get(stored, Fraction(0)) + 1
        if len(axes) > 1:
            return False
        if axes:
            self.carried[op.name] = _Carried(axes.pop(), total)
        return True

    def _keep(self, op: Op, name: str) -> bool:
        """A number added to every entry."""
        if self.graph.shape(name) != op.shape:
            return False
        sign = -1 if op.packet == "aten.sub" and op.args[1] == Ref(name) else 1
        before = self.carried[name]
        self.carried[op.name] = _Carried(before.axis, {k: sign * c for k, c in before.numbers.items()})
        return True

    def _stored(self, op: Op, shift: ShiftUse) -> int | None:
        """The variable of a vector, or of a table of such, whose rows are added as they are, at every use."""
        uses = self.classes.uses[shift.parameter]
        shape = self.classes.shape(shift.parameter)
        plain = (not shift.buffer and shape[-1:] == (self.size,) == (op.shape or ())[-1:] and shift.axis == len(shape) - 1
                 and all(isinstance(u, ShiftUse) and self._as_it_is(u) for u in uses) and len({u.op for u in uses}) == len(uses)
                 and all(len(self.shift[u.op]) == 1 for u in uses) and shift.parameter not in self.otherwise)
        if not plain:
            return None
        move = Move("add", shift.parameter, len(shape) - 1, self.index)
        return self._variable(("added", shift.parameter), move, len(uses) > 1)

    def _as_it_is(self, shift: ShiftUse) -> bool:
        """One operand of the sum is the parameter, laid out anew or looked up."""
        op = self.graph.by_name.get(shift.op)
        if op is None or op.packet != "aten.add" or op.kwargs:
            return False
        for name in op.inputs:
            axis, rank = len(self.graph.shape(name) or ()) - 1, len(self.classes.shape(shift.parameter))
            while name in self.graph.by_name and not self.graph.is_activation(name):
                here = self.graph.by_name[name]
                if here.packet == "aten.embedding":
                    name, axis = here.inputs[0], rank - 1
                elif here.packet in ROUTES and len(here.inputs) == 1 and (step := self._behind(here, axis)) is not None:
                    name, axis = here.inputs[0], step
                else:
                    break
            if self.graph.parameters.get(name) == shift.parameter and axis == rank - 1:
                return True
        return False

    def _behind(self, op: Op, axis: int) -> int | None:
        """The axis of the operand, of the same length, that is ``axis`` of the result."""
        size = (op.shape or ())[axis]
        return next((a for a, n in enumerate(self.graph.shape(op.inputs[0]) or ())
                     if n == size and self.unseen.after(op, op.inputs[0], a) == axis), None)

    # --- the solutions ----------------------------------------------------------------------------------------------------
    def _known(self, matrix: np.ndarray, found: Sequence[Symmetry], invisible: Collection[str]) -> list[np.ndarray]:
        """A basis of the solutions of which no layer used several times is part, and of those that are found."""
        names = [m.parameter for m in self.moves]
        allowed = [[not s for s in self.several]]
        if self.one:
            added = [None if m.through else m.parameter for m in self.moves]
            allowed += [[n == name for n in added] for name in sorted({*names} & {*invisible})]
        shapes = [(self.size,), (1,)] if self.one else [(self.size,)]
        for s in found:
            if s.family.startswith("translation") and s.shape in shapes and all(m.kind == "add" for m in s.moves):
                allowed.append([n in s.parameters for n in names])
        known: list[np.ndarray] = []
        for mask in allowed:
            columns = np.flatnonzero(mask)
            if not len(columns):
                continue
            for row in null_space(matrix[:, columns]).basis.T:
                vector = np.array([Fraction(0)] * len(names), dtype=object)
                vector[columns] = [Fraction(int(x)) for x in row]
                if _rank([*known, vector]) > len(known):
                    known.append(vector)
        return known

    def _symmetry(self, solution: np.ndarray, invisible: Collection[str]) -> Symmetry:
        first = next(c for c in solution if c)
        whole = lcm(*(c.denominator for c in solution)) * (1 if first > 0 else -1)
        moves = tuple(_times(m, int(c * whole)) for m, c in zip(self.moves, solution, strict=True) if c)
        names = parameters_of(moves)
        overlap = all(n in invisible for n in names) and not self.one
        count = 1 if self.one else self.size - overlap
        formula = r",\; ".join(rf"\texttt{{{p.replace('_', chr(92) + '_')}}} \mapsto \cdot + L_{{{k}}} t" for k, p in enumerate(names))
        sites = [next(u.module for u in self.classes.uses[n]) for n in names]
        family = "translation0" if overlap else "translation"
        return describe_affine(NAME, family, count, (1 if self.one else self.size,), moves, names, sites, CONDITION, formula)


def _times(move: Move, number: int) -> Move:
    return Move(move.kind, move.parameter, move.axis, move.index, power=move.power * number, through=move.through)


def _rank(rows: Sequence[np.ndarray]) -> int:
    matrix = np.array(rows, dtype=object)
    return matrix.shape[1] - null_space(matrix).basis.shape[1]
