"""Operators that only move entries: views, slices, concatenations. Their literals are lengths."""

from __future__ import annotations

from typing import Any

from symdisc.opgraph import Op
from symdisc.sizes.atoms import Unexplained
from symdisc.sizes.walk import Axes, Rule, Walk, argument, axis_of, tensors

__all__ = ["LAYOUT"]

END = 2**62  # slices to the end carry a number beyond this


def view(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    assert op.shape is not None
    axes = walk.sizes.regroup(x, op.shape)
    walk.axes[op.name] = axes
    walk.rewrites[op.name] = lambda length: {1: tuple(length(a) for a in axes)}


def flatten(walk: Walk, op: Op) -> None:
    assert op.shape is not None
    walk.axes[op.name] = walk.sizes.regroup(walk.axes[op.inputs[0]], op.shape)


def unflatten(walk: Walk, op: Op) -> None:
    flatten(walk, op)
    x, axes = walk.axes[op.inputs[0]], walk.axes[op.name]
    at, count = axis_of(op, 1, len(x)), len(axes) - len(x) + 1
    walk.rewrites[op.name] = lambda length: {2: tuple(length(a) for a in axes[at:at + count])}


def shaped(walk: Walk, op: Op) -> None:
    """zeros, ones, full, new_zeros, ...: a literal shape, whose lengths whatever meets it will tell."""
    assert op.shape is not None
    axes = walk.fresh(op.shape)
    position = 1 if "new_" in op.packet else 0
    walk.axes[op.name] = axes
    walk.rewrites[op.name] = lambda length: {position: tuple(length(a) for a in axes)}


def arange(walk: Walk, op: Op) -> None:
    assert op.shape is not None
    plain = op.target.endswith(".default") or (op.args[0] == 0 and (len(op.args) < 3 or op.args[2] == 1))
    axes = walk.fresh(op.shape, pinned=not plain)
    walk.axes[op.name] = axes
    position = 0 if op.target.endswith(".default") else 1
    if plain:
        walk.rewrites[op.name] = lambda length: {position: length(axes[0])}


def expand(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    assert op.shape is not None
    lead = len(op.shape) - len(x)
    axes = walk.fresh(op.shape[:lead])
    for a, n in zip(x, op.shape[lead:], strict=True):
        axes.append(a if walk.sizes.value(a) == n else walk.sizes.new(n))
    walk.axes[op.name] = axes
    walk.rewrites[op.name] = lambda length: {1: tuple(length(a) for a in axes)}


def repeat(walk: Walk, op: Op) -> None:
    x, times = walk.axes[op.inputs[0]], op.args[1]
    padded = [*[walk.sizes.one] * (len(times) - len(x)), *x]
    counts = walk.fresh(tuple(times))
    walk.axes[op.name] = [walk.sizes.product([c, a]) for c, a in zip(counts, padded, strict=True)]
    walk.rewrites[op.name] = lambda length: {1: tuple(length(c) for c in counts)}


def repeat_interleave(walk: Walk, op: Op) -> None:
    x = list(walk.axes[op.inputs[0]])
    at, count = axis_of(op, 2, len(x)), walk.sizes.new(int(op.args[1]))
    x[at] = walk.sizes.product([x[at], count])
    walk.axes[op.name] = x
    walk.rewrites[op.name] = lambda length: {1: length(count)}


def permute(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    walk.axes[op.name] = [x[int(d)] for d in op.args[1]]


def transpose(walk: Walk, op: Op) -> None:
    x = list(walk.axes[op.inputs[0]])
    a, b = (0, len(x) - 1) if op.packet == "aten.t" else (int(op.args[1]), int(op.args[2]))
    if len(x) > 1:
        x[a], x[b] = x[b], x[a]
    walk.axes[op.name] = x


def unsqueeze(walk: Walk, op: Op) -> None:
    x = list(walk.axes[op.inputs[0]])
    x.insert(int(op.args[1]) % (len(x) + 1), walk.sizes.one)
    walk.axes[op.name] = x


def squeeze(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    dims = op.args[1] if len(op.args) > 1 else tuple(range(len(x)))
    gone = {int(d) % len(x) for d in (dims if isinstance(dims, (tuple, list)) else [dims])}
    walk.axes[op.name] = [a for k, a in enumerate(x) if k not in gone or walk.sizes.value(a) != 1]


def select(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    at, index = axis_of(op, 1, len(x)), int(op.args[2])
    if index not in (0, -1):
        walk.sizes.pin(x[at])
    walk.axes[op.name] = [a for k, a in enumerate(x) if k != at]


def _bounds(n: int, start: Any, end: Any) -> tuple[int, int]:
    first = 0 if start is None else max(int(start) + n, 0) if int(start) < 0 else min(int(start), n)
    last = n if end is None or int(end) >= END else max(int(end) + n, 0) if int(end) < 0 else min(int(end), n)
    return first, max(first, last)


def slice_(walk: Walk, op: Op) -> None:
    x = list(walk.axes[op.inputs[0]])
    at = axis_of(op, 1, len(x))
    whole, n = x[at], walk.sizes.value(x[at])
    first, last = _bounds(n, argument(op, 2, "start"), argument(op, 3, "end"))
    step = int(argument(op, 4, "step", 1))
    if step != 1:
        x[at] = _strided(walk, whole, first, last, step)
        walk.axes[op.name] = x
        return
    x[at] = part = walk.sizes.between(whole, first, last)
    walk.axes[op.name] = x
    if first == 0 and last == n:
        return
    before = walk.sizes.between(whole, 0, first) if first else None
    walk.rewrites[op.name] = lambda length: {
        2: length(before) if before is not None else 0, 3: (length(before) if before is not None else 0) + length(part)}


def _strided(walk: Walk, whole: int, first: int, last: int, step: int) -> int:
    """Every ``step``-th entry: the axis is (rest, step), as interleaved rotary halves are."""
    n = walk.sizes.value(whole)
    if first >= step or last != n or n % step or walk.sizes.parts(whole)[0] == "sum":
        raise Unexplained(f"a slice of {n} with step {step} from {first}")
    if walk.sizes.parts(whole)[0] == "free":
        walk.sizes.take_apart(whole, n // step)
    *rest, period = walk.sizes.factors(whole)
    if walk.sizes.value(period) != step:
        raise Unexplained(f"a slice with step {step} of {n} = ... x {walk.sizes.value(period)}")
    walk.sizes.pin(period)
    return walk.sizes.product(rest)


def split(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    at = axis_of(op, 2, len(x))
    n, given = walk.sizes.value(x[at]), op.args[1]
    if op.packet == "aten.chunk":
        given = -(-n // int(given))
    lengths = list(given) if isinstance(given, (tuple, list)) else [min(int(given), n - s) for s in range(0, n, int(given))]
    parts, start = [], 0
    for size in lengths:
        parts.append(walk.sizes.between(x[at], start, start + int(size)))
        start += int(size)
    if not isinstance(given, (tuple, list)):
        for p in parts[1:]:
            if walk.sizes.value(p) == walk.sizes.value(parts[0]):
                walk.unify(parts[0], p)
    walk.tuples[op.name] = [[*x[:at], p, *x[at + 1:]] for p in parts]
    if op.packet != "aten.chunk":
        several = isinstance(given, (tuple, list))
        walk.rewrites[op.name] = lambda length: {1: tuple(length(p) for p in parts) if several else length(parts[0])}


def unbind(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    at = axis_of(op, 1, len(x))
    walk.sizes.pin(x[at])
    walk.tuples[op.name] = [[a for k, a in enumerate(x) if k != at] for _ in range(walk.sizes.value(x[at]))]


def getitem(walk: Walk, op: Op) -> None:
    walk.axes[op.name] = walk.tuples[op.inputs[0]][int(op.args[1])] if op.inputs[0] in walk.tuples else _missing()


def _missing() -> Axes:
    raise Unexplained("a part of a result that no rule explains")


def cat(walk: Walk, op: Op) -> None:
    parts = tensors(walk, op)
    at = axis_of(op, 1, len(parts[0]))
    for p in parts[1:]:
        for k, (a, b) in enumerate(zip(parts[0], p, strict=True)):
            if k != at:
                walk.unify(a, b)
    axes = list(parts[0])
    axes[at] = walk.sizes.sum([p[at] for p in parts])
    walk.axes[op.name] = axes


def stack(walk: Walk, op: Op) -> None:
    parts = tensors(walk, op)
    at = axis_of(op, 1, len(parts[0]) + 1)
    axes = walk.broadcast(*parts)
    number = walk.sizes.new(len(parts))
    walk.sizes.pin(number)
    axes.insert(at, number)
    walk.axes[op.name] = axes


def index(walk: Walk, op: Op) -> None:
    """Axes looked up by tables of indices, which keeps them from changing their lengths."""
    x, given = walk.axes[op.inputs[0]], op.args[1]
    places = [k for k, i in enumerate(given) if i is not None]
    if places != list(range(places[0], places[-1] + 1)):
        raise Unexplained("the indexed axes are not neighbours")
    walk.sizes.pin(*[x[k] for k in places])
    looked_up = walk.broadcast(*[walk.axes[given[k].name] for k in places])
    walk.axes[op.name] = [*x[:places[0]], *looked_up, *x[places[-1] + 1:]]


def pad(walk: Walk, op: Op) -> None:
    """Entries of a constant on both sides of the last axes."""
    x, amounts = list(walk.axes[op.inputs[0]]), op.args[1]
    for k in range(len(amounts) // 2):
        before, after = walk.fresh(tuple(int(n) for n in amounts[2 * k:2 * k + 2]), pinned=True)
        x[-1 - k] = walk.sizes.sum([before, x[-1 - k], after])
    walk.axes[op.name] = x


ROWS: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("view", "_unsafe_view", "reshape"), view), (("flatten",), flatten), (("unflatten",), unflatten),
    (("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"), shaped), (("arange",), arange),
    (("expand",), expand), (("repeat",), repeat), (("repeat_interleave",), repeat_interleave), (("permute",), permute),
    (("transpose", "t", "swapaxes"), transpose), (("unsqueeze",), unsqueeze), (("squeeze",), squeeze), (("select",), select),
    (("slice",), slice_), (("split", "split_with_sizes", "chunk"), split), (("unbind",), unbind), (("getitem",), getitem),
    (("cat",), cat), (("stack",), stack), (("index",), index), (("pad", "constant_pad_nd"), pad),
)
LAYOUT: dict[str, Rule] = {name if name == "getitem" else f"aten.{name}": rule for names, rule in ROWS for name in names}
