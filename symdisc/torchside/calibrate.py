"""Generic weights at which a deep narrow network is fully at work: every unit switches, every layer has gain one.

Independent random weights make units that rest, or never rest, for every input; in a narrow network those stand behind each
other, and the rank at such weights is far below the generic one. Here the weights are drawn layer by layer, as in
layer-sequential unit-variance initialisation (arXiv:1511.06422): matrices with a flat spectrum, running statistics as the data
give them, and the input of every nonlinearity moved and scaled, unit by unit, to where it bends. All numbers carry noise of
their own, so the draw is of an open set of weights, and what is counted there is counted at generic weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from symdisc.equivariance.branches import breakpoints
from symdisc.families.proof import operator_formula
from symdisc.opgraph import Op, Ref
from symdisc.torchside.capture import Capture
from symdisc.torchside.draws import draws
from symdisc.torchside.interpret import ancestors, call, wide

__all__ = ["calibrate"]

SAMPLES = 16  # draws of the inputs that the weights are fitted to
FIRST = 90_000  # number of the first such draw, apart from those that ranks are taken of
SPREAD = 0.3  # of singular values, deviations and means around their aim: generic, but well conditioned
INNER = (0.35, 0.15, 0.05, 0.0)  # the one bend of an operator lies between two such quantiles, from below and from above
OUTER = (0.05, 0.02, 0.0)  # two bends lie at such quantiles, the innermost that differ
STILL = 1e-9  # of the largest deviation: a unit that varies less is constant, and is left so
AFFINE = {"aten.conv1d": -2, "aten.conv2d": -3, "aten.conv3d": -4, "aten.linear": -1}  # axis of the units in the result
SAME = frozenset(f"aten.{n}" for n in ("clone", "alias", "contiguous", "detach"))
LAYOUT = SAME | frozenset(f"aten.{n}" for n in ("view", "reshape", "_unsafe_view", "unsqueeze", "expand"))
ROOTS = ("aten.rsqrt", "aten.sqrt", "aten.pow")
# between which values smooth operators bend: all they do is to be met. Where others have kinks, their formulas say
SMOOTH = {"aten.elu": (-1.0, 1.0), "aten.gelu": (-1.0, 1.0), "aten.silu": (-2.0, 2.0), "aten.tanh": (-1.0, 1.0),
          "aten.sigmoid": (-2.0, 2.0), "aten.softplus": (-2.0, 2.0)}
CLAMPS = frozenset(f"aten.{n}" for n in ("clamp", "clamp_min", "clamp_max"))  # their numbers are their kinks


def calibrate(capture: Capture, seed: int = 0) -> None:
    """Draws the weights of ``capture``, of known layers, and its running statistics anew, in place; the others stay."""
    with torch.no_grad():
        _Walk(capture, seed).run()


class _Walk:
    """The graph run operator by operator on a few draws; the weights that an operator reads are fitted before it runs."""

    def __init__(self, capture: Capture, seed: int) -> None:
        self.graph, self.tensors = capture.graph, capture.tensors
        self.saved = {**self.graph.parameters, **self.graph.buffers}
        self.generator = torch.Generator().manual_seed(seed)
        inputs = draws(self.graph, capture.example, (FIRST + 131 * seed + k for k in range(SAMPLES)))
        known = {n: wide(t) for n, t in self.tensors.items()}
        self.values: list[dict[str, Any]] = [{**known, **dict(zip(self.graph.inputs, x, strict=True))} for x in inputs]
        self.fitted: set[str] = set()
        self.flips = 0  # counted bits (Thue and Morse): no period of layers gives all readers of a channel one sign

    def run(self) -> None:
        for op in self.graph.ops:
            if op.name not in self.graph.live:
                continue
            if op.packet in AFFINE:
                self._layer(op)
            elif op.packet == "aten.einsum":
                self._contraction(op)
            elif op.packet == "aten.sub":
                self._statistic(op, torch.mean)
            elif op.packet == "aten.mul":
                self._statistic(op, torch.var)
            elif bends := _bends(op):
                self._bring(op, bends)
            self._run(op)

    def _run(self, op: Op) -> None:
        for env in self.values:
            env[op.name] = call(op, env, torch.float64)

    def _again(self, since: str, name: str) -> None:
        """The operators from ``since`` to ``name`` once more, after a weight of theirs has changed."""
        names = list(self.graph.by_name)
        for other in names[names.index(since):names.index(name) + 1]:
            if other in self.values[0]:
                self._run(self.graph.by_name[other])

    def _of(self, name: str) -> Tensor:
        """[draws, *shape]"""
        return torch.stack([env[name] for env in self.values])

    def _noise(self, like: Tensor) -> Tensor:
        return SPREAD * torch.randn(like.shape, generator=self.generator, dtype=torch.float64).clamp(-2.0, 2.0)

    def _write(self, name: str, value: Tensor) -> None:
        """The parameter or buffer behind the value ``name``, under all its names."""
        self.tensors[name].copy_(value.reshape(self.tensors[name].shape))
        for other in (n for n, c in self.saved.items() if c == self.saved[name]):
            for env in self.values:
                env[other] = self.tensors[other].double()

    def _claim(self, name: str | None) -> bool:
        """Whether the parameter or buffer is fitted here for the first time: a shared one serves its first reader."""
        canonical = self.saved.get(name or "")
        if canonical is None or canonical in self.fitted:
            return False
        self.fitted.add(canonical)
        return True

    def _layer(self, op: Op) -> None:
        """A weight of flat spectrum; the units of the result about mean zero, by the bias or else by the weight, and variance one."""
        weight, bias = _name(op, 1), _name(op, 2)
        if weight not in self.graph.parameters or not self._claim(weight):
            return
        free = bias in self.graph.parameters and self._claim(bias)
        self._write(weight, flat(self.tensors[weight].shape, self.generator))
        if free:
            self._write(bias, torch.zeros_like(self.tensors[bias]))
        elif not self._is_centred(op.name):
            self._write(weight, self._against_mean(op, weight))
        self._run(op)
        units = self._of(op.name).movedim(AFFINE[op.packet], 0).flatten(1)
        deviation = units.std(1)
        scale = torch.where(deviation > STILL * deviation.max(), 1.0 / deviation, 1.0)
        scale = scale * (1.0 + self._noise(scale))
        w = self.tensors[weight].double()
        self._write(weight, w * scale.reshape(-1, *[1] * (w.dim() - 1)))
        if free:
            self._write(bias, self._noise(scale) - units.mean(1) * scale)

    def _contraction(self, op: Op) -> None:
        """A weight of flat spectrum among the operands, the result of variance one."""
        weights = [n for n in op.inputs if n in self.graph.parameters]
        if len(weights) != 1 or len(op.inputs) < 2 or not self._claim(weights[0]):
            return
        self._write(weights[0], flat(self.tensors[weights[0]].shape, self.generator))
        self._run(op)
        self._write(weights[0], self.tensors[weights[0]].double() / self._of(op.name).std().clamp(min=STILL))

    def _is_centred(self, name: str) -> bool:
        """A running mean is taken from the value."""
        return any(op.packet == "aten.sub" and op.inputs[0] == name and not self.graph.roles[op.inputs[-1]] for op in self.graph.ops)

    def _against_mean(self, op: Op, weight: str) -> Tensor:
        """The weight of ``op``, its rows nearly orthogonal to the mean of what they are given: the derivative of the mean results."""
        total = torch.zeros_like(self.tensors[weight], dtype=torch.float64)
        w = self.tensors[weight].double()
        for env in self.values:
            with torch.enable_grad():
                leaf = w.clone().requires_grad_()
                total += torch.autograd.grad(call(op, {**env, weight: leaf}, torch.float64).sum(), leaf)[0]
        mean = total / total.flatten(1).norm(dim=1).clamp(min=1e-300).reshape(-1, *[1] * (w.dim() - 1))
        along = (w * mean).flatten(1).sum(1)
        return w - mean * (along * (1.0 + self._noise(along))).reshape(-1, *[1] * (w.dim() - 1))

    def _statistic(self, op: Op, how: Callable[..., Tensor]) -> None:
        """A running mean that is taken away, or a running variance that is divided by, as the data give it."""
        name = self._buffer(op)
        if name is None:
            return
        shape = _aligned(self.values[0][op.inputs[1]].shape, self.values[0][op.inputs[0]].dim())
        axes = [0, *(k + 1 for k, n in enumerate(shape) if n == 1)]
        found = how(self._of(op.inputs[0]), dim=axes).reshape(-1)
        if how is torch.var:
            found = torch.where(found > STILL**2 * found.max(), found, 1.0) * (1.0 + self._noise(found)).square()
        self._write(name, found)
        self._again(self._reader(name), op.inputs[1])

    def _buffer(self, op: Op) -> str | None:
        """The running statistic that alone decides the second operand of ``op``, unit by unit."""
        if len(op.inputs) != 2 or "data" not in self.graph.roles[op.inputs[0]] or self.graph.roles[op.inputs[1]]:
            return None
        divisors = [op] if op.packet == "aten.mul" else [o for o in self.graph.ops if o.packet == "aten.mul" and o.inputs[:1] == (op.name,)]
        sources = self._sources(op.inputs[1])
        if len(sources) != 1 or not any(self._is_deviation(o.inputs[-1]) for o in divisors):
            return None  # a constant of the architecture
        name = sources.pop()
        if name not in self.graph.buffers or not self.tensors[name].is_floating_point():
            return None
        return name if self.tensors[name].numel() == self.values[0][op.inputs[1]].numel() and self._claim(name) else None

    def _is_deviation(self, name: str) -> bool:
        """A root is taken on the way from what is stored to the value."""
        return any(op.packet in ROOTS for op in ancestors(self.graph, [name]))

    def _sources(self, name: str) -> set[str]:
        """Parameters, buffers, constants and inputs that a value is computed from."""
        ops = ancestors(self.graph, [name])
        return {n for op in ops for n in op.inputs if n not in self.graph.by_name} or {name}

    def _bring(self, op: Op, bends: tuple[float, ...]) -> None:
        """What ``op`` is given moved, unit by unit, to where it bends: a value near the median comes there; where it bends twice
        and nothing else is added behind the gain, one value comes to each bend.

        Nothing is done where no bias reaches the value.
        """
        name = op.inputs[0]
        knob = self._knob(name)
        if knob is None:
            return
        since, bias, gain = knob
        if gain is not None and self.tensors[gain].dim() == 1 and self._claim(gain):
            self._write(gain, self._gains(self.tensors[gain].numel()))
            self._again(self._reader(gain), name)
        axes = [k + 1 for k, n in enumerate(self._broadcast(since, bias)) if n > 1]
        seen = self._pooled(op, name).movedim(axes, list(range(len(axes))))
        units = seen.reshape(self.tensors[bias].numel(), -1).sort(1).values
        old, size = self.tensors[bias].double().reshape(-1), torch.ones(len(units), dtype=torch.float64)
        low, high = self._apart(units)
        at = low + (high - low) * (0.2 + 0.6 * torch.rand(low.shape, generator=self.generator, dtype=torch.float64))
        if len(bends) > 1 and gain is not None and self._same(name) == since and len(self.tensors[gain]) == len(units):
            low, high = self._apart(units, OUTER)
            at = (low + high) / 2
            size = (bends[-1] - bends[0]) / (high - low).clamp(min=STILL) * (1.1 + self._noise(at).abs())
            weight = self.tensors[gain].double()
            self._write(gain, weight * size.reshape(-1, *[1] * (weight.dim() - 1)))
        self._write(bias, (old - at) * size + sum(bends) / len(bends))
        self._again(self._reader(gain) if gain else since, name)

    def _gains(self, count: int) -> Tensor:
        """Both signs: behind a ReLU, a unit of positive gain and negative bias would hide that the ReLU is there."""
        signs = (-1.0) ** (torch.arange(count) + self.flips.bit_count())
        self.flips += 1
        return signs * (1.0 + self._noise(signs))

    def _apart(self, units: Tensor, quantiles: Sequence[float] = INNER) -> tuple[Tensor, Tensor]:
        """For each row of the sorted values [units, n] the innermost two quantiles that differ: a ReLU repeats one value often."""
        last, size = units.shape[1] - 1, units.abs().amax(1)
        low = high = units[:, 0]
        for q in reversed(quantiles):
            a, b = units[:, round(q * last)], units[:, round((1.0 - q) * last)]
            apart = b - a > STILL * size
            low, high = torch.where(apart, a, low), torch.where(apart, b, high)
        return low, high

    def _pooled(self, op: Op, name: str) -> Tensor:
        """The value ``name`` after the maximum that alone reads ``op``: of a rising function the pool shows the largest only."""
        readers = [o for o in self.graph.ops if o.name in self.graph.live and op.name in o.inputs]
        if len(readers) != 1 or not readers[0].packet.startswith("aten.max_pool"):
            return self._of(name)
        return torch.stack([call(readers[0], {**env, op.name: env[name]}, torch.float64) for env in self.values])

    def _reader(self, name: str) -> str:
        """The first operator that computes something from a parameter or buffer."""
        return next(o.name for o in self.graph.ops if name in o.inputs)

    def _same(self, name: str) -> str:
        while name in self.graph.by_name and self.graph.by_name[name].packet in SAME:
            name = self.graph.by_name[name].inputs[0]
        return name

    def _knob(self, name: str) -> tuple[str, str, str | None] | None:
        """(operator that adds a bias, the bias, the gain before it) behind the value ``name``, through sums and copies."""
        op = self.graph.by_name.get(name)
        if op is None:
            return None
        if op.packet in AFFINE:
            weight, bias = _name(op, 1), _name(op, 2)
            return (op.name, bias, weight if weight in self.graph.parameters else None) if bias in self.graph.parameters else None
        if op.packet in SAME:
            return self._knob(op.inputs[0])
        if op.packet != "aten.add" or len(op.inputs) != 2:
            return None
        for side, other in (op.inputs, op.inputs[::-1]):
            added = self._vector(other)
            if added is not None:
                return op.name, added, self._gain(side)
        found = [k for k in map(self._knob, op.inputs) if k is not None]
        return max(found, key=lambda k: list(self.graph.by_name).index(k[0]), default=None)  # an earlier one may move both

    def _gain(self, name: str) -> str | None:
        op = self.graph.by_name.get(name)
        return self._vector(op.inputs[-1]) if op is not None and op.packet == "aten.mul" else None

    def _vector(self, name: str) -> str | None:
        """The parameter that the value ``name`` is a view of."""
        while name in self.graph.by_name and self.graph.by_name[name].packet in LAYOUT:
            name = self.graph.by_name[name].inputs[0]
        return name if name in self.graph.parameters else None

    def _broadcast(self, reader: str, bias: str) -> tuple[int, ...]:
        """The shape of ``bias`` as the operator ``reader`` adds it, one entry for each axis of the result."""
        op, rank = self.graph.by_name[reader], self.values[0][reader].dim()
        if op.packet in AFFINE:
            return tuple(self.tensors[bias].numel() if k - rank == AFFINE[op.packet] else 1 for k in range(rank))
        return _aligned(next(self.values[0][n].shape for n in op.inputs if self._vector(n) == bias), rank)


def _aligned(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _bends(op: Op) -> tuple[float, ...]:
    """Where an elementwise operator bends: the first and the last kink of its formula, or about where a smooth one does."""
    if op.packet in SMOOTH:
        return SMOOTH[op.packet]
    if op.packet in CLAMPS:
        kinks = [float(a) for a in op.args[1:] if isinstance(a, (int, float))]
    else:
        formula = operator_formula(op)
        kinks = [] if formula is None else _kinks(formula)
    return (kinks[0],) if len(kinks) == 1 else (kinks[0], kinks[-1]) if kinks else ()


def _kinks(formula: sp.Expr) -> list[float]:
    """Borders between pieces of a formula in one variable, in order; none where it has poles or edges, to which nothing is to be moved."""
    edges = any(not (p.exp.is_integer and p.exp.is_positive) for p in formula.atoms(sp.Pow))
    if len(formula.free_symbols) != 1 or edges or formula.has(sp.log, sp.asin, sp.acos, sp.acosh, sp.atanh):
        return []
    return [float(p) for p in breakpoints(formula, *formula.free_symbols).points]


def _name(op: Op, position: int) -> str:
    """The value at a position of the arguments; empty where there is none."""
    arg = op.args[position] if len(op.args) > position else None
    return arg.name if isinstance(arg, Ref) else ""


def flat(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A random weight whose matrix [rows, the rest] has singular values around one: Gaussian ones have small values too."""
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    if prod(shape) == 0 or len(shape) < 2:
        return noise
    u, s, v = torch.linalg.svd(noise.flatten(1), full_matrices=False)
    s = 1.0 + SPREAD * torch.randn(s.shape, generator=generator, dtype=torch.float64).clamp(-2.0, 2.0)
    return (u * s @ v).reshape(noise.shape)
