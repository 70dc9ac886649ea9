"""The record of what a flow conserves because of one symmetry, or why it conserves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from symdisc.conserved import evaluate as ev
from symdisc.conserved import typeset
from symdisc.conserved.algebra import part_dimension, sums_to_zero
from symdisc.errors import BadInput
from symdisc.generators import Generator
from symdisc.moves import Move
from symdisc.symmetry import Symmetry

__all__ = ["ConservedQuantity", "STATUSES", "Term"]

# "conserved": constant along the flow. "decays": a linear equation without source, so known from initial values.
# "driven": an exact equation with a source that `law` states. "none": no function; `reason` says why, `constraint` what
# stays.
STATUSES = ("conserved", "decays", "driven", "none")


@dataclass(frozen=True)
class Term:
    """One move's part of a charge: ``weight`` times its moment; ``shape`` is that of the parameter.

    ``potential``: text in x, applied entrywise in place of x^2/2 (scalings) or x (translations), where the
    preconditioner is a function of the parameters.
    """

    move: Move
    weight: float = 1.0
    potential: str = ""
    shape: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "move": self.move.to_dict(),
            "weight": self.weight,
            "potential": self.potential,
            "shape": list(self.shape),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Term:
        return cls(Move.from_dict(d["move"]), d["weight"], d["potential"], tuple(d["shape"]))


@dataclass(frozen=True)
class ConservedQuantity:
    """A conserved (or exactly predictable) function of the parameters, one per symmetry and part of its algebra.

    ``form`` says which function: "moment" (the moment map, 1/2 <theta, A theta> and <c, theta>, as an array over a
    basis of the ``part`` of the algebra that is a gradient field), "momentum" (factor(t) <theta', A theta> or <theta', M theta + c>, needs
    velocities), "span" (the projector on the span of all columns that a rotation turns), "plane" (a function of two
    entries, ``formula`` in x and y), "section" (1 - P, P the projector on the subspace that the flow orthogonal to turning ``generators``
    keeps, see ``conserved.section``), or "linear" (1/2 <theta, M theta> + <c, theta> for each of ``generators``), or
    "" when there is none. ``dimension`` counts independent numbers; ``law`` is the
    equation that the quantity obeys (LaTeX), ``rate`` the k of Q' = -k Q. Sign and size are those of the generator as
    the moves give it, with the factor 1/2 and the value 0 at vanishing parameters where that exists.
    """

    symmetry: Symmetry
    flow: str
    status: str
    part: str
    form: str
    dimension: int
    terms: tuple[Term, ...] = ()
    law: str = ""
    rate: str = ""
    reason: str = ""
    constraint: str = ""
    factor: str = "1"
    formula: str = ""
    assumptions: tuple[str, ...] = ()
    generators: tuple[Generator, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of the parameters of ``generators``
    potentials: tuple[tuple[str, str, str], ...] = ()  # (parameter, in place of x^2/2, of x) in form "linear", as in Term

    @property
    def name(self) -> str:
        return f"{self.symmetry.site}: {self.symmetry.name}" if self.symmetry.site else self.symmetry.name

    @property
    def zero_sum(self) -> bool:
        return sums_to_zero(self.symmetry.family)

    @property
    def parameters(self) -> tuple[str, ...]:
        named = [n for g in self.generators for n in g.parameters]
        return tuple(dict.fromkeys([*(t.move.parameter for t in self.terms), *named]))

    @property
    def expression(self) -> sp.Basic | None:
        """The quantity of one block or unit in sympy (a matrix expression for matrix groups), or None."""
        return typeset.expression(self) if self.form else None

    def latex(self) -> str:
        """Formula and law, or the reason and the constraint that stays; amsmath, no dollar signs."""
        return typeset.latex(self)

    def evaluate(self, params: Mapping[str, Any], velocity: Mapping[str, Any] | None = None, time: float = 0.0) -> Any:
        """An array of the kind of ``params`` (numpy or torch): matrices [blocks, size, size], vectors per unit.

        ``params`` are values by state_dict name; ``velocity`` (d theta/dt by name) and ``time`` are read by form
        "momentum". Raises BadInput when there is no quantity, or a parameter is missing.
        """
        if not self.form:
            raise BadInput(f"{self.name} has no conserved quantity under {self.flow}: {self.reason}")
        return ev.evaluate(self, params, velocity, time)

    def residual(self, params: Mapping[str, Any], gradient: Mapping[str, Any]) -> Any:
        """<gradient, X_a(theta)> for all a of the algebra, an array like them: zero for every exact gradient."""
        return ev.residual(self, params, gradient)

    def to_dict(self) -> dict[str, Any]:
        d = {
            k: getattr(self, k)
            for k in self.__dataclass_fields__
            if k not in ("symmetry", "terms", "assumptions", "generators")
        }
        return {**d, "symmetry": self.symmetry.to_dict(), "terms": [t.to_dict() for t in self.terms],
                "generators": [g.to_dict() for g in self.generators],
                "assumptions": list(self.assumptions), "latex": self.latex()}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> ConservedQuantity:
        values = {k: v for k, v in d.items() if k != "latex"}
        values["symmetry"] = Symmetry.from_dict(d["symmetry"])
        values["terms"] = tuple(Term.from_dict(t) for t in d["terms"])
        values["generators"] = tuple(Generator.from_dict(g) for g in d["generators"])
        values["assumptions"] = tuple(d["assumptions"])
        values["potentials"] = tuple((n, f, g) for n, f, g in d.get("potentials", ()))
        values["shapes"] = tuple((n, tuple(s)) for n, s in d.get("shapes", ()))
        return cls(**values)

    @staticmethod
    def count(part: str, symmetry: Symmetry) -> int:
        """Numbers in a part of a symmetry's algebra."""
        return part_dimension(part, symmetry.shape, sums_to_zero(symmetry.family))
