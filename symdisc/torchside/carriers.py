"""Which parameters carry the directions that no named family spans: a smallest set, not every parameter that takes part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["carriers"]

SEEN = 1e-6  # of unit directions: what is smaller is rounding of the null space


def carriers(space: np.ndarray, named: np.ndarray, layout: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Parameters S such that directions supported in S, with the named ones, span the fibre; no parameter of S can be left out.

    ``space`` [D, k] and ``named`` [D, r] have orthonormal columns; ``layout`` gives name -> shape in the order of D. Removed
    one after the other, those with the smallest part in the surplus first; empty where nothing is missing.
    """
    surplus = _complement(space.T @ named)
    if not surplus.shape[1]:
        return ()
    grams = _grams(space, layout)
    rest = space @ surplus
    part = {n: float(np.square(rest[rows]).sum()) for n, (rows, _) in grams.items()}
    kept = sorted(grams, key=lambda n: part[n])
    outside = np.zeros((space.shape[1], space.shape[1]))
    for name in list(kept):
        trial = outside + grams[name][1]
        if _spans(trial, surplus):
            outside = trial
            kept.remove(name)
    return tuple(n for n in layout if n in kept)


def _grams(space: np.ndarray, layout: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[slice, np.ndarray]]:
    found, at = {}, 0
    for name, shape in layout.items():
        rows = slice(at, at + int(np.prod(shape)))
        found[name] = rows, space[rows].T @ space[rows]
        at = rows.stop
    return found


def _complement(vectors: np.ndarray) -> np.ndarray:
    """Orthonormal basis [k, m] of what is orthogonal to the columns of ``vectors`` [k, r]."""
    if not vectors.shape[1]:
        return np.eye(vectors.shape[0])
    u, s, _ = np.linalg.svd(vectors, full_matrices=True)
    return np.asarray(u[:, int((s > SEEN).sum()):])


def _spans(outside: np.ndarray, surplus: np.ndarray) -> bool:
    """Directions that vanish on the parameters left out (the null space of ``outside`` [k, k]) reach all of ``surplus`` [k, m]."""
    values, vectors = np.linalg.eigh(outside)
    inside = vectors[:, values < SEEN**2]
    if inside.shape[1] < surplus.shape[1]:
        return False
    reached = np.linalg.svd(surplus.T @ inside, compute_uv=False)
    return int((reached > SEEN).sum()) == surplus.shape[1]
