"""What operators that compute say about the lengths of their axes."""

from __future__ import annotations

from symdisc.opgraph import Op
from symdisc.sizes.atoms import Unexplained
from symdisc.sizes.walk import Axes, Rule, Walk, argument, tensors

__all__ = ["COMPUTING", "elementwise"]

DIMENSIONS = (1, 2, 3)


def elementwise(walk: Walk, op: Op) -> None:
    """One result entry for each place, operands broadcast; the rule for every operator that keeps that shape."""
    if op.shape is None:
        raise Unexplained("no rule for a result that is a tuple")
    walk.axes[op.name] = walk.broadcast(*tensors(walk, op))


def linear(walk: Walk, op: Op) -> None:
    x, w, *bias = tensors(walk, op)
    walk.unify(x[-1], w[-1])
    walk.axes[op.name] = [*x[:-1], *w[:-1]]
    for b in bias:
        walk.unify(b[0], w[0])


def _product(walk: Walk, a: Axes, b: Axes) -> Axes:
    """a @ b with batch axes broadcast."""
    if len(a) == 1 and len(b) == 1:
        walk.unify(a[0], b[0])
        return []
    if len(b) == 1:
        walk.unify(a[-1], b[0])
        return a[:-1]
    if len(a) == 1:
        walk.unify(a[0], b[-2])
        return [*b[:-2], b[-1]]
    walk.unify(a[-1], b[-2])
    return [*walk.broadcast(a[:-2], b[:-2]), a[-2], b[-1]]


def matmul(walk: Walk, op: Op) -> None:
    a, b = tensors(walk, op)
    walk.axes[op.name] = _product(walk, a, b)


def addmm(walk: Walk, op: Op) -> None:
    bias, a, b = tensors(walk, op)
    walk.axes[op.name] = walk.broadcast(_product(walk, a, b), bias)


def einsum(walk: Walk, op: Op) -> None:
    left, _, right = str(op.args[0]).replace(" ", "").partition("->")
    if not right or "." in left:
        raise Unexplained("einsum without an explicit result")
    known: dict[str, int] = {}
    for letters, axes in zip(left.split(","), tensors(walk, op), strict=True):
        for letter, a in zip(letters, axes, strict=True):
            walk.unify(known.setdefault(letter, a), a)
    walk.axes[op.name] = [known[c] for c in right]


