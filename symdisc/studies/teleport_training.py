"""Training with and without teleports: four optimisers in numpy, one loop, and what it measures."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from symdisc.studies.teleport_problems import Instance, Problem

__all__ = ["RULES", "chosen", "final", "train"]

Array = np.ndarray
Rule = Callable[[Array, Array, float], Array]
LOST = 1e6  # times the first loss: diverged, the rest of the run is not computed


def _gd() -> Rule:
    return lambda theta, g, rate: theta - rate * g


def _momentum(keep: float = 0.9) -> Rule:
    memory: dict[str, Any] = {"m": 0.0}

    def rule(theta: Array, g: Array, rate: float) -> Array:
        memory["m"] = keep * memory["m"] + g
        return theta - rate * memory["m"]

    return rule


def _adagrad(eps: float = 1e-10) -> Rule:
    memory: dict[str, Any] = {"s": 0.0}

    def rule(theta: Array, g: Array, rate: float) -> Array:
        memory["s"] = memory["s"] + g * g
        return theta - rate * g / (np.sqrt(memory["s"]) + eps)

    return rule


def _adam(first: float = 0.9, second: float = 0.999, eps: float = 1e-8) -> Rule:
    memory: dict[str, Any] = {"m": 0.0, "s": 0.0, "t": 0}

    def rule(theta: Array, g: Array, rate: float) -> Array:
        memory["t"] += 1
        memory["m"] = first * memory["m"] + (1 - first) * g
        memory["s"] = second * memory["s"] + (1 - second) * g * g
        m, s = memory["m"] / (1 - first ** memory["t"]), memory["s"] / (1 - second ** memory["t"])
        return theta - rate * m / (np.sqrt(s) + eps)

    return rule


# A new rule for each run: what it remembers is kept through a teleport, as in the published code
RULES: dict[str, Callable[[], Rule]] = {"GD": _gd, "momentum": _momentum, "AdaGrad": _adagrad, "Adam": _adam}


def train(problem: Problem, instance: Instance, optimiser: str, rate: float, jumps: tuple[int, ...]) -> dict[str, Any]:
    """Losses and seconds so far at every ``problem.every`` steps; for each teleport its seconds, the relative change of the loss
    and by what |grad|^2 rose. Recording is not timed. A run that diverges has infinite losses from there on."""
    theta, rule = instance.flat(instance.state), RULES[optimiser]()
    first = instance.loss(theta)
    losses, seconds, spent = [first], [0.0], 0.0
    walks: list[dict[str, float]] = []
    for t in range(problem.steps):
        begin = perf_counter()
        if t in jumps:
            theta, found = instance.jump(theta, *problem.walk)
            walks.append({"step": t, "seconds": perf_counter() - begin, "change": found.change, "start": found.values[0],
                          "end": found.values[-1], "steps": len(found.path)})
        with np.errstate(over="ignore", invalid="ignore"):
            theta = rule(theta, instance.gradient(theta, t), rate)
        spent += perf_counter() - begin
        if (t + 1) % problem.every == 0 or t + 1 in jumps:
            loss = instance.loss(theta)
            if not loss < LOST * max(first, 1.0):
                losses += [float("inf")] * (problem.steps // problem.every + 1 - len(losses))
                seconds += [spent] * (len(losses) - len(seconds))
                break
            if (t + 1) % problem.every == 0:
                losses.append(loss)
                seconds.append(spent)
    accuracy = instance.accuracy(instance.named(theta)) if instance.accuracy and np.isfinite(losses[-1]) else None
    return {"losses": losses, "seconds": seconds, "walks": walks, "accuracy": accuracy}


def final(problem: Problem, optimiser: str, rate: float, jumps: tuple[int, ...], seed: int) -> float:
    """The last loss of a run."""
    return float(train(problem, problem.make(seed), optimiser, rate, jumps)["losses"][-1])


def chosen(problem: Problem, optimiser: str, jumps: tuple[int, ...], seeds: list[int]) -> dict[str, Any]:
    """The learning rate of fewest diverging runs and then of least median last loss over ``seeds``; whether it ends the list."""
    rates = problem.rates[optimiser]
    ends = np.array([[final(problem, optimiser, r, jumps, s) for s in seeds] for r in rates])
    lost = np.isinf(ends).sum(1)
    medians = np.where(lost == lost.min(), np.median(ends, axis=1), np.inf)
    best = int(np.argmin(medians))
    return {"rate": rates[best], "lost": lost.tolist(), "at_end": best in (0, len(rates) - 1)}
