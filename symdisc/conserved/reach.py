"""Which values a moment map takes on an orbit, and the group element that leads to a given one, in closed form.

For GL(h) acting by V -> gV, U -> U g^-1 the charge is T = 1/2 (V V^T - U^T U). With a = rank V, b = rank U, r = rank UV the values
on the orbit are exactly the symmetric T with a - r <= n+(T) <= a and b - r <= n-(T) <= b (n+, n-: numbers of positive and negative
eigenvalues). *Necessary*: on im V n ker U, of dimension a - r, x^T T x = 1/2 |V^T x|^2 > 0, and V V^T has rank a; likewise for U.
*Sufficient*: the construction below. So T = 0, the balanced point, is reached iff a = b = r (Kempf-Ness: the orbit is closed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symdisc.errors import BadInput

__all__ = ["gl_element", "scale_element"]

CUT = 1e-10  # singular and eigenvalues below this share of the largest count as zero; float64 leaves about 1e-15


@dataclass(frozen=True)
class _Frame:
    """Bases that a pair V [h, N], U^T [h, M] defines: columns ``matched`` (one per singular value of UV) and what only V or only U
    reaches, as vectors of R^h and (for U) of its dual."""

    sigma: np.ndarray  # [r] singular values of UV, descending
    matched: np.ndarray  # [h, r]: V R_i / sqrt(sigma_i)
    dual: np.ndarray  # [h, r]: U^T P_i / sqrt(sigma_i)
    inner: np.ndarray  # [h, a - r]: the part of im V that U does not see, orthogonal columns, longest first
    outer: np.ndarray  # [h, b - r]: the part of im U^T that V does not reach, in the dual space


def _cut(values: np.ndarray, scale: float) -> int:
    return int((values > CUT * scale).sum())


def _frame(v: np.ndarray, ut: np.ndarray) -> _Frame:
    scale = np.linalg.norm(v, 2) * np.linalg.norm(ut, 2)
    p, s, rt = np.linalg.svd(ut.T @ v)
    r = _cut(s, float(scale))
    sigma = s[:r]
    rest = []
    for x, side in ((v, rt[r:].T), (ut, p[:, r:])):
        left, length, _ = np.linalg.svd(x @ side, full_matrices=False)
        n = _cut(length, float(np.linalg.norm(x, 2)))
        rest.append(left[:, :n] * length[:n])
    return _Frame(sigma, v @ rt[:r].T / sigma**0.5, ut @ p[:, :r] / sigma**0.5, *rest)


def _whole(f: _Frame) -> np.ndarray:
    """[h, h]: matched, inner, and vectors that complete them, dual to ``outer``; the last are seen by nothing."""
    h, q = f.matched.shape[0], f.outer.shape[1]
    seen = np.concatenate([f.dual, f.outer], axis=1)  # [h, r + q]
    to_outer = np.linalg.pinv(seen.T)[:, f.dual.shape[1]:] if q else np.zeros((h, 0))
    known = np.concatenate([seen, np.linalg.qr(f.inner)[0]], axis=1)
    unseen = np.linalg.svd(known)[0][:, known.shape[1]:] if known.shape[1] else np.eye(h)
    return np.concatenate([f.matched, f.inner, to_outer, unseen], axis=1)


def gl_element(v: np.ndarray, ut: np.ndarray, target: np.ndarray) -> np.ndarray:
    """g [h, h] with 1/2 (g V V^T g^T - g^-T U^T U g^-1) = ``target`` (symmetric [h, h]) for V [h, N] and U^T [h, M].

    Among the solutions that diagonalise with the target it is the one that keeps the parameters shortest: large eigenvalues of the
    target go with large singular values of UV. Raises BadInput, with the numbers of the theorem above, when no element leads there.
    """
    h = v.shape[0]
    f = _frame(v, ut)
    r, p, q = len(f.sigma), f.inner.shape[1], f.outer.shape[1]
    w, e = np.linalg.eigh((target + target.T) / 2)
    scale = max(float(np.abs(w).max(initial=0.0)), float(f.sigma.max(initial=0.0)), 1e-300)
    plus = [i for i in np.argsort(-w) if w[i] > CUT * scale]
    minus = [i for i in np.argsort(w) if w[i] < -CUT * scale]
    zero = [i for i in range(h) if abs(w[i]) <= CUT * scale]
    if not (p <= len(plus) <= p + r and q <= len(minus) <= q + r):
        raise BadInput(f"no change of basis leads to this value: it has {len(plus)} positive and {len(minus)} negative eigenvalues, and "
                       f"on this orbit there are {p} to {p + r} positive and {q} to {q + r} negative ones "
                       f"(ranks: in {p + r}, out {q + r}, product {r})")
    spread = max(0, h - p - q - r - len(zero))
    new = _target_frame(f.sigma, w, e, plus, minus, zero, (p, q, spread))
    return new @ np.linalg.inv(_whole(f))


def _target_frame(sigma: np.ndarray, w: np.ndarray, e: np.ndarray, plus: list[int], minus: list[int], zero: list[int],
                  counts: tuple[int, int, int]) -> np.ndarray:
    """The images of matched, inner, outer and unseen vectors: columns of g times the frame."""
    p, q, spread = counts
    inner, plus = plus[:p], plus[p:]
    outer, minus = minus[:q], minus[q:]
    pairs = list(zip(plus[:spread], minus[:spread], strict=True))
    single = sorted([*plus[spread:], *minus[spread:], *zero], key=lambda i: -abs(w[i]))[: len(sigma) - spread]
    unseen = [e[:, i] for i in zero if i not in single]
    matched = []
    for (i, j), s in zip(pairs, sigma, strict=False):
        phi = 0.5 * np.arcsinh(s / (w[i] - w[j]))
        a, b = e[:, i] * (2 * w[i]) ** 0.5, e[:, j] * (-2 * w[j]) ** 0.5
        matched.append((a * np.cosh(phi) + b * np.sinh(phi)) / s**0.5)
        other = e[:, i] * (-2 * w[j]) ** 0.5 * np.cosh(phi) - e[:, j] * (2 * w[i]) ** 0.5 * np.sinh(phi)
        unseen.append(other / np.linalg.norm(other))  # orthogonal to what U sees in this plane
    for i, s in zip(single, sigma[spread:], strict=True):
        # c - d = 2t and c d = sigma^2; the smaller of c, d as a quotient, so that nothing cancels
        root = np.hypot(w[i], s)
        square = w[i] + root if w[i] >= 0 else s**2 / (root - w[i])
        matched.append(e[:, i] * (square / s) ** 0.5)
    columns = [*matched, *(e[:, i] * (2 * w[i]) ** 0.5 for i in inner), *(e[:, i] / (-2 * w[i]) ** 0.5 for i in outer), *unseen]
    return np.stack(columns, axis=1)


def scale_element(squares: dict[float, np.ndarray], target: np.ndarray) -> np.ndarray:
    """s > 0 [units] with sum_p p/2 s^(2p) N_p = ``target``, for N_p [units] the squared norms of what is multiplied by s^p.

    The sum increases with s. For two opposite degrees it is a quadratic equation; otherwise a safeguarded Newton iteration in log s.
    Raises BadInput when a target lies outside the open range of the sum.
    """
    low = np.where(sum(n for p, n in squares.items() if p < 0) + 0 * target > 0, -np.inf, 0.0)
    high = np.where(sum(n for p, n in squares.items() if p > 0) + 0 * target > 0, np.inf, 0.0)
    still = (low == 0) & (high == 0)  # a unit with vanishing weights: its value is 0 whatever s is
    bad = np.nonzero(np.where(still, target != 0, (target <= low) | (target >= high)))[0]
    if len(bad):
        u = int(bad[0])
        reach = "only the value 0" if still[u] else f"the values between {low[u]:g} and {high[u]:g}"
        raise BadInput(f"unit {u} cannot have the value {target[u]:.6g}: rescaling reaches {reach} there, as "
                       f"{'all its weights' if still[u] else 'one side of its weights'} vanish or only one side exists")
    degrees = sorted(squares)
    if len(degrees) == 2 and degrees[0] == -degrees[1]:
        p, a, b = degrees[1], squares[degrees[1]], squares[degrees[0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(target**2 + p * p * a * b)
            square = np.where(target >= 0, (target + root) / (p * a), p * b / (root - target))  # s^(2p)
        return np.where(still, 1.0, square) ** (0.5 / p)
    return np.exp(_log_root(squares, target, still))


def _log_root(squares: dict[float, np.ndarray], target: np.ndarray, still: np.ndarray) -> np.ndarray:
    """x [units] with sum_p p/2 e^(2px) N_p = target: Newton, kept inside a bracket that shrinks."""
    low, high, x = (np.full(target.shape, v) for v in (-300.0, 300.0, 0.0))
    bound = 600.0 / max(abs(2 * p) for p in squares)
    low, high = np.maximum(low, -bound), np.minimum(high, bound)
    for _ in range(400):
        terms = {p: n * np.exp(2 * p * x) for p, n in squares.items()}
        value = sum(p / 2 * t for p, t in terms.items()) - target
        slope = sum(p * p * t for p, t in terms.items())
        low, high = np.where(value < 0, x, low), np.where(value > 0, x, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = x - value / slope
        inside = (step > low) & (step < high)
        following = np.where(still | (value == 0), x, np.where(inside, step, (low + high) / 2))
        if np.all(np.abs(following - x) <= 1e-16 * np.maximum(1.0, np.abs(x))):
            break
        x = following
    return x
