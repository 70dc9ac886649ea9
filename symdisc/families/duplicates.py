"""Two biases that only ever enter as their sum, however often: recurrent cells add b_ih and b_hh at every step.

Element e of p and element f of q trade a constant when, at every use of p, the entry that holds e goes (through layout alone)
into additions whose other operand holds f there, and the same with p and q exchanged: p_e + t and q_f - t leave every sum alone.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.hashing import unique_pairs
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move
from symdisc.opgraph import Op, Ref
from symdisc.spaces import ShiftUse
from symdisc.symmetry import Symmetry

__all__ = ["duplicate_biases"]

LAYOUT = frozenset(f"aten.{n}" for n in (
    "view", "_unsafe_view", "reshape", "clone", "transpose", "permute", "unsqueeze", "squeeze", "alias", "detach", "contiguous",
    "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "flatten", "unflatten", "t",
)) | {"getitem"}
BIASED = frozenset(f"aten.{n}" for n in ("linear", "addmm", "conv1d", "conv2d", "conv3d"))

Element = tuple[str, int]  # parameter, flat element


def duplicate_biases(classes: Classes) -> list[Symmetry]:
    """One translation group for each pair of biases that share sums, for those used more than once (``Translations`` has the rest)."""
    partners = _partners(classes)
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for (p, e), there in partners.items():
        if len(there) != 1:
            continue
        other = next(iter(there))
        if other is None or other[0] == p or partners.get(other) != {(p, e)}:
            continue
        if (p, e) < other and len(classes.uses[p]) + len(classes.uses[other[0]]) > 2:
            pairs[(p, other[0])].append((e, other[1]))
    return [_symmetry(classes, p, q, np.array(sorted(elements))) for (p, q), elements in pairs.items()]


def _symmetry(classes: Classes, p: str, q: str, elements: np.ndarray) -> Symmetry:
    """p + t, q - t at ``elements`` [n, 2]."""
    moves = tuple(Move("add", name, -1, Index.of(elements[None, None, :, side]), power=power)
                  for side, (name, power) in enumerate(((p, 1.0), (q, -1.0))))
    n = len(elements)
    return describe_affine("translation traded between parameters", "translation", n, (n,), moves, (p, q),
                           [classes.uses[name][0].module for name in (p, q)], r"(b + t) + (b' - t) = b + b'",
                           r"b \mapsto b + t,\; b' \mapsto b' - t")


def _partners(classes: Classes) -> dict[Element, set[Element | None]]:
    """For each element of a bias what stands opposite to it in the sums that it enters; None for any other use."""
    uses = [u for name, found in classes.uses.items() if _only_bias(classes, name, found) for u in found if isinstance(u, ShiftUse)]
    if all(len(classes.uses[u.parameter]) == 1 for u in uses):
        return {}
    reached: dict[str, ShiftUse] = {}
    ends: list[tuple[ShiftUse, str, Op | None]] = []
    for use in uses:
        frontier = [use.value]
        while frontier:
            value = frontier.pop()
            reached[value] = use
            if value in classes.graph.outputs:
                ends.append((use, value, None))
            for op in classes.graph.users.get(value, ()):
                if op.name not in classes.graph.live:
                    continue
                if op.packet in LAYOUT and op.inputs == (value,):
                    frontier.append(op.name)
                else:
                    ends.append((use, value, op))
    found: dict[Element, set[Element | None]] = defaultdict(set)
    for use, value, end in ends:
        _opposite(classes, use, value, end, reached, found)
    return found


def _only_bias(classes: Classes, name: str, uses: list) -> bool:  # type: ignore[type-arg]
    """Every meeting of the parameter with activations is as the whole bias of an affine operator."""
    graph = classes.graph
    value = next((v for v, n in graph.parameters.items() if n == name), None)
    plain = all(isinstance(u, ShiftUse) and not u.buffer and u.value == u.op and u.op in graph.by_name
                and graph.by_name[u.op].packet in BIASED and len(np.unique(u.units)) == len(u.units) for u in uses)
    return value is not None and plain and classes._meetings(value) <= {u.op for u in uses}


def _opposite(classes: Classes, use: ShiftUse, value: str, end: Op | None, reached: dict[str, ShiftUse],
              found: dict[Element, set[Element | None]]) -> None:
    labels = classes.facts.labels.get(value)
    mine = dict(zip(use.units.tolist(), use.elements.tolist(), strict=True))
    other = _other_summand(end, value)
    theirs = classes.facts.labels.get(other) if other in reached else None
    if not isinstance(labels, np.ndarray):  # nothing is known of what meets what
        for e in mine.values():
            found[(use.parameter, e)].add(None)
        return
    if not isinstance(theirs, np.ndarray) or theirs.shape[-1:] != labels.shape[-1:]:
        for u in np.unique(labels).tolist():
            if u in mine:
                found[(use.parameter, mine[u])].add(None)
        return
    opposite = reached[other or ""]
    known = dict(zip(opposite.units.tolist(), opposite.elements.tolist(), strict=True))
    a, b = np.broadcast_arrays(*_compact(labels, theirs))
    for u, v in zip(*(unique_pairs(a.ravel() + 1, b.ravel() + 1) - 1).tolist(), strict=True):  # padding is -1
        if u in mine:
            found[(use.parameter, mine[u])].add((opposite.parameter, known[v]) if v in known else None)


def _compact(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without repetition along axes on which neither changes."""
    for axis in range(-1, -1 - min(a.ndim, b.ndim), -1):
        first, second = a.take([0], axis), b.take([0], axis)
        if all(x.strides[axis] == 0 or bool((x == cut).all()) for x, cut in ((a, first), (b, second))):
            a, b = first, second
    return a, b


def _other_summand(end: Op | None, value: str) -> str | None:
    """The other operand of a plain addition."""
    if end is None or end.packet != "aten.add" or end.kwargs or len(end.args) != 2:
        return None
    names = [a.name for a in end.args if isinstance(a, Ref)]
    return next((n for n in names if n != value), None) if len(names) == 2 and names.count(value) == 1 else None
