"""Weights that a network makes from its parameters before it reads them: recognised by running the maps, not by module names.

``unfolded`` puts such a weight in the place of the tensors that it is made of, so that folding sees a plain parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import sympy as sp
import torch
from torch import Tensor

from symdisc.archgraph import known_linear
from symdisc.curves import curve
from symdisc.families.charts import lengths
from symdisc.moves import Chart
from symdisc.opgraph import Op
from symdisc.symmetry import Symmetry
from symdisc.torchside.capture import Capture
from symdisc.torchside.composed import X, composed
from symdisc.torchside.contractions import as_products
from symdisc.torchside.interpret import ancestors, evaluate
from symdisc.torchside.simplified import simplified

__all__ = ["Made", "unfolded"]

CLOSE = 1e-9  # float64, relative: a map that is not the one asked for is off by 1e-3 or more at random parameters
MOST = 4_000_000  # entries of a tensor up to which maps are run at random parameters
PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "view", "_unsafe_view", "reshape", "t",
                                       "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "unbind"))


def unfolded(captured: Capture, tables: bool = True) -> tuple[Capture, tuple[Chart, ...], list[Symmetry]]:
    """The capture with made weights as parameters, how they are made, and what is without effect on them; a function of what is looked up
    in a table is one of the ``tables``, or stays where it is."""
    captured = simplified(_without_zeros(captured), tables)
    made = Made(captured)
    charts = made.charts()
    plain, matrices = as_products(made.rewritten(charts) if charts else captured)
    return plain, (*dict.fromkeys(charts.values()), *matrices), made.without_effect()


def _without_zeros(captured: Capture) -> Capture:
    """What parameters make of a state that starts at zero is zero: a constant."""
    made = Made(captured)
    if made.values:  # a constant takes the shape of a value, which need not be run for that
        constant = tuple(replace(op, target="aten.zeros.default", args=(op.shape,), kwargs=())
                         if op.packet in ("aten.zeros_like", "aten.new_zeros") and (op.dtype or "").startswith("float") else op
                         for op in captured.graph.ops)
        captured = replace(captured, graph=replace(captured.graph, ops=constant))
        made = Made(captured)
    ends = sorted(set().union(*made.ends.values()) - set(captured.graph.parameters)) if made.values else []
    values = [made.run([e]) for e in ends]
    zero = {e for e, v in zip(ends, values, strict=True) if v is not None and not bool(v[0].any())}
    ops = tuple(replace(op, target="aten.zeros.default", args=(op.shape,), kwargs=()) if op.name in zero else op
                for op in captured.graph.ops)
    return replace(captured, graph=replace(captured.graph, ops=ops)) if zero else captured


class Made:
    """Values that depend on parameters and on nothing else that varies."""

    def __init__(self, captured: Capture) -> None:
        self.captured, self.graph = captured, captured.graph

    # --- which values -------------------------------------------------------------------------------------------------
    @cached_property
    def values(self) -> list[Op]:
        """Operators that see parameters but no data, in order, if anything but layout is among them."""
        graph = self.graph
        found = [op for op in graph.ops if op.name in graph.live and graph.roles[op.name] == {"theta"}]
        return found if any(op.packet not in PASS for op in found) else []

    @cached_property
    def sources(self) -> dict[str, frozenset[str]]:
        """For each value the parameters (canonical names) that it is made of."""
        graph = self.graph
        found = {v: frozenset({n}) for v, n in graph.parameters.items()}
        for op in self.values:
            found[op.name] = frozenset().union(*(found.get(n, frozenset()) for n in op.inputs))
        return found

    @cached_property
    def ends(self) -> dict[str, set[str]]:
        """For each parameter the values made of it that something else than such a map reads; the parameter itself where it is read."""
        graph = self.graph
        inner = {op.name for op in self.values}
        found: dict[str, set[str]] = {n: set() for n in graph.parameters.values()}
        for value in (*graph.parameters, *(op.name for op in self.values)):
            users = [u for u in graph.users.get(value, ()) if u.name in graph.live]
            if value in graph.outputs or any(u.name not in inner for u in users):
                for name in self.sources[value]:
                    found[name].add(value)
        return found

    def run(self, wanted: list[str], change: Callable[[str, Tensor], Tensor] = lambda n, t: t) -> list[Tensor] | None:
        """Values at random float64 parameters, each ``change``d first; None where that cannot be run."""
        graph = self.graph
        tensors = {**dict(zip(graph.inputs, self.captured.example, strict=False)), **self.captured.tensors}  # inputs give their shape alone
        ops = ancestors(graph, wanted)
        read = {n for op in ops for n in op.inputs} | set(wanted)
        env = {}
        for value in read - {op.name for op in ops}:
            name = graph.parameters.get(value)
            if name is not None:
                env[value] = change(name, self._random(name, graph.shapes[value]))
            elif value in graph.inputs and value in tensors and tensors[value].is_meta:
                env[value] = torch.zeros(tensors[value].shape, dtype=_exact(tensors[value].dtype))
            elif value not in tensors or tensors[value].is_meta:
                return None
            else:
                env[value] = tensors[value].double() if tensors[value].is_floating_point() else tensors[value]
        if sum(t.numel() for t in env.values()) > MOST:
            return None
        try:
            with torch.no_grad():
                found = evaluate(ops, env, wanted, torch.float64)
        except (RuntimeError, TypeError, ValueError):
            return None
        return [found[w] for w in wanted]

    def _random(self, name: str, shape: tuple[int, ...]) -> Tensor:
        g = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
        return torch.randn(shape, generator=g, dtype=torch.float64)

    # --- charts -------------------------------------------------------------------------------------------------------
    def charts(self) -> dict[str, Chart]:
        """value -> how it is made; every tensor that it is made of serves it alone."""
        found: dict[str, Chart] = {}
        taken = set(self.graph.parameters.values()) | set(self.graph.buffers.values())
        for op in self.values:
            chart = self._normalised(op) or self._map(op)
            if chart is not None:
                found[op.name] = replace(chart, weight=f"made({chart.direction})") if chart.weight in taken else chart
        return {v: c for v, c in found.items() if all(self._serves(n, c, found) for n in c.stored)}

    def _serves(self, name: str, chart: Chart, charts: dict[str, Chart]) -> bool:
        """All that is made of the parameter passes through this chart (made again at every use, it may be)."""
        graph = self.graph
        frontier = [v for v, n in graph.parameters.items() if n == name]
        while frontier:
            value = frontier.pop()
            if charts.get(value) == chart:
                continue
            if value in graph.outputs or graph.roles[value] != {"theta"} or value in charts:
                return False
            frontier += [u.name for u in graph.users.get(value, ()) if u.name in graph.live]
        return True

    def _normalised(self, op: Op) -> Chart | None:
        """size * direction / |direction|"""
        if op.packet not in ("aten._weight_norm", "aten.mul", "aten.div", "getitem") or len(self.sources[op.name]) != 2:
            return None
        shapes = {n: self.graph.shapes[v] for v, n in self.graph.parameters.items() if n in self.sources[op.name]}
        for v, g in (tuple(shapes), tuple(shapes)[::-1]):
            dims = [d for d, n in enumerate(shapes[v]) if n == _count(shapes[g])] + ([None] if _count(shapes[g]) == 1 else [])
            if shapes[v] != op.shape or not dims:
                continue
            if op.packet == "aten._weight_norm":
                dim = op.args[2] if len(op.args) > 2 else 0
                direct = self.graph.parameters.get(op.inputs[0]) == v
                return Chart("norm", _called(v), v, g, None if dim == -1 else dim) if direct else None
            value = self.run([op.name])
            for dim in dims if value is not None else []:
                if value is not None and _close(value[0], self._product(v, g, shapes, dim)):
                    return Chart("norm", _called(v), v, g, dim)
        return None

    def _product(self, v: str, g: str, shapes: dict[str, tuple[int, ...]], dim: int | None) -> Tensor:
        direction, size = self._random(v, shapes[v]), self._random(g, shapes[g])
        axes = [a for a in range(direction.dim()) if a != dim]
        length = torch.linalg.vector_norm(direction, dim=axes, keepdim=True) if axes else direction.abs()
        return size.reshape(length.shape) * direction / length if size.numel() == length.numel() else torch.zeros(())

    def _map(self, op: Op) -> Chart | None:
        """A value of the parameter's shape that takes part in something else and commutes with permutations along each axis."""
        if len(self.sources[op.name]) != 1 or op.shape is None:
            return None
        name = next(iter(self.sources[op.name]))
        value = next(v for v, n in self.graph.parameters.items() if n == name)
        if self.graph.shapes[value] != op.shape or not self._read_as_it_is(op) or not self._bent(op):
            return None
        before = self.run([op.name])
        if before is None or not bool(torch.isfinite(before[0]).all()):
            return None
        g = torch.Generator().manual_seed(0)
        for axis, n in enumerate(op.shape):
            order = torch.randperm(n, generator=g)
            after = self.run([op.name], lambda _, t, a=axis, o=order: t.index_select(a, o))  # type: ignore[misc]
            if after is None or not _close(after[0], before[0].index_select(axis, order)):
                return None
        rate = self._rate(op, before[0])
        if rate is not None:
            return Chart("exp", _called(name), name, rate=rate)
        formula = self._formula_of(op, value)
        return Chart("map", _called(name), name) if formula is None else Chart("curve", _called(name), name, formula=formula)

    def _formula_of(self, op: Op, value: str) -> str | None:
        """A one-to-one function of each entry, in x, where the operators from the parameter ``value`` on have rules that say it."""
        known: dict[str, sp.Expr] = {value: X}
        for step in ancestors(self.graph, [op.name]):
            if step in self.values and step.shape == op.shape:
                found = composed(self.graph, step, known)
                if found is not None:
                    known[step.name] = found
        formula = str(known[op.name]) if op.name in known else ""
        return formula if formula and curve(formula) is not None else None

    def _rate(self, op: Op, before: Tensor) -> float | None:
        """k where adding c to the parameter multiplies the value by exp(k c), entry by entry, for any c."""
        if not before.numel() or not bool((before != 0).all()):
            return None
        rates = []
        for size in (0.7, -1.0):
            moved = size * torch.linspace(0.3, 1.1, before.numel(), dtype=torch.float64).reshape(before.shape)
            after = self.run([op.name], lambda _, t, c=moved: t + c)  # type: ignore[misc]
            if after is None or not bool((after[0] / before > 0).all()):
                return None
            rates.append(torch.log(after[0] / before) / moved)
        both = torch.cat([r.reshape(-1) for r in rates])
        rate = float(both.mean())
        if not rate or not bool((both - rate).abs().max() <= CLOSE * abs(rate)):
            return None
        return round(rate, 6) if abs(rate - round(rate, 6)) <= CLOSE * abs(rate) else rate  # of 2**v it is no short number

    def _read_as_it_is(self, op: Op) -> bool:
        """Nothing but layout lies between the value and what reads it; the value itself is no mere layout, unless it is read."""
        if op.name in self.ends[next(iter(self.sources[op.name]))]:
            return True
        frontier, inner = [op.name], {o.name for o in self.values}
        while frontier:
            users = [u for n in frontier for u in self.graph.users.get(n, ()) if u.name in inner]
            if any(u.packet not in PASS for u in users):
                return False
            frontier = [u.name for u in users]
        return op.packet not in PASS

    def _bent(self, op: Op) -> bool:
        """Something nonlinear happened on the way from the parameter."""
        frontier = [op]
        while frontier:
            one = frontier.pop()
            if not known_linear(one.packet) or sum(map(self.graph.varies, one.inputs)) > 1:
                return True
            frontier += [self.graph.by_name[n] for n in one.inputs if n in self.graph.by_name and self.graph.varies(n)]
        return False

    def rewritten(self, charts: dict[str, Chart]) -> Capture:
        """Each made weight a parameter, in the place of its direction."""
        graph, tensors = self.graph, dict(self.captured.tensors)
        dropped = {n for c in charts.values() for n in c.stored}
        parameters: dict[str, str] = {}
        shapes, dtypes = dict(graph.shapes), dict(graph.dtypes)
        for value, name in graph.parameters.items():
            if name not in dropped:
                parameters[value] = name
            for made, chart in charts.items():
                if chart.direction == name and made not in parameters:
                    parameters[made] = chart.weight
                    shapes[made], dtypes[made] = graph.by_name[made].shape or (), graph.by_name[made].dtype
                    tensors[made] = tensors[value].new_empty(shapes[made], device="meta")
        kept = [op for op in graph.ops if op.name not in charts]
        needed = {n for n in graph.outputs}
        for op in reversed(kept):
            if op.name in needed:
                needed.update(op.inputs)
        ops = tuple(op for op in kept if op.name in needed or not self.sources.get(op.name, frozenset()) & dropped)
        new = replace(graph, ops=ops, parameters=parameters, shapes=shapes, dtypes=dtypes)
        return replace(self.captured, graph=new, tensors=tensors)

    # --- what has no effect -------------------------------------------------------------------------------------------
    def without_effect(self) -> list[Symmetry]:
        """Scales of a parameter, slice by slice along some axis or as a whole, that no value made of it shows."""
        found = []
        for value, name in self.graph.parameters.items():
            ends = sorted(self.ends[name])
            if not ends or set(ends) & set(self.graph.parameters) or not any(self._bent(self.graph.by_name[e]) for e in ends):
                continue  # read as it is, perhaps under the other name of a tied tensor: any scale shows
            before, shape = self.run(ends), self.graph.shapes[value]
            if before is None:
                continue
            for axis in self._axes(shape):
                after = self.run(ends, lambda n, t, a=axis, mine=name: t * _factors(t, a) if n == mine else t)  # type: ignore[misc]
                if after is not None and all(_close(x, y) for x, y in zip(before, after, strict=True)):
                    found.append(lengths(name, axis, 1 if axis is None else shape[axis], _count(shape)))
                    break
        return found

    @staticmethod
    def _axes(shape: tuple[int, ...]) -> Iterator[int | None]:
        yield from (a for a, n in enumerate(shape) if n > 1 and n < _count(shape))
        yield None


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _factors(t: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return torch.full((), 1.7, dtype=t.dtype)
    return torch.linspace(0.6, 1.9, t.shape[axis], dtype=t.dtype).reshape([-1 if a == axis else 1 for a in range(t.dim())])


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= CLOSE * (1.0 + b.abs().max())) if a.numel() else False


def _count(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _called(direction: str) -> str:
    """The name that the weight has in the module, for a parametrised one; else the parameter's own."""
    for mark in (".parametrizations.", "parametrizations."):
        if mark in direction:
            module, _, rest = direction.partition(mark)
            return f"{module}.{rest.split('.')[0]}" if module else rest.split(".")[0]
    return direction.removesuffix("_v") if direction.endswith("_v") else f"made({direction})"


