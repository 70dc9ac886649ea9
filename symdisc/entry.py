"""The record of a catalog entry: everything that is told of one architecture in symbolic sizes. Plain data, JSON in and out."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from symdisc.errors import BadInput

__all__ = ["SCHEMA", "Acting", "At", "Checked", "Citation", "Entry", "Factor", "Law", "Node", "Poly", "Twin"]

SCHEMA = 2  # 1 were catalogs of single models


@dataclass(frozen=True)
class Poly:
    """A polynomial in the sizes: as sympy writes it, and in LaTeX."""

    text: str
    latex: str


@dataclass(frozen=True)
class Acting:
    """What happens to one parameter (LaTeX); ``letters`` say what stands in the formula."""

    parameter: str
    latex: str
    letters: str = ""


@dataclass(frozen=True)
class Law:
    """What one training flow makes of a factor: status as in ``ConservedQuantity``, formula or reason in LaTeX lines, and how many
    numbers it keeps (None: not known in symbolic sizes)."""

    flow: str
    status: str
    latex: str
    numbers: Poly | None


@dataclass(frozen=True)
class Factor:
    """One factor of the group at like places. ``group`` is all of it in LaTeX, ``dimension`` None for discrete factors and where no
    polynomial was found (``trouble`` then says why); ``where`` and names in ``actions`` use the index that ``legend`` explains."""

    name: str
    family: str
    group: str
    discrete: bool
    counted: bool
    where: str
    legend: str
    places: Poly | None
    dimension: Poly | None
    status: str
    condition: str
    element: str
    actions: tuple[Acting, ...]
    assumptions: tuple[str, ...]
    note: str
    laws: tuple[Law, ...]
    trouble: str = ""


@dataclass(frozen=True)
class Checked:
    """A certificate at miniature sizes: parameters, dimension of the polynomial, of the found group and orbit, of the fibre (None where
    no draw of weights decided its rank), and a lower bound of the spectral gap. ``unnamed`` of the found dimensions are in no family,
    ``laws`` is told where it was counted, ``closed`` how many of them stand in closed form."""

    sizes: Mapping[str, int]
    parameters: int
    polynomial: int | None
    group: int
    orbit: int | None
    fibre: int | None
    gap: float
    exact: bool
    unnamed: int
    refused: tuple[str, ...]
    note: str
    laws: str = ""
    closed: int | None = None


@dataclass(frozen=True)
class At:
    """The dimension at the sizes of a published model; ``direct`` is what the pipeline finds there, None where it was not run; ``laws``
    how many numbers gradient flow keeps."""

    name: str
    sizes: Mapping[str, int]
    parameters: int
    dimension: int | None
    direct: int | None
    direct_note: str = ""
    laws: int | None = None


@dataclass(frozen=True)
class Node:
    """One kind of operator on the path: its formula, the pairs (M, N) that solve its equivariance condition, and where it stands."""

    operator: str
    formula: str
    size: int | None
    solutions: tuple[tuple[str, str], ...]
    status: str
    count: int


@dataclass(frozen=True)
class Twin:
    """An assumption broken or an edit made: what was changed and what it does to the dimension at ``sizes`` (measured)."""

    change: str
    before: int
    after: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Citation:
    """A source: the citation, what it states, and whether that is the symmetry itself."""

    text: str
    where: str
    known: bool


@dataclass(frozen=True)
class Entry:
    """One architecture. ``parameters`` and ``dimension`` are polynomials in ``symbols``; ``points`` counts the members of the family
    from which they were read, at least ``held_out`` for each coefficient. ``region`` tells order relations of the published model
    that these members do not all keep, ``restored`` (where, family, what broke it, edit) what edits would bring. ``laws``: the numbers
    that gradient flow keeps because of the factors, where they are as many as were counted at miniatures."""

    name: str
    title: str
    symbols: Mapping[str, str]
    parameters: Poly | None
    dimension: Poly | None
    points: int
    held_out: int
    region: tuple[str, ...]
    factors: tuple[Factor, ...]
    published: At | None
    certificates: tuple[Checked, ...]
    nodes: tuple[Node, ...]
    restored: tuple[tuple[str, str, str, str], ...]
    twins: tuple[Twin, ...]
    assumptions: tuple[str, ...]
    sources: tuple[Citation, ...]
    notes: tuple[str, ...]
    laws: Poly | None = None

    def to_json(self) -> str:
        """One document, sorted keys, the same bytes for equal entries."""
        d = {"schema": SCHEMA, "made_by": f"symdisc catalog build {self.name}", **dataclasses.asdict(self)}
        return json.dumps(d, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Entry:
        """The entry back; raises BadInput for what is none."""
        try:
            d = json.loads(text)
            schema = d.pop("schema")
            d.pop("made_by", None)
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise BadInput("not a catalog entry: the file is not JSON with a 'schema' key; make one with catalog build") from error
        if schema != SCHEMA:
            raise BadInput(f"entry schema {schema} is not {SCHEMA}; make the entry again with catalog build")
        try:
            return typing.cast(Entry, _read(cls, d))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the entry is damaged ({type(error).__name__}: {error}); make it again with catalog build") from error


def _read(kind: Any, value: Any) -> Any:
    """``value`` (from JSON) as the annotated ``kind``: dataclasses, tuples, optional ones, mappings and plain data."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(next(k for k in inner if k is not type(None)), value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
        return kind(**{k: _read(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if origin is tuple:
        kinds = inner[:1] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        return tuple(_read(k, v) for k, v in zip(kinds, value, strict=True))
    return dict(value) if isinstance(value, dict) else value