def convolution(walk: Walk, op: Op, transposed: bool = False) -> None:
    """Channels are lengths; kernels and pixels keep their values. Weights: [groups r, c, ...], transposed [groups c, r, ...]."""
    x, w, *bias = tensors(walk, op)
    spatial, groups = len(w) - 2, int(argument(op, 6, "groups", 1))
    base = len(x) - spatial - 1  # of the channels
    walk.sizes.pin(*w[2:], *x[base + 1:])
    if groups == 1:
        into, out = (w[0], w[1]) if transposed else (w[1], w[0])
        walk.unify(x[base], into)
    else:
        count = _groups(walk, x[base], groups)
        rows = walk.sizes.product([count, walk.sizes.new(walk.sizes.value(w[0]) // groups)])
        walk.sizes.unify(w[0], rows)
        per_group = walk.sizes.product([count, w[1]])
        walk.sizes.unify(x[base], rows if transposed else per_group)
        out = per_group if transposed else w[0]
        walk.rewrites[op.name] = lambda length: {6: length(count)}
    for b in bias:
        walk.unify(b[0], out)
    assert op.shape is not None
    walk.axes[op.name] = [*x[:base], out, *walk.fresh(op.shape[base + 1:], pinned=True)]


def _groups(walk: Walk, whole: int, groups: int) -> int:
    """The atom of the number of groups in ``whole`` channels."""
    return walk.sizes.regroup([whole], [groups, walk.sizes.value(whole) // groups])[0]


def conv_transpose(walk: Walk, op: Op) -> None:
    convolution(walk, op, transposed=True)


def pooling(walk: Walk, op: Op) -> None:
    """Batch and channels stay, pixels keep their values."""
    if op.shape is None:
        raise Unexplained("no rule for a result that is a tuple")
    x = walk.axes[op.inputs[0]]
    dims = int(op.packet[-2]) if op.packet[-2].isdigit() else 2
    walk.sizes.pin(*x[len(x) - dims:])
    walk.axes[op.name] = [*x[:len(x) - dims], *walk.fresh(op.shape[len(x) - dims:], pinned=True)]


def layer_norm(walk: Walk, op: Op) -> None:
    x, *rest = tensors(walk, op)
    count = len(op.args[1])
    for r in rest:
        walk.broadcast(x, r)
    walk.axes[op.name] = x
    own = x[len(x) - count:]
    walk.rewrites[op.name] = lambda length: {1: tuple(length(a) for a in own)}


def group_norm(walk: Walk, op: Op) -> None:
    x, *rest = tensors(walk, op)
    for r in rest:
        walk.unify(r[0], x[1])
    groups = int(op.args[1])
    walk.axes[op.name] = x
    if groups > 1:
        count = _groups(walk, x[1], groups)
        walk.rewrites[op.name] = lambda length: {1: length(count)}


def reduction(walk: Walk, op: Op) -> None:
    x = walk.axes[op.inputs[0]]
    first = 2 if "norm" in op.packet else 1  # norms have their order before the axes
    dims = argument(op, first, "dim")
    keep = bool(argument(op, first + 1, "keepdim", False))
    if op.shape is None:
        raise Unexplained("no rule for a result that is a tuple")
    over = set(range(len(x))) if dims is None or dims == () else {
        int(d) % len(x) for d in (dims if isinstance(dims, (tuple, list)) else [dims])}
    walk.axes[op.name] = [walk.sizes.one if k in over else a for k, a in enumerate(x) if keep or k not in over]


def embedding(walk: Walk, op: Op) -> None:
    table, index = tensors(walk, op)
    walk.axes[op.name] = [*index, table[1]]


def attention(walk: Walk, op: Op) -> None:
    q, k, v, *mask = tensors(walk, op)
    walk.unify(q[-1], k[-1])
    walk.unify(k[-2], v[-2])
    grouped = bool(dict(op.kwargs).get("enable_gqa", False))
    if grouped:
        walk.sizes.pin(q[-3], k[-3])
    lead = walk.broadcast(q[:-2], *([] if grouped else [k[:-2], v[:-2]]))
    for m in mask:
        walk.broadcast([q[-2], k[-2]], m[-2:])
    walk.axes[op.name] = [*lead, q[-2], v[-1]]


def first_shape(walk: Walk, op: Op) -> None:
    """A result of the shape of its first operand, whatever else is given (cumulative sums, rolls)."""
    walk.axes[op.name] = list(walk.axes[op.inputs[0]])


def recurrent_cell(walk: Walk, op: Op) -> None:
    x, h, w_in, w_hidden, *biases = tensors(walk, op)
    walk.unify(x[-1], w_in[1])
    walk.unify(h[-1], w_hidden[1])
    walk.unify(w_in[0], w_hidden[0])
    for b in biases:
        walk.unify(b[0], w_in[0])
    if "rnn" in op.packet:
        walk.unify(w_in[0], h[-1])
    else:
        raise Unexplained("gates packed in one tensor")
    walk.axes[op.name] = [*walk.broadcast(x[:-1], h[:-1]), h[-1]]


ROWS: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("linear",), linear), (("matmul", "mm", "bmm"), matmul), (("addmm", "baddbmm"), addmm), (("einsum",), einsum),
    (tuple(f"conv{d}d" for d in DIMENSIONS), convolution),
    (tuple(f"conv_transpose{d}d" for d in DIMENSIONS), conv_transpose),
    (tuple(f"{kind}_pool{d}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for d in DIMENSIONS), pooling),
    (("layer_norm", "rms_norm"), layer_norm), (("group_norm",), group_norm),
    (("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp", "prod"), reduction),
    (("embedding",), embedding), (("scaled_dot_product_attention",), attention),
    (("_weight_norm",), elementwise),  # direction and size share their slices; torch's kernel does not check, and writes beyond its memory
    (("cumsum", "cumprod", "flip", "roll", "zeros_like", "ones_like", "full_like"), first_shape),
    (("rnn_tanh_cell", "rnn_relu_cell"), recurrent_cell),
)
COMPUTING: dict[str, Rule] = {f"aten.{name}": rule for names, rule in ROWS for name in names}
