"""What the teleport study trains on: two functions of the plane, a small regression and the digits, each with its orbit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from symdisc.catalog import Catalog
from symdisc.session import discover
from symdisc.studies.images import digits
from symdisc.torchside.curvature import Loss
from symdisc.torchside.datadep.batch import act_pair
from symdisc.torchside.teleport import LinearOrbit, Orbit, Teleported, teleport
from symdisc.zoo import digits_mlp

__all__ = ["PROBLEMS", "WEIGHTS", "Chain", "Instance", "Problem", "leaky", "regression"]

State = dict[str, Tensor]
Array = np.ndarray
BATCH = 64  # images of one step on the digits


@dataclass(frozen=True)
class Instance:
    """One start: ``full`` is the loss that is reported and kept by a teleport, ``part(t)`` the one of step t (when it differs)."""

    state: State
    full: Loss
    orbit: Orbit
    part: Callable[[int], Loss] | None = None
    closed: Callable[[Array], Array] | None = None  # the gradient in closed form
    accuracy: Callable[[State], float] | None = None

    def flat(self, state: Mapping[str, Tensor]) -> Array:
        """[D], the trained parameters one after the other."""
        return torch.cat([state[n].reshape(-1) for n in self.full.names]).numpy().copy()

    def named(self, theta: Array) -> State:
        parts = torch.from_numpy(theta).split([self.state[n].numel() for n in self.full.names])
        return {**self.state, **{n: p.reshape(self.state[n].shape) for n, p in zip(self.full.names, parts, strict=True)}}

    def gradient(self, theta: Array, t: int) -> Array:
        if self.closed is not None:
            return self.closed(theta)
        return (self.full if self.part is None else self.part(t)).gradient(self.named(theta)).numpy()

    def loss(self, theta: Array) -> float:
        return self.full(self.named(theta))

    def jump(self, theta: Array, steps: int, step: float) -> tuple[Array, Teleported]:
        """Up |grad|^2 along the orbit; raises NotProved when the loss changes."""
        found = teleport(self.orbit, self.named(theta), self.full, "gradient", steps=steps, step=step)
        return self.flat(found.state), found


@dataclass(frozen=True)
class Problem:
    """``steps`` of training, teleports before the steps ``jumps``, each a walk of ``walk`` = (steps, length of one); learning
    rates tried, by optimiser; losses are recorded each ``every`` steps."""

    name: str
    about: str
    make: Callable[[int], Instance]
    steps: int
    jumps: tuple[int, ...]
    walk: tuple[int, float]
    rates: dict[str, tuple[float, ...]]
    every: int


Map = Callable[[Tensor], Tensor]


# --- the plane --------------------------------------------------------------------------------------------------------
class Turn:
    """SO(2) on (u, v), where the loss is u^2 + v^2."""

    def __init__(self, forward: Map, back: Map) -> None:
        self.forward, self.back = forward, back

    def zero(self) -> list[Tensor]:
        return [torch.zeros((), dtype=torch.float64)]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        u, v = self.forward(state["xy"])
        c, s = a[0].cos(), a[0].sin()
        return {"xy": self.back(torch.stack([c * u - s * v, s * u + c * v]))}


def _plane(start: Array, forward: Map, back: Map, slope: Callable[[Array], Array]) -> Instance:
    loss = Loss(lambda s: forward(s["xy"]).square().sum(), ("xy",))
    return Instance({"xy": torch.from_numpy(start)}, loss, Turn(forward, back), closed=slope)


def rosenbrock(seed: int) -> Instance:
    """100 (x^2 - y)^2 + (x - 1)^2 from a random point of [-2, 2]^2: u = 10 (x^2 - y), v = x - 1."""
    def slope(p: Array) -> Array:
        x, y = float(p[0]), float(p[1])
        return np.array([400 * x * (x * x - y) + 2 * (x - 1), -200 * (x * x - y)])

    def back(w: Tensor) -> Tensor:
        return torch.stack([w[1] + 1, (w[1] + 1) ** 2 - w[0] / 10])

    start = np.random.default_rng(seed).uniform(-2, 2, 2)
    return _plane(start, lambda p: torch.stack([10 * (p[0] ** 2 - p[1]), p[0] - 1]), back, slope)


def booth(seed: int) -> Instance:
    """(x + 2y - 7)^2 + (2x + y - 5)^2 from a random point of [-10, 10]^2."""
    a, b = np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([7.0, 5.0])
    at, bt, inverse = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(np.linalg.inv(a))
    start = np.random.default_rng(seed).uniform(-10, 10, 2)
    return _plane(start, lambda p: at @ p - bt, lambda w: inverse @ (w + bt), lambda p: 2 * a.T @ (a @ p - b))


# --- the regression ---------------------------------------------------------------------------------------------------
WEIGHTS = ("W1", "W2", "W3")
SIZES = (4, 5, 6, 7, 8)  # samples, inputs, two hidden layers, outputs


def leaky(z: Tensor) -> Tensor:
    return nn.functional.leaky_relu(z, 0.1)


class Chain:
    """GL(6) x GL(7) on the hidden layers by the exact data-dependent action; each layer sees the transformed activations below."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def zero(self) -> list[Tensor]:
        return [torch.zeros(h, h, dtype=torch.float64) for h in SIZES[2:4]]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        new, h = dict(state), self.x
        for lower, upper, part in zip(WEIGHTS, WEIGHTS[1:], a, strict=False):
            g = torch.linalg.matrix_exp(part)
            new[upper], new[lower], _ = act_pair(new[upper], new[lower], None, leaky, h, g, check=check)
            h = leaky(new[lower] @ h)
        return new


