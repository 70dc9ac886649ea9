"""The published first-order teleport of an MLP, as a false twin: what it does to the loss it is said to keep.

V -> s^-1((1 + T) s(V h)) h^+ and U -> U (1 - T) for each pair, T = rate times the gradient of |dL/dW|^2 at T = 0. Two things make it
change the loss: 1 - T in place of (1 + T)^-1 is of second order; and the next layer's V has already been multiplied by 1 - T while
its input h is that of the old weights, which is of first order. Its ascent then lowers the loss itself.

Source: arXiv:2205.10637 with its public code; rates and numbers of steps are those of that code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import NotProved
from symdisc.studies.teleport_problems import WEIGHTS, Instance, leaky, regression
from symdisc.studies.teleport_training import RULES
from symdisc.torchside.teleport import assert_kept

__all__ = ["CASES", "FirstOrder", "measure", "order"]

State = dict[str, Tensor]
CASES = {"GD": (1e-4, 1e-7, 8), "AdaGrad": (0.1, 1e-5, 2)}  # learning rate, rate of T, steps of ascent
BEFORE = 5  # steps of training before the teleport


def _inverse_leaky(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, 10 * z)


class FirstOrder:
    """The published map with its order of updates, as an orbit; ``stale`` h is what it applies, fresh h what it differentiates."""

    def __init__(self, x: Tensor, stale: bool = True) -> None:
        self.x, self.stale = x, stale

    def zero(self) -> list[Tensor]:
        return [torch.zeros(h, h, dtype=torch.float64) for h in (6, 7)]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        new, h = dict(state), self.x
        for lower, upper, t in zip(WEIGHTS, WEIGHTS[1:], a, strict=False):
            one = torch.eye(len(t), dtype=t.dtype)
            new[lower] = _inverse_leaky((one + t) @ leaky(new[lower] @ h)) @ torch.linalg.pinv(h)
            new[upper] = new[upper] @ (one - t)
            h = leaky((state if self.stale else new)[lower] @ h)
        return new


def _inputs(instance: Instance) -> Tensor:
    x: Tensor = instance.orbit.x  # type: ignore[attr-defined]
    return x


def measure(optimiser: str, seed: int) -> dict[str, Any]:
    """Loss and |grad|^2 before and after the published teleport, after ``BEFORE`` steps of training."""
    rate, climb, steps = CASES[optimiser]
    instance = regression(seed)
    theta, rule = instance.flat(instance.state), RULES[optimiser]()
    for t in range(BEFORE):
        theta = rule(theta, instance.gradient(theta, t), rate)
    before = state = instance.named(theta)
    applied, seen = FirstOrder(_inputs(instance)), FirstOrder(_inputs(instance), stale=False)
    for _ in range(steps):
        t_list = [t.requires_grad_() for t in applied.zero()]
        slope = torch.autograd.grad(instance.full.squared_gradient(seen.move(state, t_list)), t_list)
        state = {n: t.detach() for n, t in applied.move(state, [climb * s for s in slope]).items()}
    losses = instance.full(before), instance.full(state)
    try:
        assert_kept(*losses)
        refused = False
    except NotProved:
        refused = True
    slopes = [float(instance.full.gradient(s).square().sum()) for s in (before, state)]
    return {"optimiser": optimiser, "seed": seed, "before": losses[0], "after": losses[1], "change": losses[1] / losses[0] - 1,
            "gradient_before": slopes[0], "gradient_after": slopes[1], "refused": refused}


def order(seed: int) -> list[dict[str, float]]:
    """Relative change of the loss for random T of size 1e-4 to 1e-1 on the first pair and on the last, and by the exact action."""
    instance = regression(seed)
    rng = np.random.default_rng(seed)
    t = [torch.from_numpy(rng.standard_normal((h, h)) / h) for h in (6, 7)]
    start = instance.full(instance.state)

    def change(orbit: Any, a: Sequence[Tensor]) -> float:
        return abs(instance.full(orbit.move(instance.state, a)) / start - 1)

    false, rows = FirstOrder(_inputs(instance)), []
    for size in (1e-4, 1e-3, 1e-2, 1e-1):
        first, last = [size * t[0], 0 * t[1]], [0 * t[0], size * t[1]]
        rows.append({"size": size, "first_pair": change(false, first), "last_pair": change(false, last),
                     "exact": change(instance.orbit, [size * x for x in t])})
    return rows
