"""The catalog: all symmetries of one architecture, and the door to applying, verifying and writing them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symdisc.certificate import Certificate
from symdisc.conserved.cuts import Cuts
from symdisc.elements import inverse_element, sample_element
from symdisc.errors import BadInput
from symdisc.opgraph import OpGraph
from symdisc.symmetry import Broken, Discrete, Element, Symmetry

if TYPE_CHECKING:
    from symdisc.torchside.witness import Witness

__all__ = ["SCHEMA", "Catalog", "load"]

SCHEMA = 1


@dataclass(frozen=True)
class Catalog:
    """Symmetries of an architecture.

    ``symmetries`` are the continuous factors, ``discrete`` permutations and signs, ``broken`` what is not a symmetry and
    why. ``group_dimension`` counts the algebra, ``orbit_dimension`` its rank at the weights (None when it was not computed).
    ``parameters`` and ``buffers`` give shapes by canonical state_dict name, ``aliases`` the other names of tied tensors.
    ``cuts`` says where the model trains by less than the full gradient, which is no matter of symmetry but of ``conserved``.
    ``model`` and ``example`` are kept in memory only, for ``verify`` and ``certify``.
    """

    architecture: str
    symmetries: tuple[Symmetry, ...]
    discrete: tuple[Discrete, ...]
    broken: tuple[Broken, ...]
    parameters: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]]
    aliases: dict[str, str]
    orbit_dimension: int | None
    training: bool = False
    certificate: Certificate | None = None
    notes: tuple[str, ...] = ()
    graph: OpGraph | None = field(default=None, compare=False, repr=False)
    timings: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    model: Any = field(default=None, compare=False, repr=False)
    example: Any = field(default=None, compare=False, repr=False)
    kwargs: Any = field(default=None, compare=False, repr=False)
    captured: Any = field(default=None, compare=False, repr=False)
    cuts: Cuts = field(default_factory=Cuts)

    # --- numbers ------------------------------------------------------------------------------------------------------
    @property
    def parameter_count(self) -> int:
        """D: entries of all parameters, tied tensors once."""
        total = 0
        for shape in self.parameters.values():
            size = 1
            for s in shape:
                size *= s
            total += size
        return total

    @property
    def group_dimension(self) -> int:
        """Dimension of the algebra on parameters (factors that move buffers are listed, not counted)."""
        return sum(s.dimension for s in self.symmetries if s.counts)

    @property
    def conserved(self) -> tuple[Any, ...]:
        """What gradient flow conserves because of each symmetry, or why there is nothing.

        The flow is that of the model as it was given: frozen parameters are constants, and a symmetry that the gradient is not
        orthogonal to (``detach``, ``no_grad``, padding rows) conserves nothing.
        """
        from symdisc.conserved import conserved_quantities

        return tuple(conserved_quantities(self.symmetries, self.parameters, cuts=self.cuts))

    @property
    def charges(self) -> tuple[Any, ...]:
        """The same if all parameters were trained by the full gradient: the moment maps of the symmetries, whatever trains the model."""
        from symdisc.conserved import conserved_quantities

        return tuple(conserved_quantities(self.symmetries, self.parameters))

    def conserved_under(self, flow: Any, **values: Any) -> tuple[Any, ...]:
        """The same under another training flow: a row of ``rules/optimizer.toml`` with values for its symbols, or a ``conserved.Flow``.

        >>> cat.conserved_under("momentum", tau=1, lam=0.01)

        With inertia a symmetry may give two entries. Raises BadInput for flows and symbols that do not exist.
        """
        from symdisc.conserved import Flow, conserved_quantities

        if not isinstance(flow, str) and values:
            raise BadInput("values of symbols belong to the name of a flow; a Flow carries its own")
        chosen = Flow(flow, values) if isinstance(flow, str) else flow
        return tuple(conserved_quantities(self.symmetries, self.parameters, chosen, self.cuts))

    @property
    def data_dependent(self) -> tuple[Any, ...]:
        """Nonlinear symmetries on a chosen batch: one per pair U sigma(V x + b), any g of GL_h (see ``torchside.datadep``)."""
        from symdisc.torchside.datadep.network import data_dependent

        return data_dependent(self)

    @property
    def why_not(self) -> tuple[Broken, ...]:
        """For each feature space the families that it lacks, what broke them, and the edit of the architecture that restores them.

        Derived from the captured graph, so for a catalog fresh from ``discover``; raises BadInput for one read from a file.
        """
        from symdisc.torchside.whynot import why_not

        if self.captured is None:
            raise BadInput("a catalog from a file has no operator graph: give the model to tell what it does not admit")
        return tuple(why_not(self.captured))

    # --- the group ----------------------------------------------------------------------------------------------------
    def sample(self, seed: int = 0, scale: float = 0.1, discrete: bool = True) -> Element:
        """A random group element: one factor per symmetry, condition numbers at most exp(2 scale).

        A remainder without a name is followed from the weights of the model to before the first kink of the network; rows of a table
        stay in the range of the norm that reads them.
        """
        if not 0 <= scale < float("inf"):
            raise BadInput(f"scale must be a finite number, not negative, got {scale}")
        g = sample_element(self.symmetries, self.discrete, seed, scale, discrete, flows=self.captured is not None)
        if self.captured is not None and any(m.kind == "normed_table" for s in self.symmetries for m in s.moves):
            from symdisc.torchside.apply import within_range

            g = within_range(self, g)
        if not any(f.kind == "flow" for f in g.factors):
            return g
        from symdisc.torchside.flow import clear_paths

        return clear_paths(self, g, scale, seed)

    def inverse(self, g: Element) -> Element:
        """The element that undoes ``g``."""
        return inverse_element(self.symmetries, self.discrete, g)

    def apply(self, state: Mapping[str, Any], g: Element) -> dict[str, Any]:
        """A new state_dict with ``g`` applied; the given one is left as it is.

        Raises StateMismatch when names or shapes are not those of the catalog, or a value is not finite.
        """
        from symdisc.torchside.apply import apply_element

        return apply_element(self, state, g)

    def move_to(self, state: Mapping[str, Any], Q: Any) -> dict[str, Any]:
        """New weights on the same orbit, so with the same function, at which conserved quantities have chosen values.

        ``Q`` maps a symmetry (its name, its site, the quantity's ``name``, or its number in ``symmetries``) to a number, an array like
        ``ConservedQuantity.evaluate`` returns, or "balanced" (0); a bare value is meant for all. A number c means c times the identity
        for matrices and c for every unit. Quantities that are not named go where the movement takes them. Raises BadInput when there is
        no such quantity or the orbit does not reach the value, and Undecided when several targets could not be met together.
        """
        from symdisc.torchside.move_to import move_to

        return move_to(self, state, Q)

    def verify(self, model: Any, g: Element, inputs: Sequence[Any] | None = None, samples: int = 3) -> Witness:
        """Run ``model`` before and after ``g`` on several inputs; change relative to the variation over inputs."""
        from symdisc.torchside.witness import verify

        return verify(self, model, g, inputs, samples)

    # --- writing ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "architecture": self.architecture,
            "training": self.training,
            "parameter_count": self.parameter_count,
            "group_dimension": self.group_dimension,
            "orbit_dimension": self.orbit_dimension,
            "symmetries": [s.to_dict() for s in self.symmetries],
            "discrete": [d.to_dict() for d in self.discrete],
            "broken": [b.to_dict() for b in self.broken],
            "parameters": {k: list(v) for k, v in self.parameters.items()},
            "buffers": {k: list(v) for k, v in self.buffers.items()},
            "aliases": self.aliases,
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "notes": list(self.notes),
            **({"cuts": self.cuts.to_dict(self.symmetries)} if self.cuts else {}),
        }

    def to_json(self) -> str:
        """One JSON document with a schema version; ``Catalog.from_json`` gives back an equal catalog."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Catalog:
        try:
            d = json.loads(text)
            schema = d["schema"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput("not a symdisc catalog: the file is not JSON with a 'schema' key; make one with discover") from error
        if schema != SCHEMA:
            raise BadInput(f"catalog schema {schema} is not {SCHEMA}; make the catalog again with this version")
        try:
            return cls._from_fields(d)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BadInput(f"the catalog is damaged ({type(error).__name__}: {error}); make it again with discover") from error

    @classmethod
    def _from_fields(cls, d: dict[str, Any]) -> Catalog:
        symmetries = tuple(Symmetry.from_dict(s) for s in d["symmetries"])
        return cls(
            d["architecture"],
            symmetries,
            tuple(Discrete.from_dict(s) for s in d["discrete"]),
            tuple(Broken.from_dict(b) for b in d["broken"]),
            {k: tuple(v) for k, v in d["parameters"].items()},
            {k: tuple(v) for k, v in d["buffers"].items()},
            dict(d["aliases"]),
            d["orbit_dimension"],
            d["training"],
            None if d["certificate"] is None else Certificate.from_dict(d["certificate"]),
            tuple(d["notes"]),
            cuts=Cuts.from_dict(d["cuts"], symmetries) if "cuts" in d else Cuts(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write catalog.json: beside first, then renamed, so that nothing half written is left."""
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            beside.write_text(self.to_json(), encoding="utf-8")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    def to_latex(self, fragment: bool = False) -> str:
        """A LaTeX document that compiles as it is, or a ``fragment`` to include in one."""
        from symdisc.report import latex

        return str(latex.render(self, fragment))

    def to_markdown(self) -> str:
        from symdisc.report import markdown

        return str(markdown.render(self))

    def to_html(self) -> str:
        from symdisc.report import html

        return str(html.render(self))

    def _repr_html_(self) -> str:
        """For notebooks: the report without head, its style kept to itself."""
        from symdisc.report import html

        return str(html.notebook(self))

    def _repr_latex_(self) -> str:
        """For notebooks: the group in one displayed formula."""
        from symdisc.report.headline import displayed

        return str(displayed(self))

    def replace(self, **changes: Any) -> Catalog:
        """A copy with some fields changed."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Catalog(**{**values, **changes})


def load(path: str | os.PathLike[str]) -> Catalog:
    """Read a catalog written by ``Catalog.save``; raises BadInput when it is not one."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from error
    return Catalog.from_json(text)
