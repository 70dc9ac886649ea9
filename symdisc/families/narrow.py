"""Readers of a vector that fills only a part of its space: what they read along the other directions is a constant, or nothing.

A vector P y + p with P of d x e, e < d, varies in the span of P alone, and when y = gamma * x + beta comes off a centring norm, in e - 1
directions. With A orthonormal to those, W + C A^T reads C A^T (P beta + p) besides, which a bias takes away. Sums of such vectors vary
in the sum of their spans. A depends on P and gamma, so the action is not linear in the parameters, but it is exact. Embeddings that
are narrower than the stream, and input layers from few features, have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.invisible import Centred, Invisible
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.opgraph import Op
from symdisc.spaces import DenseUse, ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["narrow_readers"]

PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))


@dataclass(frozen=True)
class _Writer:
    """A linear map into the space, the centred vector that it reads if it does, and its bias."""

    use: DenseUse
    source: Centred | None
    bias: str

    @property
    def step(self) -> Through:
        source = self.source
        kind = "columns" if source is None else "centred columns"
        return Through(kind, self.use.parameter, self.use.in_axis, self.use.out_axis, rows=self.use.rows,
                       gain=source.gain if source else None, offset=source.offset if source else 0.0)

    @property
    def constants(self) -> tuple[str, str]:
        return (self.source.shift or "" if self.source else "", self.bias)


def narrow_readers(invisible: Invisible, mixed: np.ndarray, shears: Sequence[Symmetry] = ()) -> list[Symmetry]:
    """One symmetry for each weight that reads such a vector, entry by entry of its outputs.

    Where any matrix may mix the vector (its classes are among the ``mixed``) and nothing else writes it, the changes of basis that leave
    the writers alone are these already, and nothing is claimed.
    A shear x + 1 l^T x of the stream, when l is orthogonal to all that its readers see, adds -W 1 l^T to each of them and nothing that
    the writers do not have: that is counted with the ``shears`` and not here.
    """
    writes = {u.op: u for u in invisible.facts.dense if u.outs is not None and u.ins is not None and len(u.ins.shape) == 1}
    found = []
    for use in invisible.facts.dense:
        if use.ins is None or use.outs is None or not invisible.single(use.parameter) or "conv" in invisible.graph.by_name[use.op].packet:
            continue
        writers = list(_writers(invisible, use.source, writes))
        names = {w.use.parameter for w in writers if w is not None}
        if writers and None not in writers and use.parameter not in names and not _contained(invisible, use, names, mixed):
            symmetry = _symmetry(invisible, use, [w for w in writers if w is not None])
            found += [] if symmetry is None else [symmetry]
    for shear in shears:
        readers = {m.parameter for m in shear.moves if m.rep == "g^-T"}
        mine = [s for s in found if s.parameters[0] in readers]
        if mine and len(mine) == len(readers) and len({(s.moves[0].through, s.shape[1]) for s in mine}) == 1:
            one = found.index(mine[0])
            found[one] = replace(mine[0], dimension=mine[0].dimension - mine[0].shape[1], note="less what the shear of the stream contains")
    return found


def _contained(invisible: Invisible, use: DenseUse, names: set[str], mixed: np.ndarray) -> bool:
    read = invisible.classes(use.ins) if use.ins is not None else mixed[:0]
    if not np.isin(read, mixed).any():
        return False
    return all(u.parameter in names for u in invisible.facts.dense if u.outs is not None and np.isin(invisible.classes(u.outs), read).any())


def _writers(invisible: Invisible, value: str, writes: dict[str, DenseUse]) -> Iterator[_Writer | None]:
    """The linear maps whose outputs are summed to ``value``; None for a summand that is something else."""
    op = invisible.graph.by_name.get(value)
    while op is not None and op.packet in PASS:
        op = invisible.graph.by_name.get(op.inputs[0])
    if op is not None and op.packet == "aten.add" and len(op.inputs) == 2 and not op.kwargs and all(
            invisible.graph.is_activation(n) for n in op.inputs):
        for name in op.inputs:
            yield from _writers(invisible, name, writes)
        return
    use = writes.get(op.name) if op is not None else None
    yield None if op is None or use is None else _writer(invisible, op, use)


def _writer(invisible: Invisible, op: Op, use: DenseUse) -> _Writer | None:
    biases = [s for s in invisible.facts.shifts if s.op == op.name]
    whole = (invisible.graph.shape(use.source) or ())[-1:] == (invisible.classes.shape(use.parameter)[use.in_axis],)
    if len(biases) > 1 or "conv" in op.packet or not whole or any(not _plain(invisible, s, use) for s in biases):
        return None
    source = invisible.centred_source(use.source)
    aligned = source is not None and invisible.aligned(use, source.value)
    return _Writer(use, source if aligned else None, biases[0].parameter if biases else "")


def _plain(invisible: Invisible, shift: ShiftUse, use: DenseUse) -> bool:
    """The whole vector is added to all that the weight writes, in order."""
    whole = np.arange(*invisible.classes.shape(shift.parameter))
    return use.outs is not None and np.array_equal(shift.elements, whole) and np.array_equal(shift.units, use.outs)


def _symmetry(invisible: Invisible, use: DenseUse, writers: list[_Writer]) -> Symmetry | None:
    assert use.ins is not None and use.outs is not None
    shapes = [invisible.classes.shape(w.use.parameter) for w in writers]
    spanned = sum(s[w.use.in_axis] - (w.source is not None) for s, w in zip(shapes, writers, strict=True))
    constant = any(n for w in writers for n in w.constants)
    bias = invisible.classes.bias(use)
    takes = bias is not None and not bias.buffer and invisible.single(bias.parameter)
    rest = len(use.ins) - spanned - (constant and not takes)
    if rest <= 0 or len(use.ins.shape) != 1 or len({*(w.use.parameter for w in writers)}) < len(writers):
        return None
    steps, constants = tuple(w.step for w in writers), tuple(n for w in writers for n in w.constants)
    index = Index.of(np.arange(len(use.ins))[None, None, :])
    told = () if takes or not constant else constants
    moves = [Move("blind", use.parameter, use.in_axis, index, through=steps, rows=use.rows, extra=told)]
    if constant and takes:
        assert bias is not None
        moves.append(Move("blind_bias", bias.parameter, -1, Index.of(bias.elements[None, None, :]), power=-1.0, through=steps,
                          extra=constants))
    return describe_affine("direction that never varies", "outer", len(use.outs) * rest, (len(use.outs), rest), tuple(moves),
                           parameters_of(moves), [use.module], r"A^\top P = 0,\; A^\top A = 1",
                           r"W \mapsto W + C A^\top,\; b \mapsto b - C A^\top (P \beta + p)",
                           ("the weights that write the vector have full rank",))
