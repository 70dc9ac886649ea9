"""Finite elements of a remainder without a name: the flow of a tangent field along the fibre, integrated to high order.

The field is theta -> P_T(theta) v, the projection of a fixed vector on the fibre's tangents at theta; -v runs it backwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.linalg import svd
from torch import Tensor

from symdisc.archgraph import build
from symdisc.errors import BadInput, Undecided
from symdisc.solve import normal_rows
from symdisc.torchside.algebra import Algebra

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.symmetry import Factor
    from symdisc.torchside.capture import Capture

__all__ = ["run_flow"]

RTOL, ATOL = 1e-10, 1e-12  # of the integration; what it drifts off the fibre is then put back
# tangents are as exact as rounding over the smallest singular value kept: where a fibre is nearly larger (a scale that only eps of a
# norm forbids) that is 1e-7, and an integrator asked for more takes thousands of steps through the noise
ROUNDING = 2.0 ** -52
# a smooth field takes steps near 0.1; where it jumps, at a kink of an activation, some ten steps are short, and hundreds where it turns
# back at the same kink again and again: such a path has no end worth waiting for
SHORT, MOST_SHORT = 1e-4, 60
CORRECTIONS = 3  # Newton steps back on the fibre; the first brings the drift from 1e-10 below rounding


class _Field:
    """Projection on the tangents of the fibre, of fixed dimension, along a path of weights."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra, self.network = algebra, algebra.network
        self.fibre, self.noise = algebra.outputs[0].dimension, 0.0
        self.draws = self._few_draws(algebra.outputs[1])

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
        return normal_rows(self.network.jacobian(parameters, draws))

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

        def slope(_: float, at: np.ndarray) -> np.ndarray:
            t = self.tangents(at)
            return np.asarray(t @ (t.T @ v))

        loose = max(1.0, self.noise / RTOL)
        solver = DOP853(slope, 0.0, theta, 1.0, rtol=RTOL * loose, atol=ATOL * loose)
        short = 0
        while solver.status == "running":
            message = solver.step()
            short += solver.h_abs < SHORT
            if short > MOST_SHORT:
                raise Undecided("the flow of the remainder meets kinks of the network, where the fibre turns at once; sample with a "
                                "smaller scale, or with another seed")
            if solver.status == "failed":
                raise Undecided(f"the flow of the remainder could not be integrated ({message}); sample with a smaller scale")
        end = self._back(theta, solver.y)
        if not self._same_function(theta, end):
            raise Undecided("the flow of the remainder met weights at which the fibre changes its dimension; sample with a "
                            "smaller scale, or with another seed")
        return end

    def _same_function(self, start: np.ndarray, end: np.ndarray) -> bool:
        draws = self.network.draws(4000, 8)
        a, b = (self.network.output(self.network.unflatten(torch.from_numpy(t)), draws) for t in (start, end))
        return bool(np.abs(a - b).max() <= 1e-8 * max(float(a.std()), 1e-300))

    def _back(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Newton steps, of least length, to the outputs that the start had."""
        unflatten = self.network.unflatten
        target = self.network.output(unflatten(torch.from_numpy(start)), self.draws)
        rank = self.network.size - self.fibre
        for _ in range(CORRECTIONS):
            parameters = unflatten(torch.from_numpy(end))
            gap = self.network.output(parameters, self.draws) - target
            jac = self.network.jacobian(parameters, self.draws)
            if len(jac) != len(gap) or not np.isfinite(gap).all() or rank == 0:
                break
            u, s, vh = np.linalg.svd(jac, full_matrices=False)
            end = end - vh[:rank].T @ ((u[:, :rank].T @ gap) / s[:rank])
        return end


def run_flow(cat: Catalog, factor: Factor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights moved along the remainder by the vector that ``factor`` carries, in the dtype of ``state``."""
    captured: Capture | None = cat.captured
    if captured is None:
        raise BadInput("this catalog was read from a file, and its remainder without a name acts by a flow that needs the model: "
                       "run discover on the model again")
    algebra = Algebra.of(captured, build(captured.graph), {n: t.double() if t.is_floating_point() else t for n, t in state.items()})
    field = _Field(algebra)
    network = algebra.network
    end = field.run(network.flatten(network.parameters), factor.array)
    moved = network.unflatten(torch.from_numpy(end))
    return {n: moved[n].to(state[n].dtype) for n in network.layout}
