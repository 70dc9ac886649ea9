"""A loss as a function of named weights: its gradient, Hessian-vector products, and the top of its Hessian by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Loss", "Top", "lanczos"]

State = dict[str, Tensor]
ITERATIONS = 80  # of Lanczos; spectra of trained networks have few outliers, which it finds within tens of products
ACCURACY = 1e-8  # of the residual |H v - a v| relative to |a|: the eigenvalue itself is then good to its square over the gap


@dataclass(frozen=True)
class Top:
    """The algebraically largest eigenvalue, its unit eigenvector [D], and the residual norm |H v - value v|."""

    value: float
    vector: Tensor
    residual: float


@dataclass(frozen=True)
class Loss:
    """``function`` takes a state (names to tensors) to a scalar tensor; ``names`` are the parameters it is differentiated by."""

    function: Callable[[State], Tensor]
    names: tuple[str, ...]

    def __call__(self, state: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            return float(self.function(dict(state)))

    def gradient(self, state: Mapping[str, Tensor], graph: bool = False) -> Tensor:
        """[D], the parameters ``names`` one after the other; with ``graph`` a function of what ``state`` was computed from."""
        return self._parts(state, graph)[1]

    def squared_gradient(self, state: Mapping[str, Tensor]) -> Tensor:
        """|grad|^2, differentiable."""
        return self.gradient(state, graph=True).square().sum()

    def product(self, state: Mapping[str, Tensor], v: Tensor, graph: bool = False) -> Tensor:
        """H v [D] for v [D]."""
        weights, gradient = self._parts(state, True)
        if not gradient.requires_grad:  # a loss that is linear in all of its weights
            return torch.zeros_like(gradient)
        return _flat(torch.autograd.grad(gradient @ v, weights, create_graph=graph, allow_unused=True), weights)

    def top(self, state: Mapping[str, Tensor], seed: int = 0, start: Tensor | None = None) -> Top:
        """The sharpness: the largest eigenvalue of the Hessian at ``state``. ``start`` [D] is a guess of the eigenvector."""
        size = sum(state[n].numel() for n in self.names)
        fixed = {n: t.detach() for n, t in state.items()}
        if start is None:
            start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return lanczos(lambda v: self.product(fixed, v), start)

    def _parts(self, state: Mapping[str, Tensor], graph: bool) -> tuple[list[Tensor], Tensor]:
        # a view of its own for each weight: where one was computed from another, the derivative must not pass through both
        at = {n: t if n not in self.names else t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for n, t in state.items()}
        weights = [at[n] for n in self.names]
        with torch.enable_grad():
            found = torch.autograd.grad(self.function(at), weights, create_graph=graph, allow_unused=True)
            return weights, _flat(found, weights)


def _flat(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(w) if p is None else p).reshape(-1) for p, w in zip(parts, like, strict=True)])


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int = ITERATIONS, accuracy: float = ACCURACY) -> Top:
    """The largest eigenvalue of a symmetric operator [D, D] known by its products.

    Full reorthogonalisation, twice (Golub and Van Loan, Matrix Computations, 10.3), so no ghost eigenvalues appear. Ends when
    the residual is below ``accuracy`` of the eigenvalue, the Krylov space is exhausted, or after ``iterations`` products.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    while True:
        w = product(basis[-1])
        diagonal.append(float(basis[-1] @ w))
        q = torch.stack(basis)
        for _ in range(2):
            w = w - q.mT @ (q @ w)
        length = float(w.norm())
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        residual = length * abs(float(vectors[-1, -1]))
        size = max(float(values.abs().max()), 1e-300)
        done = len(basis) >= min(iterations, len(start)) or length <= 1e-14 * size
        if done or (len(basis) > 2 and residual <= accuracy * size):
            return Top(float(values[-1]), q.mT @ vectors[:, -1], residual)
        beside.append(length)
        basis.append(w / length)


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1) if beside else torch.zeros(1, 1, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off + off.mT
