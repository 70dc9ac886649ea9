"""Decomposition of an exported program operator by operator: each distinct call is traced once, and put in for every one like it.

``ExportedProgram.run_decompositions`` runs the whole network again under its tracers, which costs as much as the export. Where
operators write into nothing that is seen under two names, what it makes of a call depends only on the operator, on the arguments that
are no tensors and on the layouts of those that are. So one call of each kind stands in a small program, that program is decomposed,
and what its tracer made is repeated wherever such a call is. The graph is the one that ``run_decompositions`` gives.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree

from symdisc.torchside.templates import ASSERT, Call, Given, Kind, Table, Template, Unfit, has_kernel, preserved, results_of, templates

__all__ = ["decomposed", "spliced"]

READ = {"PARAMETER", "BUFFER", "CONSTANT_TENSOR", "USER_INPUT"}
MOST_KEPT = 20_000  # templates: a few kilobytes each
LIFTS = {torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default}  # of constants, which are functionalised otherwise


_kept: dict[Kind, Template] = {}  # of earlier programs with the one table that there is


def decomposed(program: ExportedProgram, table: Table, copies: Mapping[Node, Node] = MappingProxyType({})) -> tuple[Graph, ExportedProgram]:
    """The graph of ``program.run_decompositions(table)``, its operators numbered afresh and its outputs those of the model alone,
    and a program of the same inputs. ``copies`` of a node are known to do the same as it, on other tensors."""
    graph = spliced(program, table, copies)
    if graph is None:
        program.graph_module.recompile()  # copies of layers were put into its graph
        program = program.run_decompositions(dict(table))
        graph = program.graph
    specs = program.graph_signature.output_specs
    given = {spec.arg.name for spec in specs if spec.kind.name == "USER_OUTPUT" and hasattr(spec.arg, "name")}
    return _numbered(graph, given if graph is program.graph else None), program


def _numbered(graph: Graph, given: set[str] | None) -> Graph:
    """A copy of what the outputs need, without assertions and gaps in its names; of the outputs those that are ``given``."""
    for node in [n for n in graph.nodes if n.target is ASSERT]:
        graph.erase_node(node)
    graph.eliminate_dead_code()
    copy, now = Graph(), {}  # type: tuple[Graph, dict[Node, Node]]
    for node in graph.nodes:
        if node.op == "output":
            copy.output(tuple(now[n] for n in pytree.tree_leaves(node.args) if isinstance(n, Node) and (given is None or n.name in given)))
        elif node.op == "placeholder":
            now[node] = _placeholder(copy, node)
        elif node.op == "call_function":
            args, kwargs = map_arg((node.args, node.kwargs), now.__getitem__)
            now[node] = _operator(copy, node.target, args, kwargs, node.meta)
        else:  # the body of an operator that takes functions
            now[node] = copy.create_node(node.op, node.target, node.args, node.kwargs, node.name)
    return copy


def spliced(program: ExportedProgram, table: Table, copies: Mapping[Node, Node] = MappingProxyType({})) -> Graph | None:
    """The same without running the network again; None where calls cannot be taken one by one."""
    try:
        _check(program, table)
        calls, overwritten = _calls(program, copies), _overwritten(program)
        if len(_kept) > MOST_KEPT:
            _kept.clear()
        missing = {c.kind: c for c in calls.values() if c.kind not in _kept and not _stays(c.target, table)}
        if missing:
            _kept.update(zip(missing, templates(list(missing.values()), table), strict=True))
        return _written(program, calls, overwritten)
    except Unfit:
        return None


# --- which programs are fit -----------------------------------------------------------------------------------------
def _check(program: ExportedProgram, table: Table) -> None:
    """Raises Unfit unless each node reads tensors and makes new ones, with shapes that are numbers."""
    signature = program.graph_signature
    if any(spec.kind.name not in READ for spec in signature.input_specs):
        raise Unfit("an input that is no tensor")
    if any(spec.kind.name != "USER_OUTPUT" for spec in signature.output_specs):
        raise Unfit("writes into a buffer or an input")
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            if not isinstance(value, Tensor) and node.users:
                raise Unfit(f"{node.name} is no tensor and is used")
        elif node.op == "call_function":
            if node.target is not operator.getitem and not _plain(node.target, table):
                raise Unfit(str(node.target))
        elif node.op != "output":
            raise Unfit(f"{node.op} {node.target}")
        for v in pytree.tree_leaves(value):
            _check_value(v)


def _plain(target: Any, table: Table) -> bool:
    """An operator on tensors that makes new ones, or does so under another name and for no reason of the table's."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or target in LIFTS:
        return False
    return not target._schema.is_mutable or ((twin := _twin(target)) is not None and twin not in table and has_kernel(twin))


