"""The two-layer network of arXiv:2210.17216 at whitened input, F = U sigma(V^T), U [m, k], V [n, k], and its gradient descent.

numpy in float64: at these sizes the cost of a step is the overhead of its calls, and numpy's is the smallest. A leading axis of runs
(learning rates, deviations) goes through one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["ACTIVATIONS", "PUBLISHED_SEED", "Activation", "Trace", "descend", "draw", "drawn", "hessian", "jacobian", "normals",
           "published_draw"]

PUBLISHED_SEED = 12345  # of the code published with arXiv:2210.17216

Array = np.ndarray
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Activation:
    """sigma with its derivatives, I = int sigma/sigma' with I(0) = 0, and (sigma/sigma')'; the tests derive I and the last from sigma."""

    name: str
    value: Function
    slope: Function  # sigma'
    bend: Function  # sigma''
    potential: Function  # I
    spread: Function  # (sigma/sigma')'

    def charges(self, u: Array, v: Array) -> Array:
        """Q_j [..., k] = 1/2 |U_:j|^2 - sum_a I(V_aj), one per hidden unit (paper normalisation)."""
        return (u**2).sum(-2) / 2 - self.potential(v).sum(-2)


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _one(x: Array) -> Array:
    return np.ones_like(x)


def _on(x: Array) -> Array:
    return (x > 0).astype(np.float64)


ACTIVATIONS = {a.name: a for a in (
    Activation("linear", lambda x: x, _one, np.zeros_like, lambda x: x**2 / 2, _one),
    Activation("relu", lambda x: np.maximum(x, 0), _on, np.zeros_like, lambda x: np.maximum(x, 0) ** 2 / 2, _on),
    Activation("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2, lambda x: -2 * np.tanh(x) * (1 - np.tanh(x) ** 2),
               lambda x: np.sinh(x) ** 2 / 2, lambda x: np.cosh(2 * x)),
    Activation("sigmoid", _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x),
               lambda x: _sigmoid(x) * _sigmoid(-x) * (1 - 2 * _sigmoid(x)), lambda x: x + np.expm1(x), np.exp),
)}


def draw(seed: int, m: int, n: int, k: int, deviations: Sequence[float]) -> tuple[Array, Array, Array]:
    """Y [m, n] and, for each deviation, the same directions scaled: U [runs, m, k], V [runs, n, k]."""
    rng = np.random.default_rng(seed)
    y, u, v = rng.standard_normal((m, n)), rng.standard_normal((m, k)), rng.standard_normal((n, k))
    scale = np.asarray(deviations)[:, None, None]
    return y, scale * u, scale * v


def published_draw(seed: int, m: int, n: int, k: int, deviations: Sequence[float], mean: float = 0.0) -> tuple[Array, Array, Array]:
    """As ``draw``, at seed 0 with the very numbers of the published code; means of U and V are ``mean`` times the deviation.

    That code sets the generator to one and the same seed before each of Y, U and V, so these are not independent.
    """
    def alone(rows: int, columns: int, deviation: float, centre: float) -> Array:
        return normals(torch.Generator().manual_seed(PUBLISHED_SEED + seed), rows, columns, deviation, centre)

    u, v = (np.array([alone(rows, k, s, mean * s) for s in deviations]) for rows in (m, n))
    return alone(m, n, 1.0, 0.0), u, v


def drawn(seed: int) -> str:
    """For a page: where the initial weights come from."""
    return f"draws of the published code (its seed {PUBLISHED_SEED}{f' + {seed}' if seed else ''})"


def normals(generator: torch.Generator, rows: int, columns: int, deviation: float, mean: float = 0.0) -> Array:
    """The published code's matrix [rows, columns] of normals: drawn in float32, over uniform numbers, which take up draws as well."""
    drawn = torch.rand(rows, columns, generator=generator, dtype=torch.float32)
    return drawn.normal_(mean, deviation, generator=generator).double().numpy()


@dataclass(frozen=True)
class Trace:
    """What a run of gradient descent went through: at each of ``steps``, per run."""

    steps: list[int]
    losses: Array  # [steps, runs] |Y - F|
    misses: Array  # [steps, runs, m, n] F - Y
    charges: Array  # [steps, runs, k]
    predicted: Array  # [steps, runs, k]: initial charges plus the sum of second-order terms, step by step
    u: Array
    v: Array


def descend(act: Activation, y: Array, u: Array, v: Array, rates: Sequence[float], marks: Sequence[int], predict: bool = False) -> Trace:
    """Gradient descent on the mean of (Y - F)^2 to the last of ``marks`` steps; rates [runs].

    Predicted charges: gradient flow keeps Q_j; a step of size e changes it by 1/2 e^2 (|gU|^2 - sum (s/s')' gV^2) + O(e^3), exactly so
    for linear networks.
    """
    u, v, e = u.copy(), v.copy(), np.asarray(rates, dtype=np.float64)[:, None, None]
    factor = 2.0 / y.size
    start, drift = act.charges(u, v), np.zeros((u.shape[0], u.shape[2]))
    misses, charges, predicted = [], [], []
    wanted = sorted(set(marks))
    linear = act.name == "linear"
    at = 0
    for step in range(wanted[-1] + 1):
        s = v if linear else act.value(v)
        miss = u @ s.swapaxes(-1, -2) - y
        if step == wanted[at]:
            misses.append(miss.copy())
            charges.append(act.charges(u, v))
            predicted.append(start + drift)
            at += 1
            if at == len(wanted):
                break
        miss *= factor
        gu, gv = miss @ s, miss.swapaxes(-1, -2) @ u
        if not linear:
            gv *= _slope_from(act, v, s)
        gu *= e
        gv *= e
        if predict:
            drift += 0.5 * ((gu**2).sum(-2) - (act.spread(v) * gv**2).sum(-2))
        u -= gu
        v -= gv
    seen = np.array(misses)
    return Trace(wanted, np.sqrt((seen**2).sum((-1, -2))), seen, np.array(charges), np.array(predicted), u, v)


def _slope_from(act: Activation, v: Array, s: Array) -> Array:
    """sigma' from sigma where that saves evaluating it again."""
    if act.name == "tanh":
        return 1.0 - s * s
    return s * (1.0 - s) if act.name == "sigmoid" else act.slope(v)


def jacobian(act: Activation, u: Array, v: Array) -> Array:
    """Of F in (U, V): [m n, k (m + n)]."""
    (m, k), n = u.shape, v.shape[0]
    ju = np.einsum("ip,aj->iapj", np.eye(m), act.value(v)).reshape(m * n, m * k)
    jv = np.einsum("ij,aj,ac->iacj", u, act.slope(v), np.eye(n)).reshape(m * n, n * k)
    return np.concatenate([ju, jv], axis=1)


def hessian(act: Activation, y: Array, u: Array, v: Array) -> Array:
    """Of |Y - F|^2 at U [m, k], V [n, k], order (U, V): [k (m + n), k (m + n)]."""
    (m, k), n = u.shape, v.shape[0]
    d, b = act.slope(v), act.bend(v)
    miss = u @ act.value(v).T - y
    j = jacobian(act, u, v)
    h = 2 * j.T @ j
    cross = 2 * np.einsum("ia,aj,jl->ijal", miss, d, np.eye(k)).reshape(m * k, n * k)
    h[:m * k, m * k:] += cross
    h[m * k:, :m * k] += cross.T
    h[m * k:, m * k:] += np.diag((2 * (miss.T @ u) * b).ravel())
    return h
