"""Tables of which a network reads every row through a norm with eps > 0: n = c / sqrt(|c|^2/d + eps), c the row, less its mean if centred.

The norm maps such rows one to one onto the open ball |n|^2 < d (of the vectors orthogonal to 1, if centred), so the table may hold any
rows n of the ball, and what stands behind them may be moved freely: gamma -> e^s gamma, beta -> beta + u, while n -> e^-s (n - u/gamma)
keeps gamma n + beta. A centred n has to stay orthogonal to 1. Where nothing sees a multiple of 1 added to gamma n + beta, as much of
1/gamma' is added to n' as that takes; elsewhere 1^T (e^-s (n - u/gamma)) = 0 for all n leaves s alike for all entries and
1^T (u/gamma) = 0. With eps = 0 the rows lie on the sphere and nothing of this holds.

An element is one vector t, additive. ``kind`` says how s and u are made of it: ALL: t = (s, u); MODULO: t = (s, w) with u = B w;
CENTRED: t = (k, w) with s = k 1 and u = gamma/rms(gamma) B w; B an orthonormal basis of the vectors orthogonal to 1. Without a shift
beta there is no u. An action is local: rows that leave the ball are no number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ALL", "CENTRED", "MODULO", "Ball", "coordinates", "inward", "lifted", "lowered", "moved", "pulled", "size", "slopes", "split"]

Array = Any  # of numpy or torch
ALL, MODULO, CENTRED = "all", "modulo 1", "centred"  # no mean is taken; it is, and not seen behind the norm; it is, and seen
ROOM = 8.0  # how much farther in than out an element is drawn: shifts are divided by gains, which may be small


@dataclass(frozen=True)
class Ball:
    """The norm of rows [..., d] and its inverse. The mean m of a row, which a norm that centres does not see, moves by the same rule,
    m / sqrt(m^2 + eps) times a factor: a row near the centre beside a mean as large as it was would lose its digits."""

    eps: float
    centred: bool

    def centre(self, rows: Array) -> Array:
        return rows - rows.mean(-1)[..., None] if self.centred else rows

    def norm(self, rows: Array) -> Array:
        c = self.centre(rows)
        return c / self._length(c)

    def moved(self, rows: Array, change: Array, factor: Array) -> Array:
        """The rows with ``norm`` changed by that much, and that of their means multiplied by ``factor``; no number outside the ball."""
        c = self.centre(rows)
        return self._moved(c, change) + self._scaled(rows - c, factor) if self.centred else self._moved(c, change)

    def scaled(self, rows: Array, factor: Array) -> Array:
        """The rows that ``norm`` takes to ``factor`` times as much."""
        c = self.centre(rows)
        return self._scaled(c, factor) + self._scaled(rows - c, factor) if self.centred else self._scaled(c, factor)

    def pushed(self, rows: Array) -> Array:
        """The derivative of ``scaled`` in log factor."""
        c = self.centre(rows)
        return self._pushed(c) + self._pushed(rows - c) if self.centred else self._pushed(c)

    def pushed_mean(self, rows: Array) -> Array:
        """Its part along the means."""
        return self._pushed(rows - self.centre(rows))

    def pulled(self, rows: Array, slopes: Array) -> Array:
        """The transpose of the derivative of ``moved`` in the change: r (x + c (c.x)/(d eps)), r the length of c and x centred."""
        c, x = self.centre(rows), self.centre(slopes)
        return self._length(c) * (x + c * ((c * x).mean(-1)[..., None] / self.eps))

    def potential(self, rows: Array) -> Array:
        """For each row what ``pushed`` is the gradient of: |c|^2/2 + |c|^4/(4 d eps), and the same of the mean, d times."""
        c = self.centre(rows)
        return self._potential(c) + self._potential(rows - c) if self.centred else self._potential(c)

    # one part c of a row, of which |c|^2/d alone is read
    def _length(self, c: Array) -> Array:
        """sqrt(|c|^2/d + eps), [..., 1]"""
        return (((c * c).mean(-1) + self.eps) ** 0.5)[..., None]

    def _moved(self, c: Array, change: Array) -> Array:
        """What 1 - |n|^2/d is follows from what it was: of rows near the sphere, as trained ones are, squares would leave few digits."""
        length = self._length(c)
        room = self.eps / length**2 - (change * (2.0 * c / length + change)).mean(-1)[..., None]
        return (c / length + change) * (self.eps / room) ** 0.5

    def _scaled(self, c: Array, factor: Array) -> Array:
        return self._moved(c, c / self._length(c) * (factor - 1.0))

    def _pushed(self, c: Array) -> Array:
        return c * (1.0 + (c * c).mean(-1)[..., None] / self.eps)

    def _potential(self, c: Array) -> Array:
        m = (c * c).mean(-1)
        return c.shape[-1] * m * (0.5 + m / (4.0 * self.eps))


# --- elements ---------------------------------------------------------------------------------------------------------
def lifted(w: Array) -> Array:
    """B w, [d - 1] to [d]: B's columns are orthonormal and orthogonal to 1 (Helmert), column j (1, .., 1, -j, 0, ..) / sqrt(j (j + 1))."""
    j = np.arange(1.0, len(w) + 1)
    z, places = w * _alike(1.0 / np.sqrt(j * (j + 1)), w), _alike(j, w)
    return joined([z.sum().reshape(1), z.sum() - z.cumsum(0) - places * z])


