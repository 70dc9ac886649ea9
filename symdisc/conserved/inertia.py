"""Flows with inertia, theta'' + friction theta' + P (grad + rho) = 0: what each part of an algebra gives.

Antisymmetric A (in the metric P^-1) are conserved, d/dt (f <P^-1 theta', A theta>) = 0 with f' = friction f (Noether);
constants c are so without decay. Symmetric S give Q = 1/2 <P^-1 theta, S theta> with Q'' + friction Q' + <rho, S theta>
= <P^-1 theta', S theta'>. Source: arXiv:2405.12888.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.algebra import restrict
from symdisc.conserved.flow import THETA, TIME, tex
from symdisc.conserved.orthogonal import damped, orthogonality
from symdisc.moves import BENT

if TYPE_CHECKING:
    from symdisc.conserved.derive import Deriver
    from symdisc.conserved.quantity import ConservedQuantity

__all__ = ["second_order"]


def second_order(deriver: Deriver) -> list[ConservedQuantity]:
    """The antisymmetric and the symmetric part of the algebra, in this order, as far as they are there."""
    local = list(deriver.local.values())
    if any(not w.constant for w in local):
        return [deriver.none(reasons.GEODESICS, orthogonality(deriver.local))]
    if deriver.nonlinear:
        why = reasons.nonlinear(deriver.nonlinear, deriver.trained)
        return [deriver.none(f"{why}: not a rigid motion, so momentum keeps nothing", orthogonality(deriver.local))]
    if any(m.kind in BENT for m in deriver.symmetry.moves):
        return [deriver.none(reasons.CURVED, orthogonality(deriver.local))]
    found = _antisymmetric(deriver) + _symmetric(deriver)
    return found or [deriver.none(reasons.CONJUGATED if deriver.conjugated else reasons.ANTISYMMETRIC, orthogonality(deriver.local))]


def _factor(deriver: Deriver) -> sp.Expr:
    friction = next(iter(deriver.local.values())).friction
    return sp.simplify(sp.exp(sp.integrate(friction, TIME)))


def _momentum(deriver: Deriver, part: str, vector: str) -> ConservedQuantity:
    factor = _factor(deriver)
    law = rf"\tfrac{{d}}{{dt}}\bigl({tex(factor)}\,\langle \dot\theta, {vector}\rangle\bigr) = 0"
    return deriver.make("conserved", part, "momentum", deriver.terms(), factor=str(factor), rate="0", law=law)


def _antisymmetric(deriver: Deriver) -> list[ConservedQuantity]:
    """Decay lambda theta with one lambda per parameter does not turn: <lambda theta, A theta> = 0."""
    if not deriver.matrix or deriver.conjugated:
        return []
    part = restrict(deriver.symmetry.family, "skew")
    radial = all(not sp.simplify(w.rho / THETA).has(THETA) for w in deriver.local.values())
    return [_momentum(deriver, part, r"A\theta")] if part != "zero" and radial else []


def _symmetric(deriver: Deriver) -> list[ConservedQuantity]:
    part = deriver.part()
    if part == "zero":
        return []
    rates = {sp.simplify(w.precondition * w.rho / THETA) for w in deriver.local.values()}
    decay = next(iter(rates)) if len(rates) == 1 else None
    terms = deriver.terms()
    linear = [t.move.kind not in ("matmul", "scale") for t in terms]
    quadratic = not all(linear)
    if quadratic and any(linear):
        decay = None  # no common rate for squares and sums
    found = [_momentum(deriver, part, "c")] if not quadratic and decay == 0 else []
    friction = next(iter(deriver.local.values())).friction
    left = damped(friction, "Q")
    known = decay is not None and not decay.has(THETA)
    if not known:
        left += r" + \langle\rho, X\rangle"
    elif decay is not None and decay != 0:
        left += rf" + {tex((2 if quadratic else 1) * decay)}\,Q"
    right = r"\langle \dot\theta, S\dot\theta\rangle" if quadratic else "0"
    status = "decays" if known and not quadratic else "driven"
    reason = reasons.DRIVEN if quadratic else ""
    found.append(deriver.make(status, part, "moment", terms, law=f"{left} = {right}", reason=reason))
    return found
