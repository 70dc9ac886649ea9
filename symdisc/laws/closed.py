"""Laws in closed form, as data: sums of squares (or sums) of parameters over all axes but some.

With a matrix letter r and signs s_k, a quadratic law is the symmetric matrix Q[r, r'] = sum_k s_k sum W_k[.. r ..]
W_k[.. r' ..]: for linear layers W_{i+1}^T W_{i+1} - W_i W_i^T - b_i b_i^T, one independent law per entry r <= r'.
Without a matrix letter it is the diagonal alone: one law per unit. Sources: arXiv:2307.00144 (linear, ReLU),
arXiv:2506.06194 (attention, convolution, residual blocks), arXiv:2405.12888 (momentum, mirror flows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from symdisc.errors import BadInput

__all__ = ["Law", "Term", "gradients"]


@dataclass(frozen=True)
class Term:
    """``sign`` times parameter with itself; ``letters`` names its axes; degree 1 sums entries instead of squares."""

    sign: int
    parameter: str
    letters: str
    degree: int = 2


@dataclass(frozen=True)
class Law:
    """A family of laws: ``diagonal`` letters count independent copies, ``matrix`` is the letter paired with itself.

    ``compact`` is the letter that the symmetry may rotate, where it is not ``matrix`` (rotary planes). ``rotation``:
    the antisymmetric entries of sum_k s_k (theta' theta^T - theta theta'^T), times exp(tau t): what momentum keeps.
    """

    terms: tuple[Term, ...]
    diagonal: str = ""
    matrix: str = ""
    rotation: bool = False
    compact: str = ""

    def rows(self, theta: Mapping[str, np.ndarray], prime: int, speed: Mapping[str, np.ndarray] | None = None,
             friction: int = 0) -> np.ndarray:
        """See ``gradients``."""
        return gradients(self, theta, prime, speed, friction)

    def under_momentum(self) -> Law | None:
        """What momentum leaves of this family: the antisymmetric entries along its compact letter, if it has one."""
        letter = self.compact or self.matrix
        if not letter:
            return None
        # A rotation turns all factors alike, so every term counts with a plus.
        return Law(tuple(replace(term, sign=1) for term in self.terms), self.diagonal, letter, rotation=True)

    def text(self) -> str:
        """The law as an index formula, summed over letters that stand twice."""
        parts = [_rotation_text(t, self.matrix) if self.rotation else _term_text(t, self.matrix) for t in self.terms]
        body = " ".join(("+ " if t.sign > 0 else "- ") + part for t, part in zip(self.terms, parts, strict=True))
        body = body.removeprefix("+ ")
        return f"exp(tau t) ({body})" if self.rotation else body


def _primed(letters: str, matrix: str) -> str:
    return ",".join(c + "'" if c == matrix else c for c in letters)


def _term_text(term: Term, matrix: str) -> str:
    here = f"{term.parameter}[{','.join(term.letters)}]"
    if term.degree == 1:
        return here
    return f"{here} {term.parameter}[{_primed(term.letters, matrix)}]" if matrix else f"{here}^2"


def _rotation_text(term: Term, matrix: str) -> str:
    one, two = ",".join(term.letters), _primed(term.letters, matrix)
    name = term.parameter
    return f"({name}'[{one}] {name}[{two}] - {name}[{one}] {name}'[{two}])"


def gradients(
    law: Law,
    theta: Mapping[str, np.ndarray],
    prime: int,
    speed: Mapping[str, np.ndarray] | None = None,
    friction: int = 0,
) -> np.ndarray:
    """Gradients of all entries of a law modulo prime, [laws, N], at residues theta {name: [*shape]}.

    N runs over the parameters in the order of ``theta``; with ``speed`` over (t, theta, theta'). A rotation's gradient
    is that of the law divided by exp(tau t), tau = friction. Raises BadInput where the letters do not fit the
    parameters.
    """
    if law.rotation and speed is None:
        raise BadInput(f"the law {law.text()} is about momentum: use it with flow 'momentum'")
    sizes = _sizes(law, theta)
    groups = math.prod(sizes[c] for c in law.diagonal)
    width = sizes[law.matrix] if law.matrix else 1
    first = 1 if law.rotation else 0
    pairs = [(j, k) for j in range(width) for k in range(j + first, width)]
    blocks = {name: np.zeros((groups * len(pairs), w.size), np.int64) for name, w in theta.items()}
    fast = {name: np.zeros_like(block) for name, block in blocks.items()}
    value = np.zeros((groups, len(pairs)), np.int64)
    for term in law.terms:
        here = _grouped(law, term, theta[term.parameter])
        sign = term.sign
        if law.rotation:
            there = _grouped(law, term, speed[term.parameter])  # type: ignore[index]
            blocks[term.parameter] += sign * _spread(law, term, _entries(there, pairs, -1), theta)
            fast[term.parameter] -= sign * _spread(law, term, _entries(here, pairs, -1), theta)
            for n, (j, k) in enumerate(pairs):
                value[:, n] += sign * (there[:, j] * here[:, k] % prime - there[:, k] * here[:, j] % prime).sum(-1)
        else:
            grad = _entries(here, pairs, 1) if term.degree == 2 else np.ones_like(here)[:, None]
            blocks[term.parameter] += sign * _spread(law, term, grad, theta)
    parts = list(blocks.values())
    if speed is not None:
        parts = [friction * (value.reshape(-1, 1) % prime), *parts, *fast.values()]
    return np.concatenate(parts, axis=1) % prime


def _sizes(law: Law, theta: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term in law.terms:
        if term.parameter not in theta:
            raise BadInput(f"the law {law.text()} names {term.parameter}, the parameters are {', '.join(theta)}")
        shape = theta[term.parameter].shape
        fits = len(shape) == len(term.letters) == len(set(term.letters)) and set(law.diagonal + law.matrix) <= set(
            term.letters
        )
        if not fits or (term.degree == 1 and law.matrix) or term.degree not in (1, 2):
            raise BadInput(
                f"letters {term.letters!r} of degree {term.degree} do not fit {term.parameter} of shape {shape}"
            )
        for letter, size in zip(term.letters, shape, strict=True):
            if letter in law.diagonal + law.matrix and sizes.setdefault(letter, size) != size:
                raise BadInput(f"axis {letter} has sizes {sizes[letter]} and {size} in the law {law.text()}")
    return sizes


def _order(law: Law, term: Term) -> list[int]:
    front = law.diagonal + law.matrix
    return [term.letters.index(c) for c in front] + [i for i, c in enumerate(term.letters) if c not in front]


def _grouped(law: Law, term: Term, array: np.ndarray) -> np.ndarray:
    """A parameter as [copies, matrix size, all else]."""
    moved = array.transpose(_order(law, term))
    copies = math.prod(moved.shape[: len(law.diagonal)])
    return moved.reshape(copies, moved.shape[len(law.diagonal)] if law.matrix else 1, -1)


def _entries(array: np.ndarray, pairs: list[tuple[int, int]], sign: int) -> np.ndarray:
    """Per pair (j, k): row j receives sign times row k of the array and row k receives row j; [copies, pairs, R, rest].

    sign = 1 is the gradient of sum w_j w_k; sign = -1 is that of sum u_j w_k - u_k w_j in w, up to the overall sign of
    u.
    """
    out = np.zeros((array.shape[0], len(pairs), *array.shape[1:]), np.int64)
    for n, (j, k) in enumerate(pairs):
        out[:, n, j] += sign * array[:, k]
        out[:, n, k] += array[:, j]
    return out


def _spread(law: Law, term: Term, grad: np.ndarray, theta: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gradients [copies, pairs, R, rest], each of its own copy, to rows [copies * pairs, size] as stored."""
    copies, pairs = grad.shape[:2]
    full = np.zeros((copies, pairs, copies, *grad.shape[2:]), np.int64)
    own = np.arange(copies)
    full[own, :, own] = grad
    order = _order(law, term)
    shape = theta[term.parameter].shape
    moved = full.reshape(copies * pairs, *(shape[i] for i in order))
    return moved.transpose(0, *(1 + np.argsort(order))).reshape(copies * pairs, math.prod(shape))
