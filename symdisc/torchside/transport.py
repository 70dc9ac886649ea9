"""Laws of a deep network counted in float64: brackets of fields are looked at only in the directions that the fields leave open.

Along the flow of a time-dependent field X(t) of the losses a field Y pulls back to (D phi_t)^-1 Y(phi_t theta), each coefficient in
t of which lies in the Lie algebra at theta (as in ``laws.lie``). Of the coefficients only their products with covectors p that
vanish on all fields are needed, J(theta_t) p_t where p' = -H_X p: a few directions, not one for each parameter, and all outputs at
an input at once. The known laws are transported, too: what they seem to change by is rounding, and only singular values far above
it count, so a rank is a lower bound of dim Lie as far as float64 can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import factorial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from symdisc.errors import NotProved, Undecided
from symdisc.exact import MIN_GAP, RankEvidence, null_space, rank
from symdisc.torchside.brackets import DEEPEST, ORTHOGONAL, Brackets, Counted
from symdisc.torchside.network import plain_kernels

__all__ = ["count"]

Moving = Callable[..., Tensor]  # a field (theta, t)

NEAR = 0.02  # of weights around where they are: zeros are left, and units of a deep network stay at work
ROWS = 1.3  # rows of a Jacobian for each parameter
DRIVERS = 2  # fields X(t) for each depth
CANDIDATES = 3  # of them the one that bends least for its length is taken: its rounding is least
ENOUGH = 1.5  # coefficients for each direction that is open
STRONG = 1e-4  # directions reached by that much of what is reached best need not be looked at again
LIMIT = 1600  # parameters; Jacobians cost the cube of it
SELDOM = 6  # times as many rows where units switch: some do at few inputs
BALANCES = 4  # rounds of scaling rows and parameters
FAINT = 30  # times the rounding, up to which what does not stand out is rounding itself: between that and MIN_GAP nothing is told
UNSEEN = 1e-10  # what fields make of a parameter that they do not read
ROUNDING = 1e-13  # of the largest singular value, at least, where no law tells the rounding
CHUNK = 64  # directions transported side by side
LAWS = 4  # sums of the known laws that are transported, too: they stay where fields vanish on them


def count(cat: Any, seed: int) -> Counted:
    """Coefficients of more and more fields until their rank meets the laws known, or two depths bring no more.

    Raises Undecided where the network is too large or has no derivatives of such order; NotProved when a law of the catalog is
    not orthogonal to some field or bracket.
    """
    if cat.parameter_count > LIMIT:
        raise Undecided(f"{cat.parameter_count} parameters are too many for brackets in float64: count a smaller copy of the network")
    lie = Brackets(cat, seed, NEAR)
    known, formulas = lie.laws(cat)
    found = rank(known, what="gradients of laws").rank if len(known) else 0
    try:
        with plain_kernels():
            view = _View(lie, known, found)
            depth = view.deepen()
    except (RuntimeError, NotImplementedError) as error:
        raise Undecided(f"this network has no derivatives of such order side by side: {str(error).splitlines()[0]}") from error
    return Counted(view.fields + view.reached, found, depth, view.drawn, formulas, view.evidence, view.decided)


class _View:
    """Covectors that vanish on all fields and are independent of the known laws, and how many of them brackets reach.

    Columns are scaled to what the fields make of each parameter: a rank stands in any coordinates, and small entries are kept apart
    from rounding. What the known laws seem to change by is the rounding that other values are measured against.
    """

    def __init__(self, lie: Brackets, known: np.ndarray, found: int) -> None:
        self.lie, self.network, self.drawn = lie, lie.network, 0
        self.generator = torch.Generator().manual_seed(lie.seed)
        scale, kernel = self._kernel(known)
        self.fields = self.network.size - kernel.shape[1]
        scaled = known / scale
        scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
        inside = np.linalg.svd(kernel.T @ scaled.T)[0] if len(known) else np.eye(kernel.shape[1])
        mixed = np.linalg.qr(np.random.default_rng(lie.seed).standard_normal((found, found)))[0][:, :LAWS]
        self.laws = scale[:, None] * (kernel @ inside[:, :found] @ mixed)
        self.open = scale[:, None] * (kernel @ inside[:, found:])
        self.weak = np.zeros((0, self.open.shape[1]))  # what was seen of the open directions so far
        self.strong, self.reached, self.noise, self.decided = 0, 0, 0.0, True
        self.evidence = RankEvidence(0, self.open.shape, False, "singular values", float("inf"))

    def _kernel(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scales of the parameters [D], and the scaled directions [D, f] on which all fields vanish, the known laws among them."""
        number = int(ROWS * self.network.size / self.lie.outputs) + 40
        rows = self.network.jacobian(self.lie.point, self._draws(number * (SELDOM if self.lie.switches else 1)))
        rows = _of_length_one(rows)
        moved = np.abs(rows @ known.T).max(axis=0, initial=0.0) / np.maximum(np.linalg.norm(known, axis=1), 1e-300)
        if len(known) and moved.max() > ORTHOGONAL:
            raise NotProved(f"a conserved quantity of the catalog changes along a field (cosine {moved.max():.1e})")
        scale = np.ones(self.network.size)
        for _ in range(BALANCES):
            rows = _of_length_one(rows * scale) / scale
            lengths = np.linalg.norm(rows * scale, axis=0)
            scale = np.where(lengths > UNSEEN, scale / np.where(lengths > UNSEEN, lengths, 1.0), scale)
        scale = np.where(lengths > UNSEEN, scale, np.median(scale))
        return scale, null_space(_of_length_one(rows * scale), widest=True, what="fields").basis

    def _draws(self, number: int) -> list[tuple[Tensor, ...]]:
        self.drawn += number
        return self.network.draws(self.drawn - number, number)

    def deepen(self) -> int:
        """Goes on until nothing is open; the depth that was reached."""
        depth, idle = 1, 0
        while self.weak.shape[1] > self.reached - self.strong and depth < DEEPEST and idle < 1:
            depth += 1
            idle = 0 if self._judge(np.concatenate([self._coefficients(depth - 1) for _ in range(DRIVERS)])) else idle + 1
        return depth

    def _judge(self, rows: np.ndarray) -> bool:
        """Counts what stands out of the rounding, keeps open what is reached weakly; whether more is reached than before."""
        number = self.open.shape[1]
        self.noise = max(self.noise, float(np.linalg.norm(rows[:, number:], 2)) if self.laws.shape[1] else 0.0)
        _, s, turn = np.linalg.svd(np.concatenate([self.weak, rows[:, :number]]))
        s = np.concatenate([s, np.zeros(number - len(s))])
        self.noise = max(self.noise, ROUNDING * float(s[0]))
        at = int((s > MIN_GAP * self.noise).sum())
        before, self.reached = self.reached, max(self.strong + at, self.reached)
        if self.strong + at == self.reached:
            self.decided = at == number or bool(s[at] <= FAINT * self.noise)
        self.evidence = RankEvidence(self.reached, rows.shape, False, "singular values", float(s[at - 1] / self.noise) if at else 0.0,
                                     tuple(float(v / s[0]) for v in s[:at][::-1][:3]), (self.noise / float(s[0] or 1.0),))
        strong = int((s > max(STRONG * s[0], MIN_GAP * self.noise)).sum())
        self.strong += strong
        self.weak, self.open = np.diag(s[strong:]), self.open @ turn[strong:].T
        return self.reached > before

    def _coefficients(self, order: int) -> np.ndarray:
        """The coefficients of t .. t^order of fields pulled back, in the open directions and those of laws, [rows, open + laws]."""
        number = self.open.shape[1]
        field, path = self._driver(order)
        covectors = torch.from_numpy(np.concatenate([self.open, self.laws], axis=1).T.copy())
        moved = vmap(lambda p: _transported(field, path, p, order), chunk_size=CHUNK)(covectors).detach()
        inputs = self._draws(int(ENOUGH * number / self.lie.outputs / DRIVERS) + 2)
        jets = [self._jacobians(path, j, inputs) for j in range(order + 1)]
        blocks = []
        for k in range(1, order + 1):
            size = sum(jets[j].norm(dim=1, keepdim=True) * moved[:, k - j].norm(dim=1).max() for j in range(k + 1))
            blocks.append((sum(jets[j] @ moved[:, k - j].T for j in range(k + 1)) / size).numpy())
        rows = np.concatenate(blocks)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if np.abs(rows[:, number:]).max(initial=0.0) > ORTHOGONAL:
            raise NotProved("a conserved quantity of the catalog changes along a bracket of fields")
        return rows

    def _jacobians(self, path: list[Tensor], order: int, inputs: list[tuple[Tensor, ...]]) -> Tensor:
        """The coefficient of t^order of all fields of ``inputs`` along the path, [rows, D]."""
        def jet(*x: Tensor) -> Tensor:
            return _derivative(lambda t: jacrev(lambda theta: self._outputs(theta, x))(_at(path, t)), order) / factorial(order)

        stacked = [torch.stack(t) for t in zip(*inputs, strict=True)]
        return vmap(jet, chunk_size=16, randomness="same")(*stacked).reshape(-1, self.network.size).detach()

    def _outputs(self, theta: Tensor, x: tuple[Tensor, ...]) -> Tensor:
        return self.lie.function(self.network.unflatten(theta), *x)

    def _driver(self, order: int) -> tuple[Moving, list[Tensor]]:
        """A field X(theta, t) of length about 1, and the path that it drives from the point, by its coefficients in t."""
        best: tuple[Moving, Tensor] | None = None
        least = float("inf")
        for x in self._draws(CANDIDATES):
            covectors = torch.randn(order, self.lie.outputs, dtype=torch.float64, generator=self.generator)
            field = self._field(x, covectors / self._field(x, covectors)(self.lie.theta, ZERO).norm())
            speed = field(self.lie.theta, ZERO)
            bend = float(jvp(partial(field, t=ZERO), (self.lie.theta,), (speed,))[1].norm())
            if bend < least:
                best, least = (field, speed), bend
        if best is None:
            raise Undecided("no field of this network is finite at its weights")
        field, path = best[0], [self.lie.theta]
        for j in range(order):
            def speed_at(t: Tensor, known: tuple[Tensor, ...] = tuple(path)) -> Tensor:
                return field(_at(known, t), t)

            path.append((_derivative(speed_at, j) / factorial(j + 1)).detach())
        return field, path

    def _field(self, x: tuple[Tensor, ...], covectors: Tensor) -> Moving:
        return lambda theta, t: grad(lambda w: (self._outputs(w, x) * _at(tuple(covectors), t)).sum())(theta)


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0])


ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def _transported(field: Moving, path: list[Tensor], start: Tensor, order: int) -> Tensor:
    """The coefficients [order + 1, D] of p(t) where p' = -H_X p along the path, p(0) = ``start``."""
    known = [start]
    for j in range(order):
        def slope(t: Tensor, so_far: tuple[Tensor, ...] = tuple(known)) -> Tensor:
            return -jvp(lambda theta: field(theta, t), (_at(path, t),), (_at(so_far, t),))[1]

        known.append(_derivative(slope, j) / factorial(j + 1))
    return torch.stack(known)


def _derivative(f: Callable[[Tensor], Tensor], order: int) -> Tensor:
    """f^(order)(0)."""
    if order == 0:
        return f(ZERO)
    return _derivative(lambda t: jvp(f, (t,), (ONE,))[1], order - 1)


def _at(coefficients: Any, t: Tensor) -> Tensor:
    """The polynomial with these coefficients at t."""
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = c + t * total
    return total