def _stays(target: Any, table: Table) -> bool:
    """The table does not take the operator apart, and it has a kernel of its own or is one of those that are kept whole."""
    return target not in table and (preserved(target) or has_kernel(target))


def _twin(target: Any) -> Any:
    """The operator that makes a new tensor where ``target`` writes into its first argument; None where that is not all it does."""
    schema, name = target._schema, target._schema.name.removeprefix("aten::")
    written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    if not name.endswith("_") or written != [True, *[False] * (len(written) - 1)] or len(schema.returns) != 1:
        return None
    packet, wanted = getattr(torch.ops.aten, name[:-1], None), _signature(schema)
    overloads = [] if packet is None else [getattr(packet, o) for o in packet.overloads()]
    # by its arguments, for names differ: pow_.Scalar is not pow.Scalar
    return next((o for o in overloads if not o._schema.is_mutable and _signature(o._schema) == wanted), None)


def _signature(schema: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in schema.arguments]


def _check_value(value: Any) -> None:
    if not isinstance(value, Tensor):
        if value is None or isinstance(value, (bool, int, float, str)):
            return
        raise Unfit("a value that is no tensor")
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_complex()
    if not plain or not all(type(n) is int for n in (*value.shape, *value.stride())):
        raise Unfit("a value that is no dense tensor of fixed shape")


# --- kinds of calls -------------------------------------------------------------------------------------------------
def _calls(program: ExportedProgram, copies: Mapping[Node, Node]) -> dict[Node, Call]:
    calls: dict[Node, Call] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target not in (operator.getitem, ASSERT):
            like = copies.get(node)
            calls[node] = _call(node) if like is None else _again(calls[like], like, node)
    return calls


def _again(call: Call, like: Node, node: Node) -> Call:
    """The call of a copy: of the same kind, on other tensors."""
    there = dict(zip(like.all_input_nodes, node.all_input_nodes, strict=True))
    return Call(call.target, call.args, call.kwargs, call.kind, [there[n] for n in call.sources], call.values)


def _call(node: Node) -> Call:
    """The call; equal kinds are turned into the same nodes."""
    call, given, constants = Call(_functional(node.target), (), {}, (), []), {}, []  # type: tuple[Call, dict[Node, int], list[str]]

    def place(a: Any) -> Any:
        if not isinstance(a, Node):
            constants.append(f"{type(a).__name__} {a!r}")  # 1, 1.0 and True are equal, but not as arguments
            return a
        if a not in given:
            given[a] = len(given)
            call.values.append(a.meta["val"])
        return Given(given[a])

    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    placed = [place(a) for a in leaves]
    if not all(isinstance(v, Tensor) for v in call.values):
        raise Unfit(f"{node.name} reads what is no tensor")
    call.args, call.kwargs = pytree.tree_unflatten(placed, spec)
    call.sources = list(given)
    call.kind = (call.target, str(spec), tuple(a.k if isinstance(a, Given) else -1 for a in placed), tuple(constants),
                 tuple(map(_layout, call.values)))
    return call


def _layout(value: Tensor) -> tuple[Any, ...]:
    return tuple(value.shape), value.stride(), value.dtype, value.device


