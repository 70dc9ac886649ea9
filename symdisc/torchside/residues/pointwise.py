"""Arithmetic and activations, entry by entry; which piece of a piecewise one applies is drawn, per unit and sample.

A piecewise linear network is linear in the choice of its pieces, so that random numbers in their place span all regions at once
(arXiv:2307.00144). Where exponentials or products follow, the choices are drawn as what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from symdisc.laws import analytic
from symdisc.laws.jets import Node
from symdisc.opgraph import Op, Ref
from symdisc.torchside.residues.moving import Moved, take
from symdisc.torchside.residues.products import patches
from symdisc.torchside.residues.run import LEAST, Run, Sampled, fraction, refuse, residues_of, spread, without_infinities

__all__ = ["PIECEWISE", "POINTWISE", "drawn_shape"]

Form = Callable[[Run, Op], Node]


def _operands(run: Run, op: Op) -> tuple[Node, Node]:
    shape = op.shape
    assert shape is not None
    return run.node(op.args[0], shape), run.node(op.args[1], shape)


def _number(run: Run, value: float | int) -> int:
    return int(residues_of(np.array(float(value)), run.prime))


# --- arithmetic -----------------------------------------------------------------------------------------------------------------
def _sum(sign: int) -> Form:
    def form(run: Run, op: Op) -> Node:
        assert op.shape is not None
        parts = []
        for arg in op.args[:2]:
            value = run[arg]
            if isinstance(value, Tensor | Sampled):
                value, off = without_infinities(value)
                if off is not None:
                    run.dead[op.name] = spread(off, op.shape, isinstance(value, Sampled))
            parts.append(run.node(value, op.shape))
        factor = sign * dict(op.kwargs).get("alpha", 1)
        return run.tape.add(parts[0], parts[1] if factor == 1 else run.tape.scale(parts[1], _number(run, factor)))

    return form


def _difference_from(run: Run, op: Op) -> Node:
    """b - alpha a."""
    first = run.tape.scale(run.node(op.args[0], op.shape), _number(run, -dict(op.kwargs).get("alpha", 1)))
    return run.tape.add(first, run.node(op.args[1], op.shape))


def _product(run: Run, op: Op) -> Node:
    if not isinstance(op.args[1], Ref):
        return run.tape.scale(run.node(op.args[0]), fraction(op.args[1], run.prime))
    return run.tape.times(*_operands(run, op))


def _quotient(run: Run, op: Op) -> Node:
    if dict(op.kwargs).get("rounding_mode"):
        raise refuse(op)
    if not isinstance(op.args[1], Ref):
        return run.tape.scale(run.node(op.args[0]), pow(fraction(op.args[1], run.prime), -1, run.prime))
    a, b = _operands(run, op)
    return run.tape.times(a, analytic.reciprocal(run.tape, b))


def _power(run: Run, op: Op) -> Node:
    exponent = 2 if op.packet == "aten.square" else op.args[1]
    if isinstance(exponent, Ref) or exponent != int(exponent) or not 0 < abs(exponent) <= 8:
        raise refuse(op)
    node = run.node(op.args[0])
    total = node
    for _ in range(abs(int(exponent)) - 1):
        total = run.tape.times(total, node)
    return total if exponent > 0 else analytic.reciprocal(run.tape, total)


def _where(run: Run, op: Op) -> Node:
    assert op.shape is not None
    condition = _full(run, op.args[0], op.shape)
    return _chosen(run, condition, run.node(op.args[1], op.shape), run.node(op.args[2], op.shape))


def _filled(run: Run, op: Op) -> Node:
    assert op.shape is not None
    full, value = _full(run, op.args[1], op.shape), op.args[2]
    if isinstance(value, float | int) and value <= LEAST:
        run.dead[op.name] = full
        value = 0.0
    return _chosen(run, full, run.node(value, op.shape), run.node(op.args[0], op.shape))


def _full(run: Run, arg: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A condition as [1, *shape], or [B, *shape] where it depends on the sample."""
    sampled = isinstance(run[arg], Sampled)
    full = spread(run.mask_of(arg), shape, sampled)
    return full if sampled else full[None]


