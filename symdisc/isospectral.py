"""Gains that may change together: those with which diag(gain), seen between centred vectors, keeps its spectrum.

The characteristic polynomial of P diag(g) P on the vectors orthogonal to 1, P = 1 - 11^T/n, is p'/n with p(x) = prod (x - g_i): its
eigenvalues are the critical points of p, and the eigenvector at one of them, c, has the entries 1 / (g_i - c). So the spectrum stays
exactly where p' does: the gains move to the roots of p(x) = t, which are real while t lies between the largest minimum and the smallest
maximum of p, and P diag(g) P turns by the orthogonal matrix that takes the old eigenvectors to the new ones.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CARRY", "TURN", "generator", "matrix", "moved", "velocity"]

TURN, CARRY = "turn", "carry"  # what a vector is multiplied by: O, or what takes diag(gain) n to diag(new) O n

BISECTIONS = 200
FLAT = 1e-290  # of the distance between minima and maxima: below, gains agree and nothing moves


def moved(gain: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """(new gains [n], orthogonal matrix O [n, n] with O 1 = 1) where P diag(new) P = O P diag(gain) P O^T.

    ``tau`` is additive: t stands at a share u of the interval that p leaves it, and logit(u) grows by tau. Equal gains stay.
    """
    order = np.argsort(gain)
    g = gain[order]
    n, middle, size = len(g), g.mean(), (g[-1] - g[0]) / 4 if len(g) > 2 else 0.0
    if size <= 0 or (np.diff(g) <= 0).any():
        return gain.copy(), np.eye(n)
    x = (g - middle) / size  # an interval of length 4 has capacity 1: products over it neither grow nor vanish
    critical = _critical(x)
    low, high = _room(x, critical)
    if not high - low > FLAT:
        return gain.copy(), np.eye(n)
    share = -low / (high - low)
    after = 1.0 / (1.0 + (1.0 / share - 1.0) * np.exp(-tau))
    roots = _roots(x, critical, (high - low) * (after - share))
    turn = np.full((n, n), 1.0 / n)
    turn[np.ix_(order, order)] += _vectors(roots, critical) @ _vectors(x, critical).T
    new = np.empty(n)
    new[order] = roots * size + middle
    return new, turn


def matrix(gain: np.ndarray, tau: float, kind: str) -> np.ndarray:
    """[n, n]: O; or M with M diag(gain) = diag(new) O on vectors orthogonal to 1, and M 1 = 1."""
    new, turn = moved(gain, tau)
    return turn if kind == TURN else _carried(new[:, None] * turn, gain)


def velocity(gain: np.ndarray, kind: str) -> np.ndarray:
    """The derivative of ``matrix`` at tau = 0."""
    speed, turning = generator(gain)
    return turning if kind == TURN else _carried(np.diag(speed) + gain[:, None] * turning, gain, 0.0)


def _carried(images: np.ndarray, gain: np.ndarray, one: float = 1.0) -> np.ndarray:
    """The matrix that takes diag(gain) n to ``images`` n for n orthogonal to 1, and 1 to ``one`` times itself."""
    n = len(gain)
    centred = np.linalg.qr(np.concatenate([np.ones((n, 1)), np.eye(n)[:, 1:]], 1))[0][:, 1:]
    ones = np.ones((n, 1))
    return np.asarray(np.concatenate([images @ centred, one * ones], 1) @ np.linalg.inv(np.concatenate([gain[:, None] * centred, ones], 1)))


def generator(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The derivative of ``moved`` at tau = 0: (of the gains [n], of O, antisymmetric [n, n])."""
    order = np.argsort(gain)
    g = gain[order]
    n, middle, size = len(g), g.mean(), (g[-1] - g[0]) / 4 if len(g) > 2 else 0.0
    if size <= 0 or (np.diff(g) <= 0).any():
        return np.zeros(n), np.zeros((n, n))
    x = (g - middle) / size
    critical = _critical(x)
    low, high = _room(x, critical)
    difference = x[:, None] - x + np.eye(n)
    velocity = -low * high / (high - low) / difference.prod(1)  # dt / p'(g)
    vectors = _vectors(x, critical)
    apart = critical - critical[:, None] + np.eye(n - 1)
    turning = (vectors.T * velocity) @ vectors / apart
    np.fill_diagonal(turning, 0.0)
    speed, turn = np.empty(n), np.empty((n, n))
    speed[order] = velocity * size
    turn[np.ix_(order, order)] = vectors @ turning @ vectors.T
    return speed, turn


def _critical(x: np.ndarray) -> np.ndarray:
    """Zeros of sum 1 / (c - x_i), one between each two of the sorted entries."""
    low, high = x[:-1].copy(), x[1:].copy()
    for _ in range(BISECTIONS):
        c = (low + high) / 2
        with np.errstate(divide="ignore"):
            falls = (1.0 / (c[:, None] - x)).sum(1) > 0
        low, high = np.where(falls, c, low), np.where(falls, high, c)
    return (low + high) / 2


def _room(x: np.ndarray, critical: np.ndarray) -> tuple[float, float]:
    """The largest minimum and the smallest maximum of p, below and above zero."""
    values = (critical[:, None] - x).prod(1)
    return float(values[values < 0].max(initial=-np.inf)), float(values[values > 0].min(initial=np.inf))


def _roots(x: np.ndarray, critical: np.ndarray, t: float) -> np.ndarray:
    """The roots of p = t, each between the critical points beside the old one."""
    reach = 2.0 * (x[-1] - x[0])
    low, high = np.concatenate([[x[0] - reach], critical]), np.concatenate([critical, [x[-1] + reach]])
    rising = (-1.0) ** np.arange(len(x))[::-1] > 0  # p grows beyond the last root
    for _ in range(BISECTIONS):
        c = (low + high) / 2
        beyond = ((c[:, None] - x).prod(1) > t) == rising
        low, high = np.where(beyond, low, c), np.where(beyond, c, high)
    return (low + high) / 2


def _vectors(x: np.ndarray, critical: np.ndarray) -> np.ndarray:
    """Eigenvectors [n, n - 1] of P diag(x) P, orthogonal to 1."""
    v = 1.0 / (x[:, None] - critical)
    return np.asarray(v / np.linalg.norm(v, axis=0))