def _functional(target: Any) -> Any:
    return _twin(target) if target._schema.is_mutable else target


# --- the graph ------------------------------------------------------------------------------------------------------
def _placeholder(graph: Graph, node: Node) -> Node:
    new = graph.placeholder(node.name)
    new.name, new.meta = node.name, node.meta  # fx would call "input" something else
    return new


def _operator(graph: Graph, target: Any, args: Any, kwargs: Any, meta: dict[str, Any]) -> Node:
    """A node, called as torch's own tracers call it."""
    node = graph.create_node("call_function", target, args, kwargs, getattr(target, "overloadpacket", target).__name__)
    node.meta = meta
    return node


def _overwritten(program: ExportedProgram) -> dict[Node, list[Node]]:
    """For each node that writes into its first argument, what stands for that tensor. Raises Unfit where a view of it was taken before,
    where it was given, and where the new numbers are cast to its kind."""
    found: dict[Node, list[Node]] = {}
    names: dict[Any, list[Node]] = {}  # nodes that stand for one piece of memory
    for node in program.graph.nodes:
        value = node.meta.get("val")
        memory = value.untyped_storage()._cdata if isinstance(value, Tensor) else None
        if node.op == "call_function" and node.target is not operator.getitem and node.target._schema.is_mutable:
            made, *later = names.get(memory, [node])
            views = [n for n in later if n not in found]
            if any(n.meta["val"].dtype != value.dtype for n in node.all_input_nodes):
                raise Unfit(f"{node.name} writes numbers of another kind")
            if node.args[0] not in (made, *later) or made.op != "call_function" or made.target is operator.getitem or views:
                raise Unfit(f"{node.name} writes into what has other names")
            found[node] = [made, *later]
        if memory is not None:
            names.setdefault(memory, []).append(node)
    return found


def _written(program: ExportedProgram, calls: Mapping[Node, Call], overwritten: Mapping[Node, list[Node]]) -> Graph:
    graph, now = Graph(), {}  # type: tuple[Graph, dict[Node, Any]]
    for node in program.graph.nodes:
        if node.op == "placeholder":
            now[node] = _placeholder(graph, node)
        elif node.op == "output":
            graph.output(tuple(now[n] for n in pytree.tree_leaves(node.args) if isinstance(n, Node)))
        elif node.target is operator.getitem:
            now[node] = now[node.args[0]][node.args[1]]
        elif node.target is not ASSERT:
            results = _put(graph, node, calls[node], now)
            now[node] = results if isinstance(node.meta["val"], (tuple, list)) else results[0]
            now.update(dict.fromkeys(overwritten.get(node, []), now[node]))
            if any(_layout(r.meta["val"]) != _layout(v) for r, v in zip(results, results_of(node.meta["val"]), strict=True)):
                raise Unfit(f"{node.name} is laid out in another way than when it was traced")
    return graph


def _itself(call: Call, value: Any) -> Template:
    """For an operator that stays."""
    nodes = [(call.target, call.args, call.kwargs, value)]
    if not isinstance(value, (tuple, list)):
        return Template(nodes, [Given(0, True)])
    nodes += [(operator.getitem, (Given(0, True), k), {}, part) for k, part in enumerate(value)]
    return Template(nodes, [Given(k + 1, True) for k in range(len(value))])


def _put(graph: Graph, node: Node, call: Call, now: Mapping[Node, Any]) -> list[Node]:
    """The nodes of one call; its results."""
    template = _kept.get(call.kind) or _itself(call, node.meta["val"])
    made: list[Node] = []

    def at(a: Any) -> Any:
        if not isinstance(a, Given):
            return a
        return made[a.k] if a.made else now[call.sources[a.k]]

    for target, args, kwargs, value in template.nodes:
        args, kwargs = map_aggregate((args, kwargs), at)  # type: ignore[arg-type]
        made.append(_operator(graph, target, args, kwargs, {"val": value, "nn_module_stack": node.meta.get("nn_module_stack")}))
    return [at(g) for g in template.results]
