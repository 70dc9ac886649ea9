"""Copies of modules in an exported program: the operators of the one that was traced, on the parameters of each that was not."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import UntypedStorage
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from symdisc.torchside.recurring import COPY, ENTER, MARK, Recurring, Unfit

__all__ = ["fill"]


@dataclass
class Body:
    """The nodes of a module that was traced, from the mark with what it reads to the mark with what it makes, and reads from elsewhere."""

    enter: Node
    nodes: list[Node] = field(default_factory=list)
    leave: Node | None = None


def fill(program: ExportedProgram, recurring: Recurring) -> dict[Node, Node]:
    """Puts the operators in the places of the modules that were not traced; each such node, and the one that it is a copy of.

    Raises Unfit, with the program spoilt.
    """
    bodies, places = _found(program)
    if recurring.refused or [n.args[2] for n in places] != list(range(len(recurring.copies))):
        raise Unfit("a copy was lost, or lies in a graph of its own")
    renamed: dict[str, str] = {}
    copies: dict[Node, Node] = {}
    written = any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in program.graph.nodes)
    for number in {number for _, number in recurring.copies}:
        _check(bodies[number])
    for node, (path, number) in zip(places, recurring.copies, strict=True):
        body, first = bodies[number], recurring.firsts[number]
        ends: list[Node] = body.leave.args[0]  # type: ignore[union-attr, assignment]
        now = _paired([*body.enter.args[0], *ends[len(first.results):]], node.args[0])  # type: ignore[misc]
        memories = _memories(now, ends, node) if written else None
        copies |= _write(node, body, now, _Renaming(first.path, path, len(body.enter.meta.get("nn_module_stack") or {})), memories)
        _replace(node, [now[n] for n in ends[:len(first.results)]], renamed)
    for body in bodies.values():
        for mark in (body.enter, body.leave):
            program.graph.erase_node(mark)  # type: ignore[arg-type]
    for spec in program.graph_signature.output_specs:
        if getattr(spec.arg, "name", None) in renamed:
            spec.arg.name = renamed[spec.arg.name]
    return copies


def _found(program: ExportedProgram) -> tuple[dict[int, Body], list[Node]]:
    """What lies between marks, by number, and the places of copies."""
    bodies: dict[int, Body] = {}
    copies: list[Node] = []
    inside: Body | None = None
    for node in program.graph.nodes:
        if node.target is MARK and node.args[2] == ENTER:
            inside = bodies[node.args[1]] = Body(node)
        elif node.target is MARK:
            bodies[node.args[1]].leave, inside = node, None
        elif node.target is COPY:
            copies.append(node)
        elif inside is not None:
            inside.nodes.append(node)
    return bodies, copies


def _check(body: Body) -> None:
    """Raises Unfit where something is read that was not marked."""
    known = {*body.enter.args[0], *body.leave.args[0], *body.nodes}  # type: ignore[union-attr, misc]
    for node in body.nodes:
        if node.op != "call_function" or not known.issuperset(node.all_input_nodes):
            raise Unfit(f"{node} within a module reads what no record holds")


def _paired(here: Any, there: Any) -> dict[Node, Node]:
    if len(set(here)) != len(here) or len(here) != len(there):
        raise Unfit("one tensor read as two")
    return dict(zip(here, there, strict=True))


def _memories(now: dict[Node, Node], ends: list[Node], place: Node) -> dict[int, UntypedStorage]:
    """The memory of a copy's tensors by that of the first one's, as far as it is seen outside."""
    pairs = [*now.items(), *((ends[use.args[1]], use) for use in place.users if use.target is operator.getitem)]  # type: ignore[index]
    return {old.meta["val"].untyped_storage()._cdata: new.meta["val"].untyped_storage() for old, new in pairs}


def _on(memories: dict[int, UntypedStorage], value: Any) -> Any:
    """The value on the copy's memory: what is written into it is no other copy's."""
    if not isinstance(value, FakeTensor):
        return value
    memory = value.untyped_storage()
    if memory._cdata not in memories:
        memories[memory._cdata] = UntypedStorage(memory.nbytes(), device="meta")
    moved = torch.empty(0, dtype=value.dtype, device="meta").set_(
        memories[memory._cdata], value.storage_offset(), value.shape, value.stride())  # type: ignore[call-overload]
    return FakeTensor(value.fake_mode, moved, value.device)


@dataclass(frozen=True)
class _Renaming:
    """Paths of modules in and below ``old``, the one at ``depth``, become those of ``new``."""

    old: str
    new: str
    depth: int

    def stack(self, stack: Any, above: Any) -> dict[str, Any]:
        return {**above, **{key: (self.path(path), kind) for key, (path, kind) in [*stack.items()][self.depth:]}}

    def path(self, path: str) -> str:
        return self.new + path.removeprefix(self.old) if path == self.old or path.startswith(self.old + ".") else path


def _write(place: Node, body: Body, now: dict[Node, Node], renaming: _Renaming,
           memories: dict[int, UntypedStorage] | None) -> dict[Node, Node]:
    """Copies of the nodes of the body, before ``place``; ``now`` then holds them as well."""
    above, graph = place.meta.get("nn_module_stack") or {}, place.graph
    stacks: dict[int, Any] = {}
    copies: dict[Node, Node] = {}
    with graph.inserting_before(place):
        for node in body.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), now.__getitem__)
            now[node] = graph.create_node("call_function", node.target, args, kwargs)
            stack = node.meta.get("nn_module_stack") or {}
            if id(stack) not in stacks:
                stacks[id(stack)] = renaming.stack(stack, above)
            copies[now[node]] = node
            now[node].meta = {**node.meta, "nn_module_stack": stacks[id(stack)]}
            if memories is not None:
                now[node].meta["val"] = pytree.tree_map(lambda v: _on(memories, v), node.meta.get("val"))
    return copies


def _replace(node: Node, results: list[Node], renamed: dict[str, str]) -> None:
    for use in list(node.users):
        if use.target is not operator.getitem:
            raise Unfit("a list of results used as a whole")
        result = results[use.args[1]]  # type: ignore[index]
        renamed[use.name] = result.name
        use.replace_all_uses_with(result)
        node.graph.erase_node(use)
    node.graph.erase_node(node)
