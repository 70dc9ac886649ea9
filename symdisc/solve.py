"""The symmetry algebra of a whole network, at its weights, as one linear system.

Unknowns: the motion of all parameters, dtheta in R^D, and for every node k an affine motion of its features,
``dy_k = N_k y_k + n_k``. Equations: the chain rule through every segment and node, at many inputs, and no motion of the
outputs. The features' motions are determined by dtheta, so the unknowns N_k, n_k are eliminated first: what remains says that
the motion of each feature, as a function of the input, lies in the span of the features of its block and of 1:

    J_out dtheta = 0,        (1 - P_[y_k, 1]) J_{y_k} dtheta = 0     for every node k,

with P the orthogonal projection over samples. Its solutions are exactly the tangents of symmetries that transform the features
of every node affinely; the group's orbit through theta has their number as its dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symdisc.exact import NullSpace, null_space

__all__ = ["Accumulator", "affine_motions", "fibre_basis"]

# Columns of the Jacobian this far below the largest are noise: scaling them up would turn noise into rank.
ZERO_COLUMN = 1e-11


class Accumulator:
    """A growing stack of rows [., n] by its triangular factor: same null space and column lengths, bounded memory.

    Rows wait until there are twice as many as columns, for a factorisation costs the same for few of them as for many.
    """

    def __init__(self, columns: int) -> None:
        self._parts, self._waiting = [np.zeros((0, columns))], 0

    def add(self, rows: np.ndarray) -> None:
        if len(rows):
            self._parts.append(rows)
            self._waiting += len(rows)
            if self._waiting > 2 * rows.shape[1]:
                self._compress()

    @property
    def factor(self) -> np.ndarray:
        """[at most n, n], or fewer rows as they came."""
        if len(self._parts) > 1:
            self._compress()
        return self._parts[0]

    def _compress(self) -> None:
        rows = np.concatenate(self._parts)
        self._parts = [np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows]
        self._waiting = 0


def normal_rows(rows: np.ndarray) -> np.ndarray:
    """Rows at unit length, save those too small to be more than noise."""
    if not len(rows):
        return rows
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(size, 1e-6 * size.max() + 1e-300))


def fibre_basis(rows: np.ndarray) -> NullSpace:
    """Directions that leave the outputs alone: null space of the Jacobian ``rows`` [., D], orthonormal, [D, fibre].

    Columns are brought to unit length first (entries of a Jacobian differ by orders of magnitude), except those of zero
    gradient. Raises Undecided where the singular values show no gap.
    """
    size = np.linalg.norm(rows, axis=0)
    scale = np.where(size > ZERO_COLUMN * size.max(initial=0.0), size, 1.0)
    found = null_space(rows / scale, widest=True, what="Jacobian of the outputs")
    basis = found.basis / scale[:, None]
    return NullSpace(np.linalg.qr(basis)[0] if basis.shape[1] else basis, found.evidence)


def affine_motions(values: np.ndarray, motions: np.ndarray, blocks: Sequence[np.ndarray], factor: Accumulator) -> None:
    """Add the equations of one node to ``factor``: which combinations of k motions are affine in the features.

    ``values`` [S, n] features over samples, ``motions`` [S, n, k] their derivatives along k directions, ``blocks`` index sets
    of features that may mix. A block with more features than half the samples can bear is only allowed to scale.
    """
    samples = len(values)
    for block in blocks:
        mixing = [block] if len(block) + 1 <= samples // 2 else [np.array([b]) for b in block]
        for part in mixing:
            y, dy = values[:, part], motions[:, part]
            spread = y.std(0)
            frame = np.concatenate([np.ones((samples, 1)), (y - y.mean(0)) / np.where(spread > 0, spread, 1.0)], 1)
            u, s, _ = np.linalg.svd(frame, full_matrices=False)
            u = u[:, s > 1e-10 * s[0]]
            flat = dy.reshape(samples, -1)
            rest = (flat - u @ (u.T @ flat)).reshape(-1, dy.shape[2])
            factor.add(rest / max(float(np.abs(y).max(initial=0.0)), float(spread.max(initial=0.0)), 1e-300))
