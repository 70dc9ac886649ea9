"""BatchNorm in eval mode: scalings that would move the running mean are re-expressed in the parameters alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.axes import KEEPS
from symdisc.families.classes import Classes
from symdisc.moves import Index, Move, parameters_of
from symdisc.opgraph import Op, OpGraph
from symdisc.spaces import DenseUse, GainUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["ChannelNorm", "affine_after", "buffer_behind", "channel_norms", "split_buffers", "unused", "variance_behind"]


@dataclass(frozen=True)
class ChannelNorm:
    """A BatchNorm in eval mode with a gain and a shift of its own: per channel the class in front (``ins``) and behind (``outs``)."""

    mean: str
    variance: str
    eps: float
    gain: str
    shift: str
    ins: np.ndarray
    outs: np.ndarray


def channel_norms(classes: Classes) -> Iterator[tuple[Op, ChannelNorm]]:
    """All of them, each with the operator that takes the mean away.

    From the graph and not from recorded shifts: a mean that is zero, as in a fresh network, shifts nothing.
    """
    for sub in classes.graph.ops:
        if sub.packet == "aten.sub" and len(sub.inputs) == 2 and sub.name in classes.graph.live:
            norm = _channel_norm(classes, sub)
            if norm is not None:
                yield sub, norm


def _channel_norm(classes: Classes, sub: Op) -> ChannelNorm | None:
    mean = buffer_behind(classes, sub.inputs[1])
    after = None if mean is None else affine_after(classes, sub.name)
    if mean is None or after is None or after[2] is None or after[3] is None:
        return None
    variance, eps, gain, shift = after
    assert gain is not None and shift is not None
    if any(len(classes.uses[n]) != 1 for n in (gain, shift)):
        return None  # a shared norm has several streams
    use = classes.uses[gain][0]
    if not isinstance(use, GainUse) or use.offset or not np.array_equal(np.sort(use.elements), np.arange(len(use.elements))):
        return None
    order = np.argsort(use.elements)
    ins, outs = classes(use.ins)[order], classes(use.outs)[order]
    return ChannelNorm(mean, variance, eps, gain, shift, ins, outs) if len(np.unique(outs)) == len(outs) else None


def split_buffers(classes: Classes, symmetries: list[Symmetry]) -> list[Symmetry]:
    """Each scaling that moves a running mean becomes one on parameters alone (and one on statistics that is not counted)."""
    result = []
    for s in symmetries:
        if s.family == "scale" and s.note == "moves running statistics":
            result += _split(classes, s)
        else:
            result.append(s)
    return result


def _split(classes: Classes, s: Symmetry) -> list[Symmetry]:
    graph = classes.graph
    buffers = set(graph.buffers.values())
    means = [m for m in s.moves if m.parameter in buffers]
    if len(means) > 1:
        return [_read_by_several(classes, s, means)]
    mean = means[0]
    sub = next(u for u in classes.facts.shifts if u.parameter == mean.parameter)
    found = affine_after(classes, sub.op)
    statistic = _statistics(s, mean, found)
    if found is None:
        return [replace(s, counts=False)]
    variance, eps, gain, shift = found
    bias = [m for m in s.moves if m.kind == "scale" and _adds_before(classes, m.parameter, sub)]
    moves = [m for m in s.moves if m.parameter not in buffers and m not in bias]
    if bias:
        moves += [Move("recentre", m.parameter, m.axis, m.index, power=m.power, extra=(mean.parameter,)) for m in bias]
    elif gain is not None and shift is not None and _powers(s, mean.parameter) == {1.0}:
        gain_move = next((m for m in s.moves if m.parameter == gain), None)
        if gain_move is None:
            return [replace(s, counts=False)]
        moves = [m for m in moves if m.parameter != shift]
        if any(m.parameter == shift for m in s.moves):
            return [replace(s, counts=False)]
        moves.append(Move("bn_shift", shift, -1, mean.index, power=gain_move.power, gain=gain, offset=eps,
                          extra=(mean.parameter, variance)))
    else:
        return [replace(s, counts=False)]
    ordered = tuple(sorted(moves, key=lambda m: (m.parameter, m.axis)))
    counted = replace(s, name="scale traded through BatchNorm", moves=ordered, parameters=parameters_of(ordered), note="",
                      assumptions=("eval mode: running statistics are constants",))
    return [counted, *statistic]


def _read_by_several(classes: Classes, s: Symmetry, means: list[Move]) -> Symmetry:
    """A stream that several norms read (pre-activation blocks, dense blocks): every gain takes the inverse, every shift what the mean
    then lacks."""
    shifts = []
    for mean in means:
        subs = [u for u in classes.facts.shifts if u.parameter == mean.parameter]
        found = affine_after(classes, subs[0].op) if len(subs) == 1 else None
        if found is None or found[2] is None or found[3] is None or _powers(s, mean.parameter) != {1.0}:
            return replace(s, counts=False)
        variance, eps, gain, shift = found
        gains = [m for m in s.moves if m.parameter == gain]
        if len(gains) != 1 or any(m.parameter == shift for m in s.moves) or len(classes.uses[shift or ""]) != 1:
            return replace(s, counts=False)
        shifts.append(Move("bn_shift", shift or "", -1, mean.index, power=gains[0].power, gain=gain, offset=eps,
                           extra=(mean.parameter, variance)))
    ordered = tuple(sorted([m for m in s.moves if m not in means] + shifts, key=lambda m: (m.parameter, m.axis)))
    return replace(s, name="scale traded through BatchNorm", moves=ordered, parameters=parameters_of(ordered), note="",
                   assumptions=("eval mode: running statistics are constants",))


def _powers(s: Symmetry, parameter: str) -> set[float]:
    return {m.power for m in s.moves if m.parameter == parameter}


def _statistics(s: Symmetry, mean: Move, found: tuple[str, float, str | None, str | None] | None) -> list[Symmetry]:
    """The scaling that training itself would follow: weights and running statistics together, gain untouched."""
    if found is None:
        return []
    variance, eps, gain, _ = found
    moves = [m for m in s.moves if m.parameter != gain]
    moves.append(Move("affine_scale", variance, -1, mean.index, power=2.0 * mean.power, offset=eps))
    ordered = tuple(sorted(moves, key=lambda m: (m.parameter, m.axis)))
    return [replace(s, name="scale of weights and running statistics", moves=ordered, parameters=parameters_of(ordered),
                    counts=False, note="moves running statistics; not counted among the parameter dimensions")]


def _adds_before(classes: Classes, parameter: str, sub: ShiftUse) -> bool:
    """The bias of the layer whose output the running mean is subtracted from, which nothing else reads."""
    op = classes.graph.by_name[sub.op]
    alone = len([u for u in classes.graph.users.get(op.inputs[0], ()) if u.name in classes.graph.live]) == 1
    return alone and any(isinstance(u, ShiftUse) and not u.buffer and u.op == op.inputs[0] for u in classes.uses.get(parameter, ()))


def affine_after(classes: Classes, sub: str) -> tuple[str, float, str | None, str | None] | None:
    """(running variance, eps, gain, shift) of the normalisation that begins with ``sub``, which takes off the running mean."""
    graph = classes.graph
    users = [u for u in graph.users.get(sub, ()) if u.name in graph.live]
    if len(users) != 1 or users[0].packet != "aten.mul":
        return None
    other = next((n for n in users[0].inputs if n != sub), None)
    variance = variance_behind(graph, other) if other else None
    if variance is None:
        return None
    gain = shift = None
    value = users[0].name
    for _ in range(2):
        after = [u for u in graph.users.get(value, ()) if u.name in graph.live]
        if len(after) != 1:
            break
        for use in classes.everything():
            if isinstance(use, DenseUse):
                continue
            if use.op == after[0].name and not getattr(use, "buffer", False):
                if isinstance(use, ShiftUse):
                    shift = use.parameter
                else:
                    gain = use.parameter
                value = after[0].name
    return variance[0], variance[1], gain, shift


def buffer_behind(classes: Classes, value: str) -> str | None:
    """The buffer of which ``value`` is a view."""
    graph = classes.graph
    while value in graph.by_name and graph.by_name[value].packet in KEEPS:
        value = graph.by_name[value].inputs[0]
    return graph.buffers.get(value)


def variance_behind(graph: OpGraph, value: str) -> tuple[str, float] | None:
    """(variance, eps) where ``value`` is ``rsqrt(variance + eps)`` of a running variance, laid out anew."""
    op = graph.by_name.get(value)
    while op is not None and op.packet in KEEPS:
        op = graph.by_name.get(op.inputs[0])
    if op is None or op.packet != "aten.rsqrt":
        return None
    total = graph.by_name.get(op.inputs[0])
    if total is None or total.packet != "aten.add" or total.inputs[0] not in graph.buffers:
        return None
    return graph.buffers[total.inputs[0]], float(total.args[1])


def unused(classes: Classes) -> list[Symmetry]:
    """Parameters that reach no output may be anything."""
    from symdisc.families.naming import describe_affine

    found = []
    for name, uses in classes.uses.items():
        if all(isinstance(u, ShiftUse) for u in uses) and name not in classes.graph.buffers.values():
            used = np.unique(np.concatenate([u.elements for u in uses if isinstance(u, ShiftUse)]))
            rest = np.setdiff1d(np.arange(int(np.prod(classes.shape(name)))), used)
            if len(rest):
                move = Move("add", name, -1, Index.of(rest[None, None, :]))
                found.append(describe_affine("unused entries", "translation", len(rest), (len(rest),), (move,), (name,),
                                             [uses[0].module], r"\partial f / \partial \theta = 0", r"\theta \mapsto \theta + t",
                                             ("inputs of the length analysed",)))
    for name in classes.graph.unused:
        shape = classes.shape(name)
        count = int(np.prod(shape))
        move = Move("outer", name, -1, Index.of(np.zeros((1, 1, 1), dtype=np.int64)))
        found.append(describe_affine("unused parameter", "free", count, shape, (move,), (name,), [name.rsplit(".", 1)[0]],
                                     r"\partial f / \partial \theta = 0", r"\theta \mapsto \theta + t"))
    return found
