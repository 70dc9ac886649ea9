"""The differential constraint of a symmetry under a flow: what stays true where there is no function to conserve.

A flow theta'' [inertia] + friction theta' + P (grad + rho) = 0 says what the gradient is, and <grad, X_a> = 0 whatever the generator
X_a(theta) depends on.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from symdisc.conserved.flow import Local, tex

__all__ = ["damped", "orthogonality"]


def orthogonality(local: Mapping[str, Local]) -> str:
    """LaTeX of <P^-1 (theta'' + friction theta') + rho, X_a(theta)> = 0, what is one or zero left out.

    A metric made of J (natural gradient) is a multiple of one on the directions that J does not see. Empty where no fixed metric says
    what the gradient is: it is made of past gradients, or J turns the decay.
    """
    values = list(local.values())
    decays = any(w.rho != 0 for w in values)
    kinds = {w.kind for w in values}
    if len(kinds) > 1 or "history" in kinds or (kinds == {"fisher"} and decays) or len({(w.inertia, w.friction) for w in values}) > 1:
        return ""
    first = values[0]
    speed = r"\dot\theta"
    if first.inertia:
        speed = damped(first.friction, r"\theta")
    metrics = {w.precondition for w in values}
    plain = len(metrics) == 1 and first.constant and (metrics == {sp.Integer(1)} or not decays)
    if not plain:
        speed = rf"P^{{-1}}({speed})" if first.inertia else rf"P^{{-1}}{speed}"
    pushed = r" + \rho(\theta)" if decays else ""
    return rf"\langle {speed}{pushed}, X_a(\theta) \rangle = 0 \;\text{{for all }} a"


def damped(friction: sp.Expr, name: str) -> str:
    """LaTeX of name'' + friction name'."""
    held = {0: "", 1: rf" + \dot {name}"}.get(friction, rf" + {tex(friction)}\,\dot {name}")
    return rf"\ddot {name}{held}"
