"""Teleport: walk along the orbit of the weights to where training would rather be, with the loss kept and always compared.

An element of the group is chosen by ascent in its Lie algebra: each step differentiates the objective at exp(a) theta in a at
a = 0 and follows exp(step a), so that only the algebra at the current weights is needed. The groups are not compact and |grad|^2
and the sharpness are unbounded on most orbits; what bounds the walk is its length: ``steps`` times ``step``, in units of the
spectral norm in the algebra, so that the condition number of the whole element is at most exp(2 steps step).

Source: Zhao, Dehmamy, Walters, Yu (arXiv:2205.10637), ascent of |grad|^2 along the orbit. Theirs is a first-order action, which
changes the loss; here every action is exact and ``assert_kept`` refuses one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from symdisc.catalog import Catalog
from symdisc.errors import BadInput, NotExact, NotProved
from symdisc.symmetry import Element, Factor, Symmetry
from symdisc.torchside.capture import Capture
from symdisc.torchside.curvature import Loss
from symdisc.torchside.datadep.network import batch_of, move
from symdisc.torchside.datadep.segments import find_pairs
from symdisc.torchside.kernels import run_moves
from symdisc.torchside.move_to import element_to
from symdisc.torchside.network import Network, plain_kernels

__all__ = ["OBJECTIVES", "DataOrbit", "LinearOrbit", "Objective", "Orbit", "Teleported", "assert_kept", "balance", "teleport"]

State = dict[str, Tensor]
STEPS, STEP, HALVINGS = 10, 0.1, 6
TOLERANCE = 1e-9  # of the loss, relative: rounding reaches 1e-11 in the actions allowed here, a first-order action 1e-3
FLOOR = 1e-6  # losses below are compared as if they were this large: they are differences of numbers of order one
MAX_CONDITION = 1e5  # of activation matrices of a data-dependent action: 1e-16 times this stays below TOLERANCE by far


def assert_kept(before: float, after: float, tolerance: float = TOLERANCE) -> float:
    """The relative change of the loss; raises NotProved when it is more than rounding makes, or not a number."""
    change = abs(after - before) / max(abs(before), FLOOR)
    if not change <= tolerance:
        raise NotProved(f"the loss changed from {before:.6g} to {after:.6g} ({change:.1e} of it): this action is not a symmetry of the "
                        "loss, the weights are not teleported")
    return change


# --- orbits ---------------------------------------------------------------------------------------------------------------
class Orbit(Protocol):
    """A group acting on a state, near the identity: coordinates of its algebra, and the action of their exponential."""

    def zero(self) -> list[Tensor]:
        """The identity, as one tensor of coordinates for each factor."""
        ...

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        """exp(a) acting on ``state``: differentiable in ``a``. With ``check`` raises NotExact where it cannot act."""
        ...


@dataclass(frozen=True)
class LinearOrbit:
    """The continuous symmetries of a catalog that act by moves on parameters; ``which`` are their numbers.

    Families whose kernels are not differentiable (remainders that act by a flow or by generators on whole tensors) are left out, and so are
    tables behind a norm, whose elements reach no further than eps one way.
    """

    cat: Catalog
    which: tuple[int, ...]

    @classmethod
    def of(cls, cat: Catalog) -> LinearOrbit:
        """All that a catalog offers; raises BadInput when that is nothing."""
        which = tuple(i for i, s in enumerate(cat.symmetries) if s.moves and s.counts and s.family in _EXPONENTIALS
                      and not any(m.kind.startswith("normed_") for m in s.moves))
        if not which:
            raise BadInput(f"{cat.architecture} has no continuous symmetry that acts by moves on its parameters")
        return cls(cat, which)

    def zero(self) -> list[Tensor]:
        return [torch.zeros(self.cat.symmetries[i].shape, dtype=torch.float64) for i in self.which]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        new = dict(state)
        for i, part in zip(self.which, a, strict=True):
            s = self.cat.symmetries[i]
            new.update(run_moves(s.moves, exponential(s, part), new))
        return new

    def element(self, path: Sequence[Sequence[Tensor]]) -> Element:
        """The steps of a walk as one group element, for ``Catalog.apply``."""
        return Element(tuple(Factor("continuous", i, exponential(self.cat.symmetries[i], part).numpy())
                             for a in path for i, part in zip(self.which, a, strict=True)))


def exponential(s: Symmetry, a: Tensor) -> Tensor:
    """exp of the part of ``a`` (shaped as an element) that lies in the algebra of the family of ``s``."""
    return _EXPONENTIALS[s.family](a)


def _complex(a: Tensor) -> Tensor:
    turn = a.new_tensor([[0.0, -1.0], [1.0, 0.0]])
    return (a - turn @ a @ turn) / 2  # what commutes with the turn by 90 degrees


def _skew(a: Tensor) -> Tensor:
    return (a - a.mT) / 2


def _skew_off_ones(a: Tensor) -> Tensor:
    n = a.shape[-1]
    p = torch.eye(n, dtype=a.dtype) - 1.0 / n
    return p @ _skew(a) @ p


def _same(a: Tensor) -> Tensor:
    return a


def _centred(a: Tensor) -> Tensor:
    return a - a.mean()


# family -> the exponential; a family that is not here does not take part
_EXPONENTIALS: dict[str, Callable[[Tensor], Tensor]] = {
    "gl": torch.linalg.matrix_exp, "scale": torch.exp, "complex": lambda a: torch.linalg.matrix_exp(_complex(a)),
    "o": lambda a: torch.linalg.matrix_exp(_skew(a)), "o1": lambda a: torch.linalg.matrix_exp(_skew_off_ones(a)),
    "translation": _same, "outer": _same, "translation0": _centred, "outer0": _centred}


class DataOrbit:
    """GL_h on every pair U sigma(V x + b) of a captured network: nonlinear, exact on one batch and on nothing else."""

    def __init__(self, captured: Capture, state: Mapping[str, Tensor], inputs: Sequence[Any] | None = None) -> None:
        self.pairs = find_pairs(captured.graph)
        if not self.pairs:
            raise BadInput("the model has no pair U sigma(V x + b), so no data-dependent symmetry")
        self.network, self.batch = Network(captured, state), batch_of(captured, inputs)

    def zero(self) -> list[Tensor]:
        return [torch.zeros(p.width, p.width, dtype=torch.float64) for p in self.pairs]

    def move(self, state: Mapping[str, Tensor], a: Sequence[Tensor], check: bool = True) -> State:
        new = dict(state)
        for pair, part in zip(self.pairs, a, strict=True):
            new = move(self.network, new, pair, torch.linalg.matrix_exp(part), self.batch, check=check, max_condition=MAX_CONDITION)
        return new


# --- objectives -----------------------------------------------------------------------------------------------------------
class Objective(Protocol):
    """What a walk makes larger. ``value`` also returns what ``slope`` needs: a tensor with the same derivative along the orbit."""

    def value(self, loss: Loss, state: State, hint: Tensor | None) -> tuple[float, Tensor | None]: ...

    def slope(self, loss: Loss, moved: State, hint: Tensor | None) -> Tensor: ...


class Gradient:
    """|grad|^2"""

    def value(self, loss: Loss, state: State, hint: Tensor | None) -> tuple[float, Tensor | None]:
        return float(loss.gradient(state).square().sum()), None

    def slope(self, loss: Loss, moved: State, hint: Tensor | None) -> Tensor:
        return loss.squared_gradient(moved)


@dataclass(frozen=True)
class Sharpness:
    """``sign`` times the largest Hessian eigenvalue a = v^T H v; its derivative is that at fixed v (Hellmann and Feynman)."""

    sign: float = 1.0

    def value(self, loss: Loss, state: State, hint: Tensor | None) -> tuple[float, Tensor | None]:
        top = loss.top(state, start=hint)
        return self.sign * top.value, top.vector

    def slope(self, loss: Loss, moved: State, hint: Tensor | None) -> Tensor:
        assert hint is not None
        return self.sign * (hint @ loss.product(moved, hint, graph=True))


OBJECTIVES: dict[str, Objective] = {"gradient": Gradient(), "sharpness": Sharpness(), "flat": Sharpness(-1.0)}


# --- the walk -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Teleported:
    """New weights, the walk that led there, and what was measured: the objective at each step (with its sign), the loss at
    both ends, and the largest relative change of the loss at any step."""

    state: State
    path: tuple[list[Tensor], ...]
    values: tuple[float, ...]
    before: float
    after: float
    change: float


def teleport(orbit: Orbit, state: Mapping[str, Tensor], loss: Loss, objective: Objective | str, *, steps: int = STEPS,
             step: float = STEP, tolerance: float = TOLERANCE) -> Teleported:
    """Walk along the orbit of ``state`` (canonical names, float64) to raise ``objective``; the given tensors stay as they are.

    Each of at most ``steps`` steps has length ``step`` in the algebra, halved until the objective rises; the walk ends where
    none does. Raises NotProved at the first step that changes the loss, NotExact where the orbit has no exact action, BadInput for an
    unknown objective or a loss not finite.
    """
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            raise BadInput(f"objective {objective!r} is unknown; take one of {', '.join(OBJECTIVES)}")
        objective = OBJECTIVES[objective]
    now = {n: t.detach() for n, t in state.items()}
    with plain_kernels():
        before = loss(now)
        if not abs(before) < float("inf"):
            raise BadInput(f"the loss at the given weights is {before}")
        orbit.move(now, orbit.zero())  # says why where it cannot act at all; a direction is taken without looking
        value, hint = objective.value(loss, now, None)
        path, values, worst = [], [value], 0.0
        for _ in range(steps):
            found = _better(orbit, now, loss, objective, value, _direction(orbit, now, loss, objective, hint), step, hint)
            if found is None:
                break
            a, now, value, hint = found
            worst = max(worst, assert_kept(before, loss(now), tolerance))
            path.append(a)
            values.append(value)
        return Teleported(now, tuple(path), tuple(values), before, loss(now), worst)


def _direction(orbit: Orbit, now: State, loss: Loss, objective: Objective, hint: Tensor | None) -> list[Tensor]:
    """The gradient of the objective in the algebra, of largest spectral norm (or entry) 1; zeros where it vanishes."""
    a = [t.requires_grad_() for t in orbit.zero()]
    slope = objective.slope(loss, orbit.move(now, a, check=False), hint)
    if not slope.requires_grad:
        return [torch.zeros_like(t) for t in a]
    found = torch.autograd.grad(slope, a, allow_unused=True)
    parts = [torch.zeros_like(t) if g is None else g.detach() for g, t in zip(found, a, strict=True)]
    size = max(float(_size(p)) for p in parts)
    return [p / size for p in parts] if 0 < size < float("inf") else [torch.zeros_like(p) for p in parts]


def _size(part: Tensor) -> Tensor:
    square = part.ndim >= 2 and part.shape[-1] == part.shape[-2]
    return torch.linalg.matrix_norm(part, 2).max() if square else part.abs().max()


def _better(orbit: Orbit, now: State, loss: Loss, objective: Objective, value: float, direction: list[Tensor], step: float,
            hint: Tensor | None) -> tuple[list[Tensor], State, float, Tensor | None] | None:
    """The longest of step, step/2, ... along ``direction`` that raises the objective; None when none does."""
    for _ in range(HALVINGS if any(bool(d.any()) for d in direction) else 0):
        a = [step * d for d in direction]
        step /= 2
        try:
            with torch.no_grad():
                new = orbit.move(now, a)
        except NotExact:  # too badly conditioned there: nearer
            continue
        reached, vector = objective.value(loss, new, hint)
        if value < reached < float("inf"):
            return a, new, reached, vector
    return None


def balance(cat: Catalog, state: Mapping[str, Tensor], loss: Loss) -> tuple[Element, State]:
    """The element that leads to where all conserved quantities vanish, and the weights there.

    That is the least-norm point under the symmetries that have a conserved quantity: at a least norm d|exp(tX) theta|^2 / dt = 0, which
    says Q = 0; and the norm is convex along exp(tX) with X symmetric, so Q = 0 is enough (Kempf and Ness). Symmetries whose field is no
    gradient (constants traded through a weight or a gain) have no Q and are left at rest; along these the norm may still fall.
    Where an orbit has no balanced point (a scale without a partner, wide linear layers) this is refused. Raises as
    ``Catalog.move_to`` does, and NotProved when the loss changes.
    """
    element = element_to(cat, state, "balanced")
    new = cat.apply(state, element)
    assert_kept(loss(state), loss(new))
    return element, new
