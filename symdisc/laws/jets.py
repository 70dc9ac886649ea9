"""Truncated power series on residues, and reverse-mode differentiation of programs over them.

A *jet* is an int64 array [E, K, B, *shape]: K coefficients of a power series in t, E = 2 when a first-order direction
(a dual number) is carried along, B independent samples. A shorter E or K means that the missing coefficients are zero,
so constants cost nothing. Every product is a contraction of two jets, which keeps reverse mode to one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from symdisc.residues import MAX_CONTRACTION

__all__ = ["Node", "Pullback", "Tape", "add", "contract"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def contract(spec: str, a: np.ndarray, b: np.ndarray, order: int, prime: int) -> np.ndarray:
    """The contraction ``spec`` ("ij,jk->ik") of two jets modulo t^order, eps^2 and prime."""
    left, right, out = _letters(spec)
    joint = f"...{left},...{right}->...{out}"
    orders = min(order, a.shape[1] + b.shape[1] - 1)
    size = dict(zip(left + right, a.shape[3:] + b.shape[3:], strict=True))
    summed = [c for c in size if c not in out]
    if math.prod(size[c] for c in summed) * 2 * orders > MAX_CONTRACTION:
        return _in_stages(spec, a, b, order, prime, max(summed, key=size.__getitem__))
    shape = (max(a.shape[0], b.shape[0]), orders, max(a.shape[2], b.shape[2]), *(size[c] for c in out))
    total = np.zeros(shape, np.int64)
    for ea, eb in _dual_pairs(a.shape[0], b.shape[0]):
        for i in range(min(a.shape[1], orders)):
            n = min(b.shape[1], orders - i)
            total[max(ea, eb), i : i + n] += np.einsum(joint, a[ea, i], b[eb, :n])
    total %= prime
    return total


def _in_stages(spec: str, a: np.ndarray, b: np.ndarray, order: int, prime: int, letter: str) -> np.ndarray:
    """A contraction too long for one int64 sum: reduce modulo prime before ``letter`` is summed."""
    return contract(spec + letter, a, b, order, prime).sum(axis=-1) % prime


def add(a: np.ndarray, b: np.ndarray, prime: int) -> np.ndarray:
    """The sum of two jets of one shape, samples broadcast."""
    shape = tuple(max(x, y) for x, y in zip(a.shape, b.shape, strict=True))
    total = np.zeros(shape, np.int64)
    total[: a.shape[0], : a.shape[1]] += a
    total[: b.shape[0], : b.shape[1]] += b
    total %= prime
    return total


def _letters(spec: str) -> tuple[str, str, str]:
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    return left, right, out


def _dual_pairs(a: int, b: int) -> list[tuple[int, int]]:
    return [(0, 0)] + ([(1, 0)] if a == 2 else []) + ([(0, 1)] if b == 2 else [])


Pullback = Callable[[np.ndarray], np.ndarray]


@dataclass(eq=False)
class Node:
    """A value on the tape; ``parents`` holds (parent, what takes an adjoint of this value to that of the parent)."""

    value: np.ndarray
    parents: tuple[tuple[Node, Pullback], ...] = ()
    active: bool = False


@dataclass(eq=False)
class Tape:
    """Records a program made of contractions, sums, linear maps and analytic functions; ``gradient`` runs it backwards.

    ``arguments`` collects what exponentials were taken of, [B, n] each (see ``laws.analytic``).
    """

    order: int
    prime: int
    nodes: list[Node] = field(default_factory=list)
    arguments: list[np.ndarray] = field(default_factory=list)

    def leaf(self, jet: np.ndarray) -> Node:
        """A value to differentiate by."""
        return Node(jet, active=True)

    def data(self, jet: np.ndarray) -> Node:
        """A value held fixed: a jet [E, K, B, *shape]."""
        return Node(jet)

    def constant(self, array: np.ndarray) -> Node:
        """A fixed integer tensor [*shape], the same for all samples."""
        return Node((np.asarray(array, dtype=np.int64) % self.prime)[None, None, None])

    def einsum(self, spec: str, a: Node, b: Node) -> Node:
        """``spec`` as in numpy for two operands; each letter of an operand stands in the other one or in the result."""
        left, right, out = _letters(spec)
        parents = []
        for node, mine, theirs, other in ((a, left, right, b), (b, right, left, a)):
            if node.active:
                assert set(mine) <= set(theirs) | set(out), f"no adjoint for {spec}"
                parents.append((node, partial(self._contracted, f"{out},{theirs}->{mine}", other.value)))
        return self.put(contract(spec, a.value, b.value, self.order, self.prime), tuple(parents))

    def _contracted(self, spec: str, other: np.ndarray, bar: np.ndarray) -> np.ndarray:
        return contract(spec, bar, other, self.order, self.prime)

    def times(self, a: Node, b: Node) -> Node:
        """a b entry by entry, of one shape."""
        letters = _LETTERS[: a.value.ndim - 3]
        return self.einsum(f"{letters},{letters}->{letters}", a, b)

    def add(self, a: Node, b: Node) -> Node:
        """a + b, of one shape."""
        parents = tuple((node, _same) for node in (a, b) if node.active)
        return self.put(add(a.value, b.value, self.prime), parents)

    def scale(self, a: Node, factor: int) -> Node:
        """factor a, for a residue."""
        parents = ((a, lambda bar: bar * factor % self.prime),) if a.active else ()
        return self.put(a.value * factor % self.prime, parents)

    def linear(self, a: Node, forward: Pullback, back: Pullback) -> Node:
        """A linear map that takes jets [E, K, B, *shape] to jets, and its transpose."""
        return self.put(forward(a.value), ((a, back),) if a.active else ())

    def put(self, value: np.ndarray, parents: tuple[tuple[Node, Pullback], ...]) -> Node:
        """A new value on the tape."""
        node = Node(value, parents, bool(parents))
        self.nodes.append(node)
        return node

    def gradient(self, result: Node, leaves: list[Node]) -> list[np.ndarray]:
        """d result / d leaf for a scalar result, one jet per leaf; the samples stay apart."""
        seed = np.ones((1, 1, 1), np.int64)
        adjoint: dict[int, np.ndarray] = {id(result): seed}
        for node in reversed(self.nodes):
            bar = adjoint.pop(id(node), None)
            if bar is None:
                continue
            for parent, back in node.parents:
                part = back(bar)
                known = adjoint.get(id(parent))
                adjoint[id(parent)] = part if known is None else add(known, part, self.prime)
        return [adjoint.get(id(leaf), np.zeros((1, 1, 1, *leaf.value.shape[3:]), np.int64)) for leaf in leaves]


def _same(bar: np.ndarray) -> np.ndarray:
    return bar
