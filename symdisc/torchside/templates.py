"""What decomposition makes of single calls of operators: templates that are put in for every call like them.

``ExportedProgram.run_decompositions`` makes a table of all operators that torch has and runs its program twice, which takes a third of
a second of a program of one call. The same two steps, a trace that keeps composite operators whole and one that takes apart what is
asked, are one trace here. A test holds them against ``run_decompositions``, which stands in where a call cannot be traced so.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

_is_preserved: Any = None
_stay_whole: Any = None
_kept_whole: Any = None
with contextlib.suppress(ImportError):  # no part of torch's interface: where they are missing, run_decompositions does all
    from torch._export.utils import _is_preservable_cia_op as _is_preserved
    from torch._export.utils import _special_op_to_preserve_cia as _stay_whole
    from torch.export.exported_program import _override_composite_implicit_decomp as _kept_whole

__all__ = ["ASSERT", "Call", "Given", "Kind", "Table", "Template", "Unfit", "has_kernel", "preserved", "results_of", "templates"]

Table = Mapping[Any, Callable[..., Any]]
Kind = tuple[Any, ...]
# composite operators that functions of the table call
WHOLE = tuple(getattr(torch.ops.aten, name).default for name in ("layer_norm", "rms_norm", "group_norm", "linear"))
ASSERT = torch.ops.aten._assert_tensor_metadata.default  # says what the graph knows already


@dataclass(frozen=True)
class Given:
    """A place in the arguments of a call: its k-th distinct tensor, or the k-th node that the call was turned into."""

    k: int
    made: bool = False


@dataclass(frozen=True)
class Template:
    """What a call is turned into: (target, args, kwargs, value) of each node, and the places of its results."""

    nodes: list[tuple[Any, Any, Any, Any]]
    results: list[Given]


@dataclass
class Call:
    """A call of one kind: arguments with ``Given`` for tensors, and the values of these."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: Kind
    sources: list[Node]
    values: list[Tensor] = field(default_factory=list)


class Unfit(Exception):
    """The program must be run again as a whole."""


def has_kernel(target: Any) -> bool:
    """The operator is not made of others."""
    return not torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")


@cache
def preserved(target: Any) -> bool:
    """A composite operator that ``run_decompositions`` does not take apart unasked: it makes new tensors, and its schema says so."""
    return _is_preserved is not None and bool(_is_preserved(target))