def regression(seed: int) -> Instance:
    """1/2 |Y - W3 s(W2 s(W1 X))|^2, s leaky ReLU of slope 0.1, all entries uniform in [0, 1]: sizes of arXiv:2205.10637."""
    rng = np.random.default_rng(seed)
    k, n, p, q, m = SIZES
    w1, w2, w3, x, y = (torch.from_numpy(rng.uniform(size=s)) for s in ((p, n), (q, p), (m, q), (n, k), (m, k)))
    loss = Loss(lambda s: (y - s["W3"] @ leaky(s["W2"] @ leaky(s["W1"] @ x))).square().sum() / 2, WEIGHTS)
    return Instance({"W1": w1, "W2": w2, "W3": w3}, loss, Chain(x))


# --- the digits -------------------------------------------------------------------------------------------------------
@cache
def _digits() -> tuple[nn.Module, Catalog, Tensor, Tensor, Tensor, Tensor]:
    """The network, its catalog, and three quarters of the images for training, the rest for testing."""
    model, example = digits_mlp()
    model = model.double().eval()
    cat = discover(model, tuple(x.double() for x in example))
    images = digits()
    train, test = images.split(0, 3 * len(images) // 4, len(images) - 3 * len(images) // 4)
    return model, cat, train.x.flatten(1).double(), train.y, test.x.flatten(1).double(), test.y


def digits_network(seed: int) -> Instance:
    """The 64-32-16-10 ReLU network with cross-entropy; the orbit is that of the 48 scales, exact on all data."""
    model, cat, x, y, new, truth = _digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh, _ = digits_mlp()
    state = {n: t.detach().double() for n, t in fresh.state_dict().items()}
    order = torch.stack([torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * seed + e)) for e in range(64)])
    names, per = tuple(state), len(x) // BATCH

    def on(inputs: Tensor, labels: Tensor) -> Loss:
        return Loss(lambda s: nn.functional.cross_entropy(functional_call(model, s, (inputs,)), labels), names)

    def part(t: int) -> Loss:
        i = order[t // per % len(order), t % per * BATCH:][:BATCH]
        return on(x[i], y[i])

    def accuracy(s: State) -> float:
        with torch.no_grad():
            return float((functional_call(model, s, (new,)).argmax(1) == truth).double().mean())

    return Instance(state, on(x, y), LinearOrbit.of(cat), part, accuracy=accuracy)


# Learning rates in half decades; the page of the study names those choices that stand at an end of their list
PROBLEMS = (
    Problem("Rosenbrock", "SO(2) on u, v", rosenbrock, 1000, tuple(range(100, 1000, 100)), (10, 0.3),
            {"GD": (1e-4, 3e-4, 1e-3, 3e-3), "momentum": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "AdaGrad": (0.1, 0.3, 1.0, 3.0),
             "Adam": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}, 10),
    Problem("Booth", "SO(2) on u, v", booth, 10, (5,), (10, 0.3),
            {"GD": (0.01, 0.03, 0.1, 0.3), "momentum": (0.003, 0.01, 0.03, 0.1), "AdaGrad": (1.0, 3.0, 10.0, 30.0, 100.0),
             "Adam": (0.1, 0.3, 1.0, 3.0, 10.0)}, 1),
    Problem("regression", "GL(6) x GL(7) by the data-dependent action", regression, 300, (5,), (8, 0.1),
            {"GD": (1e-4, 3e-4, 1e-3, 3e-3), "momentum": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3), "AdaGrad": (0.03, 0.1, 0.3, 1.0),
             "Adam": (0.01, 0.03, 0.1, 0.3, 1.0)}, 1),
    Problem("digits", "the 48 scales of the hidden units", digits_network, 252, (21, 63, 105), (10, 0.1),
            {"GD": (0.1, 0.3, 1.0), "momentum": (0.01, 0.03, 0.1, 0.3), "AdaGrad": (0.01, 0.03, 0.1, 0.3),
             "Adam": (3e-3, 1e-2, 3e-2, 0.1)}, 7),
)
