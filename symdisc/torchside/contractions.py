"""Contractions written with letters, said with layout and products of matrices: every rule that knows those then knows them.

A weight of several axes (stored [stream, heads, size]) is a matrix in such a contraction if the axes that are summed stand side by side;
it becomes a parameter of that shape. Two activations become one matrix product for each place along their common axes. What fits
neither (weights stacked for experts, three operands, letters that only one operand has and the result has not) stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from symdisc.moves import Chart
from symdisc.opgraph import Op, OpGraph, Ref
from symdisc.torchside.capture import Capture

__all__ = ["as_products"]

Shape = tuple[int, ...]


def as_products(captured: Capture) -> tuple[Capture, tuple[Chart, ...]]:
    """The capture with contractions as products, and the weights of several axes that are matrices now."""
    graph = captured.graph
    if not any(op.packet == "aten.einsum" for op in graph.ops):
        return captured, ()
    read = {op.name: found for op in graph.ops if op.name in graph.live and (found := _Contraction.of(graph, op)) is not None}
    cuts: dict[str, set[int | None]] = {}
    for value, name in graph.parameters.items():
        at = {read[u.name].cut(value) if u.name in read else None for u in graph.users.get(value, ()) if u.name in graph.live}
        cuts.setdefault(name, set()).update(at)
    shapes = {graph.parameters[v]: graph.shapes[v] for v in graph.parameters}
    matrices: dict[str, Shape] = {}
    for name, at in cuts.items():
        if len(at) == 1 and (cut := next(iter(at))) is not None:
            matrices[name] = (prod(shapes[name][:cut]), prod(shapes[name][cut:]))
    new = {v: matrices[n] for v, n in graph.parameters.items() if n in matrices}
    ops = [part for op in graph.ops for part in (read[op.name].products(new) if op.name in read else (op,))]
    tensors = {n: t.reshape(new[n]) if n in new else t for n, t in captured.tensors.items()}
    charts = tuple(Chart("matrix", n, n, shape=s) for n, s in matrices.items() if s != shapes[n])
    return replace(captured, graph=replace(graph, ops=tuple(ops), shapes={**graph.shapes, **new}), tensors=tensors), charts


@dataclass(frozen=True)
class _Contraction:
    """Two different operands, the letters of their axes, and those of the result; every letter that the result lacks is in both."""

    op: Op
    names: tuple[str, str]
    letters: tuple[str, str]
    out: str
    size: dict[str, int]
    parameters: frozenset[str]
    varies: tuple[bool, bool]

    @classmethod
    def of(cls, graph: OpGraph, op: Op) -> _Contraction | None:
        equation = str(op.args[0]).replace(" ", "") if op.packet == "aten.einsum" else ""
        terms, _, out = equation.partition("->")
        a, _, b = terms.partition(",")
        names = [r.name for r in op.args[1] if isinstance(r, Ref)] if equation else []
        if "." in equation or "->" not in equation or len(names) != 2 or "," in b or names[0] == names[1] or op.shape is None:
            return None
        shapes = [graph.shape(n) or () for n in names]
        once = all(len(set(t)) == len(t) == len(s) for t, s in zip((a, b), shapes, strict=True))
        size = {**dict(zip(a, shapes[0], strict=False)), **dict(zip(b, shapes[1], strict=False))}
        whole = all(size[c] == n for t, s in zip((a, b), shapes, strict=True) for c, n in zip(t, s, strict=False))
        if not once or not whole or not (set(a) ^ set(b)) <= set(out):
            return None
        varies = graph.varies(names[0]), graph.varies(names[1])
        return cls(op, (names[0], names[1]), (a, b), out, size, frozenset(graph.parameters), varies)

    def cut(self, value: str) -> int | None:
        """The number of axes of a weight that come before the others, where the one part is summed and the other kept."""
        mine, other = self.letters if value == self.names[0] else self.letters[::-1]
        summed = [c in other and c not in self.out for c in mine]
        kept = [c not in other for c in mine]
        cut = next((k for k in range(1, len(mine)) if summed[k] != summed[0]), 0)
        first, last = (summed, kept) if summed and summed[0] else (kept, summed)
        return cut if cut and all(first[:cut]) and all(last[cut:]) else None

    def products(self, matrices: dict[str, Shape]) -> Iterator[Op]:
        """The operators in its place; the last one has its name."""
        weights = [n for n in self.names if n in matrices]
        if len(weights) == 1:
            yield from self._linear(weights[0])
        elif not weights and all(self.varies) and not self.parameters & set(self.names):
            yield from self._matmul()
        else:
            yield self.op

    def _linear(self, weight: str) -> Iterator[Op]:
        which = self.names.index(weight)
        mine, theirs = self.letters[which], self.letters[1 - which]
        inner = "".join(c for c in mine if c in theirs)
        outer = "".join(c for c in mine if c not in theirs)
        rest = "".join(c for c in theirs if c not in inner)
        x = _Layout(self, self.names[1 - which], theirs)
        yield from x.to(rest, inner)
        value = weight
        if mine.startswith(inner):
            value = f"{self.op.name}_turned"
            yield self._made(value, "aten.t.default", (Ref(weight),), (self._count(outer), self._count(inner)))
        yield from self._named(lambda name: self._made(name, "aten.linear.default", (Ref(x.name), Ref(value)),
                                                       (*(self.size[c] for c in rest), self._count(outer))), rest, outer)

    def _matmul(self) -> Iterator[Op]:
        a, b = self.letters
        batch = "".join(c for c in self.out if c in a and c in b)
        inner = "".join(c for c in a if c in b and c not in self.out)
        rows, cols = ("".join(c for c in self.out if c in x and c not in batch) for x in (a, b))
        if len(inner) != 1 or not rows or not cols:
            yield self.op
            return
        turned = self.out.index(cols[0]) < self.out.index(rows[0])
        sides = [(n, t, r) for n, t, r in zip(self.names, self.letters, (rows, cols), strict=True)]
        (left, right) = sides[::-1] if turned else sides
        first, second = _Layout(self, left[0], left[1]), _Layout(self, right[0], right[1])
        yield from first.to(batch, left[2], inner)
        yield from second.to(batch, inner, right[2])
        shape = (*(self.size[c] for c in batch), self._count(left[2]), self._count(right[2]))
        yield from self._named(lambda name: self._made(name, "aten.matmul.default", (Ref(first.name), Ref(second.name)), shape),
                               batch, left[2], right[2])

    def _named(self, product: Callable[[str], Op], *groups: str) -> Iterator[Op]:
        """A product whose result has an axis for each letter of the first group and one for each other group, laid out as asked."""
        order = "".join(groups)
        shape = tuple(self.size[c] for c in order)
        made = product(self.op.name)
        steps: list[tuple[str, tuple[Any, ...], Shape]] = []
        if made.shape != shape:
            steps.append(("aten.view.default", (shape,), shape))
        if order != self.out:
            turn = tuple(order.index(c) for c in self.out)
            steps.append(("aten.permute.default", (turn,), tuple(shape[k] for k in turn)))
        names = [*(f"{self.op.name}_made_{k}" for k in range(len(steps))), self.op.name]
        yield product(names[0])
        for (target, args, after), before, name in zip(steps, names, names[1:], strict=False):
            yield self._made(name, target, (Ref(before), *args), after)

    def _made(self, name: str, target: str, args: tuple[Any, ...], shape: Shape) -> Op:
        return Op(name, target, args, (), shape, self.op.dtype, self.op.module)

    def _count(self, letters: str) -> int:
        return prod(self.size[c] for c in letters)


class _Layout:
    """An operand on its way to another order of axes; ``name`` is the value that has it."""

    def __init__(self, contraction: _Contraction, name: str, letters: str) -> None:
        self.of, self.name, self.letters = contraction, name, letters

    def to(self, *groups: str) -> Iterator[Op]:
        """Axes in the order of the groups, those of each group but the first as one."""
        order, size = "".join(groups), self.of.size
        shape = tuple(size[c] for c in order)
        if order != self.letters:
            yield from self._step("aten.permute.default", tuple(self.letters.index(c) for c in order), shape)
        joined = (*(size[c] for c in groups[0]), *(prod(size[c] for c in g) for g in groups[1:]))
        if joined != shape:
            yield from self._step("aten.reshape.default", joined, joined)

    def _step(self, target: str, argument: Sequence[int], shape: Shape) -> Iterator[Op]:
        before, self.name = self.name, f"{self.of.op.name}_{self.name}_{target.split('.')[1]}"
        yield self.of._made(self.name, target, (Ref(before), tuple(argument)), shape)
