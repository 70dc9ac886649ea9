"""Arithmetic on residues modulo a prime: draws, matrix products and ranks, all exact.

A rank modulo p of an integer matrix is at most its rank over the rationals, so a rank reached here is a lower bound of
the true one for every prime; only an upper bound needs another argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flint import nmod_mat

__all__ = ["MAX_CONTRACTION", "PRIMES", "Subspace", "balanced", "draw", "echelon", "matmul", "null_space", "rank"]

# The largest primes below 2^25. Products of two residues stay below 2^50, so an int64 sum may hold 2^13 of them; a
# random nonzero polynomial of degree n vanishes at a random point with chance at most n / 2^25 (Schwartz, Zippel).
PRIMES = (33554393, 33554383, 33554371, 33554347)
MAX_CONTRACTION = 2**13
_BLOCK = 256  # rows eliminated at once: BLAS clears the known pivots, flint reduces what is left of the block
_HALF = 13  # bits: a 25-bit residue is split in two so that float64 (BLAS) products with a residue stay exact


def draw(rng: np.random.Generator, shape: tuple[int, ...], prime: int) -> np.ndarray:
    """Random nonzero residues, int64 [*shape]."""
    return rng.integers(1, prime, size=shape, dtype=np.int64)


def matmul(a: np.ndarray, b: np.ndarray, prime: int) -> np.ndarray:
    """a b mod prime for residues a [n, k] and b [k, m]; exact in float64 while k <= 2^14, then cut into pieces."""
    piece = 2**14
    if a.shape[1] > piece:
        return (matmul(a[:, :piece], b[:piece], prime) + matmul(a[:, piece:], b[piece:], prime)) % prime
    high, low = (a >> _HALF).astype(np.float64), (a & (2**_HALF - 1)).astype(np.float64)
    right = b.astype(np.float64)
    top = np.fmod(high @ right, prime)
    return np.fmod(top * 2**_HALF + low @ right, prime).astype(np.int64)


def _flint(rows: np.ndarray, prime: int) -> nmod_mat:
    return nmod_mat(rows.shape[0], rows.shape[1], (rows % prime).ravel().tolist(), prime)


def rank(rows: np.ndarray, prime: int) -> int:
    """Rank modulo prime of an integer matrix [n, D]."""
    return int(_flint(rows, prime).rank()) if rows.size else 0


def echelon(rows: np.ndarray, prime: int) -> np.ndarray:
    """The reduced row echelon form of rows [n, D] without its zero rows, [rank, D]."""
    if not rows.size:
        return np.zeros((0, rows.shape[1]), np.int64)
    reduced, found = _flint(rows, prime).rref()
    entries = np.array([int(v) for v in reduced.entries()], dtype=np.int64)
    return entries.reshape(rows.shape)[:found]


@dataclass(frozen=True)
class Subspace:
    """A subspace of residues [D], as rows in reduced echelon form with the pivot column of each row."""

    basis: np.ndarray
    pivots: np.ndarray
    prime: int

    @classmethod
    def zero(cls, dimension: int, prime: int) -> Subspace:
        return cls(np.zeros((0, dimension), np.int64), np.zeros(0, np.int64), prime)

    def __len__(self) -> int:
        return len(self.basis)

    def extended(self, rows: np.ndarray) -> Subspace:
        """The span of this and of rows [n, D]."""
        grown = self
        for start in range(0, len(rows), _BLOCK):
            grown = grown._with_block(rows[start : start + _BLOCK])
        return grown

    def _with_block(self, rows: np.ndarray) -> Subspace:
        p = self.prime
        free = np.setdiff1d(np.arange(self.basis.shape[1]), self.pivots)
        rest = (rows[:, free] - matmul(rows[:, self.pivots], self.basis[:, free], p)) % p
        reduced = echelon(rest, p)
        if not len(reduced):
            return self
        fresh = np.zeros((len(reduced), self.basis.shape[1]), np.int64)
        fresh[:, free] = reduced
        pivots = free[(reduced != 0).argmax(axis=1)]
        old = (self.basis - matmul(self.basis[:, pivots], fresh, p)) % p
        return Subspace(np.concatenate([old, fresh]), np.concatenate([self.pivots, pivots]), p)


def null_space(rows: np.ndarray, prime: int) -> np.ndarray:
    """A basis [D - rank, D] of {v : rows v = 0 mod prime} with unit entries in the free columns."""
    reduced = echelon(rows, prime)
    pivots = (reduced != 0).argmax(axis=1) if len(reduced) else np.zeros(0, np.int64)
    free = np.setdiff1d(np.arange(rows.shape[1]), pivots)
    basis = np.zeros((len(free), rows.shape[1]), np.int64)
    basis[np.arange(len(free)), free] = 1
    basis[:, pivots] = (-reduced[:, free].T) % prime
    return basis


def balanced(values: np.ndarray, prime: int) -> np.ndarray:
    """The representatives of least absolute value."""
    return np.where(values > prime // 2, values - prime, values)