def _chosen(run: Run, condition: np.ndarray, yes: Node, no: Node) -> Node:
    """``yes`` where the condition [B, *shape] holds, else ``no``."""
    c = run.tape.data(condition.astype(np.int64)[None, None])
    return run.tape.add(no, run.tape.times(c, run.tape.add(yes, run.tape.scale(no, -1))))


def _embedding(run: Run, op: Op) -> Node:
    """Rows of a table, as a product with unit vectors."""
    table, index = run.node(op.args[0]), run[op.args[1]]
    each = index.each if isinstance(index, Sampled) else index[None]
    units = (each.numpy()[..., None] == np.arange(table.value.shape[3])).astype(np.int64)
    lead = "abcdefghijk"[: units.ndim - 2]
    return run.tape.einsum(f"{lead}n,nz->{lead}z", run.tape.data(units[None, None]), table)


# --- analytic -------------------------------------------------------------------------------------------------------------------
def _of(function: Callable[..., Node]) -> Form:
    return lambda run, op: function(run.tape, run.node(op.args[0]))


def _silu(run: Run, op: Op) -> Node:
    x = run.node(op.args[0])
    return run.tape.times(x, analytic.sigmoid(run.tape, x))


def _gelu(run: Run, op: Op) -> Node:
    x, tape = run.node(op.args[0]), run.tape
    if dict(op.kwargs).get("approximate", "none") == "none":
        return tape.times(x, analytic.normal(tape, x))
    # x (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), and (1 + tanh(u)) / 2 = sigmoid(2 u)
    cube = tape.times(tape.times(x, x), x)
    u = tape.scale(tape.add(x, tape.scale(cube, fraction(0.044715, run.prime))), _number(run, 2 * (2 / np.pi) ** 0.5))
    return tape.times(x, analytic.sigmoid(tape, u))


def _softplus(run: Run, op: Op) -> Node:
    if any(a != 1 for a in op.args[1:2]):
        raise refuse(op)
    return analytic.softplus(run.tape, run.node(op.args[0]))


# --- piecewise ------------------------------------------------------------------------------------------------------------------
def _drawn(run: Run, op: Op) -> Node:
    """One random number, or one bit, per unit."""
    drawn = run.draws[f"d:{op.name}"]
    return drawn if run.multilinear[op.name] else run.tape.data(drawn.value[:, :1] & 1)


def _two_sided(run: Run, op: Op, below: int) -> Node:
    """x above, ``below`` x underneath; any number in place of the slope where that does no harm."""
    x, d = run.node(op.args[0]), _drawn(run, op)
    if not run.multilinear[op.name]:
        d = run.tape.add(run.tape.scale(d, 1 - below), run.tape.constant(np.full(x.value.shape[3:], below)))
    return run.tape.times(x, d)


def _relu(run: Run, op: Op) -> Node:
    return _two_sided(run, op, 0)


def _leaky(run: Run, op: Op) -> Node:
    return _two_sided(run, op, fraction(op.args[1] if len(op.args) > 1 else 0.01, run.prime))


def _absolute(run: Run, op: Op) -> Node:
    return _two_sided(run, op, -1)


def _elu(run: Run, op: Op) -> Node:
    """x above, alpha (exp(x) - 1) underneath."""
    if any(a != 1 for a in op.args[2:]):
        raise refuse(op)
    tape, x, d = run.tape, run.node(op.args[0]), run.tape.data(run.draws[f"d:{op.name}"].value[:, :1] & 1)
    alpha = fraction(op.args[1], run.prime) if len(op.args) > 1 else 1
    bent = tape.scale(tape.add(analytic.exp(tape, x), tape.constant(np.full(x.value.shape[3:], -1))), alpha)
    return tape.add(bent, tape.times(d, tape.add(x, tape.scale(bent, -1))))


def _larger(run: Run, op: Op) -> Node:
    a, b = _operands(run, op)
    return run.tape.add(b, run.tape.times(_drawn(run, op), run.tape.add(a, run.tape.scale(b, -1))))


