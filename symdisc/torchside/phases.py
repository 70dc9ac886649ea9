"""Phases of complex states written in real numbers: (x, y) -> (p x - q y, q x + p y) is a product with p + iq, which commutes with turns.

Every entry of every value is an expression in rows of weights. Two expressions of the same form, in which the rows of x stand where the
other has those of y, are the two sides of a plane: turn the rows, and all such pairs turn, as long as nothing but sums, common factors
and such products makes them. What reads them, W_1 x + s W_2 y with a sign s, undoes the turn. Whatever breaks the form keeps its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.families.axes import KEEPS, SAME
from symdisc.families.naming import describe_dense
from symdisc.moves import Index, Move, parameters_of
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse, Facts
from symdisc.symmetry import Symmetry
from symdisc.torchside.capture import Capture
from symdisc.torchside.interpret import call
from symdisc.torchside.sides import Row, Sides

__all__ = ["phases_of_states"]

ZEROS = frozenset(f"aten.{n}" for n in ("zeros", "zeros_like", "new_zeros"))
LAYOUT = KEEPS - frozenset(f"aten.{n}" for n in ("index", "index_select")) - frozenset(n for n in KEEPS if "pool" in n)
SUMS = ("aten.add", "aten.sub")
ZERO, LOST = 0, 1  # expressions
Node = tuple[Any, ...]  # ("row", weight, number, source), ("sum", packet, a, b), ("times", factor, entry, a), ("re" | "im", p, q, x, y)


def phases_of_states(captured: Capture, facts: Facts) -> list[Symmetry]:
    """SO(2) for each set of complex states that turn together; none where the graph has no such products."""
    walk = _Walk(captured, facts)
    if not walk.products:
        return []
    walk.run()
    return _Planes(walk).symmetries()


class _Walk:
    """The expression at every entry of every value."""

    def __init__(self, captured: Capture, facts: Facts) -> None:
        self.graph, self.sides = captured.graph, Sides()
        self.nodes: list[Node] = [("zero",), ("lost",)]
        self.known: dict[Node, int] = {n: k for k, n in enumerate(self.nodes)}
        self.rows: list[Row | None] = [None, None]  # one row of each expression: all of them turn together
        self.labels: dict[str, Any] = {}  # tensors, or tuples of them behind a split
        self.reads: dict[str, tuple[DenseUse, list[int]]] = {}
        self.dense: dict[str, list[DenseUse]] = defaultdict(list)
        self.uses: dict[str, list[DenseUse]] = defaultdict(list)
        for use in facts.dense:
            self.dense[use.op].append(use)
            self.uses[use.parameter].append(use)
        self.keys = self._keys()
        self.products = self._products()

    # --- the graph ----------------------------------------------------------------------------------------------------
    def _keys(self) -> dict[str, int]:
        """Equal numbers for values that are made in the same way of the same values."""
        known: dict[object, int] = {}
        found: dict[str, int] = {}

        def told(a: Any) -> object:
            return ("value", found.get(a.name, a.name)) if isinstance(a, Ref) else tuple(map(told, a)) if isinstance(a, tuple) else a

        for op in self.graph.ops:
            found[op.name] = known.setdefault((op.target, told(op.args), told(op.kwargs)), len(known))
        return found

    def key(self, name: str) -> object:
        return self.keys.get(name, name)

    def _factors(self, name: str) -> tuple[str, str] | None:
        """(factor, activation) of a product with something that no data makes."""
        op = self.graph.by_name.get(name)
        names = [a.name for a in op.args[:2] if isinstance(a, Ref)] if op is not None and op.packet == "aten.mul" else []
        moving = [n for n in names if self.graph.is_activation(n)]
        return (next(n for n in names if n != moving[0]), moving[0]) if len(names) == 2 and len(moving) == 1 else None

    def _products(self) -> dict[str, tuple[str, str, str, str, str]]:
        """Operator -> ("re" or "im", p, q, x, y) for both halves of products of complex numbers; none if one is a half of two."""
        terms: dict[str, list[tuple[str, str]]] = {}
        for op in self.graph.ops:
            two = [self._factors(a.name) for a in op.args[:2] if isinstance(a, Ref)] if op.packet in SUMS and not op.kwargs else []
            if op.name in self.graph.live and len(two) == 2 and None not in two:
                terms[op.name] = [t for t in two if t is not None]
        halves: dict[object, list[str]] = defaultdict(list)
        for name, two_ in terms.items():
            if self.graph.by_name[name].packet == "aten.add":
                halves[frozenset((self.key(f), self.key(x)) for f, x in two_)].append(name)
        found: dict[str, tuple[str, str, str, str, str]] = {}
        for name, ((p, x), (q, y)) in terms.items():
            fixed = not self.graph.varies(p) and not self.graph.varies(q)  # rotary positions, which queries and keys have apart
            if self.graph.by_name[name].packet == "aten.sub" and self.key(x) != self.key(y) and not fixed:
                for half in halves.get(frozenset(((self.key(q), self.key(x)), (self.key(p), self.key(y)))), []):
                    if self._told(found.setdefault(half, ("im", p, q, x, y))) != self._told(("im", p, q, x, y)):
                        return {}
                    found[name] = ("re", p, q, x, y)
        return found

    def _told(self, product: tuple[str, ...]) -> tuple[object, ...]:
        return tuple(map(self.key, product[1:]))

    # --- expressions --------------------------------------------------------------------------------------------------
    def node(self, node: Node, *parts: int) -> int:
        """Its number; one with a lost part is lost, and its rows stay."""
        if LOST in parts:
            self.lose(parts)
            return LOST
        if node not in self.known:
            self.known[node] = len(self.nodes)
            self.nodes.append(node)
            own = (node[1], node[2]) if node[0] == "row" else None
            self.rows.append(next((self.rows[p] for p in parts if self.rows[p] is not None), own))
        return self.known[node]

    def lose(self, numbers: Sequence[int]) -> None:
        for row in {self.rows[n] for n in numbers}:
            if row is not None:
                self.sides.give_up(row)

    def lose_values(self, *names: str) -> None:
        for name in names:
            found = self.of(name)
            for part in (found,) if isinstance(found, Tensor) else found:
                self.lose(torch.unique(part).tolist())

    def of(self, name: str) -> Any:
        found = self.labels.get(name)
        return found if found is not None else torch.tensor(LOST).expand(self.graph.shape(name) or ())

    def _each(self, op: Op, tables: Sequence[Tensor], make: Callable[..., int]) -> None:
        """``make`` at every entry of the result, once for equal entries of the tables."""
        wide = torch.stack([t.broadcast_to(op.shape or ()).reshape(-1) for t in tables])
        different, where = torch.unique(wide, dim=1, return_inverse=True)
        made = torch.tensor([make(*column) for column in different.T.tolist()], dtype=torch.int64)
        self.labels[op.name] = made[where].reshape(op.shape or ())

    # --- the walk -----------------------------------------------------------------------------------------------------
    def run(self) -> None:
        inner = {a.name for name in self.products for a in self.graph.by_name[name].args[:2]}
        for op in self.graph.ops:
            if op.name not in self.graph.live:
                continue
            if op.packet in ZEROS:
                self.labels[op.name] = torch.tensor(ZERO).expand(op.shape or ())
            elif self.graph.is_activation(op.name) and not (op.name in inner and self._only_in_products(op)):
                self._step(op)
        self.lose_values(*self.graph.outputs)

    def _only_in_products(self, op: Op) -> bool:
        return op.name not in self.graph.outputs and all(
            u.name in self.products for u in self.graph.users.get(op.name, ()) if u.name in self.graph.live)

    def _step(self, op: Op) -> None:
        moving = [n for n in dict.fromkeys(op.inputs) if self.graph.is_activation(n) or n in self.labels]
        if op.name in self.products:
            self._product(op, *self.products[op.name])
        elif op.packet == "aten.linear" and len(self.dense.get(op.name, ())) == 1 and self.dense[op.name][0].rows is None:
            self._linear(op, self.dense[op.name][0])
        elif op.packet in SAME and moving:
            self.labels[op.name] = self.of(moving[0])
        elif op.packet in LAYOUT and moving and set(moving) == set(op.inputs):
            self.labels[op.name] = call(op, {n: t.contiguous() if isinstance(t := self.of(n), Tensor) else t for n in moving})
        elif op.packet in SUMS and len(op.inputs) == 2 and set(op.inputs) == set(moving) and not op.kwargs:
            self._each(op, [self.of(n) for n in op.inputs], lambda a, b: self._sum(op.packet, a, b))
        elif (two := self._factors(op.name)) is not None:
            factor, value = two
            shape, key = self.graph.shape(factor) or (), self.key(factor)
            entries = torch.arange(int(np.prod(shape))).reshape(shape)
            self._each(op, [entries, self.of(value)], lambda e, a: ZERO if a == ZERO else self.node(("times", key, e, a), a))
        else:
            self.lose_values(*moving)

    def _sum(self, packet: str, a: int, b: int) -> int:
        if b == ZERO:
            return a
        found = self.node(("sum", packet, a, b), a, b)
        one, two = self.rows[a], self.rows[b]
        if found != LOST and one is not None and two is not None:
            self.sides.unite(one, two, 0)
        return found

    def _product(self, op: Op, half: str, p: str, q: str, x: str, y: str) -> None:
        tables = [torch.arange(int(np.prod(s))).reshape(s) for s in (self.graph.shape(p) or (), self.graph.shape(q) or ())]
        both = (self.key(p), self.key(q))

        def made(i: int, j: int, a: int, b: int) -> int:
            if a == b == ZERO:
                return ZERO
            found = self.node((half, (both[0], i), (both[1], j), a, b), *((a, b) if half == "re" else (b, a)))
            one, two = self.rows[a], self.rows[b]
            if one is None or two is None:
                self.lose((a, b))
                return LOST
            self.sides.unite(one, two, 1)
            return found

        self._each(op, [*tables, self.of(x), self.of(y)], made)

    def _linear(self, op: Op, use: DenseUse) -> None:
        source = self.of(use.source)
        columns = torch.unique(source.reshape(-1, source.shape[-1]), dim=0)
        if len(columns) == 1:
            self.reads[op.name] = use, columns[0].tolist()
        else:
            self.lose_values(use.source)
        key = self.key(use.source)
        made = [self.node(("row", use.parameter, k, key)) for k in range((op.shape or (0,))[-1])]
        self.labels[op.name] = torch.tensor(made).expand(op.shape or ())


class _Planes:
    """Which rows and columns of weights are the sides of planes."""

    def __init__(self, walk: _Walk) -> None:
        self.walk, self.sides, self.graph = walk, walk.sides, walk.graph
        self.mates: dict[Row, Row] = {}
        self._seen: set[tuple[int, int]] = set()
        for node in walk.nodes:
            if node[0] in ("re", "im"):
                self._demand(node[3], node[4])
        self.columns: dict[Row, tuple[Row, Row, int]] = {}  # column -> (the row that it turns with, mate, sign)
        for name in walk.reads:
            self._read(name)

    def _demand(self, a: int, b: int) -> None:
        """The two are sides of a plane, or their rows stay."""
        if (a, b) in self._seen or a == b == ZERO:
            return
        self._seen.add((a, b))
        one, two = self.walk.nodes[a], self.walk.nodes[b]
        if one[0] == two[0] == "row" and one[3] == two[3] and self._mate(one[1:3], two[1:3]):
            return
        if (one[0] == two[0] == "sum" and one[1] == two[1]) or (one[0] == two[0] == "times" and one[1:3] == two[1:3]):
            for x, y in zip(one[2:] if one[0] == "sum" else one[3:], two[2:] if one[0] == "sum" else two[3:], strict=True):
                self._demand(x, y)
        elif {one[0], two[0]} != {"re", "im"} or one[1:] != two[1:]:
            self.walk.lose((a, b))

    def _mate(self, a: Row, b: Row) -> bool:
        self.sides.unite(a, b, 1)
        return a != b and self.mates.setdefault(a, b) == b and self.mates.setdefault(b, a) == a

    def _other(self, number: int) -> int | None:
        """The other side of the plane, if it stands anywhere."""
        node = self.walk.nodes[number]
        if number == ZERO:
            return ZERO
        if node[0] == "row":
            mate = self.mates.get(node[1:3])
            return None if mate is None else self.walk.known.get(("row", *mate, node[3]))
        if node[0] in ("re", "im"):
            return self.walk.known.get(("im" if node[0] == "re" else "re", *node[1:]))
        parts = [self._other(n) for n in (node[2:] if node[0] == "sum" else node[3:])]
        return None if None in parts else self.walk.known.get((*node[:2 if node[0] == "sum" else 3], *parts))

    # --- readers ------------------------------------------------------------------------------------------------------
    def _read(self, name: str) -> None:
        """Each column's mate, in the same weight or in the one whose output is added or subtracted; the same at every use."""
        use, numbers = self.walk.reads[name]
        second = self._beside(name)
        for k, number in enumerate(numbers):
            row = self.walk.rows[number]
            if row is None or not self.sides.alive(row):
                continue
            other = self._other(number)
            here = [((use.parameter, j), 1) for j, n in enumerate(numbers) if n == other]
            if not here and second is not None and second[1][k:k + 1] == [other]:
                here = [((second[0].parameter, k), second[2])]
            found = (row, *here[0]) if len(here) == 1 and number != LOST else None
            before = self.columns.setdefault((use.parameter, k), found) if found is not None else None  # type: ignore[arg-type]
            if found is None or before is None or before[1:] != found[1:] or not self._whole(use.parameter, "reads"):
                self.walk.lose((number,))
            elif before[0] != row:
                self.sides.unite(before[0], row, 0)

    def _beside(self, name: str) -> tuple[DenseUse, list[int], int] | None:
        """(use, columns, sign) of the layer whose output is added to that of this one, or subtracted, where nothing else sees them."""
        ends = [self._end(name)]
        op = self.graph.by_name.get(ends[0] or "")
        names = [n for n in op.inputs if n != name] if op is not None else []
        if op is None or len(names) != 1 or names[0] not in self.walk.reads or self._end(names[0]) != op.name:
            return None
        return (*self.walk.reads[names[0]], 1 if op.packet == "aten.add" else -1)

    def _end(self, name: str) -> str | None:
        users = [u for u in self.graph.users.get(name, ()) if u.name in self.graph.live]
        one = len(users) == 1 and users[0].packet in SUMS and not users[0].kwargs and len(users[0].inputs) == 2
        return users[0].name if one and name not in self.graph.outputs else None

    def _whole(self, parameter: str, what: str) -> bool:
        """All that the network does with the weight is known: it is read by linear layers alone, as it is stored."""
        known = {u.op for u in self.walk.uses[parameter]}
        ops = {u.name for v, n in self.graph.parameters.items() if n == parameter for u in self.graph.users.get(v, ())
               if u.name in self.graph.live}
        return ops == known and all(len(self.walk.dense[o]) == 1 and self.graph.by_name[o].packet == "aten.linear" for o in ops) and (
            what != "reads" or ops <= set(self.walk.reads))

    # --- symmetries ---------------------------------------------------------------------------------------------------
    def symmetries(self) -> list[Symmetry]:
        """Planes that stand in the same weights, as one factor."""
        for row in {r for r in self.walk.rows if r is not None}:
            mate = self.mates.get(row)
            if mate is None or not self._written(row, mate):
                self.sides.give_up(row)
        for (parameter, k), (row, mate, _) in self.columns.items():
            back = self.columns.get(mate)
            if back is None or back[1] != (parameter, k) or (mate[0] != parameter and mate[1] != k):
                self.sides.give_up(row)
        self._settle()
        planes: dict[Row, list[tuple[Row, Row, bool, int]]] = defaultdict(list)
        for row, mate in self.mates.items():
            if self.sides.alive(row) and self.sides.find(row)[1] == 0:
                planes[self.sides.find(row)[0]].append((row, mate, True, 1))
        for column, (row, mate, sign) in self.columns.items():
            if self.sides.alive(row) and self.sides.find(row)[1] == 0:
                planes[self.sides.find(row)[0]].append((column, mate, False, sign))
        groups: dict[tuple[object, ...], list[list[tuple[Row, Row, bool, int]]]] = defaultdict(list)
        for parts in planes.values():
            if any(not written for *_, written, _ in parts):
                groups[tuple((a[0], b[0], written, sign) for a, b, written, sign in parts)].append(parts)
        return [self._symmetry(found) for found in groups.values()]

    def _settle(self) -> None:
        """A column that reads anything else at another use stays as it is, and so does all that turns with it."""
        before = -1
        while before != len(self.sides.dead):
            before = len(self.sides.dead)
            for use, numbers in self.walk.reads.values():
                for k, number in enumerate(numbers):
                    column, row = self.columns.get((use.parameter, k)), self.walk.rows[number]
                    if column is not None and number != ZERO and (row is None or not self.sides.alive(row)):
                        self.sides.give_up(column[0])

    def _written(self, row: Row, mate: Row) -> bool:
        """Both weights read the same values, without biases, and stand in the graph as they are."""
        sources = [sorted(str(self.walk.key(u.source)) for u in self.walk.uses[p]) for p, _ in (row, mate)]
        plain = all(len(self.graph.by_name[u.op].inputs) == 2 for p, _ in (row, mate) for u in self.walk.uses[p])
        return plain and sources[0] == sources[1] and (row[0] == mate[0] or row[1] == mate[1]) and all(
            self._whole(p, "writes") for p, _ in (row, mate))

    def _symmetry(self, planes: list[list[tuple[Row, Row, bool, int]]]) -> Symmetry:
        moves = tuple(self._moves(planes))
        modules = [m.parameter.rpartition(".")[0] for m in moves]
        found = describe_dense("o", 2, len(planes), (), parameters_of(moves), modules)
        condition = r"g\,(\lambda z) = \lambda\,(g z),\; g \in \mathrm{U}(1)"
        return replace(found, name="phases of complex states", moves=moves, condition=condition,
                       formula=r"B \mapsto e^{i\varphi} B,\; C \mapsto C e^{-i\varphi}")

    def _moves(self, planes: list[list[tuple[Row, Row, bool, int]]]) -> Iterator[Move]:
        for n, (one, two, written, sign) in enumerate(planes[0]):
            use = self.walk.uses[one[0]][0]
            axis = use.out_axis if written else use.in_axis
            at = np.array([[parts[n][0][1], parts[n][1][1]] for parts in planes])
            if one[0] == two[0]:
                yield Move("matmul", one[0], axis, Index.of(at[None]))
                continue
            for side, (mine, other) in enumerate(((one[0], two[0]), (two[0], one[0]))):
                yield Move("plane", mine, axis, Index.of(at[None, :, side:side + 1]), rep=("first", "second")[side], power=float(sign),
                           extra=(other,))
