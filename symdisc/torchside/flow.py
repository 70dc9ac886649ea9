"""Finite elements of a remainder without a name: the flow of a tangent field along the fibre, integrated to high order.

The field is theta -> P_T(theta) v, the projection of a fixed vector on the fibre's tangents at theta; -v runs it backwards, and
c v runs it for the time c. At a kink of the network (with finitely many inputs, such as tokens, there are kinks in the weights too)
the field may turn back on both sides, and a path along v has no end; so what is sampled stops before the first kink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.linalg import svd
from torch import Tensor

from symdisc.archgraph import build
from symdisc.elements import sample_array
from symdisc.errors import BadInput, Undecided
from symdisc.solve import normal_rows
from symdisc.torchside.algebra import Algebra
from symdisc.torchside.apart import apart, finite_count
from symdisc.torchside.apply import act
from symdisc.torchside.interpret import wide
from symdisc.torchside.steady import STEADY, keeping

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.symmetry import Element, Factor, Symmetry
    from symdisc.torchside.capture import Capture

__all__ = ["clear_paths", "run_flow"]

RTOL, ATOL = 1e-10, 1e-12  # of the integration; what it drifts off the fibre is then put back
# tangents are as exact as rounding over the smallest singular value kept: where a fibre is nearly larger (a scale that only eps of a
# norm forbids) that is 1e-7, and an integrator asked for more takes thousands of steps through the noise
ROUNDING = 2.0 ** -52
# a smooth field takes steps near 0.1; where it jumps, at a kink of an activation, some ten steps are short, and hundreds where it turns
# back at the same kink again and again: such a path has no end worth waiting for
SHORT, MOST_SHORT = 1e-4, 60
CLEAR = 2  # short steps by which a kink is known
BEFORE = 0.8  # of the way to a kink: how far a sampled path goes
NEAR = 0.05  # of the way asked for; where the first kink is nearer, other directions are tried first
TRIES = 6
DIRECTIONS = 3
LOOKS, SAME = 64, 1e-9  # draws at which both ends of a path are compared, many for kinks that few inputs reach; the change allowed
CORRECTIONS = 3  # Newton steps back on the fibre; the first brings the drift from 1e-10 below rounding


class _Field:
    """Projection on the tangents of the fibre, of fixed dimension, along a path of weights."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra, self.network = algebra, algebra.network
        self.fibre, self.noise = algebra.outputs[0].dimension, 0.0
        plain = algebra.beside(()) if algebra.capture.deciders else algebra
        self.rank = self.network.size - plain.outputs[0].dimension  # of the outputs alone
        self.draws = self._few_draws(algebra.outputs[1])

    @property
    def repeats(self) -> bool:
        """The outputs are the same at every run: where units are dropped at random, no path can be followed."""
        draws = self.network.draws(0, 2)
        once, again = (self.network.output(self.network.parameters, draws) for _ in range(2))
        return bool(np.array_equal(once, again))

    def _few_draws(self, most: int) -> list[tuple[Tensor, ...]]:
        """The fewest draws, by doubling, at which the Jacobian has its full rank."""
        rank, count = self.network.size - self.fibre, 2
        while count < most:
            rows = self._jacobian(self.network.parameters, self.network.draws(0, count))
            s = np.linalg.svd(rows, compute_uv=False) if len(rows) >= rank else np.zeros(0)
            if rank == 0:
                break
            if len(s) >= rank and s[rank - 1] > 0.0:
                self.noise = ROUNDING * float(s[0] / s[rank - 1])
                if s[rank - 1] > 1e-7 * s[0]:
                    break
            count *= 2
        return self.network.draws(0, min(2 * count, most))

    def _jacobian(self, parameters: dict[str, Tensor], draws: list[tuple[Tensor, ...]]) -> np.ndarray:
        return normal_rows(self.network.equations(parameters, draws))

    def tangents(self, theta: np.ndarray) -> np.ndarray:
        """[D, fibre] at ``theta`` [D], orthonormal."""
        parameters = self.network.unflatten(torch.from_numpy(theta))
        rows = self._jacobian(parameters, self.draws)
        if len(rows) < self.network.size - self.fibre or not np.isfinite(rows).all():
            raise Undecided("the flow of the remainder left the weights at which the network is finite; sample with a smaller scale")
        small = np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows
        _, _, vh = svd(small, full_matrices=True, lapack_driver="gesvd")  # the faster driver fails on some finite matrices
        return np.asarray(vh[self.network.size - self.fibre:].T)

    def run(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The end of the path that starts at ``theta`` and lasts one unit of time."""
        _, end, why = self._follow(theta, v, MOST_SHORT)
        if why:
            raise Undecided(f"the flow of the remainder {why}; sample with a smaller scale, or with another seed")
        end = self._back(theta, end)
        if not self._same_function(theta, end):
            raise Undecided("the flow of the remainder met weights at which the fibre changes its dimension; sample with a "
                            "smaller scale, or with another seed")
        return end

    def clear_path(self, theta: np.ndarray, v: np.ndarray) -> tuple[float, np.ndarray]:
        """(c, end): the path along c v, c at most 1, ends before the first kink of the path along v; c is 0 where nothing is clear."""
        c = 1.0
        for _ in range(TRIES):
            time, end, why = self._follow(theta, c * v, CLEAR)
            if why:
                c *= BEFORE * time
                continue
            end = self._back(theta, end)
            if self._same_function(theta, end):
                return c, end
            c /= 2
        return 0.0, theta

    def _follow(self, theta: np.ndarray, v: np.ndarray, most: int) -> tuple[float, np.ndarray, str]:
        """(time, weights, why the path stops there before its time): it stops where more than ``most`` steps are short."""

        def slope(_: float, at: np.ndarray) -> np.ndarray:
            t = self.tangents(at)
            return np.asarray(t @ (t.T @ v))

        loose = max(1.0, self.noise / RTOL)
        solver = DOP853(slope, 0.0, theta, 1.0, rtol=RTOL * loose, atol=ATOL * loose)
        short, clear = 0, 0.0
        while solver.status == "running":
            before = solver.t
            try:
                message = solver.step()
            except Undecided:
                return clear, theta, "left the weights at which the network is finite"
            if solver.status == "failed":
                return clear, theta, f"could not be integrated ({message})"
            if solver.h_abs < SHORT and solver.status == "running":
                short += 1
            else:
                clear = before  # the last step may have looked into a kink already
            if short > most:
                return clear, theta, "meets kinks of the network, where the fibre turns at once"
        return 1.0, solver.y, ""

    def _same_function(self, start: np.ndarray, end: np.ndarray) -> bool:
        draws = self.network.draws(4000, LOOKS)
        a, b = (torch.from_numpy(self.network.output(self.network.unflatten(torch.from_numpy(t)), draws).reshape(LOOKS, -1))
                for t in (start, end))
        return finite_count([a]) > 0 and apart(a, b, fine=True) <= SAME

    def _back(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Newton steps, of least length, to the outputs that the start had."""
        unflatten = self.network.unflatten
        target = self.network.output(unflatten(torch.from_numpy(start)), self.draws)
        known, rank = np.isfinite(target), self.rank
        for _ in range(CORRECTIONS):
            parameters = unflatten(torch.from_numpy(end))
            gap = np.where(known, self.network.output(parameters, self.draws), 0.0) - np.where(known, target, 0.0)
            jac = self.network.jacobian(parameters, self.draws)
            if len(jac) != len(gap) or not np.isfinite(gap).all() or rank == 0:
                break
            u, s, vh = np.linalg.svd(jac, full_matrices=False)
            end = end - vh[:rank].T @ ((u[:, :rank].T @ gap) / s[:rank])
        return end


def run_flow(cat: Catalog, factor: Factor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights moved along the remainder by the vector that ``factor`` carries, in the dtype of ``state``.

    Where ``state`` is the start of a path that was followed before, its end is known.
    """
    captured: Capture | None = cat.captured
    if captured is None:
        raise BadInput("this catalog was read from a file, and its remainder without a name acts by a flow that needs the model: "
                       "run discover on the model again")
    start = _stored(captured, state)
    if factor.path is not None and np.array_equal(start, _stored(captured, _named(captured, factor.path[0], state))):
        return _named(captured, factor.path[1], state)
    if not factor.array.any():
        return {}
    return _named(captured, _field(captured, cat.symmetries[factor.which], state).run(start, factor.array), state)


def clear_paths(cat: Catalog, g: Element, scale: float, seed: int) -> Element:
    """``g`` with paths of the remainder that meet no kink from the weights of the catalog's model on, shorter ones or others.

    Each carries both its ends. At other weights a path may meet a kink all the same, and ``run_flow`` says so.
    """
    captured: Capture = cat.captured
    work = {n: t.detach() for n, t in captured.parameters.items()}
    work.update({n: captured.tensors[v].detach() for v, n in captured.graph.buffers.items() if v in captured.tensors})
    last = max(k for k, f in enumerate(g.factors) if f.kind == "flow")
    factors: list[Factor] = []
    for factor in g.factors[:last + 1]:
        if factor.kind == "flow":
            factor, moved = _clear(captured, factor, cat.symmetries[factor.which], work, scale, seed)
        else:
            moved = act((cat.discrete if factor.kind == "discrete" else cat.symmetries)[factor.which], factor.array, work)
        work.update(moved)
        factors.append(factor)
    return replace(g, factors=(*factors, *g.factors[last + 1:]))


def _clear(captured: Capture, factor: Factor, symmetry: Symmetry, state: Mapping[str, Tensor], scale: float, seed: int,
           ) -> tuple[Factor, dict[str, Tensor]]:
    """The factor with the longest clear path among a few directions, and the weights at its end."""
    start = _stored(captured, state)
    best, v, end = 0.0, factor.array, start
    try:
        field = _field(captured, symmetry, state)
        for k in range(DIRECTIONS if field.repeats else 0):
            other = factor.array if k == 0 else sample_array(symmetry, np.random.default_rng([seed, k]), scale)
            length, reached = field.clear_path(start, other)
            if length > best:
                best, v, end = length, other, reached
            if best >= NEAR:
                break
    except Undecided:
        best, end = 0.0, start
    moved = _named(captured, end, state)
    return replace(factor, array=best * v, path=(start, end)), moved  # the end unrounded: it may be asked for in a wider dtype


def _field(captured: Capture, symmetry: Symmetry, state: Mapping[str, Tensor]) -> _Field:
    captured = keeping(captured) if symmetry.site == STEADY else captured
    return _Field(Algebra.of(captured, build(captured.graph), {n: wide(t) for n, t in state.items()}))


def _stored(captured: Capture, state: Mapping[str, Tensor]) -> np.ndarray:
    """[D], the parameters of ``state`` in the order of registration, in float64."""
    return torch.cat([state[n].detach().double().cpu().reshape(-1) for n in captured.parameters]).numpy()


def _named(captured: Capture, theta: np.ndarray, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[D] as named tensors in the dtypes of ``state``."""
    sizes = [t.numel() for t in captured.parameters.values()]
    parts = torch.from_numpy(theta.copy()).split(sizes)
    return {n: part.reshape(t.shape).to(state[n]) for (n, t), part in zip(captured.parameters.items(), parts, strict=True)}
