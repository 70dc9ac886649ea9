"""Sums of 64-bit hashes: equality of multisets decided for a million units at once."""

from __future__ import annotations

import numpy as np

__all__ = ["add_to", "mix", "runs", "unique_pairs"]


def mix(values: np.ndarray | int, salt: int = 0) -> np.ndarray:
    """SplitMix64 of integers (Steele, Lea, Flood 2014); two different inputs collide with probability 2^-64."""
    with np.errstate(over="ignore"):
        z = np.asarray(values).astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def add_to(total: np.ndarray, at: np.ndarray, values: np.ndarray | np.uint64) -> None:
    """total[at] += values modulo 2^64, repeated positions counted each time."""
    with np.errstate(over="ignore"):
        np.add.at(total, at, values)


def runs(keys: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Distinct keys in ascending order and, for each, the positions where it stands, in order."""
    if not len(keys):
        return keys, []
    order = np.argsort(keys, kind="stable")
    found, first = np.unique(keys[order], return_index=True)
    return found, np.split(order, first[1:])


def unique_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distinct pairs of non-negative integers below 2^31, [2, n], sorted."""
    packed = np.unique((np.asarray(a, dtype=np.int64) << 32) | np.asarray(b, dtype=np.int64))
    return np.stack([packed >> 32, packed & 0xFFFFFFFF])
