"""Layers that repeat: where a graph has a run of equal ones, and how what is found in a short network is told of the long one.

A *stack* is a run of units prefix.i, each the same operators on parameters of its own, each reading what the unit before wrote. Of
its units the first two and the last are kept; the last then reads what the second writes. A family found in the short network goes
over to the long one where it repeats: it lies within one unit, or within two neighbours, and is found alike at the first and the second,
or it moves all units in the same way. Anything else is not periodic, and the long network has to be looked at itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

from symdisc.moves import Index
from symdisc.opgraph import Op, OpGraph, Ref

__all__ = ["NotPeriodic", "Stack", "find_stack"]

KEPT = 3  # the first two units and the last
FEWEST = KEPT + 2  # units from which cutting some out pays
PERIODS = (1, 2, 3, 4, 6)  # modules that a unit may consist of
SHOWN, MOST_SHOWN = ",\\; ", 6  # what stands between the parts of a formula, and of how many moves it tells
NUMBER = "L_{{{}}}"  # a linear map in a formula that tells of all parameters
Same = Callable[[str, str], bool]
Item = TypeVar("Item")


class NotPeriodic(Exception):
    """What was found in the short network does not say what the long one has."""


@dataclass(frozen=True)
class Stack:
    """``count`` units of ``period`` modules each, from ``prefix.first`` on; ``start`` is the place of the first operator in the graph of
    ``graph``, ``length`` the operators of a unit. Unit numbers count from 0."""

    graph: OpGraph
    prefix: str
    first: int
    period: int
    count: int
    start: int
    length: int

    def unit(self, number: int) -> tuple[Op, ...]:
        at = self.start + number * self.length
        return self.graph.ops[at:at + self.length]

    # --- names ----------------------------------------------------------------------------------------------------
    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        if not self.prefix:
            return re.compile(r"(?<![\w.\\])()(\d+)(?=\.[A-Za-z_])")
        plain, latex = re.escape(self.prefix), re.escape(self.prefix.replace("_", r"\_"))
        return re.compile(rf"(?<![\w.\\])((?:{plain}|{latex})\.)(\d+)(?=\.\w|$|[^\w.])")

    def units(self, text: str) -> set[int]:
        """Numbers of the units that a text mentions."""
        if not self.prefix and text.isdigit():
            return {u for u in [self._number(int(text))] if u is not None}
        return {u for m in self._pattern.finditer(text) for u in [self._number(int(m[2]))] if u is not None}

    def _number(self, index: int) -> int | None:
        number = (index - self.first) // self.period
        return number if 0 <= number < self.count else None

    def renamed(self, text: str, to: Mapping[int, int]) -> str:
        """``text`` with the units that are keys of ``to`` called by its values."""
        def other(index: str) -> str:
            number = self._number(int(index))
            return index if number is None or number not in to else str(int(index) + (to[number] - number) * self.period)

        if not self.prefix and text.isdigit():
            return other(text)
        return self._pattern.sub(lambda m: m[1] + other(m[2]), text)

    # --- the short network ----------------------------------------------------------------------------------------
    @cached_property
    def removed(self) -> frozenset[str]:
        """Names in the state_dict of what the units cut out have of their own."""
        out = set(range(2, self.count - 1))
        return frozenset(n for n in (*self.graph.parameters.values(), *self.graph.buffers.values()) if self.units(n) & out)

    def short(self) -> OpGraph | None:
        """The graph with three units; None where something else reads what the others write or own."""
        graph, low, high = self.graph, self.start + 2 * self.length, self.start + (self.count - 1) * self.length
        last = {o.name: n.name for o, n in zip(self.unit(self.count - 2), self.unit(1), strict=True)}
        after = [dataclasses.replace(op, args=_redirected(op.args, last), kwargs=_redirected(op.kwargs, last))
                 if last.keys() & op.inputs else op for op in graph.ops[high:]]
        ops = (*graph.ops[:low], *after)
        cut = {op.name for op in graph.ops[low:high]}
        held = {n for op in graph.ops[low:high] for n in op.inputs if n in graph.constants}
        held -= {n for op in ops for n in op.inputs}
        own = {v for v, n in (*graph.parameters.items(), *graph.buffers.items()) if n in self.removed}
        if cut & {*graph.outputs} or any(n in cut or n in own for op in ops for n in op.inputs):
            return None
        gone = own | held
        return dataclasses.replace(
            graph, ops=ops, constants=tuple(c for c in graph.constants if c not in gone),
            parameters={v: n for v, n in graph.parameters.items() if v not in gone},
            buffers={v: n for v, n in graph.buffers.items() if v not in gone},
            shapes={n: s for n, s in graph.shapes.items() if n not in gone},
            dtypes={n: d for n, d in graph.dtypes.items() if n not in gone},
            aliases={n: c for n, c in graph.aliases.items() if c not in self.removed})

    # --- what is found there --------------------------------------------------------------------------------------
    def told(self, found: Sequence[Item]) -> list[Item]:
        """What is found in the short network, for the long one. Raises NotPeriodic."""
        at = [self._place(item) for item in found]
        last = self.count - 1
        alone = [[item for item, p in zip(found, at, strict=True) if p == place] for place in ({0}, {1}, {0, 1}, {1, last})]
        one, two = ({0: 1}, {0: 1, 1: last})
        if [self._moved(i, one) for i in alone[0]] != alone[1] or [self._moved(i, two) for i in alone[2]] != alone[3]:
            raise NotPeriodic("the first two units differ")
        whole = [self._throughout(item) if p == {0, 1, last} else item for item, p in zip(found, at, strict=True)]
        return [item if to is None else self._moved(item, to) for item, to in
                ((whole[k], to) for k, to in self._order([p is not None and 1 in p and 0 not in p for p in at]))]

    def names(self, found: Collection[str]) -> frozenset[str]:
        """The same for names of parameters."""
        return frozenset(found) | {self.renamed(n, {1: t}) for n in found if self.units(n) == {1} for t in range(2, self.count - 1)}

    def _order(self, repeats: Sequence[bool]) -> Iterator[tuple[int, dict[int, int] | None]]:
        """Places in a list, and how to rename what stands there: what repeats comes once for each unit from 1 on, neighbours together."""
        k = 0
        while k < len(repeats):
            end = k
            while end < len(repeats) and repeats[end]:
                end += 1
            for t in range(1, self.count - 1) if end > k else ():
                yield from ((j, {1: t, self.count - 1: t + 1}) for j in range(k, end))
            if end == k:
                yield k, None
            k = max(end, k + 1)

    def _place(self, item: Any) -> set[int] | None:
        """The units that a family moves or reads; None for what goes over unchanged. Raises NotPeriodic for what reaches too far."""
        texts = list(_texts(item))
        units = set().union(*(self.units(t) for t in texts))
        outside = any(t in self._outside for t in texts)
        last = self.count - 1
        if not units or units == {last} or (outside and units == {0}):
            return None
        if units == {0, 1, last} or (not outside and units in ({0}, {1}, {0, 1}, {1, last})):
            return units
        raise NotPeriodic(f"units {sorted(units)} together" + (" with what lies outside" if outside else ""))

    @cached_property
    def _outside(self) -> frozenset[str]:
        names = (*self.graph.parameters.values(), *self.graph.buffers.values())
        return frozenset(n for n in names if not self.units(n))

    def _moved(self, item: Any, to: Mapping[int, int]) -> Any:
        return _mapped(item, lambda text: self.renamed(text, to))

    def _throughout(self, item: Any) -> Any:
        """A family that moves all units, told of all."""
        if not dataclasses.is_dataclass(item) or isinstance(item, type):
            raise NotPeriodic("a text names several units")
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(item):
            value = getattr(item, field.name)
            if isinstance(value, tuple) and any(self.units(t) for t in _texts(value)):
                changes[field.name] = tuple(self._moved(value[k], to or {}) for k, to in self._plan(value))
            elif isinstance(value, str) and self.units(value):
                changes[field.name] = SHOWN.join(self._parts(value.split(SHOWN)))
        return dataclasses.replace(item, **changes)

    def _plan(self, values: Sequence[Any]) -> list[tuple[int, dict[int, int] | None]]:
        at = [set().union(*(self.units(t) for t in _texts(v))) for v in values]
        if any(len(p) > 1 for p in at):
            raise NotPeriodic("one move reaches several units")
        if [self._moved(v, {0: 1}) for v, p in zip(values, at, strict=True) if p == {0}] != [
                v for v, p in zip(values, at, strict=True) if p == {1}]:
            raise NotPeriodic("the first two units are moved in different ways")
        return list(self._order([p == {1} for p in at]))

    def _parts(self, parts: Sequence[str]) -> list[str]:
        """The parts of a formula: of all parameters, numbered; or of the first moves, whatever comes behind."""
        if all(NUMBER.format(k) in part for k, part in enumerate(parts)):
            plan = self._plan([part.replace(NUMBER.format(k), NUMBER.format("")) for k, part in enumerate(parts)])
            return [self.renamed(parts[j].replace(NUMBER.format(j), NUMBER.format(k)), to or {}) for k, (j, to) in enumerate(plan)]
        at = [self.units(part) for part in parts]
        if any(len(p) > 1 for p in at):
            raise NotPeriodic("one part of a formula names several units")
        return [self.renamed(parts[j], to or {}) for j, to in self._order([p == {1} for p in at])][:MOST_SHOWN]


def _redirected(arg: Any, to: Mapping[str, str]) -> Any:
    if isinstance(arg, Ref):
        return Ref(to.get(arg.name, arg.name))
    return tuple(_redirected(a, to) for a in arg) if isinstance(arg, tuple) else arg


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _texts(part)
    elif dataclasses.is_dataclass(item) and not isinstance(item, Index):
        for field in dataclasses.fields(item):
            yield from _texts(getattr(item, field.name))


def _mapped(item: Any, by: Callable[[str], str]) -> Any:
    if isinstance(item, str):
        return by(item)
    if isinstance(item, tuple):
        return tuple(_mapped(part, by) for part in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, (Index, type)):
        return dataclasses.replace(item, **{f.name: _mapped(getattr(item, f.name), by) for f in dataclasses.fields(item)})
    return item


# --- finding --------------------------------------------------------------------------------------------------------------
def find_stack(graph: OpGraph, same: Same) -> Stack | None:
    """The run of equal units of which most can be left out; ``same`` says whether two buffers or constants hold the same numbers. The
    first of a run stays outside: what reaches it comes from elsewhere."""
    numbers: dict[Any, int] = {}
    kinds = [numbers.setdefault(_bare(op), len(numbers)) for op in graph.ops]
    runs = (run for prefix, starts in _numbered(graph).items() for period in PERIODS for run in _runs(graph, kinds, prefix, starts, period))
    for run in sorted(runs, key=_left_out, reverse=True):
        stack = _linked(run, same)
        if stack.count >= FEWEST:
            return stack
    return None


def _left_out(stack: Stack) -> int:
    return (stack.count - KEPT) * stack.length


def _numbered(graph: OpGraph) -> dict[str, list[tuple[int, int]]]:
    """Prefixes of numbered modules -> (number, place of the first operator), numbers and places increasing."""
    found: dict[str, dict[int, int]] = {}
    for place, op in enumerate(graph.ops):
        parts = op.module.split(".")
        for k, part in enumerate(parts):
            if part.isdigit():
                found.setdefault(".".join(parts[:k]), {}).setdefault(int(part), place)
    runs = {prefix: sorted(first.items()) for prefix, first in found.items() if len(first) > FEWEST}
    return {prefix: starts for prefix, starts in runs.items() if all(a[1] < b[1] for a, b in pairwise(starts))}


def _runs(graph: OpGraph, kinds: Sequence[int], prefix: str, starts: Sequence[tuple[int, int]], period: int) -> Iterator[Stack]:
    """Runs of units of ``period`` numbers whose operators are the same but for what they read."""
    at, after = dict(starts), -1
    for index, place in starts:
        length = at.get(index + period, place) - place
        if length <= 0 or index < after:
            continue
        unit, count = kinds[place:place + length], 1
        while kinds[place + count * length:place + (count + 1) * length] == unit:
            count += 1
        if count > FEWEST:
            after = index + (count - 1) * period
            yield Stack(graph, prefix, index + period, period, count - 1, place + length, length)


def _bare(op: Op) -> tuple[Any, ...]:
    return op.target, op.shape, op.dtype, _blank(op.args), _blank(op.kwargs)


def _blank(arg: Any) -> Any:
    if isinstance(arg, Ref):
        return Ref("")
    if isinstance(arg, tuple):
        return tuple(_blank(a) for a in arg)
    return (type(arg), arg) if isinstance(arg, (bool, int, float)) else arg


def _linked(stack: Stack, same: Same) -> Stack:
    """The stack up to the first unit that does not read in the same way as the one before it."""
    places = {op.name: k for k, op in enumerate(stack.graph.ops)}
    count = 1
    while count < stack.count and _follows(stack, count, places, same):
        count += 1
    return dataclasses.replace(stack, count=count)


def _follows(stack: Stack, number: int, places: Mapping[str, int], same: Same) -> bool:
    graph, low = stack.graph, stack.start + (number - 1) * stack.length
    step = {number - 1: number}
    for a, b in zip(stack.unit(number - 1), stack.unit(number), strict=True):
        if stack.renamed(a.module, step) != b.module:
            return False
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if x in places and y in places:
                apart = places[y] - places[x]
                near, shared = apart == stack.length and places[x] >= low - stack.length, apart == 0 and places[x] < stack.start
                if not (near or shared):
                    return False
            elif x in places or y in places or not _counterparts(stack, x, y, step, same):
                return False
    own = [sorted((stack.renamed(n, step), graph.shapes[v]) for v, n in graph.parameters.items() if stack.units(n) == {u})
           for u in (number - 1, number)]
    return own[0] == own[1]


def _counterparts(stack: Stack, x: str, y: str, step: Mapping[int, int], same: Same) -> bool:
    """Two stored values are one, or play the same part in neighbouring units."""
    graph = stack.graph
    if graph.shapes[x] != graph.shapes[y] or graph.dtypes[x] != graph.dtypes[y]:
        return False
    for names in (graph.parameters, graph.buffers):
        if x in names or y in names:
            a, b = names.get(x, ""), names.get(y, "")
            own = stack.units(a) == {*step} and stack.renamed(a, step) == b
            return (own or (x == y and not stack.units(a))) and (names is graph.parameters or same(x, y))
    return x == y or (x in graph.constants and y in graph.constants and same(x, y))
