"""The records of a catalog: symmetries, discrete factors, what is broken, group elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symdisc.generators import Generator
from symdisc.moves import Move

__all__ = ["WITHIN", "Broken", "Discrete", "Element", "Factor", "Symmetry"]

WITHIN = "its directions are among those of other factors"  # the note of a factor that is listed for its conserved quantity


@dataclass(frozen=True)
class Symmetry:
    """One continuous factor of the symmetry group, at one place.

    ``shape`` is the shape of the array that describes an element: [blocks, size, size] for matrix families, [units] for
    scales, any shape for translations. ``dimension`` counts its algebra. ``status`` is "proved" (the node conditions were
    solved and proved from formulas) or "witnessed" (checked numerically). ``condition`` and ``formula`` are LaTeX: the
    equivariance condition solved, and the action on the parameters. ``counts`` is False for factors that move buffers only
    and so do not enter the parameter dimension, and for those WITHIN others.
    ``generators`` is filled for the family "linear", which acts by their
    exponential instead of by moves.
    """

    name: str
    group: str
    family: str
    site: str
    parameters: tuple[str, ...]
    dimension: int
    status: str
    shape: tuple[int, ...]
    moves: tuple[Move, ...] = ()
    group_latex: str = ""
    condition: str = ""
    formula: str = ""
    assumptions: tuple[str, ...] = ()
    repeats: int = 1
    counts: bool = True
    note: str = ""
    generators: tuple[Generator, ...] = ()

    def latex(self) -> str:
        """Group, condition and action as LaTeX (amsmath), without dollar signs."""
        lines = [self.group_latex or rf"\mathrm{{{self.group}}}"]
        lines += [text for text in (self.condition, self.formula) if text]
        return r" \\ ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        d = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "moves"}
        return {**d, "moves": [m.to_dict() for m in self.moves], "generators": [g.to_dict() for g in self.generators]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Symmetry:
        values = {**d, "moves": tuple(Move.from_dict(m) for m in d["moves"]),
                  "generators": tuple(Generator.from_dict(g) for g in d["generators"])}
        for key in ("parameters", "shape", "assumptions"):
            values[key] = tuple(values[key])
        return cls(**values)


@dataclass(frozen=True)
class Discrete:
    """A discrete factor: permutations, sign flips. ``order`` is exact, 0 for infinite; ``units`` how many copies of what."""

    name: str
    group: str
    family: str
    site: str
    parameters: tuple[str, ...]
    order: int
    shape: tuple[int, ...]
    moves: tuple[Move, ...] = ()
    group_latex: str = ""
    status: str = "proved"
    note: str = ""

    def latex(self) -> str:
        return self.group_latex or rf"\mathrm{{{self.group}}}"

    def to_dict(self) -> dict[str, Any]:
        d = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "moves"}
        # hexadecimal: the orders of large symmetric groups exceed what Python writes in decimal
        return {**d, "order": hex(self.order), "moves": [m.to_dict() for m in self.moves]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Discrete:
        values = {**d, "order": int(d["order"], 16), "moves": tuple(Move.from_dict(m) for m in d["moves"])}
        for key in ("parameters", "shape"):
            values[key] = tuple(values[key])
        return cls(**values)


@dataclass(frozen=True)
class Broken:
    """What is not a symmetry, and which operator or parameter broke it.

    ``remedy`` is the smallest edit of the architecture that would restore it, ``parameters`` the tensors that it would move;
    both are empty where they are not known.
    """

    site: str
    family: str
    breaker: str
    reason: str
    remedy: str = ""
    parameters: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"site": self.site, "family": self.family, "breaker": self.breaker, "reason": self.reason, "remedy": self.remedy,
                "parameters": list(self.parameters)}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Broken:
        return cls(**{**d, "parameters": tuple(d.get("parameters", ()))})


@dataclass(frozen=True)
class Factor:
    """One symmetry's part of a group element: ``kind`` "continuous", "discrete" or "flow", and its array.

    ``path``: both ends, [D] each, of the path of a flow that was followed from known weights.
    """

    kind: str
    which: int
    array: np.ndarray = field(compare=False)
    path: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False, repr=False)

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Factor) and (self.kind, self.which) == (other.kind, other.which)
                and np.array_equal(self.array, other.array))


@dataclass(frozen=True)
class Element:
    """A group element: factors in the order in which they act. ``a @ b`` acts with b first."""

    factors: tuple[Factor, ...]
    seed: int | None = None
    scale: float | None = None

    def __matmul__(self, other: Element) -> Element:
        return Element(other.factors + self.factors)
