"""Finds the tables of ``symdisc.normed``: embedding -> norm with eps > 0 -> gain -> shift, each of which serves this alone.

The norm is recognised by running what lies between the lookup and the gain on rows of many sizes, so one written by hand, or a constant
factor in front of it, is seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from symdisc.families.axes import SAME
from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine, describe_torus
from symdisc.families.unseen import Unseen
from symdisc.moves import Index, Move, parameters_of
from symdisc.normed import ALL, CENTRED, MODULO, Ball, size
from symdisc.opgraph import Op
from symdisc.symmetry import WITHIN, Symmetry
from symdisc.torchside.capture import Capture
from symdisc.torchside.interpret import ancestors, evaluate, wide

__all__ = ["normed_tables"]

CLOSE = 1e-10  # float64, relative, of a norm whose eps was read off its own values
LEAST = 1e-13  # a smaller eps is rounding, as the default one in float64 is
SIZES = (1e-4, 1e-2, 1.0, 10.0)  # of rows; eps is read off the first, whose squares leave it eight digits and more
MOST = 1_000_000  # entries of a value up to which the norm is run
NORMS = ("aten.layer_norm", "aten.rms_norm")  # their rules have formulas that are proved


@dataclass(frozen=True)
class _Found:
    """A table, the norm of it, the names of gain and shift (if there is one), and what stands behind them."""

    table: str
    ball: Ball
    gain: str
    shift: str | None
    value: str
    modules: tuple[str, ...]
    known: bool  # a norm whose rule has a formula


def normed_tables(captured: Capture, classes: Classes) -> list[Symmetry]:
    """For each such table what its gain and shift may do freely, and the common scale, which has a charge, by itself."""
    unseen = Unseen(classes)
    return [s for found in _Search(captured).tables() for s in _symmetries(captured, unseen, found)]


class _Search:
    def __init__(self, captured: Capture) -> None:
        self.captured, self.graph = captured, captured.graph

    def tables(self) -> Iterator[_Found]:
        for op in self.graph.ops:
            if op.packet == "aten.embedding" and op.name in self.graph.live and self._alone(op.inputs[0], op):
                found = self._behind(op)
                if found is not None:
                    yield found

    def _users(self, value: str) -> list[Op]:
        return [u for u in self.graph.users.get(value, ()) if u.name in self.graph.live]

    def _alone(self, value: str, op: Op) -> bool:
        """A parameter that this operator alone reads."""
        return value in self.graph.parameters and self._users(value) == [op] and value not in self.graph.outputs

    def _vector(self, op: Op, d: int) -> str | None:
        """The operand of a product or sum that is a stored vector of ``d`` entries and serves it alone; the other is the value."""
        names = [n for n in op.inputs if self.graph.shape(n) == (d,) and self._alone(n, op)]
        plain = len(op.inputs) == 2 and len(op.args) == 2 and not op.kwargs
        return names[0] if len(names) == 1 and plain and op.inputs[0] != op.inputs[1] else None

    def _behind(self, lookup: Op) -> _Found | None:
        d, frontier = (lookup.shape or (0,))[-1], [lookup.name]
        seen: set[str] = set()
        while frontier:  # the first product with a stored vector behind the lookup
            value = frontier.pop(0)
            for op in self._users(value):
                gain = self._vector(op, d) if op.packet == "aten.mul" and op.shape == lookup.shape else None
                source = next((n for n in op.inputs if n != gain), "")
                ball = None if gain is None else self._norm(lookup, source, op)
                if gain is not None and ball is not None:
                    return self._found(lookup, ball, op, gain, d)
                if op.name not in seen and gain is None and set(op.inputs) <= {lookup.name, *seen}:
                    seen.add(op.name)
                    frontier.append(op.name)
        return None

    def _found(self, lookup: Op, ball: Ball, product: Op, gain: str, d: int) -> _Found:
        value, users = product, self._users(product.name)
        shift = None
        if len(users) == 1 and users[0].packet == "aten.add" and users[0].shape == lookup.shape and product.name not in self.graph.outputs:
            shift = self._vector(users[0], d)
            value = product if shift is None else users[0]
        between = [op for op in ancestors(self.graph, [product.name], [lookup.name]) if op is not product and op.packet not in SAME]
        names = self.graph.parameters
        return _Found(names[lookup.inputs[0]], ball, names[gain], None if shift is None else names[shift], value.name,
                      (lookup.module, product.module), len(between) == 1 and between[0].packet in NORMS)

    def _norm(self, lookup: Op, end: str, product: Op) -> Ball | None:
        """What lies between the lookup and its product with the gain, if nothing else reads or enters it and it is such a norm."""
        graph, shape = self.graph, lookup.shape or ()
        ops = ancestors(graph, [end], [lookup.name])
        inside = {lookup.name, *(op.name for op in ops)}
        fixed = {n for op in ops for n in op.inputs} - inside
        if end == lookup.name or graph.shape(end) != shape or not 0 < int(np.prod(shape)) <= MOST or any(
                n not in self.captured.tensors or graph.roles[n] or self.captured.tensors[n].is_meta for n in fixed):
            return None
        read = all(u.name in inside or u is product for n in inside for u in self._users(n) if graph.varies(n))
        if not read or inside & set(graph.outputs) or any(u is not product for u in self._users(end)):
            return None
        g = torch.Generator().manual_seed(0)
        rows = [size * torch.randn(shape, generator=g, dtype=torch.float64) for size in SIZES]
        fixed_values = {n: wide(self.captured.tensors[n]) for n in fixed}
        try:
            with torch.no_grad():
                values = [evaluate(ops, {lookup.name: r, **fixed_values}, [end], torch.float64)[end] for r in rows]
        except (RuntimeError, TypeError, ValueError):
            return None
        return next((b for centred in (False, True) if (b := _ball(rows, values, centred)) is not None), None)


def _ball(rows: list[Tensor], values: list[Tensor], centred: bool) -> Ball | None:
    """eps with values = c / sqrt(|c|^2/d + eps) for rows of all sizes, read off the smallest."""
    c = Ball(1.0, centred).centre(rows[0]).reshape(-1, rows[0].shape[-1])[0]
    along = float(c @ values[0].reshape(-1, len(c))[0])
    eps = (float(c @ c) / along) ** 2 - float(c.square().mean()) if along > 0.0 else 0.0
    if not eps > LEAST:
        return None
    short = float(f"{eps:.8g}")
    ball = Ball(short if abs(short - eps) <= CLOSE * eps else eps, centred)
    return ball if all(float((ball.norm(r) - v).abs().max()) <= CLOSE for r, v in zip(rows, values, strict=True)) else None


# --- what they may do -------------------------------------------------------------------------------------------------
def _symmetries(captured: Capture, unseen: Unseen, found: _Found) -> Iterator[Symmetry]:
    graph, names = captured.graph, {n: v for v, n in captured.graph.parameters.items()}
    d = graph.shapes[names[found.gain]][0]
    last = len(graph.shape(found.value) or ()) - 1
    kind = ALL if not found.ball.centred else MODULO if unseen(found.value, last) else CENTRED
    if found.ball.centred and d == 1:
        return
    index, eps = Index.of(np.arange(d)[None, None, :]), found.ball.eps
    moves = [Move("normed_gain", found.gain, -1, index, rep=kind)]
    if found.shift is not None:
        moves.append(Move("normed_shift", found.shift, -1, index, rep=kind, gain=found.gain if kind == CENTRED else None))
    moves.append(Move("normed_table", found.table, 1, index, rep=kind, gain=found.gain, offset=eps,
                      extra=() if found.shift is None else (found.shift,)))
    count = size(kind, d, found.shift is not None)
    status = "proved" if found.known else "witnessed"
    note = "" if found.known else "the norm was recognised by running it"
    inside = "the element keeps every row of the table, normed, in the ball |n|^2 < d, d its size, that a norm with eps reaches"
    asked = ["the gain has no zero entry"] if found.shift is not None or kind == MODULO else []
    asked += ["the sum of 1/gain is not zero"] if kind == MODULO else []
    condition = r"\gamma' \odot n' + \beta' = \gamma \odot n + \beta" + (r" + c \mathbf{1}" if kind == MODULO else "")
    if count > 1:
        name = "gain and shift of a norm made up for by its table" if found.shift else "gain of a norm made up for by its table"
        s = describe_affine(name, "translation", count, (count,), tuple(moves), parameters_of(moves), list(found.modules), condition,
                            r"\gamma \mapsto e^s \gamma,\; \beta \mapsto \beta + u,\; n \mapsto e^{-s} (n - u/\gamma)" if found.shift else
                            r"\gamma \mapsto e^s \gamma,\; n \mapsto e^{-s} n", (inside, *asked))
        yield replace(s, status=status, note=note)
    scale = (Move("scale", found.gain, -1, Index.of(np.arange(d)[:, None, None])),
             Move("normed_scale", found.table, 1, Index.of(np.arange(d)[:, None, None]), power=-1.0, rep=kind, offset=eps))
    torus = describe_torus(1, scale, parameters_of(scale), list(found.modules), False)
    yield replace(torus, name="scale between a norm's gain and its table", status=status, assumptions=(inside,),
                  condition=r"(c \gamma) \odot (n/c) = \gamma \odot n", counts=count == 1,
                  note=note if count == 1 else WITHIN)
