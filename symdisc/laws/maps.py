"""The polynomial maps of the named shapes, each with the laws known for it; ``shapes`` has checked the sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from itertools import product as grid

import numpy as np

from symdisc.laws.closed import Law, Term
from symdisc.laws.jets import Node, Tape
from symdisc.laws.problem import CountProblem

__all__ = ["attention", "conv", "icnn", "layered", "nmf", "product", "residual"]

Values = Mapping[str, Node]
Shapes = list[tuple[str, tuple[int, ...]]]


def _hidden_law(writer: str, reader: str, bias: str | None, activation: str, letters: tuple[str, str]) -> Law:
    """Reader minus writer (and bias) on the hidden axis h: the whole matrix if linear, the diagonal if ReLU."""
    terms = [Term(1, reader, letters[0]), Term(-1, writer, letters[1])] + ([Term(-1, bias, "h")] if bias else [])
    return Law(tuple(terms), matrix="h") if activation == "linear" else Law(tuple(terms), diagonal="h")


def layered(widths: list[int], activation: str, bias: bool) -> CountProblem:
    """Dense layers: W_{i+1}^T W_{i+1} - W_i W_i^T - b_i b_i^T per hidden layer, for ReLU its diagonal (2307.00144)."""
    layers = range(1, len(widths))
    hidden = range(1, len(widths) - 1)
    parameters: Shapes = [(f"W{i}", (widths[i], widths[i - 1])) for i in layers]
    parameters += [(f"b{i}", (widths[i],)) for i in hidden] if bias else []
    inner = min(widths[0] + bias, widths[-1]) if activation == "linear" else 1
    data: Shapes = [("x", (inner, widths[0])), ("y", (inner, widths[-1])), ("one", (inner,))]
    data += [(f"d{i}", (inner, widths[i])) for i in hidden] if activation == "relu" else []

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        h = sample["x"]
        for i in layers:
            h = tape.einsum("qi,oi->qo", h, theta[f"W{i}"])
            if f"b{i}" in theta:
                h = tape.add(h, tape.einsum("q,o->qo", sample["one"], theta[f"b{i}"]))
            if f"d{i}" in sample:
                h = tape.einsum("qo,qo->qo", h, sample[f"d{i}"])
        return tape.einsum("qo,qo->", h, sample["y"])

    laws = tuple(_hidden_law(f"W{i}", f"W{i + 1}", f"b{i}" if bias else None, activation, ("oh", "hi")) for i in hidden)
    name = f"{activation} {widths}" + (" with biases" if bias else "")
    generators = widths[0] * widths[-1] if activation == "linear" and not bias else None
    return CountProblem(name, tuple(parameters), tuple(data), potential, laws, generators=generators)


def residual(width: int, hidden: list[int], activation: str, bias: bool) -> CountProblem:
    """Blocks x + U a(V x + b), composed: each keeps the laws of the block without its skip (arXiv:2506.06194)."""
    blocks = range(1, len(hidden) + 1)
    parameters: Shapes = []
    for i, h in zip(blocks, hidden, strict=True):
        parameters += [(f"V{i}", (h, width)), (f"U{i}", (width, h))] + ([(f"b{i}", (h,))] if bias else [])
    inner = width if activation == "linear" else 1
    data: Shapes = [("x", (inner, width)), ("y", (inner, width)), ("one", (inner,))]
    data += [(f"d{i}", (inner, h)) for i, h in zip(blocks, hidden, strict=True)] if activation == "relu" else []

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        x = sample["x"]
        for i in blocks:
            h = tape.einsum("qi,oi->qo", x, theta[f"V{i}"])
            if bias:
                h = tape.add(h, tape.einsum("q,o->qo", sample["one"], theta[f"b{i}"]))
            if activation == "relu":
                h = tape.einsum("qo,qo->qo", h, sample[f"d{i}"])
            x = tape.add(x, tape.einsum("qi,oi->qo", h, theta[f"U{i}"]))
        return tape.einsum("qo,qo->", x, sample["y"])

    laws = tuple(_hidden_law(f"V{i}", f"U{i}", f"b{i}" if bias else None, activation, ("oh", "hi")) for i in blocks)
    name = f"residual {activation} width {width}, hidden {hidden}" + (" with biases" if bias else "")
    return CountProblem(name, tuple(parameters), tuple(data), potential, laws)


def _gather(kernel: list[int], out: list[int]) -> np.ndarray:
    """[taps, output positions, input positions]: one where input position = output position + tap (no padding)."""
    into = [o + k - 1 for o, k in zip(out, kernel, strict=True)]
    table = np.zeros((*kernel, *out, *into), np.int64)
    for tap in grid(*(range(k) for k in kernel)):
        for at in grid(*(range(o) for o in out)):
            table[(*tap, *at, *(t + a for t, a in zip(tap, at, strict=True)))] = 1
    return table.reshape(math.prod(kernel), math.prod(out), math.prod(into))


def conv(channels: list[int], kernel: list[int], activation: str, bias: bool) -> CountProblem:
    """Convolutions without padding seen at one output position: laws as for dense layers, kernel taps summed."""
    layers, hidden = range(1, len(channels)), range(1, len(channels) - 1)
    taps = math.prod(kernel)
    sizes = {i: [1 + (len(channels) - 1 - i) * (k - 1) for k in kernel] for i in range(len(channels))}
    parameters: Shapes = [(f"W{i}", (channels[i], channels[i - 1], taps)) for i in layers]
    parameters += [(f"b{i}", (channels[i],)) for i in hidden] if bias else []
    inner = channels[-1] if activation == "linear" else 1
    data: Shapes = [("x", (inner, channels[0], math.prod(sizes[0]))), ("y", (inner, channels[-1], 1))]
    data += [(f"d{i}", (inner, channels[i], math.prod(sizes[i]))) for i in hidden] if activation == "relu" else []
    data += [(f"one{i}", (inner,)) for i in hidden] if bias else []
    gathers = {i: _gather(kernel, sizes[i]) for i in layers}

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        h = sample["x"]
        for i in layers:
            patches = tape.einsum("kts,qis->qikt", tape.constant(gathers[i]), h)
            h = tape.einsum("qikt,oik->qot", patches, theta[f"W{i}"])
            if f"b{i}" in theta:
                each = tape.einsum("q,o->qo", sample[f"one{i}"], theta[f"b{i}"])
                h = tape.add(h, tape.einsum("qo,t->qot", each, tape.constant(np.ones(math.prod(sizes[i])))))
            if f"d{i}" in sample:
                h = tape.einsum("qot,qot->qot", h, sample[f"d{i}"])
        return tape.einsum("qot,qot->", h, sample["y"])

    laws = tuple(
        _hidden_law(f"W{i}", f"W{i + 1}", f"b{i}" if bias else None, activation, ("ohk", "hik")) for i in hidden
    )
    name = f"conv {activation} channels {channels}, kernel {kernel}" + (" with biases" if bias else "")
    return CountProblem(name, tuple(parameters), tuple(data), potential, laws)


def attention(width: int, key: int, value: int, heads: int, kv_heads: int, rotary: bool) -> CountProblem:
    """One attention layer; its function depends on theta through W_Q W_K^T and W_V W_O of each head (arXiv:2506.06194).

    Laws W_Q^T W_Q - W_K^T W_K and W_V^T W_V - W_O W_O^T per key/value head, summed over the query heads that share it.
    With rotary positions only q_f conj(k_f) per frequency f enters, and one law per frequency remains.
    """
    group = heads // kv_heads
    planes = (key // 2, 2) if rotary else (key,)
    parameters: Shapes = [("WQ", (kv_heads, group, width, *planes)), ("WK", (kv_heads, width, *planes))]
    parameters += [("WV", (kv_heads, width, value)), ("WO", (kv_heads, group, value, width))]
    frequencies = planes[:1] if rotary else ()
    scores = (kv_heads, group, *frequencies, width, width)
    data: Shapes = [("score", scores), ("mix", (kv_heads, group, width, width))]
    data += [("turned", scores)] if rotary else []

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        if rotary:
            quarter = tape.einsum("gefc,ac->gefa", theta["WK"], tape.constant(np.array([[0, 1], [-1, 0]])))
            straight = tape.einsum("grfde,gefc->grdfc", sample["score"], theta["WK"])
            turned = tape.einsum("grfde,gefc->grdfc", sample["turned"], quarter)
            first = tape.einsum("grdfc,grdfc->", tape.add(straight, turned), theta["WQ"])
        else:
            first = tape.einsum("grdk,grdk->", tape.einsum("grde,gek->grdk", sample["score"], theta["WK"]), theta["WQ"])
        second = tape.einsum("grve,grve->", tape.einsum("grde,gdv->grve", sample["mix"], theta["WV"]), theta["WO"])
        return tape.add(first, second)

    if rotary:
        scoring = Law((Term(1, "WQ", "grdfc"), Term(-1, "WK", "gdfc")), diagonal="gf", compact="c")
    else:
        scoring = Law((Term(1, "WQ", "grdk"), Term(-1, "WK", "gdk")), diagonal="g", matrix="k")
    mixing = Law((Term(1, "WV", "gdv"), Term(-1, "WO", "grve")), diagonal="g", matrix="v")
    shared = "" if kv_heads == heads else f" on {kv_heads} key/value heads"
    name = f"attention width {width}, key {key}, value {value}, {heads} heads{shared}" + (", rotary" if rotary else "")
    return CountProblem(name, tuple(parameters), tuple(data), potential, (scoring, mixing))


def product(factors: int) -> CountProblem:
    """x_1 ... x_D: one field, D - 1 laws x_i^2 - x_j^2 (arXiv:2307.00144)."""
    names = [f"x{i + 1}" for i in range(factors)]

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        value = sample["c"]
        for name in names:
            value = tape.einsum("a,a->a", value, theta[name])
        return tape.einsum("a,a->", value, tape.constant(np.ones(1)))

    laws = tuple(Law((Term(1, a, "a"), Term(-1, b, "a")), diagonal="a") for a, b in pairwise(names))
    parameters = tuple((name, (1,)) for name in names)
    return CountProblem(f"product of {factors}", parameters, (("c", (1,)),), potential, laws, generators=1)


def nmf(rows: int, rank: int, columns: int, mirror: str) -> CountProblem:
    """U V^T with U [rows, rank], V [columns, rank]; the entropic mirror turns squares to sums (arXiv:2405.12888)."""

    def potential(tape: Tape, theta: Values, sample: Values) -> Node:
        return tape.einsum("ir,ir->", tape.einsum("ij,jr->ir", sample["c"], theta["V"]), theta["U"])

    parameters = (("U", (rows, rank)), ("V", (columns, rank)))
    # V counts with its own degree: sum for the entropic metric, half a sum of squares for the Euclidean one (scaled by
    # 2).
    law = {
        "entropic": Law((Term(1, "U", "ir", 1), Term(-1, "V", "jr", 1)), diagonal="r"),
        "mixed": Law((Term(2, "U", "ir", 1), Term(-1, "V", "jr", 2)), diagonal="r"),
        "none": Law((Term(1, "U", "ir"), Term(-1, "V", "jr")), matrix="r"),
    }[mirror]
    entropic = {"entropic": frozenset("UV"), "mixed": frozenset("U"), "none": frozenset()}[mirror]
    generators = 1 if rows == columns == 1 else None
    name = f"nmf {rows} x {columns} of rank {rank}, mirror {mirror}"
    return CountProblem(name, parameters, (("c", (rows, columns)),), potential, (law,), entropic, generators=generators)


def icnn(widths: list[int], bias: bool) -> CountProblem:
    """A ReLU network, its output layer positive by mirror flow: 2 sum W2 - sum W1^2 - b1^2 per unit (2405.12888)."""
    plain = layered(widths, "relu", bias)
    terms = [Term(2, "W2", "oh", 1), Term(-1, "W1", "hi")] + ([Term(-1, "b1", "h")] if bias else [])
    law = Law(tuple(terms), diagonal="h")
    return replace(
        plain, name=f"icnn {widths}" + (" with biases" if bias else ""), laws=(law,), entropic=frozenset({"W2"})
    )