def lowered(u: Array) -> Array:
    """B^T u, [d] to [d - 1]"""
    j = np.arange(1.0, len(u))
    return (u.cumsum(0)[:-1] - _alike(j, u) * u[1:]) * _alike(1.0 / np.sqrt(j * (j + 1)), u)


def joined(parts: list[Array]) -> Array:
    return sys.modules["torch"].cat(parts) if hasattr(parts[0], "new_tensor") else np.concatenate(parts)


def size(kind: str, d: int, shift: bool) -> int:
    """Coordinates of an element."""
    scales, shifts = (1 if kind == CENTRED else d), (d if kind == ALL else d - 1)
    return scales + shifts if shift else scales


def split(kind: str, t: Array, d: int, gain: Callable[[], Array]) -> tuple[Array, Array | None]:
    """(s [d], u [d]); u is None where the norm has no shift. ``gain`` is asked for where u depends on it."""
    first = 1 if kind == CENTRED else d
    s, w = t[:first], t[first:]
    s = s * _alike(np.ones(d), t) if kind == CENTRED else s
    if not len(w):
        return s, None
    u = w if kind == ALL else lifted(w)
    return s, u * _even(gain()) if kind == CENTRED else u


def coordinates(kind: str, s: Array, u: Array | None, gain: Callable[[], Array]) -> Array:
    """The transpose of ``split``: the covector of t from those of s and u."""
    found = [s.sum().reshape(1) if kind == CENTRED else s]
    if u is not None:
        u = u * _even(gain()) if kind == CENTRED else u
        found.append(u if kind == ALL else lowered(u))
    return joined(found)


def inward(kind: str, t: np.ndarray, d: int, scale: float) -> np.ndarray:
    """A random element with scales so large that rows stay in the ball, unless gains are small (``pulled``)."""
    first = 1 if kind == CENTRED else d
    return np.concatenate([t[:first] - t[:first].min() + np.log1p(ROOM * scale), t[first:]])


def pulled(kind: str, t: np.ndarray, d: int) -> np.ndarray:
    """The same with larger scales: after a few such steps all rows are inside."""
    first = 1 if kind == CENTRED else d
    return np.concatenate([t[:first] + 1.0, t[first:]])


def moved(kind: str, ball: Ball, rows: Array, gain: Array, s: Array, u: Array | None, expm1: Callable[[Array], Array]) -> Array:
    """The rows of the table [v, d] after the element (s, u); ``gain`` [d] as it was before."""
    less = expm1(-s)
    change = ball.norm(rows) * less
    if u is not None:
        change = change - u / gain * (1.0 + less)
    if kind == MODULO:
        lean = (1.0 + less) / gain
        change = change - change.sum(-1)[..., None] * (lean / lean.sum())
    return ball.moved(rows, change, 1.0 + expm1(-s.mean()))


def slopes(kind: str, ball: Ball, rows: Array, gain: Array, x: Array) -> tuple[Array, Array]:
    """<x, d(moved)> at the identity as covectors of s and of u, [d] each."""
    z = ball.pulled(rows, x)
    if kind == MODULO:
        lean = 1.0 / gain
        z = z - (z * lean).sum(-1)[..., None] / lean.sum()
    of_scales = -(ball.norm(rows) * z).sum(0)
    return of_scales - (x * ball.pushed_mean(rows)).sum() / len(gain) if ball.centred else of_scales, -z.sum(0) / gain


def _even(gain: Array) -> Array:
    """The gain at size 1: a common factor of it changes nothing."""
    return gain / (gain * gain).mean() ** 0.5


def _alike(values: np.ndarray, like: Array) -> Array:
    return like.new_tensor(values) if hasattr(like, "new_tensor") else values
