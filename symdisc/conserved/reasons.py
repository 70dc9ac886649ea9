"""Why a symmetry gives no conserved function, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from symdisc.conserved.flow import Local, tex
from symdisc.conserved.pairing import depends_on
from symdisc.moves import Move

__all__ = ["decay_text", "history", "nonlinear", "untrained"]

ANTISYMMETRIC = (
    "the generator is antisymmetric in the stored-parameter inner product, so <theta, A theta> = 0 and its one-form is "
    "of contact type (two or more planes): only the differential constraint holds"
)
ANTISYMMETRIC_MANY = (
    "the generators are antisymmetric in the stored-parameter inner product, so <theta, A theta> = 0 for each of them; whether together "
    "they keep a subspace is not looked for at this size: the differential constraints hold"
)
MIXED = (
    "no combination of the generators is symmetric in the stored-parameter inner product, and they stretch as well as turn: whether their "
    "forms have an integrating factor is not derived, only the differential constraint holds"
)
SECTION = (
    "antisymmetric, so no charge 1/2 <theta, A theta>; but what is orthogonal to the turned directions, at theta and at all that it leads "
    "to, is a subspace smaller than the whole, and the flow stays in it"
)
ANTISYMMETRIC_DECAY = (
    "the generator is antisymmetric in the stored-parameter inner product; decay or a metric leave the "
    "constraint <P^-1 theta' + rho, A theta> = 0"
)
ANTISYMMETRIC_PART = "antisymmetric elements give no function, only the differential constraint"
GEODESICS = "inertia with a preconditioner that depends on the parameters: its geodesics keep no charge"
FISHER_DECAY = "weight decay inside a natural gradient is not orthogonal to the symmetry"
CONJUGATED = (
    "the generator is conjugated by constant gains, D a D^-1, which is symmetric for diagonal a only, and the algebra "
    "has no such element"
)
OFF_DIAGONAL = "off-diagonal elements are not gradient fields in a metric that depends on the parameters entry by entry"
SINGLE_PLANE = (
    "antisymmetric, but it turns a single plane: the integrating factor 1/r^2 makes its form the differential of the "
    "angle"
)
GAINS = "off-diagonal elements are conjugated by constant gains, D a D^-1, and give no symmetric matrix"
CHARTED = (
    "elements that scale part of a slice of a normalised weight g v/|v| depend on its direction n: beside what |v| keeps, their form has "
    "the part n_j^2 d(g^2/2), which is not closed; for them only the differential constraint holds"
)
CHARTED_OTHER = (
    "the action goes through a normalised weight g v/|v| and is no scale, so the generator depends on g and v; whether its one-form has a "
    "potential is not derived, only the differential constraint holds"
)
PRODUCT = (
    "the weight moves by the other factor times the element, s B a, and B is trained: the form <dA, a> - s <dW, B a> is not closed, its "
    "derivative -s <dW, dB a> does not vanish on its kernel, so only the differential constraint holds"
)
BLIND = (
    "the generator points along n, what the weights in front leave free, which turns as they are trained: on the kernel of the form "
    "<dU n, t> its derivative -<dU, dn t> vanishes for no t, as dU is arbitrary across n and so is dn, so only the differential "
    "constraint holds"
)
ISOSPECTRAL = (
    "the generator turns a stream by A, what the eigenvectors of its gains turn by: its form holds <dW, A W>, which is of contact type in "
    "two planes or more, and a form beside it in other variables does not change that: only the differential constraint holds"
)
SHEAR = (
    "the generator shears a stream along 1 by l = 1/gamma of gains that are trained: its form holds (l.w) d(1.w) for each vector w of a "
    "weight, which is of contact type in two or more: only the differential constraint holds"
)
FLOW = (
    "its directions are known at given weights only, by their flow, not recorded as moves: there is no formula to integrate; the count of "
    "laws tells whether one is missing"
)
CURVED = (
    "inertia: the generator does not move every parameter in proportion to itself, so that its charge is no quadratic form and obeys no "
    "equation of its own: only the differential constraint holds"
)
NORMED = (
    "the generator depends on the gain and on the rows of the table, and its one-form is closed for the common scale alone, whose charge "
    "is listed beside it: for all others no integrating factor is known, and the differential constraint holds"
)
SPAN = "antisymmetric, but it turns fewer columns than dimensions: the flow stays in their span"
FACTOR = "not a gradient field, but an integrating factor exists in two variables"
DRIVEN = "inertia: the symmetric charge obeys a driven equation, exact at every time"


def untrained(names: Sequence[str]) -> str:
    """A symmetry that needs a frozen parameter or a buffer to move along."""
    return (
        f"it moves {', '.join(names)}, which this flow does not train, so the gradient of the trained parameters "
        "alone is not orthogonal to it"
    )


def nonlinear(moves: Sequence[Move], trained: frozenset[str]) -> str:
    """Which trained parameters the generator depends on."""
    names = sorted({n for m in moves for n in depends_on(m)} & trained)
    return f"the generator depends on the trained parameters {', '.join(names)}"


def decay_text(local: Mapping[str, Local]) -> str:
    """The decay covector, parameter by parameter where it differs."""
    values = {tex(w.rho) for w in local.values()}
    return r"\rho = " + (next(iter(values)) if len(values) == 1 else r"\text{" + "; ".join(
        f"{n.replace('_', chr(92) + '_')}: ${tex(w.rho)}$" for n, w in local.items()) + "}")


def history(averaged: bool, constant: bool) -> str:
    """Adam and its kin."""
    lost = (
        "the preconditioner is made from past gradients, entry by entry, so no fixed function of the parameters is "
        "conserved; one second moment shared over the parameters that the symmetry moves would keep the law"
    )
    if constant:
        return f"{lost}; what stays: the preconditioned velocity is orthogonal to the translation"
    if averaged:
        return f"{lost}; the averaged gradient is orthogonal to where the symmetry pointed, not to where it points"
    return f"{lost}; what stays: the preconditioned velocity is orthogonal to the generator"
