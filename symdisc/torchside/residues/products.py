"""Products of two values: dense and convolutional layers, matrix products, attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from symdisc.laws import analytic
from symdisc.laws.jets import Node
from symdisc.opgraph import Op
from symdisc.torchside.residues.moving import NOTHING, Moved, take
from symdisc.torchside.residues.run import Run, Sampled, refuse, residues_of, spread, without_infinities

__all__ = ["PRODUCTS", "patches", "softmax"]

LETTERS = "abcdefghijklm"  # of axes that go together; n to z are for contractions


def _shape(node: Node) -> tuple[int, ...]:
    return node.value.shape[3:]


def matmul(run: Run, a: Node, b: Node) -> Node:
    """As torch.matmul, leading axes broadcast."""
    one, two = _shape(a), _shape(b)
    lead = tuple(max(x, y) for x, y in zip_longest(one[:-2][::-1], two[:-2][::-1], fillvalue=1))[::-1]
    a = run.broadcast(a, (*lead, *one[-2:])) if len(one) > 1 else a
    b = run.broadcast(b, (*lead, *two[-2:])) if len(two) > 1 else b
    group = LETTERS[: len(lead)]
    left = f"{group}np" if len(one) > 1 else "p"
    right = f"{group}pq" if len(two) > 1 else "p"
    out = group + ("n" if len(one) > 1 else "") + ("q" if len(two) > 1 else "")
    return run.tape.einsum(f"{left},{right}->{out}", a, b)


def _linear(run: Run, op: Op) -> Node:
    x, weight = run.node(op.args[0]), run.node(op.args[1])
    lead = LETTERS[: len(_shape(x)) - 1]
    h = run.tape.einsum(f"{lead}p,qp->{lead}q", x, weight)
    bias = op.args[2] if len(op.args) > 2 else dict(op.kwargs).get("bias")
    return h if bias is None else run.tape.add(h, run.node(bias, _shape(h)))


def _plain(run: Run, op: Op) -> Node:
    return matmul(run, run.node(op.args[0]), run.node(op.args[1]))


def _added(run: Run, op: Op) -> Node:
    """beta input + alpha a b."""
    options = dict(op.kwargs)
    product = matmul(run, run.node(op.args[1]), run.node(op.args[2]))
    first = run.node(op.args[0], _shape(product))
    scaled = (_times_number(run, node, options.get(name, 1)) for node, name in ((product, "alpha"), (first, "beta")))
    return run.tape.add(*scaled)


def _times_number(run: Run, node: Node, factor: float | int) -> Node:
    return node if factor == 1 else run.tape.scale(node, int(residues_of(np.array(float(factor)), run.prime)))


def _einsum(run: Run, op: Op) -> Node:
    spec, operands = str(op.args[0]).replace(" ", ""), op.args[1]
    if len(operands) != 2 or "." in spec or "->" not in spec:
        raise refuse(op)
    left, right, out = [*spec.split("->")[0].split(","), spec.split("->")[1]]
    fits = all(len(set(w)) == len(w) for w in (left, right)) and set(left) <= set(right) | set(out) and set(right) <= set(left) | set(out)
    if not fits:
        raise refuse(op)
    return run.tape.einsum(spec, run.node(operands[0]), run.node(operands[1]))


# --- convolutions ---------------------------------------------------------------------------------------------------------------
def _tuple(value: Any, n: int) -> tuple[int, ...]:
    return (int(value),) * n if isinstance(value, int) else tuple(int(v) for v in (value * n if len(value) == 1 else value))


def patches(shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
            dilation: tuple[int, ...]) -> Moved:
    """Windows of the last axes: [*lead, *out, *kernel] positions in ``shape``, nothing where a window hangs over."""
    n = len(kernel)
    positions = torch.arange(1, math.prod(shape) + 1).reshape(shape)
    positions = torch.nn.functional.pad(positions, [p for k in reversed(padding) for p in (k, k)])
    for k in range(n):
        axis = len(shape) - n + k
        positions = positions.unfold(axis, (kernel[k] - 1) * dilation[k] + 1, stride[k])[..., :: dilation[k]]
    return Moved(positions.numpy() - 1 if NOTHING == -1 else positions.numpy(), math.prod(shape))


def _conv(run: Run, op: Op) -> Node:
    x, weight = run.node(op.args[0]), run.node(op.args[1])
    kernel = _shape(weight)[2:]
    n = len(kernel)
    options = dict(zip(("stride", "padding", "dilation", "groups"), op.args[3:], strict=False)) | dict(op.kwargs)
    if options.get("transposed") or isinstance(options.get("padding"), str) or len(_shape(x)) != n + 2:
        raise refuse(op)
    stride, padding, dilation = (_tuple(options.get(k, d), n) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
    groups = int(options.get("groups", 1))
    windows = take(run.tape, x, patches(_shape(x), kernel, stride, padding, dilation))
    batch, channels, *rest = _shape(windows)
    out, taps = tuple(rest[:n]), math.prod(kernel)
    windows = reshaped(run, windows, (batch, groups, channels // groups, math.prod(out), taps))
    filters = reshaped(run, weight, (groups, _shape(weight)[0] // groups, channels // groups, taps))
    h = reshaped(run, run.tape.einsum("bgcop,gmcp->bgmo", windows, filters), (batch, _shape(weight)[0], *out))
    bias = op.args[2] if len(op.args) > 2 else options.get("bias")
    if bias is None:
        return h
    return run.tape.add(h, run.broadcast(reshaped(run, run.node(bias), (_shape(weight)[0], *(1,) * n)), _shape(h)))


def reshaped(run: Run, node: Node, shape: tuple[int, ...]) -> Node:
    own = _shape(node)
    return run.tape.linear(node, lambda v: v.reshape(*v.shape[:3], *shape), lambda bar: bar.reshape(*bar.shape[:3], *own))


# --- attention ------------------------------------------------------------------------------------------------------------------
def softmax(run: Run, scores: Node, axis: int, dead: np.ndarray | None = None) -> Node:
    """exp / sum of exp along an axis; dead entries, [*shape] or [B, *shape], count as exp(minus infinity)."""
    tape, shape = run.tape, _shape(scores)
    axis %= len(shape)
    alive = None
    if dead is not None:
        batched = (~dead).astype(np.int64)[None, None] if dead.ndim == len(shape) + 1 else (~dead).astype(np.int64)[None, None, None]
        alive = tape.data(batched)
        scores = tape.times(scores, alive)
    e = analytic.exp(tape, scores)
    e = e if alive is None else tape.times(e, alive)
    names = LETTERS[: len(shape)]
    rest = names[:axis] + names[axis + 1 :]
    total = tape.einsum(f"{names},{names[axis]}->{rest}", e, tape.constant(np.ones(shape[axis])))
    return tape.einsum(f"{names},{rest}->{names}", e, analytic.reciprocal(tape, total))


def _softmax(run: Run, op: Op) -> Node:
    return softmax(run, run.node(op.args[0]), int(op.args[1]), run.dead.get(op.args[0].name))


def _attention(run: Run, op: Op) -> Node:
    q, k, v = (run.node(a) for a in op.args[:3])
    options = dict(zip(("attn_mask", "dropout_p", "is_causal"), op.args[3:], strict=False)) | dict(op.kwargs)
    if options.get("dropout_p"):
        raise refuse(op)
    if options.get("enable_gqa"):
        k, v = (_repeated(run, t, _shape(q)[-3]) for t in (k, v))
    turned = _shape(k)
    moved = Moved(np.arange(math.prod(turned)).reshape(turned).swapaxes(-1, -2), math.prod(turned))
    scores = matmul(run, q, take(run.tape, k, moved))
    scale = options.get("scale")
    scores = _times_number(run, scores, _shape(q)[-1] ** -0.5 if scale is None else scale)
    shape, dead = _shape(scores), None
    if options.get("is_causal"):
        dead = ~np.tri(shape[-2], shape[-1], dtype=bool) & np.ones(shape, bool)
    if options.get("attn_mask") is not None:
        scores, dead = _masked(run, scores, options["attn_mask"])
    return matmul(run, softmax(run, scores, -1, dead), v)


def _masked(run: Run, scores: Node, arg: Any) -> tuple[Node, np.ndarray | None]:
    """Scores with a mask added to them, and the entries that it takes away."""
    mask, shape = run[arg], _shape(scores)
    if isinstance(mask, Node):
        below = run.dead.get(arg.name)
        dead = None if below is None else spread(below, shape, below.ndim > len(_shape(mask)))
        return run.tape.add(scores, run.broadcast(mask, shape)), dead
    sampled = isinstance(mask, Sampled)
    each = mask.each if sampled else mask
    if each.dtype == torch.bool:
        return scores, spread(~each.numpy(), shape, sampled)
    finite, off = without_infinities(mask)
    return run.tape.add(scores, run.node(finite, shape)), None if off is None else spread(off, shape, sampled)


def _repeated(run: Run, node: Node, heads: int) -> Node:
    """Key and value heads, each as often as query heads share it."""
    shape = _shape(node)
    index = np.arange(math.prod(shape)).reshape(shape).repeat(heads // shape[-3], axis=-3)
    return take(run.tape, node, Moved(index, math.prod(shape)))


PRODUCTS: Mapping[str, Callable[[Run, Op], Node]] = {
    **{f"aten.{n}": _plain for n in ("matmul", "mm", "bmm", "mv", "dot")},
    **{f"aten.{n}": _added for n in ("addmm", "baddbmm")},
    **{f"aten.{n}": _conv for n in ("conv1d", "conv2d", "conv3d")},
    **{f"aten.{n}": _softmax for n in ("softmax", "_softmax")},
    "aten.linear": _linear, "aten.einsum": _einsum, "aten.scaled_dot_product_attention": _attention,
}  # fmt: skip
