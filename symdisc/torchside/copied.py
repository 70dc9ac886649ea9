"""Copies of modules in an exported program: the operators of the one that was traced, on the parameters of each that was not."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

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
    for number in {number for _, number in recurring.copies}:
        _check(bodies[number])
    for node, (path, number) in zip(places, recurring.copies, strict=True):
        body, first = bodies[number], recurring.firsts[number]
        ends: list[Node] = body.leave.args[0]  # type: ignore[union-attr, assignment]
        now = _paired([*body.enter.args[0], *ends[len(first.results):]], node.args[0])  # type: ignore[misc]
        copies |= _write(node, body, now, first.path, path)
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


def _write(place: Node, body: Body, now: dict[Node, Node], old: str, new: str) -> dict[Node, Node]:
    """Copies of the nodes of the body, before ``place``; ``now`` then holds them as well."""
    above = place.meta.get("nn_module_stack") or {}
    depth = len(body.enter.meta.get("nn_module_stack") or {})
    graph, stacks = place.graph, {}  # type: tuple[Any, dict[int, Any]]
    copies: dict[Node, Node] = {}
    with graph.inserting_before(place):
        for node in body.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), now.__getitem__)
            now[node] = graph.create_node("call_function", node.target, args, kwargs)
            stack = node.meta.get("nn_module_stack") or {}
            if id(stack) not in stacks:
                stacks[id(stack)] = {**above, **{key: (_moved(path, old, new), kind) for key, (path, kind) in [*stack.items()][depth:]}}
            copies[now[node]] = node
            now[node].meta = {**node.meta, "nn_module_stack": stacks[id(stack)]}
    return copies


def _moved(path: str, old: str, new: str) -> str:
    return new + path.removeprefix(old) if path == old or path.startswith(old + ".") else path


def _replace(node: Node, results: list[Node], renamed: dict[str, str]) -> None:
    for use in list(node.users):
        if use.target is not operator.getitem:
            raise Unfit("a list of results used as a whole")
        result = results[use.args[1]]  # type: ignore[index]
        renamed[use.name] = result.name
        use.replace_all_uses_with(result)
        node.graph.erase_node(use)
    node.graph.erase_node(node)
