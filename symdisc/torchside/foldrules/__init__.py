"""What each kind of operator does to units. Rules read and write the labels of a ``Folder`` and append facts to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from symdisc.opgraph import Op, Ref
from symdisc.torchside.foldrules.attention import attention, baddbmm, group_norm, layer_norm, matmul, softmax
from symdisc.torchside.foldrules.einsum import einsum, stacked_matmul
from symdisc.torchside.foldrules.elementwise import elementwise
from symdisc.torchside.foldrules.layout import cat, masked_fill, maximum, pool, upsample, where
from symdisc.torchside.foldrules.selection import compare, extreme, gathered, order, paste, scatter, scatter_add
from symdisc.torchside.foldrules.sums import add, mul, reduce
from symdisc.torchside.foldrules.weights import addmm, convolution, embedding, linear

__all__ = ["RULES", "elementwise"]


def _aten(rule: Callable[..., None], *names: str) -> dict[str, Callable[..., None]]:
    return {f"aten.{n}": rule for n in names}


def _matmul(f: Any, op: Op) -> None:
    """A weight stacked along a third axis first, then what two axes are enough for."""
    act, weight = (a.name if isinstance(a, Ref) else "" for a in op.args[:2])
    if (f.moves(act) or not f.graph.varies(act)) and f.graph.varies(weight) and not f.moves(weight) and stacked_matmul(f, op, act, weight):
        return
    matmul(f, op)


def _larger(f: Any, op: Op) -> None:
    """max and min: of two tensors entry by entry, or of one along an axis."""
    (maximum if op.target.endswith(".other") else extreme)(f, op)


RULES: dict[str, Callable[..., None]] = {
    **_aten(linear, "linear"), **_aten(addmm, "addmm"), **_aten(embedding, "embedding"),
    **_aten(convolution, "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **_aten(add, "add", "sub", "rsub"), **_aten(mul, "mul", "div"), **_aten(_matmul, "matmul", "bmm", "mm"),
    **_aten(einsum, "einsum"), **_aten(baddbmm, "baddbmm"),
    **_aten(reduce, "mean", "sum", "cumsum"), **_aten(cat, "cat", "stack"), **_aten(where, "where"), **_aten(masked_fill, "masked_fill"),
    **_aten(pool, *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg") for n in (1, 2, 3))),
    **_aten(upsample, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
            "upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d"),
    **_aten(attention, "scaled_dot_product_attention"), **_aten(softmax, "softmax", "_softmax", "log_softmax"),
    **_aten(layer_norm, "layer_norm", "rms_norm"), **_aten(group_norm, "group_norm"),
    **_aten(maximum, "maximum", "minimum"), **_aten(_larger, "max", "min"), **_aten(extreme, "amax", "amin", "argmax", "argmin"),
    **_aten(compare, "bitwise_not", "logical_not", "gt", "ge", "lt", "le", "eq", "ne"),
    **_aten(order, "topk", "sort"), **_aten(gathered, "index", "index_select", "gather"), **_aten(scatter, "scatter"),
    **_aten(scatter_add, "scatter_add", "scatter_reduce"), **_aten(paste, "select_scatter", "slice_scatter", "index_put"),
}
