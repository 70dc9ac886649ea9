"""Records: what an operator is equivariant under."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

__all__ = ["Discrete", "Equivariance", "Family", "Pair"]

PROVED, WITNESSED = "proved", "witnessed"


@dataclass(frozen=True)
class Pair:
    """One element ((M_1, m_1), ..., N, n) with Df(x)[M_1 x_1 + m_1, ...] = N f(x) + n, entries by name such as 'c' or
    'M[0,1]'.

    Entries that are zero are left out; an entry without a closed form is a sympy Float.
    """

    entries: tuple[tuple[str, sp.Expr], ...]
    status: str

    def __str__(self) -> str:
        return ", ".join(f"{k} = {v}" for k, v in self.entries)


@dataclass(frozen=True)
class Family:
    """A named part of the continuous group; ``dimension`` is what it adds at the size asked for."""

    name: str
    dimension: int
    latex: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.dimension})"


@dataclass(frozen=True)
class Discrete:
    """A discrete element: f(c x + t) = b f(x) + s + l x; a nonzero l needs a linear path around f to be a symmetry.

    ``kind`` is 'sign', 'reflection', 'period', 'shift', 'linear path', 'permutation' or 'exchange'. ``order`` is 0 for
    infinite.
    """

    kind: str
    latex: str
    status: str
    order: int = 2
    entries: tuple[tuple[str, sp.Expr], ...] = ()

    @property
    def needs_linear_path(self) -> bool:
        return self.kind == "linear path"

    def value(self, name: str) -> sp.Expr:
        """The entry of that name (zero when left out)."""
        return dict(self.entries).get(name, sp.Integer(0))

    def __str__(self) -> str:
        return f"{self.kind}: {self.latex}"


@dataclass(frozen=True)
class Equivariance:
    """The solved equivariance algebra of an operator, with named families and discrete elements.

    ``dimension`` counts affine pairs of inputs and output together: per unit for elementwise operators when no size was
    given, otherwise at ``size``. ``status`` is 'proved' when every element is an identity shown by sympy and a minor
    that is not zero (ball arithmetic) shows that there are no others; 'witnessed' when samples are the evidence.
    ``remainder`` holds elements that no family names, as numbers.
    """

    name: str
    formula: str
    dimension: int
    families: tuple[Family, ...]
    discrete: tuple[Discrete, ...]
    status: str
    elementwise: bool
    inputs: tuple[str, ...]
    size: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    pairs: tuple[Pair, ...] = ()
    remainder: tuple[tuple[float, ...], ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()

    def latex(self) -> str:
        """The group and the discrete elements as LaTeX, ready for display mode (an aligned block)."""
        lines = [rf"f:\ & {self.formula_latex()}"]
        lines += [rf"\text{{{_escape(f.name)}}}:\ & {f.latex}" for f in self.families]
        if self.remainder:
            lines.append(rf"\text{{without a name}}:\ & \text{{dimension }} {len(self.remainder)}")
        elif not self.families:
            lines.append(r"\text{continuous part}:\ & \{1\}")
        lines += [rf"\text{{{d.kind}}}:\ & {d.latex}" for d in self.discrete]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def formula_latex(self) -> str:
        """The formula alone."""
        from symdisc.errors import FormulaError
        from symdisc.formula import is_indexed, parse

        if self.elementwise and self.formula and not is_indexed(self.formula):
            try:
                return str(sp.latex(parse(self.formula)))
            except FormulaError:
                pass
        return rf"\text{{{_escape(self.formula or self.name)}}}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "formula": self.formula,
            "dimension": self.dimension,
            "status": self.status,
            "elementwise": self.elementwise,
            "inputs": list(self.inputs),
            "size": self.size,
            "sizes": dict(self.sizes),
            "families": [{"name": f.name, "dimension": f.dimension, "latex": f.latex} for f in self.families],
            "discrete": [
                {
                    "kind": d.kind,
                    "latex": d.latex,
                    "status": d.status,
                    "order": d.order,
                    "entries": {k: str(v) for k, v in d.entries},
                }
                for d in self.discrete
            ],
            "pairs": [{"entries": {k: str(v) for k, v in p.entries}, "status": p.status} for p in self.pairs],
            "remainder": [list(r) for r in self.remainder],
            "evidence": self.evidence,
            "notes": list(self.notes),
            "latex": self.latex(),
        }


def _escape(text: str) -> str:
    for raw, safe in (
        ("\\", r"\textbackslash "),
        ("_", r"\_"),
        ("^", r"\^{}"),
        ("&", r"\&"),
        ("%", r"\%"),
        ("#", r"\#"),
        ("{", r"\{"),
        ("}", r"\}"),
    ):
        if raw == "\\" or raw not in ("{", "}"):
            text = text.replace(raw, safe)
    return text