def _largest(run: Run, op: Op, values: Node, allowed: np.ndarray | None = None) -> Node:
    """One of the entries along the last axis, by random numbers or a random choice."""
    drawn = run.draws[f"d:{op.name}"].value
    if not run.multilinear[op.name]:
        first = drawn[:1, :1] if allowed is None else np.where(allowed, drawn[:1, :1], -1)
        drawn = (first == first.max(axis=-1, keepdims=True)).astype(np.int64)
    elif allowed is not None:
        drawn = np.where(allowed, drawn, 0)
    names = "abcdefghijk"[: values.value.ndim - 4]
    return run.tape.einsum(f"{names}z,{names}z->{names}", values, run.tape.data(drawn))


def _amax(run: Run, op: Op) -> Node:
    x = run.node(op.args[0])
    shape = x.value.shape[3:]
    axes = op.args[1] if len(op.args) > 1 else ()
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if len(axes) != 1 or op.shape is None:
        raise refuse(op)
    index = np.moveaxis(np.arange(int(np.prod(shape))).reshape(shape), axes[0], -1)
    windows = take(run.tape, x, Moved(index.reshape(*op.shape, -1), int(np.prod(shape))))
    return _largest(run, op, windows)


def _pool(run: Run, op: Op) -> Node:
    kernel, *rest = op.args[1:]
    assert op.shape is not None
    n = int(op.packet[-2])
    options = dict(zip(("stride", "padding", "dilation", "ceil_mode"), rest, strict=False)) | dict(op.kwargs)
    if options.get("ceil_mode"):
        raise refuse(op)
    kernel = _each(kernel, n)
    stride = _each(options.get("stride") or kernel, n)
    x = run.node(op.args[0])
    windows = patches(x.value.shape[3:], kernel, stride, _each(options.get("padding", 0), n), _each(options.get("dilation", 1), n))
    flat = Moved(windows.index.reshape(*op.shape, -1), windows.size)
    return _largest(run, op, take(run.tape, x, flat), flat.index >= 0)


def _each(value: Any, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value) * (n if len(value) == 1 else 1)


PIECEWISE: Mapping[str, Form] = {
    "aten.relu": _relu, "aten.leaky_relu": _leaky, "aten.abs": _absolute, "aten.elu": _elu, "aten.maximum": _larger, "aten.amax": _amax,
    "aten.max_pool1d": _pool, "aten.max_pool2d": _pool, "aten.max_pool3d": _pool,
}  # fmt: skip
POINTWISE: Mapping[str, Form] = {
    "aten.add": _sum(1), "aten.sub": _sum(-1), "aten.rsub": _difference_from, "aten.mul": _product, "aten.div": _quotient,
    "aten.neg": lambda run, op: run.tape.scale(run.node(op.args[0]), -1),
    "aten.square": _power, "aten.pow": _power, "aten.reciprocal": _of(analytic.reciprocal), "aten.where": _where,
    "aten.masked_fill": _filled, "aten.embedding": _embedding, "aten.exp": _of(analytic.exp), "aten.tanh": _of(analytic.tanh),
    "aten.sigmoid": _of(analytic.sigmoid), "aten.silu": _silu, "aten.gelu": _gelu, "aten.softplus": _softplus,
    "aten.erf": _of(analytic.erf),
    "aten.sin": _of(lambda tape, x: analytic.circle(tape, x)[0]), "aten.cos": _of(lambda tape, x: analytic.circle(tape, x)[1]),
}  # fmt: skip


def drawn_shape(op: Op, sizes: Callable[[str], tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what is drawn for a piecewise operator: one number per unit, and per entry that a maximum looks at."""
    own = op.shape or ()
    if op.packet == "aten.amax":
        return (*own, int(np.prod(sizes(op.inputs[0]))) // max(1, int(np.prod(own))))
    if "pool" in op.packet:
        return (*own, int(np.prod(_each(op.args[1], int(op.packet[-2])))))
    return own
