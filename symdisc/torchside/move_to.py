"""Move along the orbit to a chosen value of conserved quantities: other weights, the same function, the Q that was asked for.

For one symmetry the element is known in closed form (``conserved.reach``). Several symmetries that share parameters disturb each
other; then they take turns, which settles because each turn minimises a convex function along its own orbit, and what the turns leave is
closed by Newton steps in the joint Lie algebra: along exp(tX) with X symmetric, dQ/dt = |X theta|^2 >= 0, so the Jacobian of all Q in
all t is a Gram matrix. Only the ``part`` of the algebra that has a Q is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.linalg import expm
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from symdisc.conserved.algebra import MATRIX_FAMILIES
from symdisc.conserved.pairing import block_rows, unit_rows
from symdisc.conserved.reach import gl_element, scale_element
from symdisc.errors import BadInput, Undecided
from symdisc.symmetry import Element, Factor
from symdisc.torchside.apply import act, apply_element, check_state

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["element_to", "move_to"]

TOLERANCE = 1e-10  # of |Q - target|, relative to |theta|^2 / 2 of the parameters concerned (float64)
TURNS, STEPS, HALVINGS = 60, 60, 40  # of closed forms in turn, of Newton, of a step that overshoots
STEP = 1e-5  # of the central differences that give Gram-vector products; only the speed depends on it
LONGEST = 2.0  # of a Newton step in the algebra: exp of more is where the linear model has lost its meaning

Target = Any
State = dict[str, Tensor]


@dataclass(frozen=True)
class _Goal:
    """One symmetry (number ``which`` of the catalog), its quantity, and the value it shall have."""

    which: int
    quantity: ConservedQuantity
    target: np.ndarray
    start: float  # length of the parameters concerned before anything moved

    def value(self, state: State) -> np.ndarray:
        return np.asarray(self.quantity.evaluate(state).numpy())

    @property
    def affine(self) -> bool:
        """Translations: Q is linear in the parameters, and the movement adds to them what does not depend on them."""
        q = self.quantity
        return q.form == "moment" and all(t.move.kind in ("add", "outer") and not t.move.through for t in q.terms)

    def size(self, state: State) -> float:
        """What |Q - target| is compared with. A bias on its way to 0 shrinks with its Q, so a linear Q has the size it began with."""
        squares = sum(float(state[n].square().sum()) for n in self.quantity.parameters)
        return max(self.start if self.affine else squares / 2, float(np.abs(self.target).max(initial=0.0)), 1e-300)

    def miss(self, state: State) -> float:
        return float(np.abs(self.value(state) - self.target).max(initial=0.0)) / self.size(state)


def move_to(cat: Catalog, state: Mapping[str, Tensor], targets: Mapping[str | int, Target] | Target) -> dict[str, Tensor]:
    """See Catalog.move_to."""
    return apply_element(cat, state, element_to(cat, state, targets))


def element_to(cat: Catalog, state: Mapping[str, Tensor], targets: Mapping[str | int, Target] | Target) -> Element:
    """The group element that leads to the targets, factors in the order in which they act. Raises as Catalog.move_to does."""
    check_state(cat, state)
    back = {c: state[a] for a, c in cat.aliases.items() if a in state}
    work = {n: t.detach().double().cpu() for n, t in {**back, **state}.items() if t.is_floating_point()}
    goals = _goals(cat, targets, work)
    factors = _turns(cat, goals, work)
    if not all(g.miss(work) <= TOLERANCE for g in goals):
        factors += _newton(cat, goals, work)
    return Element(tuple(factors))


# --- what was asked for -----------------------------------------------------------------------------------------------
def _goals(cat: Catalog, targets: Mapping[str | int, Target] | Target, state: State) -> list[_Goal]:
    quantities = {cat.symmetries.index(q.symmetry): q for q in reversed(cat.charges)}
    movable = {i: q for i, q in sorted(quantities.items()) if q.form in ("moment", "linear")}
    if not isinstance(targets, Mapping):
        if not movable:
            raise BadInput("no symmetry of this catalog has a conserved quantity that its orbit moves")
        targets = {i: targets for i in movable}
    goals = []
    for key, target in targets.items():
        found = [i for i, q in quantities.items() if key in (i, q.name, q.symmetry.name, q.symmetry.site)]
        if not found:
            names = ", ".join(dict.fromkeys(repr(q.name) for q in movable.values()))
            raise BadInput(f"no symmetry is called {key!r}; quantities that can be moved: {names or 'none'}, or a number from 0 to "
                           f"{len(cat.symmetries) - 1} in cat.symmetries")
        for i in sorted(found):
            if i not in movable:
                q = quantities[i]
                raise BadInput(f"{q.name} ({q.symmetry.group}) cannot be moved to a value: "
                               + (q.reason if not q.form else "its orbit is compact and no charge increases along it"))
            start = sum(float(state[n].square().sum()) for n in movable[i].parameters) ** 0.5 or 1.0
            goals.append(_Goal(i, movable[i], _shaped(cat, movable[i], target, len(found)), start))
    return goals


def _shaped(cat: Catalog, q: ConservedQuantity, target: Target, sharing: int) -> np.ndarray:
    """The target as an array like the quantity: numbers fill diagonals of matrices and all units, one matrix fills all blocks."""
    example = np.asarray(q.evaluate({n: torch.zeros(s, dtype=torch.float64) for n, s in cat.parameters.items()}).numpy())
    if isinstance(target, str):
        if target != "balanced":
            raise BadInput(f"a target is a number, an array or 'balanced', not {target!r}")
        target = 0.0
    value = np.asarray(target.detach().cpu() if isinstance(target, Tensor) else target, dtype=np.float64)
    if not np.isfinite(value).all():
        raise BadInput(f"the target of {q.name} holds NaN or infinite values")
    if q.part == "symmetric":
        value = value[..., None, None] * np.eye(example.shape[-1]) if value.ndim == 0 else value
        if value.shape[-2:] == example.shape[-2:] and np.abs(value - value.swapaxes(-1, -2)).max() > 1e-12 * np.abs(value).max():
            raise BadInput(f"the target of {q.name} must be a symmetric matrix")
    try:
        return np.broadcast_to(value, example.shape).copy()
    except ValueError as error:
        more = f"; {sharing} symmetries answer to this name, use their numbers in cat.symmetries" if sharing > 1 else ""
        raise BadInput(f"the target of {q.name} has shape {list(value.shape)}, its quantity {list(example.shape)}{more}") from error


# --- closed forms in turn ---------------------------------------------------------------------------------------------
def _turns(cat: Catalog, goals: list[_Goal], work: State) -> list[Factor]:
    """Closed forms, one symmetry after the other, until all values hold or nothing gets better; ``work`` moves along."""
    known = [(g, form) for g in goals if (form := _closed_form(cat, g)) is not None]
    factors: list[Factor] = []
    for _ in range(TURNS if len(known) > 1 else 1):
        for g, form in known:
            if g.miss(work) <= TOLERANCE * 1e-2:
                continue
            try:
                array = form(g, work)
            except BadInput as error:
                raise BadInput(f"{g.quantity.name}: {error}") from None
            work.update(act(cat.symmetries[g.which], array, work))
            factors.append(Factor("continuous", g.which, array))
        if all(g.miss(work) <= TOLERANCE * 1e-2 for g, _ in known):
            break
    return factors


def _closed_form(cat: Catalog, g: _Goal) -> Callable[[_Goal, State], np.ndarray] | None:
    q = g.quantity
    if g.affine:
        return partial(_affine, cat)
    plain = q.form == "moment" and all(t.move.gain is None and t.weight == 1.0 and not t.potential for t in q.terms)
    kinds = {t.move.kind for t in q.terms}
    if plain and kinds == {"matmul"} and q.part == "symmetric":
        return _gl
    if plain and kinds == {"matmul"} and q.part in ("scalar", "multiples of 11"):
        return _scalar if q.part == "scalar" else _along_ones
    return _scale if plain and kinds == {"scale"} and not q.zero_sum else None


def _affine(cat: Catalog, g: _Goal, work: State) -> np.ndarray:
    """Translations: Q moves by G a for a constant Gram matrix G, seen as what a movement adds to Q; solved by conjugate gradients."""
    here = g.value(work)

    def added(a: np.ndarray) -> np.ndarray:
        size = g.start / max(float(np.abs(a).max()), 1e-300)  # a movement far below the parameters would be lost in rounding
        moved = {**work, **act(cat.symmetries[g.which], size * a.reshape(here.shape), work)}
        return (g.value(moved) - here).ravel() / size

    gram = LinearOperator((here.size, here.size), matvec=added, dtype=np.float64)
    return np.asarray(cg(gram, (g.target - here).ravel(), rtol=1e-10, maxiter=4 * here.size)[0]).reshape(here.shape)


def _gl(g: _Goal, work: State) -> np.ndarray:
    inside, outside = _columns(g, work, "g"), _columns(g, work, "g^-T")
    return np.stack([gl_element(v, u, t) for v, u, t in zip(inside, outside, g.target, strict=True)])


def _columns(g: _Goal, work: State, rep: str) -> np.ndarray:
    blocks, size = g.quantity.symmetry.shape[:2]
    parts = [block_rows(t.move, work[t.move.parameter].numpy()) for t in g.quantity.terms if t.move.rep == rep]
    return np.concatenate([np.zeros((blocks, size, 0)), *parts], axis=-1)


def _scalar(g: _Goal, work: State) -> np.ndarray:
    """Multiples of the identity, for algebras without another symmetric element (rotary planes)."""
    squares = {p: np.square(_columns(g, work, rep)).sum((-1, -2)) for p, rep in ((1.0, "g"), (-1.0, "g^-T"))}
    s = scale_element(squares, g.target)
    return s[:, None, None] * np.eye(g.quantity.symmetry.shape[-1])


def _along_ones(g: _Goal, work: State) -> np.ndarray:
    """Multiples of 11^T: their exponentials scale the component along 1 and leave the rest."""
    squares = {p: np.square(_columns(g, work, rep).sum(-2)).sum(-1) for p, rep in ((1.0, "g"), (-1.0, "g^-T"))}
    n = g.quantity.symmetry.shape[-1]
    return np.eye(n) + (scale_element(squares, g.target)[:, None, None] - 1.0) * np.ones((n, n)) / n


def _scale(g: _Goal, work: State) -> np.ndarray:
    squares: dict[float, np.ndarray] = {}
    for t in g.quantity.terms:
        n = np.square(unit_rows(t.move, work[t.move.parameter].numpy())).sum(-1)
        squares[t.move.power] = squares.get(t.move.power, 0.0) + n
    return scale_element(squares, g.target.reshape(-1)).reshape(g.target.shape)


# --- Newton in the joint algebra --------------------------------------------------------------------------------------
def _newton(cat: Catalog, goals: list[_Goal], work: State) -> list[Factor]:
    factors: list[Factor] = []
    for _ in range(STEPS):
        miss = _residual(goals, work)
        if all(g.miss(work) <= TOLERANCE for g in goals):
            return factors
        step = _direction(cat, goals, work, miss)
        step *= min(1.0, LONGEST / max(float(np.abs(step).max()), 1e-300))
        for _ in range(HALVINGS):
            new, made = _moved(cat, goals, work, step)
            if np.linalg.norm(_residual(goals, new)) < np.linalg.norm(miss):
                break
            step = step / 2
        else:
            break
        work.update(new)
        factors += made
    worst = max(goals, key=lambda g: g.miss(work))
    if not worst.miss(work) <= TOLERANCE:
        raise Undecided(f"{worst.quantity.name} was not brought to its target: |Q - target| stays at {worst.miss(work):.1e} of the size of "
                        "the parameters. The value lies outside what the orbit reaches, or contradicts the other targets")
    return factors


def _residual(goals: list[_Goal], state: State) -> np.ndarray:
    return np.concatenate([(g.value(state) - g.target).ravel() for g in goals])


def _direction(cat: Catalog, goals: list[_Goal], work: State, miss: np.ndarray) -> np.ndarray:
    """-Gram^+ (Q - target) by conjugate gradients; only products with the Gram matrix are needed."""
    def product(a: np.ndarray) -> np.ndarray:
        size = float(np.abs(a).max()) or 1.0
        up, down = (_residual(goals, _moved(cat, goals, work, sign * STEP / size * a.ravel())[0]) for sign in (1, -1))
        return (up - down) * (size / (2 * STEP))

    gram = LinearOperator((miss.size, miss.size), matvec=product, dtype=np.float64)
    return np.asarray(cg(gram, -miss, rtol=1e-9, maxiter=min(4 * miss.size, 500))[0])


def _moved(cat: Catalog, goals: list[_Goal], state: State, step: np.ndarray) -> tuple[State, list[Factor]]:
    """exp of each goal's part of ``step``, one after the other."""
    new, made, at = dict(state), [], 0
    for g in goals:
        a = step[at:at + g.target.size].reshape(g.target.shape)
        at += g.target.size
        array = _exponential(g.quantity, a)
        new.update(act(cat.symmetries[g.which], array, new))
        made.append(Factor("continuous", g.which, array))
    return new, made


def _exponential(q: ConservedQuantity, a: np.ndarray) -> np.ndarray:
    """The finite element of an algebra element given by its coordinates in the part that has a quantity."""
    if q.symmetry.family not in MATRIX_FAMILIES:
        return np.exp(a) if q.symmetry.family == "scale" else a
    n = q.symmetry.shape[-1]
    full = {"symmetric": lambda: a, "diagonal": lambda: a[..., None] * np.eye(n),
            "scalar": lambda: a[..., None, None] * np.eye(n), "multiples of 11": lambda: a[..., None, None] * np.ones((n, n))}[q.part]()
    return np.stack([expm(x) for x in full])
