"""Attacks in the maximum norm against the correct pixel range: FGSM, PGD, and clipping alone as a control.

A target is a loss, ``loss(x) -> [n]``, one number per image: what the attacker sees. Handing in the loss of the undefended
network makes a transfer attack; that of the defended one, expectation over its members included, an adaptive attack.

Sources: Goodfellow, Shlens, Szegedy (arXiv:1412.6572) for FGSM; Madry et al. (arXiv:1706.06083) for PGD; Athalye, Carlini,
Wagner (arXiv:1802.00420) for expectation over a randomised defence and the signs of gradient masking.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from symdisc.errors import BadInput
from symdisc.studies.images import HIGH, LOW

__all__ = ["Loss", "clip_only", "fgsm", "gradient", "pgd"]

Loss = Callable[[Tensor], Tensor]

# of the radius, per step: 20 steps reach every corner of the ball from anywhere in it, and can still turn around
STEP = 0.25


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """d (sum of losses) / dx, of the shape of ``x``: images do not interact, so each gets its own gradient."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(loss(x).sum(), x)[0]


def _inside(x: Tensor, middle: Tensor, radius: float, low: float, high: float) -> Tensor:
    """Into the ball first, then into the pixel range: the middle is in both, so the result is, too."""
    return x.clamp(middle - radius, middle + radius).clamp(low, high)


def _check(x: Tensor, radius: float, low: float, high: float) -> None:
    if not radius >= 0:
        raise BadInput(f"the radius of an attack must not be negative, got {radius}")
    if bool((x < low).any()) or bool((x > high).any()):
        raise BadInput(f"pixels run from {float(x.min()):.3g} to {float(x.max()):.3g}, outside of [{low}, {high}]: the attack would "
                       "measure the clipping; give the true range as low and high")


def fgsm(loss: Loss, x: Tensor, radius: float, low: float = LOW, high: float = HIGH) -> Tensor:
    """One step of size ``radius`` along the sign of the gradient. Raises BadInput when ``x`` leaves [low, high]."""
    _check(x, radius, low, high)
    return _inside(x + radius * gradient(loss, x).sign(), x, radius, low, high)


def pgd(loss: Loss, x: Tensor, radius: float, steps: int = 20, seed: int = 0, low: float = LOW, high: float = HIGH,
        start: Tensor | None = None) -> Tensor:
    """``steps`` signed steps of radius / 4, projected after each; the worst point met is kept.

    Begins at ``start`` (brought into the ball), or at random points of the ball. Raises BadInput when ``x`` leaves [low, high].
    """
    _check(x, radius, low, high)
    noise = torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
    here = _inside(x + radius * (2 * noise - 1) if start is None else start, x, radius, low, high)
    best, worst = here, torch.full((len(x),), -torch.inf, dtype=x.dtype)
    for step in range(steps + 1):
        here = here.detach().requires_grad_(True)
        value = loss(here)
        better = value.detach() > worst
        worst = torch.where(better, value.detach(), worst)
        best = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), here.detach(), best)
        if step < steps:
            slope = torch.autograd.grad(value.sum(), here)[0]
            here = _inside(here.detach() + STEP * radius * slope.sign(), x, radius, low, high)
    return best


def clip_only(x: Tensor, low: float, high: float) -> Tensor:
    """The control without an attack: what clipping to a (possibly wrong) pixel range does by itself."""
    return x.clamp(low, high)
