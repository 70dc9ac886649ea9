"""One run of an operator graph on jets: what its values are, and how constants become residues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import Undecided
from symdisc.laws.analytic import inverse
from symdisc.laws.jets import Node, Tape
from symdisc.opgraph import Op, Ref
from symdisc.torchside.interpret import call

__all__ = ["LEAST", "Run", "Sampled", "fraction", "refuse", "residues_of", "spread", "without_infinities"]

LEAST = float(np.finfo(np.float32).min)  # what networks write for minus infinity in masks


@dataclass(frozen=True, eq=False)
class Sampled:
    """What depends on integer inputs alone: a tensor [B, *shape], each sample evaluated by itself."""

    each: Tensor


Value = Node | Tensor | Sampled | float | int


@dataclass(eq=False)
class Run:
    """The values of a graph on one tape.

    ``env`` holds jets, constant tensors and what depends on integer inputs; ``dead`` the entries of a jet that stand for minus
    infinity, [*shape] or [B, *shape]; ``draws`` the random data of the samples by name; ``multilinear`` whether the masks of
    piecewise linear operators may be any numbers.
    """

    tape: Tape
    env: dict[str, Any]
    draws: Mapping[str, Node]
    multilinear: Mapping[str, bool]
    dead: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def prime(self) -> int:
        return self.tape.prime

    def __getitem__(self, arg: Any) -> Any:
        return self.env[arg.name] if isinstance(arg, Ref) else arg

    def node(self, arg: Any, shape: Sequence[int] | None = None) -> Node:
        """A jet of any argument, broadcast to ``shape`` where that is given."""
        value = self[arg]
        found = value if isinstance(value, Node) else self._constant(value)
        return found if shape is None else self.broadcast(found, tuple(shape))

    def _constant(self, value: Value) -> Node:
        if isinstance(value, Sampled):
            return self.tape.data(residues_of(value.each.double().numpy(), self.prime)[None, None])
        array = value.detach().double().numpy() if isinstance(value, Tensor) else np.asarray(float(value))  # type: ignore[arg-type]
        return Node(residues_of(array, self.prime)[None, None, None])

    def broadcast(self, node: Node, shape: tuple[int, ...]) -> Node:
        """As numpy broadcasts."""
        own = node.value.shape[3:]
        if own == shape:
            return node
        if 0 in shape:
            raise Undecided("a tensor of this network is empty")
        lead = len(shape) - len(own)
        stretched = tuple(range(lead)) + tuple(lead + k for k, n in enumerate(own) if n != shape[lead + k])

        def forward(v: np.ndarray) -> np.ndarray:
            return np.broadcast_to(v.reshape(*v.shape[:3], *(1,) * lead, *own), (*v.shape[:3], *shape))

        def back(bar: np.ndarray) -> np.ndarray:
            total = bar.sum(axis=tuple(3 + k for k in stretched)) % self.prime
            return total.reshape(*bar.shape[:3], *own)

        return self.tape.linear(node, forward, back)

    def mask_of(self, arg: Any) -> np.ndarray:
        """A boolean argument, [*shape] or [B, *shape] where it depends on the sample."""
        value = self[arg]
        if isinstance(value, Sampled):
            return value.each.numpy().astype(bool)
        if isinstance(value, Tensor):
            return value.numpy().astype(bool)
        raise Undecided("a condition on activations is no choice of a region that this count knows")

    def evaluate(self, op: Op) -> Tensor | Sampled | tuple[Any, ...]:
        """An operator that no parameter and no floating-point input reaches."""
        if not any(isinstance(self.env[n], Sampled) for n in op.inputs):
            return call(op, self.env, torch.float64)
        count = next(len(self.env[n].each) for n in op.inputs if isinstance(self.env[n], Sampled))
        results = []
        for k in range(count):
            env = {n: v.each[k] if isinstance(v := self.env[n], Sampled) else v for n in op.inputs}
            results.append(call(op, env, torch.float64))
        if isinstance(results[0], tuple | list):
            return tuple(Sampled(torch.stack(parts)) for parts in zip(*results, strict=True))
        return Sampled(torch.stack(results))


@dataclass(frozen=True)
class _Exact:
    """Floating-point numbers as the fractions that they are, one by one."""

    prime: int

    @cached_property
    def known(self) -> dict[float, int]:
        return {}

    def residue(self, value: float) -> int:
        if value not in self.known:
            exact = Fraction(value)
            self.known[value] = exact.numerator * pow(exact.denominator, -1, self.prime) % self.prime
        return self.known[value]


_EXACT: dict[int, _Exact] = {}


def residues_of(array: np.ndarray, prime: int) -> np.ndarray:
    """Floats to residues, each as the fraction (with a power of two below) that it is; infinities and NaN are refused."""
    if not np.isfinite(array).all():
        raise Undecided("a constant of this network is not finite")
    table = _EXACT.setdefault(prime, _Exact(prime))
    values, where = np.unique(array, return_inverse=True)
    exact = np.array([table.residue(float(v)) for v in values], dtype=np.int64)
    return exact[where].reshape(array.shape)


def without_infinities(value: Tensor | Sampled) -> tuple[Tensor | Sampled, np.ndarray | None]:
    """What is finite of a mask that is added to scores, and where it is minus infinity, [*shape] or [B, *shape]."""
    each = value.each if isinstance(value, Sampled) else value
    if not each.is_floating_point() or not bool((each <= LEAST).any()):
        return value, None
    off = each <= LEAST
    finite = each.masked_fill(off, 0.0)
    return Sampled(finite) if isinstance(value, Sampled) else finite, off.numpy()


def spread(mask: np.ndarray, shape: tuple[int, ...], sampled: bool) -> np.ndarray:
    """A mask broadcast to [*shape], or to [B, *shape] where it depends on the sample."""
    lead = mask.shape[: int(sampled)]
    own = mask.shape[len(lead) :]
    return np.broadcast_to(mask.reshape(*lead, *(1,) * (len(shape) - len(own)), *own), (*lead, *shape))


def refuse(op: Op) -> Undecided:
    """An operator that has no form here."""
    return Undecided(f"{op.packet} (in {op.module or 'the model'}) is no map this count knows exactly")


def fraction(value: float, prime: int) -> int:
    """A written constant such as 0.1 as the decimal fraction that was meant."""
    exact = Fraction(str(value))
    return exact.numerator * int(inverse(np.array([exact.denominator % prime]), prime)[0]) % prime
