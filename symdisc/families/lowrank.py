"""A product of two weights beside a weight that does the same by itself: W x + s B A x, as adapters of low rank have it.

What is done to A or B can be undone in W: A + a with W - s B a, and B + b with W - s b A. These contain whatever moves one of the two and
leaves the sum alone, so that is not claimed again. They contain the changes of basis between A and B too (a = g A, b = -B g), but with
elements that depend on the weights: the trades have no conserved quantity, the changes of basis have one. They are listed, not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move
from symdisc.opgraph import Op, Ref
from symdisc.spaces import DenseUse
from symdisc.symmetry import WITHIN, Symmetry

__all__ = ["low_rank_trades", "without_factors"]

PASS = frozenset(f"aten.{n}" for n in ("clone", "alias", "detach", "_to_copy", "to", "contiguous", "dropout"))


@dataclass(frozen=True)
class _Pair:
    """``whole`` x + scale * ``second`` (``first`` x), all three read or written in the same place."""

    whole: DenseUse
    first: DenseUse
    second: DenseUse
    scale: float


def low_rank_trades(classes: Classes) -> list[Symmetry]:
    """Two additive groups for each product beside a weight: all of A, all of B."""
    found = []
    for pair in _pairs(classes):
        found.append(_symmetry(classes, pair, pair.first, pair.second, "left"))
        if not any(s.op == pair.first.op for s in classes.facts.shifts):  # a bias of A would have to move along
            found.append(_symmetry(classes, pair, pair.second, pair.first, "right"))
    return found


def without_factors(found: Sequence[Symmetry], trades: Sequence[Symmetry]) -> list[Symmetry]:
    """``found`` less the moves that begin at a factor of ``trades``, which contain them; changes of basis of factors stay, uncounted."""
    factors = {s.parameters[0] for s in trades}
    kept = []
    for s in found:
        inside, moved = set(s.parameters) <= factors, s.family[:5] in ("trans", "outer")
        if not (moved and s.parameters[0] in factors):
            kept.append(replace(s, counts=False, note=WITHIN) if inside else s)
    return kept


def _pairs(classes: Classes) -> Iterator[_Pair]:
    graph = classes.graph
    uses = {u.op: u for u in classes.facts.dense if u.rows is None and u.ins is not None and u.outs is not None
            and "conv" not in graph.by_name[u.op].packet and len(classes.uses[u.parameter]) == 1}
    for op in graph.ops:
        names = [a.name for a in op.args[:2] if isinstance(a, Ref)]
        if op.packet != "aten.add" or op.name not in graph.live or op.kwargs or len(set(names)) != 2:
            continue
        for one, other in (names, names[::-1]):
            whole, second = _behind(classes, one, op, uses), _behind(classes, other, op, uses)
            if whole is None or second is None or whole[1] != 1.0:
                continue
            inner = _behind(classes, second[0].source, graph.by_name[second[0].op], uses)
            if inner is not None and _seen(classes, inner[0].source) == _seen(classes, whole[0].source):
                pair = _Pair(whole[0], inner[0], second[0], second[1] * inner[1])
                if len({pair.whole.parameter, pair.first.parameter, pair.second.parameter}) == 3 and _stored_plainly(pair):
                    yield pair


def _behind(classes: Classes, value: str, reader: Op, uses: dict[str, DenseUse]) -> tuple[DenseUse, float] | None:
    """(the linear map that writes ``value``, the number that it is multiplied by), if nothing but ``reader`` sees it on the way."""
    graph, scale = classes.graph, 1.0
    while value in graph.by_name and value not in graph.outputs:
        op = graph.by_name[value]
        if [u.name for u in graph.users.get(value, ()) if u.name in graph.live] != [reader.name]:
            return None
        if value in uses:
            return uses[value], scale
        number = next((a for a in op.args[:2] if isinstance(a, (int, float))), None) if op.packet == "aten.mul" else None
        if number is None and op.packet not in PASS:
            return None
        scale *= 1.0 if number is None else float(number)
        reader, value = op, next(n for n in op.inputs)
    return None


def _seen(classes: Classes, value: str) -> str:
    """The value before copies and casts."""
    op = classes.graph.by_name.get(value)
    while op is not None and op.packet in PASS:
        value = op.inputs[0]
        op = classes.graph.by_name.get(value)
    return value


def _stored_plainly(pair: _Pair) -> bool:
    """The factors are stored [out, in]; the whole may be stored either way."""
    return pair.first.out_axis == pair.second.out_axis == 0


def _symmetry(classes: Classes, pair: _Pair, moved: DenseUse, other: DenseUse, side: str) -> Symmetry:
    shape = classes.shape(moved.parameter)
    none = Index.of(np.zeros((1, 1, 1), dtype=np.int64))
    moves = (Move("outer", moved.parameter, -1, none),
             Move("product", pair.whole.parameter, pair.whole.out_axis, none, rep=side, power=-pair.scale, extra=(other.parameter,)))
    formula = (r"A \mapsto A + a,\; W \mapsto W - s B a" if side == "left" else r"B \mapsto B + b,\; W \mapsto W - s\, b A")
    return describe_affine("factor traded for the weight beside it", "translation", int(np.prod(shape)), shape, moves,
                           (moved.parameter, pair.whole.parameter), [moved.module, pair.whole.module],
                           r"(W - s B a) + s B (A + a) = W + s B A", formula)