class _Each(nn.Module):
    """One call of each kind, on inputs of its own."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, given: list[list[Tensor]]) -> list[list[Tensor]]:
        return [results_of(_done(c, tensors)) for c, tensors in zip(self.calls, given, strict=True)]


def _done(call: Call, tensors: list[Tensor]) -> Any:
    args, kwargs = pytree.tree_map(lambda a: tensors[a.k] if isinstance(a, Given) else a, (call.args, call.kwargs))
    return call.target(*args, **kwargs)


def results_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def templates(calls: list[Call], table: Table) -> list[Template]:
    """What ``run_decompositions`` makes of each call."""
    try:
        return _traced(calls, table)
    except Unfit:
        return _decomposed(calls, table)


def _traced(calls: list[Call], table: Table) -> list[Template]:
    """By one trace of the calls alone, with the composite operators of ``WHOLE`` kept as they are, as ``run_decompositions`` does by
    another trace of everything and with a table of all operators."""
    if _kept_whole is None:
        raise Unfit("another torch")
    whole: dict[Any, Callable[..., Any]] = {op: _stay_whole for op in WHOLE if op not in table}
    rest = dict(table)
    whole |= {op: rest.pop(op) for op in table if not has_kernel(op)}
    ends: list[list[Any]] = []

    def run(given: list[list[Tensor]]) -> list[Any]:
        ends[:] = [results_of(_done(c, tensors)) for c, tensors in zip(calls, given, strict=True)]
        return [r for results in ends for r in results]

    try:
        with torch.no_grad(), _kept_whole(whole), FakeTensorMode(), enable_python_dispatcher():
            given = [[torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in c.values] for c in calls]
            graph = make_fx(torch.func.functionalize(run), rest, "real", True)(given).graph
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise Unfit(str(error)) from error
    output = next(n for n in graph.nodes if n.op == "output")
    output.args = (tuple(pytree.tree_leaves(output.args)),)
    for node in [n for n in graph.nodes if n.target is ASSERT]:
        graph.erase_node(node)
    graph.eliminate_dead_code()
    if any(n.op not in ("placeholder", "call_function", "output") for n in graph.nodes):
        raise Unfit("a constant in a call")
    if any(torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in graph.nodes):
        raise Unfit("random numbers, which dropout draws in another way where it is not asked to by the table")
    made = _cut(graph, [len(g) for g in given], [len(e) for e in ends])
    return [_copied(t, c.values) if c.target in table else t for t, c in zip(made, calls, strict=True)]


def _copied(template: Template, values: list[Tensor]) -> Template:
    """Results that are inputs are copies of these: a function of the table makes a new tensor, as its operator does."""
    nodes, results = list(template.nodes), list(template.results)
    for k, result in enumerate(results):
        if not result.made:
            results[k] = Given(len(nodes), True)
            nodes.append((torch.ops.aten.clone.default, (result,), {}, values[result.k]))
    return Template(nodes, results)


def _decomposed(calls: list[Call], table: Table) -> list[Template]:
    """By ``run_decompositions`` itself, of a program of the calls alone."""
    given = [[torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device) for v in c.values] for c in calls]
    try:
        small = torch.export.export(_Each(calls), (given,), strict=False)
        for node in [n for n in small.graph.nodes if n.target is ASSERT]:
            small.graph.erase_node(node)
        made = [n for n in small.graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
        if [n.target for n in made] != [c.target for c in calls]:
            raise Unfit("a call that is traced as another")
        whole = small.run_decompositions(dict(table))
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise Unfit(str(error)) from error
    return _cut(whole.graph, [len(g) for g in given], [len(results_of(n.meta["val"])) for n in made])


def _cut(graph: Graph, given: list[int], results: list[int]) -> list[Template]:
    """The nodes of each call: what comes from its inputs, or leads to its results."""
    nodes = list(graph.nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    ends: list[Any] = list(nodes[-1].args[0])
    if len(inputs) != sum(given) or len(ends) != sum(results):
        raise Unfit("constants in a call")
    owner = dict(zip(inputs, (k for k, n in enumerate(given) for _ in range(n)), strict=True))
    owner |= {end: k for end, k in zip(ends, (k for k, n in enumerate(results) for _ in range(n)), strict=True)
              if isinstance(end, Node) and end not in owner}
    body = [n for n in nodes if n.op == "call_function" and n.target is not ASSERT]
    for node, beside in (*((n, n.all_input_nodes) for n in body), *((n, n.users) for n in reversed(body))):
        known = [owner[n] for n in beside if n in owner]
        if known:
            owner.setdefault(node, known[0])
    if any(n not in owner for n in body):
        raise Unfit("a node of no call")
    places: dict[Node, Given] = {}
    own: list[list[tuple[Any, Any, Any, Any]]] = [[] for _ in given]
    seen = [0] * len(given)
    for node in inputs:
        places[node] = Given(seen[owner[node]])
        seen[owner[node]] += 1
    for node in body:
        mine = own[owner[node]]
        args, kwargs = pytree.tree_map(lambda a: places[a] if isinstance(a, Node) else a, (node.args, node.kwargs))
        places[node] = Given(len(mine), True)
        mine.append((node.target, args, kwargs, node.meta.get("val")))
    at = iter(ends)
    return [Template(own[k], [places[end] if isinstance(end := next(at), Node) else _no_tensor(end) for _ in range(n)])
            for k, n in enumerate(results)]


def _no_tensor(end: Any) -> Given:
    raise Unfit(f"{end} is no tensor")
