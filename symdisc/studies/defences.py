"""Ensembles that the robustness study compares: random g, controls that are no symmetry, and g chosen by a stated objective.

The objective, over T_1 ... T_K in gl(h) with g_k = exp(T_k) and U_k the best fit on a clean batch of 4 h or more samples:

    maximise   d * diversity - relu(excess - BUDGET) / BUDGET - l * mean_k log( |U_k| |g_k V| / (|U| |V|) )

*diversity* is the mean squared distance of a copy's probabilities from the mean, at pre-activations moved by noise; *excess* is the
mean cross-entropy of single copies above the network's on clean samples that the fit has not seen: the off-batch error, held to
BUDGET; the last term is the Lipschitz bound on a copy, in spectral norms, relative to the network's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from symdisc.studies.images import Images
from symdisc.torchside.datadep.site import Site, between
from symdisc.torchside.ensemble import Ensemble, build, random_elements

__all__ = ["DEFENCES", "Setting", "choose_elements"]

BUDGET = 0.02  # nats that a single copy may lose off its batch
NOISE = 0.5  # of the standard deviation of each pre-activation: about what the stronger attacks of the study move
STEPS, RATE = 80, 0.03


@dataclass(frozen=True)
class Setting:
    """A trained network, clean images to build from (not those it was trained on, nor those it is tested on), copies, seed."""

    model: nn.Module
    clean: Images
    copies: int
    seed: int

    @cached_property
    def site(self) -> Site:
        """The last pair, here of dense layers with an elementwise sigma."""
        return Site(self.model, self.clean.x)


def _exact(scale: float) -> Callable[[Setting], Ensemble]:
    """As published: each copy exact on a private batch of h samples."""
    return lambda s: build(s.model, s.clean.x, s.copies, scale, s.seed, site=s.site)


def _fitted(scale: float) -> Callable[[Setting], Ensemble]:
    """Each copy fitted by least squares to a private batch of 4 h samples."""
    return lambda s: build(s.model, s.clean.x, s.copies, scale, s.seed, samples=4 * s.site.pair.width, completion="lstsq", site=s.site)


def _permuted(s: Setting) -> Ensemble:
    """No symmetry, a control: g = (1 + (1 + P) / 2) / 2 with a random permutation P, and U g^-1."""
    draw = torch.Generator().manual_seed(s.seed)
    h = s.site.pair.width
    one = torch.eye(h, dtype=torch.float64)
    g = torch.stack([(one + (one + one[torch.randperm(h, generator=draw)]) / 2) / 2 for _ in range(s.copies)])
    members = torch.linalg.solve(g, s.site.U[None], left=False)
    return Ensemble(s.model, s.site.pair, g.to(s.clean.x.dtype), members.to(s.clean.x.dtype), between(s.site.graph, s.site.pair))


def _chosen(diversity: float, lipschitz: float) -> Callable[[Setting], Ensemble]:
    def make(s: Setting) -> Ensemble:
        g = choose_elements(s, diversity, lipschitz)
        return build(s.model, s.clean.x, s.copies, seed=s.seed, completion="lstsq", site=s.site, g=g)

    return make


DEFENCES: dict[str, Callable[[Setting], Ensemble]] = {
    "exact on h samples": _exact(1.0),
    "fitted to 4h samples": _fitted(1.0),
    "permutation control": _permuted,
    "chosen: diverse": _chosen(10.0, 0.0),
    "chosen: smooth": _chosen(1.0, 1.0),
}


def choose_elements(s: Setting, diversity: float, lipschitz: float, steps: int = STEPS) -> Tensor:
    """g [K, h, h] by ascent in the Lie algebra on the objective of this module, from T of scale 0.1; float64."""
    goal = _Objective(s, diversity, lipschitz)
    T = _start(s.copies, s.site.pair.width, s.seed).requires_grad_(True)
    optimizer = torch.optim.Adam([T], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        (-goal(torch.linalg.matrix_exp(T))).backward()
        optimizer.step()
    return torch.linalg.matrix_exp(T.detach())


def _start(copies: int, width: int, seed: int) -> Tensor:
    """T small, so that exp(T) is 1 + T nearly."""
    return random_elements(copies, width, 0.1, seed) - torch.eye(width, dtype=torch.float64)


class _Objective:
    def __init__(self, s: Setting, diversity: float, lipschitz: float) -> None:
        site = s.site
        z = site.values(s.clean.x)[site.pair.z]
        half = len(z) // 2
        self.fit, self.held, self.labels = z[:half], z[half:], s.clean.y[half:]
        draw = torch.Generator().manual_seed(s.seed + 2)
        noise = torch.randn(self.held.shape, dtype=z.dtype, generator=draw)
        self.moved = self.held + NOISE * z.std(0) * noise
        self.V, self.U, self.c = site.V, site.U, site.bias
        self.sigma, self.diversity, self.lipschitz = site.sigma, diversity, lipschitz
        self.base = nn.functional.cross_entropy(self.sigma(self.held) @ self.U.T + self.c, self.labels)

    def __call__(self, g: Tensor) -> Tensor:
        """The objective at g [K, h, h], to be maximised."""
        target = self.sigma(self.fit) @ self.U.T
        turned = self.sigma(self.fit @ g.mT)
        # normal equations with a ridge of 1e-6 of the mean square: differentiable, and fast for K small systems
        gram = turned.mT @ turned
        ridge = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(g.shape[-1], dtype=g.dtype)
        upper = torch.linalg.solve(gram + ridge, turned.mT @ target).mT
        value = g.new_zeros(())
        if self.diversity:
            p = self._logits(self.moved, g, upper).softmax(-1)
            value = value + self.diversity * (p - p.mean(0)).square().sum(-1).mean()
        clean = self._logits(self.held, g, upper)
        excess = nn.functional.cross_entropy(clean.flatten(0, 1), self.labels.repeat(len(g))) - self.base
        value = value - (excess - BUDGET).relu() / BUDGET
        if self.lipschitz:
            bound = _norm(upper) * _norm(g @ self.V) / (_norm(self.U) * _norm(self.V))
            value = value - self.lipschitz * bound.log().mean()
        return value

    def _logits(self, z: Tensor, g: Tensor, upper: Tensor) -> Tensor:
        return self.sigma(z @ g.mT) @ upper.mT + self.c


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(a, 2)
