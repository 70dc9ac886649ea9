"""Linear maps of places with a skip around them: x + lambda (T y + b) with y = alpha x + beta, channel by channel.

The identity is in T and in the skip: T + s 1 adds s lambda y, so x has to come as x - s lambda y, which the layer that writes x can say
for itself: its channel c is multiplied by f = 1 - s lambda alpha and loses s lambda beta. alpha / f and beta / f keep y. Such are the
first blocks of ResMLP, where no nonlinear norm stands in front of the map of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.axes import SAME, TURNS, before, turned
from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move, parameters_of
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["identity_parts"]


@dataclass(frozen=True)
class _Branch:
    """What the branch is made of, the last first; ``order[a]`` is the axis of the sum that axis a of the value at hand is."""

    value: str
    order: tuple[int, ...]
    scale: str = ""
    mixer: DenseUse | None = None
    shift: str = ""
    gain: str = ""
    first: str = ""  # the operator of the branch that reads the stream


def identity_parts(classes: Classes) -> list[Symmetry]:
    """One number for each such block whose stream is written by one layer."""
    return [s for op in classes.graph.ops if op.packet == "aten.add" and op.name in classes.graph.live and not op.kwargs
            and len(op.inputs) == 2 and all(classes.graph.is_activation(n) for n in op.inputs)
            for skip, branch in (op.inputs, op.inputs[::-1]) for s in _block(classes, op, skip, branch)]


def _block(classes: Classes, total: Op, skip: str, branch: str) -> Iterator[Symmetry]:
    graph, written = classes.graph, _writer(classes, skip)
    if written is None or graph.shape(skip) != total.shape or graph.shape(branch) != total.shape or skip in graph.outputs:
        return
    writer, channel = written
    found = _followed(classes, _Branch(branch, tuple(range(len(total.shape or ())))), skip, channel)
    bias = classes.bias(writer)
    if found is None or found.mixer is None or not found.gain or (found.shift and (bias is None or bias.buffer)):
        return
    if {u.name for u in graph.users[skip] if u.name in graph.live} != {total.name, found.first}:
        return
    n, size = len(writer.outs if writer.outs is not None else ()), classes.shape(found.mixer.parameter)[0]
    stored = (writer.parameter, found.mixer.parameter, found.gain, found.shift, found.scale, bias.parameter if bias else "")
    names = [p for p in stored if p]
    if len(set(names)) < len(names) or not all(len(classes.uses[p]) == 1 for p in names):
        return
    part = Move("branch", found.gain, -1, Index.of(np.arange(n)[None, None, :]), power=-1.0, gain=found.scale or None, extra=(found.gain,))
    moves = [Move("add", found.mixer.parameter, -1, Index.of((np.arange(size) * (size + 1))[:, None, None])), part,
             replace(part, parameter=writer.parameter, axis=writer.out_axis, power=1.0)]
    moves += [replace(part, parameter=found.shift)] if found.shift else []
    if bias is not None:
        extra = (found.gain, found.shift) if found.shift else (found.gain,)
        moves.append(replace(part, parameter=bias.parameter, power=1.0, extra=extra))
    yield describe_affine("identity traded between a map and the skip around it", "translation", 1, (1,), tuple(moves),
                          parameters_of(moves), [found.mixer.module], r"x + \lambda T (\alpha x + \beta),\; f = 1 - t \lambda \alpha",
                          r"T \mapsto T + t 1,\; \alpha \mapsto \alpha / f,\; \beta \mapsto \beta / f,\; x \mapsto f x - t \lambda \beta",
                          ("f is not zero",))


def _writer(classes: Classes, value: str) -> tuple[DenseUse, int] | None:
    """The layer whose outputs, laid out anew and read by nothing else on the way, are ``value``, and their axis there."""
    graph = classes.graph
    for start in range(len(graph.shape(value) or ())):
        here, axis = value, start
        while (op := graph.by_name.get(here)) is not None:
            uses = [u for u in classes.facts.dense if u.op == here and u.rows is None and u.outs is not None and u.ins is not None]
            if len(uses) == 1 and axis == (1 if "conv" in op.packet else len(op.shape or ()) - 1):
                bias = [s for s in classes.facts.shifts if s.op == here]
                plain = len(bias) == (classes.bias(uses[0]) is not None) and len(bias) < 2
                return (uses[0], start) if plain and all(_in_order(classes, s) for s in bias) else None
            step = before(graph, op, axis) if op.packet in SAME | TURNS | {"aten.view", "aten.reshape", "aten.flatten"} else None
            if step is None or step[0] in graph.outputs or len([u for u in graph.users[step[0]] if u.name in graph.live]) != 1:
                break
            here, axis = step
    return None


def _in_order(classes: Classes, shift: ShiftUse) -> bool:
    return len(classes.shape(shift.parameter)) == 1 and np.array_equal(shift.elements, np.arange(len(shift.elements)))


def _followed(classes: Classes, branch: _Branch, skip: str, channel: int) -> _Branch | None:
    """The branch down to the value of the skip, each step read by nothing else."""
    graph, first = classes.graph, True
    while branch.value != skip or branch.order != tuple(range(len(branch.order))):
        op = graph.by_name.get(branch.value)
        if op is None or op.kwargs or branch.value in graph.outputs or (
                len([u for u in graph.users[branch.value] if u.name in graph.live]) != 1 and not first):
            return None
        step = _step(classes, op, branch, channel)
        if step is None:
            return None
        branch, first = replace(step, first=op.name), False
    return branch


def _step(classes: Classes, op: Op, branch: _Branch, channel: int) -> _Branch | None:
    graph = classes.graph
    acts = [n for n in op.inputs if graph.is_activation(n)]
    if len(acts) != 1:
        return None
    if op.packet in SAME:
        return replace(branch, value=acts[0])
    if op.packet in TURNS:
        turn = turned(op, len(branch.order))
        return replace(branch, value=acts[0], order=tuple(branch.order[turn.index(a)] for a in range(len(turn))))
    if op.packet == "aten.linear" and branch.mixer is None:
        uses = [u for u in classes.facts.dense if u.op == op.name]
        shape = classes.shape(uses[0].parameter) if len(uses) == 1 else ()
        square = len(shape) == 2 and shape[0] == shape[1] and uses[0].rows is None and op.inputs[0] == acts[0]
        return replace(branch, value=acts[0], mixer=uses[0]) if square and branch.order[-1] != channel else None
    name = _vector(classes, op, branch, channel)
    if name is None or op.packet not in ("aten.mul", "aten.add"):
        return None
    before_it, below = branch.mixer is None, replace(branch, value=acts[0])
    if op.packet == "aten.add":
        return None if before_it or branch.gain or branch.shift else replace(below, shift=name)
    if branch.scale if before_it else branch.gain:
        return None
    return replace(below, scale=name) if before_it else replace(below, gain=name)


def _vector(classes: Classes, op: Op, branch: _Branch, channel: int) -> str | None:
    """The parameter whose entries stand along the channels, in order, in a product or a sum with it."""
    graph = classes.graph
    other = next((n for n in op.inputs if not graph.is_activation(n)), "")
    if len(op.inputs) != 2 or other not in graph.parameters:
        return None
    shape = graph.shape(other) or ()
    axes = [a for a, n in enumerate((1,) * (len(branch.order) - len(shape)) + tuple(shape)) if n > 1]
    return graph.parameters[other] if len(axes) == 1 and branch.order[axes[0]] == channel else None
