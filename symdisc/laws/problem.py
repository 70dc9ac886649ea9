"""What is counted: a polynomial map, the flow it drives, and the laws known for it, as one frozen record.

A *potential* is f_s(theta) = <coefficients s, phi(theta)> for sample data s; the fields of a flow are made of its
gradients in theta. ``CountProblem`` is the entry point for anything that is not one of the named shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from symdisc.errors import BadInput
from symdisc.laws.jets import Node, Tape, add, contract
from symdisc.residues import draw

__all__ = ["CountProblem", "KnownLaw", "Potential"]

Potential = Callable[[Tape, Mapping[str, Node], Mapping[str, Node]], Node]


class KnownLaw(Protocol):
    """A law in closed form: its formula and the gradients of its entries modulo a prime, [laws, states]."""

    def text(self) -> str: ...

    def rows(self, theta: Mapping[str, np.ndarray], prime: int, speed: Mapping[str, np.ndarray] | None = None,
             friction: int = 0) -> np.ndarray: ...


@dataclass(frozen=True)
class CountProblem:
    """A family of fields on parameters, and the laws claimed for its flow.

    ``parameters`` and ``data`` are (name, shape) pairs. ``potential(tape, theta, sample)`` returns the scalar f_s,
    built from ``tape.einsum`` and ``tape.add``; it must be such that all samples together span the map (each entry of
    phi is reached). ``flow``: "gradient" is theta' = -P(theta) grad L; "momentum" is theta'' + tau theta' + P grad L =
    0 on the states (t, theta, theta'), tau constant. P is the identity but for the parameters named in ``entropic``
    (mirror descent with entropy): there it is diag(theta), and diag(tau theta + theta') with momentum
    (arXiv:2405.12888). ``laws`` hold for that flow. ``generators``: of how many fields the family is the span, if known
    (a single field is its own Lie algebra). ``note`` says what was taken for the inputs of a network; ``generic`` tells (given
    random numbers and a prime) why values that are drawn freely are generic, or raises Undecided; ``entries`` counts the
    values of a network per sample, which are held in portions.
    """

    name: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    data: tuple[tuple[str, tuple[int, ...]], ...]
    potential: Potential
    laws: tuple[KnownLaw, ...] = ()
    entropic: frozenset[str] = frozenset()
    flow: str = "gradient"
    generators: int | None = None
    note: str = ""
    generic: Callable[[np.random.Generator, int], str] | None = None
    entries: int = 0

    def __post_init__(self) -> None:
        if self.flow not in ("gradient", "momentum"):
            raise BadInput(f"flow is {self.flow!r}: use 'gradient' or 'momentum'")
        unknown = self.entropic - {name for name, _ in self.parameters}
        if unknown:
            raise BadInput(f"entropic names {sorted(unknown)}, which are no parameters of {self.name}")

    @property
    def size(self) -> int:
        """The number D of parameters."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    @property
    def states(self) -> int:
        """The dimension of the space the flow moves in: D, or 2 D + 1 with momentum and time."""
        return self.size if self.flow == "gradient" else 2 * self.size + 1

    def split(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """[..., D] to {name: [..., *shape]}."""
        out, start = {}, 0
        for name, shape in self.parameters:
            stop = start + math.prod(shape)
            out[name] = theta[..., start:stop].reshape(*theta.shape[:-1], *shape)
            start = stop
        return out

    def sample(self, rng: np.random.Generator, batch: int, order: int, prime: int) -> dict[str, np.ndarray]:
        """Random sample data as jets [1, order, batch, *shape]."""
        return {name: draw(rng, (1, order, batch, *shape), prime) for name, shape in self.data}

    def field(
        self, state: np.ndarray, sample: Mapping[str, np.ndarray], friction: int, order: int, prime: int
    ) -> np.ndarray:
        """The vector field of one loss at a jet of states [E, K, B, N], as a jet [E, order, B', N]."""
        if self.flow == "gradient":
            return self._force(state, state, sample, order, prime)
        d = self.size
        theta, speed = state[..., 1 : d + 1], state[..., d + 1 :]
        tau = np.full((1, 1, 1), friction, np.int64)
        # d/dt grad Phi(theta + theta'/tau) = -grad L is what the mirror flow's momentum form says; times tau.
        mirror = add(contract("i,->i", theta, tau, order, prime), speed[:, :order], prime) if self.entropic else theta
        force = add(
            self._force(theta, mirror, sample, order, prime), contract("i,->i", speed, tau, order, prime), prime
        )
        shape = tuple(max(a, b) for a, b in zip(force.shape[:3], speed.shape[:3], strict=True))
        out = np.zeros((shape[0], min(shape[1], order), shape[2], self.states), np.int64)
        out[0, 0, :, 0] = 1
        kept = speed[:, :order]
        out[: kept.shape[0], : kept.shape[1], :, 1 : d + 1] = kept
        out[: force.shape[0], : force.shape[1], :, d + 1 :] = (-force) % prime
        return out

    def _force(
        self, theta: np.ndarray, mirror: np.ndarray, sample: Mapping[str, np.ndarray], order: int, prime: int
    ) -> np.ndarray:
        """P grad f_s, flat, with P = diag(mirror) on entropic parameters; the sign of the loss does not matter."""
        tape = Tape(order, prime)
        leaves = {name: tape.leaf(jet) for name, jet in self.split(theta[:, :order]).items()}
        result = self.potential(tape, leaves, {name: tape.data(jet) for name, jet in sample.items()})
        parts = tape.gradient(result, list(leaves.values()))
        weights = self.split(mirror[:, :order])
        parts = [
            contract(_entrywise(part.ndim - 3), weights[name], part, order, prime) if name in self.entropic else part
            for name, part in zip(leaves, parts, strict=True)
        ]
        flat = [part.reshape(*part.shape[:3], -1) for part in parts]
        shape = tuple(max(part.shape[axis] for part in flat) for axis in range(3))
        out = np.zeros((*shape, self.size), np.int64)
        start = 0
        for part in flat:
            out[: part.shape[0], : part.shape[1], :, start : start + part.shape[3]] = part
            start += part.shape[3]
        return out


def _entrywise(axes: int) -> str:
    letters = "abcdefgh"[:axes]
    return f"{letters},{letters}->{letters}"
