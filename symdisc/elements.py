"""Sampling and inverting the arrays of group factors: well conditioned, seeded, closed form."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm

from symdisc.curves import curve
from symdisc.normed import inward
from symdisc.symmetry import Discrete, Element, Factor, Symmetry

__all__ = ["basis", "identity_array", "identity_discrete", "inverse_array", "inverse_discrete", "sample_array", "sample_discrete",
           "sample_element", "inverse_element", "tangent_arrays"]

MATRIX = ("gl", "o", "o1", "complex", "shear")


def _generator(family: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random algebra element of spectral norm 1, so that exp(s A) has condition number at most exp(2 s)."""
    a = rng.standard_normal((size, size))
    if family == "complex":
        x, y = rng.standard_normal(2)
        a = np.array([[x, -y], [y, x]])
    if family in ("o", "o1"):
        a = a - a.T
    if family == "o1":
        p = np.eye(size) - np.full((size, size), 1.0 / size)
        a = p @ a @ p
    if family == "shear":
        a = np.ones((size, 1)) @ a[:1]
    norm = np.linalg.norm(a, 2)
    return np.asarray(a / norm if norm > 0 else a)


def sample_array(s: Symmetry, rng: np.random.Generator, scale: float) -> np.ndarray:
    """A random element near (small ``scale``) or far from (large) the identity."""
    if s.family in MATRIX:
        return np.stack([expm(scale * _generator(s.family, s.shape[1], rng)) for _ in range(s.shape[0])])
    if s.family == "scale":
        t = np.clip(scale * rng.standard_normal(s.shape), -3 * scale, 3 * scale)
        side = _side(s)
        return np.exp(side * np.abs(t) if side else t)
    t = scale * rng.standard_normal(s.shape)
    if s.family == "flow":
        t = t * (s.dimension / t.size) ** 0.5  # all parameters take part: the path shall be as long as that of so many coordinates
    if s.family.startswith("outer") and s.moves:
        # added to a weight along a whole axis: of the size that weights of that fan-in have, or float32 drowns in it
        t = t / s.moves[0].index.size ** 0.5
    for m in s.moves:
        if m.kind == "normed_table":
            return inward(m.rep, t, m.index.size, scale)
    return np.asarray(_centred(s, t) if s.family.endswith("0") else t)


def _side(s: Symmetry) -> int:
    """1 or -1 where elements c >= 1 or c <= 1 keep functions of parameters in their ranges, else 0."""
    for m in s.moves:
        if m.kind == "normed_scale":
            return -1 if m.power > 0 else 1
        found = curve(m.rep) if m.kind == "curved_scale" else None
        if found is not None and found.side:
            return found.side if m.power > 0 else -found.side
    return 0


def _centred(s: Symmetry, t: np.ndarray) -> np.ndarray:
    """Without the sums that other symmetries move: over all entries, or over the first axis for each place along the others."""
    columns = t.reshape(-1, t.size - s.dimension)
    return np.asarray((columns - columns.mean(0)).reshape(t.shape))


def identity_array(s: Symmetry) -> np.ndarray:
    if s.family in MATRIX:
        return np.broadcast_to(np.eye(s.shape[1]), s.shape).copy()
    return np.ones(s.shape) if s.family == "scale" else np.zeros(s.shape)


def inverse_array(s: Symmetry, array: np.ndarray) -> np.ndarray:
    if s.family in MATRIX:
        return np.swapaxes(array, -1, -2).copy() if s.family in ("o", "o1") else np.linalg.inv(array)
    return 1.0 / array if s.family == "scale" else -array


def tangent_arrays(s: Symmetry, step: float):  # type: ignore[no-untyped-def]
    """For each basis vector of the algebra the arrays exp(+step X) and exp(-step X), for central differences."""
    for a in basis(s):
        if s.family in MATRIX:
            yield np.stack([expm(step * x) for x in a]), np.stack([expm(-step * x) for x in a])
        elif s.family == "scale":
            yield np.exp(step * a), np.exp(-step * a)
        else:
            yield step * a, -step * a


def basis(s: Symmetry):  # type: ignore[no-untyped-def]
    """A basis of the algebra as arrays of the shape of an element."""
    if s.family not in MATRIX:
        for k in range(s.dimension if s.family.endswith("0") else int(np.prod(s.shape))):
            a = np.zeros(s.shape)
            a.flat[k] = 1.0
            yield _centred(s, a) if s.family.endswith("0") else a
        return
    blocks, size, _ = s.shape
    for b in range(blocks):
        for matrix in _matrix_basis(s.family, size):
            a = np.zeros(s.shape)
            a[b] = matrix
            yield a


def _matrix_basis(family: str, size: int) -> list[np.ndarray]:
    def unit(i: int, j: int) -> np.ndarray:
        e = np.zeros((size, size))
        e[i, j] = 1.0
        return e

    if family == "gl":
        return [unit(i, j) for i in range(size) for j in range(size)]
    if family == "complex":
        return [np.eye(2), unit(1, 0) - unit(0, 1)]
    if family == "shear":
        return [sum((unit(i, j) for i in range(size)), np.zeros((size, size))) for j in range(size)]
    if family == "o":
        return [unit(i, j) - unit(j, i) for i in range(size) for j in range(i)]
    frame = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, : size - 1]]))[0][:, 1:]
    return [np.outer(frame[:, i], frame[:, j]) - np.outer(frame[:, j], frame[:, i])
            for i in range(size - 1) for j in range(i)]


def sample_discrete(d: Discrete, rng: np.random.Generator) -> np.ndarray:
    if d.family == "permutation":
        return rng.permutation(d.shape[0])
    if d.family == "shift":  # an infinite group: some of its elements near the identity
        return rng.integers(-3, 4, size=d.shape).astype(np.float64)
    return rng.choice(np.array([-1.0, 1.0]), size=d.shape)


def identity_discrete(d: Discrete) -> np.ndarray:
    if d.family == "permutation":
        return np.arange(d.shape[0])
    return np.zeros(d.shape) if d.family == "shift" else np.ones(d.shape)


def inverse_discrete(d: Discrete, array: np.ndarray) -> np.ndarray:
    return np.argsort(array) if d.family == "permutation" else -array if d.family == "shift" else array


def sample_element(symmetries: tuple[Symmetry, ...], discrete: tuple[Discrete, ...], seed: int, scale: float,
                   with_discrete: bool, flows: bool = True) -> Element:
    """One random factor for every symmetry, discrete ones last; remainders that act by a flow only if ``flows``."""
    rng = np.random.default_rng(seed)
    factors = [Factor("flow" if s.family == "flow" else "continuous", i, sample_array(s, rng, scale))
               for i, s in enumerate(symmetries) if flows or s.family != "flow"]
    if with_discrete:
        factors += [Factor("discrete", i, sample_discrete(d, rng)) for i, d in enumerate(discrete)]
    return Element(tuple(factors), seed, scale)


def inverse_element(symmetries: tuple[Symmetry, ...], discrete: tuple[Discrete, ...], g: Element) -> Element:
    """The factors inverted, in opposite order."""
    factors = []
    for f in reversed(g.factors):
        array = inverse_discrete(discrete[f.which], f.array) if f.kind == "discrete" else inverse_array(symmetries[f.which], f.array)
        factors.append(Factor(f.kind, f.which, array, f.path and f.path[::-1]))
    return Element(tuple(factors), g.seed, g.scale)
