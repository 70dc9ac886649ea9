"""How a group element acts on named parameters, as data: moves are recorded in the catalog, run by ``torchside.kernels``.

A *factor* of the group carries one array (matrices, scales, translations, permutations). Each move says what that array
does along one axis of one parameter. All moves of a factor read the parameters as they were before the factor acted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["ADDITIVE", "BENT", "Chart", "Index", "Move", "Through", "natural", "parameters_of"]


ADDITIVE = ("add", "outer", "outer_bias", "log_scale")  # kinds of moves whose generator does not depend on what they move
BENT = ("curved_scale", "normed_scale")  # kinds of scales whose charge is no quadratic form


@dataclass(frozen=True)
class Index:
    """Positions along an axis: entry (copy, block, element) sits at ``start + copy*c + block*b + element*e``.

    When no such strides exist, ``table`` holds the positions themselves, flattened in that order.
    """

    copies: int
    blocks: int
    size: int
    start: int = 0
    strides: tuple[int, int, int] = (0, 0, 0)
    table: tuple[int, ...] | None = None

    @classmethod
    def of(cls, positions: np.ndarray) -> Index:
        """From an integer array [copies, blocks, size]."""
        p = np.asarray(positions, dtype=np.int64)
        copies, blocks, size = p.shape
        start = int(p[0, 0, 0])
        strides = tuple(int(np.take(p, 1, a).flat[0] - p.flat[0]) if p.shape[a] > 1 else 0 for a in range(3))
        found = cls(copies, blocks, size, start, strides)  # type: ignore[arg-type]
        if np.array_equal(found.positions(), p):
            return found
        return cls(copies, blocks, size, 0, (0, 0, 0), tuple(int(v) for v in p.ravel()))

    def positions(self) -> np.ndarray:
        """[copies, blocks, size] integers."""
        if self.table is not None:
            return np.asarray(self.table, dtype=np.int64).reshape(self.copies, self.blocks, self.size)
        c, b, e = np.ogrid[: self.copies, : self.blocks, : self.size]
        return self.start + c * self.strides[0] + b * self.strides[1] + e * self.strides[2]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Index:
        table = None if d["table"] is None else tuple(d["table"])
        return cls(d["copies"], d["blocks"], d["size"], d["start"], tuple(d["strides"]), table)


@dataclass(frozen=True)
class Through:
    """A linear map that a translation passes before it is absorbed: contraction with a weight, or a gain.

    ``kind`` is "dense" (contract ``axis`` of the weight, or of its ``rows``, at ``index`` with the translation, keep ``keep``, sum
    the other axes), "gain" (multiply by the flat parameter at ``index``, plus ``offset``), "each" (the same, of one number), "per"
    (one number divided by each of those entries), "rsqrt" (multiply by ``(parameter[index] + offset) ** -1/2``), "scale" (by
    ``offset``), "flip" (a sign a to ``offset (1 - a) / 2``), "total" (multiply by the sum of ``parameter / (gain + offset)``: what an
    "outer" with that gain does to a constant), "spread" (a number becomes that number times ``1 / (parameter + offset)``; both are
    brought to size by the gain's least entry), "unseen" (multiply by an orthonormal basis of what a "dense" step turns into multiples
    of 1), "taps" (multiply from the right by the whole numbers that ``index`` holds, [r, taps of a kernel]) or one of the writers that
    a "blind" move names.
    """

    kind: str
    parameter: str
    axis: int = 0
    keep: int = 0
    index: Index | None = None
    offset: float = 0.0
    gain: str | None = None
    rows: tuple[int, int] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Parameters whose values the map is made of."""
        return tuple(n for n in (self.parameter, self.gain) if n)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "parameter": self.parameter, "axis": self.axis, "keep": self.keep,
                "index": None if self.index is None else self.index.to_dict(), "offset": self.offset,
                **({"gain": self.gain} if self.gain else {}), **({"rows": list(self.rows)} if self.rows else {})}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Through:
        index = None if d["index"] is None else Index.from_dict(d["index"])
        rows = tuple(d["rows"]) if d.get("rows") else None
        return cls(d["kind"], d["parameter"], d["axis"], d["keep"], index, d["offset"], d.get("gain"), rows)


@dataclass(frozen=True)
class Chart:
    """How the network makes a ``weight`` (a name of our own) from stored tensors, before anything reads it.

    kind "norm": ``size * direction / |direction|`` with norms over all axes but ``dim`` (over all, if None); its image is every
    weight without a zero slice. kind "map": some function of ``direction`` alone that commutes with permutations along each axis.
    kind "exp": a constant times ``exp(rate * direction)``, entry by entry; its image is every weight of the same signs.
    kind "curve": the ``formula`` in x of each entry, one to one (``symdisc.curves``).
    kind "matrix": ``direction`` itself, read as a matrix of this ``shape`` and under its own name.
    """

    kind: str
    weight: str
    direction: str
    size: str = ""
    dim: int | None = None
    shape: tuple[int, ...] = ()
    rate: float = 0.0
    formula: str = ""

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.direction, self.size) if self.size else (self.direction,)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("shape", "rate", "formula")}  # such charts stand in the moves themselves

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Chart:
        return cls(**d)


@dataclass(frozen=True)
class Move:
    """One parameter's part in a symmetry.

    ``axis`` -1 means the flattened parameter.
    kind "matmul": along ``axis`` the sub-vectors at ``index`` are multiplied by ``rep`` ("g" or "g^-T") of their block;
    with ``gain`` the matrix is conjugated, ``diag(gain) rep diag(gain)^-1`` (power +1) or its inverse (power -1).
    kind "plane": entries at ``index`` are one side of planes, those of ``extra = (other,)`` at the same places the other; ``rep`` says
    which, "first" or "second", and ``power`` (1 or -1) the sign with which the two meet: (x, power * y) is multiplied by g.
    kind "scale": entries at ``index`` are multiplied by ``s**power`` of their unit.
    kind "log_scale": ``power * log(s)`` of their unit is added to the entries at ``index``.
    kind "curved_scale": sigma of the entries is multiplied by ``s**power`` of their unit, sigma the formula in x that ``rep`` is.
    kind "normed_scale": the rows of a table, along the last axis, move so that a norm of them is multiplied by ``s**power``; ``offset``
    is its eps, ``rep`` as below.
    kind "normed_gain", "normed_shift", "normed_table": the gain behind such a norm, its shift and the table (``symdisc.normed``, ``rep``
    is the kind there); a table reads the ``gain`` and knows its eps as ``offset``.
    kind "affine_scale": as scale, but acts on ``value + offset`` (a running variance scales together with eps).
    kind "add": ``power * t`` is added at ``index``, broadcast over the other axes, after passing ``through``.
    kind "outer": ``t``, shaped as the parameter with ``axis`` cut to 1, is added at every position of ``index``; with
    ``gain`` it is divided there by the gain.
    kind "outer_bias": ``-t * sum(shift / gain)`` is added, ``extra = (shift,)``: what an "outer" with gain did to constants.
    kind "centred": the reader of a centred vector loses ``(W t) (1/gain)^T / sum((extra + t)/gain)``, extra = (shift,).
    kind "blind": ``t @ A.T`` is added to a reader, A an orthonormal basis of what the columns that ``through`` names leave: those of
    weights ("columns"), of weights behind gain and centring ("centred columns"), or of the gain alone behind the centring of each part at
    ``index`` ("centred parts", without a parameter of its own); ``extra`` are (shift in front, bias) of each
    weight, "" for none, where the reader has no bias: A is then orthogonal to the constant that they write, too. A step "written" has
    no columns: the weight's ``rows`` make a constant of the vector ``extra[0]`` and of the entries ``index`` of the bias ``extra[1]``.
    kind "blind_bias": ``power * t @ A.T @ c`` is added, c that constant.
    kind "product": ``power * other @ t`` (``rep`` "left") or ``power * t @ other`` ("right") is added, ``extra = (other,)``, transposed
    where ``axis``, which carries the outputs, is not 0.
    kind "bn_shift": ``gain * mean * rsqrt(var + offset) * (s**power - 1)`` is added, ``extra = (mean, var)``.
    kind "bn_matmul": as matmul, conjugated, ``d^-1 g d`` with ``d = gain * rsqrt(var + offset)``, ``extra = (var,)``.
    kind "bn_recentre": ``g (value + c) - c`` with ``c = d (bias - mean)``, ``extra = (mean, var)`` or ``(mean, var, bias)``;
    with ``gain_power`` -1 what stands behind the constants moves, ``d (g (value / d - mean) + mean)``.
    kind "isospectral": the gain itself, entries ``index`` plus ``offset``, moves to the roots of p(x) = t (``symdisc.isospectral``); with
    ``inner`` a matrix move is made by the matrix, of kind ``rep``, that the gain ``extra[0]`` then makes.
    kind "shear": vectors at ``index`` along ``axis`` are multiplied by S = exp(t 1 l^T / sum(l)), l = 1/gain (ones without a gain), or
    by S^-T; ``rep`` says which. ``extra = (centre,)``: S (x - centre) + centre.
    kind "shear_bias": ``(W - W S^-1) centre`` is added, ``extra = (W, centre)``; the move of W is ``inner``.
    kind "recentre": ``s**power`` scales the distance from ``extra = (centre,)``.
    kind "branch": entries at ``index`` are multiplied by ``(1 - t gain extra[0])**power``, entry by entry, and lose
    ``t gain extra[1]`` where a second one is named: what writes a stream, once a branch has taken a part of its skip.
    kind "permute": units at ``index`` are permuted.
    kind "parity": entries at ``index`` change sign where the integer of their unit is odd.
    kind "exchange": whole tensors ``extra`` change places; this one is number ``index.start`` among them.
    kind "charted": the moves ``inner`` act on the weights that ``charts`` make. A direction then points along the new weight and keeps
    its length, a size takes the new length and keeps its sign; any other parameter is moved by ``inner``, which may read the weights.
    ``extra`` names what is read besides.
    ``rows`` = (first, last + 1) restricts a move to some positions of axis 0 (one group of a grouped kernel).
    ``views`` are tensors that are read in another shape than they are stored in: a weight of several axes as a matrix.
    """

    kind: str
    parameter: str
    axis: int
    index: Index
    rep: str = "g"
    power: float = 1.0
    gain: str | None = None
    gain_power: int = 1
    offset: float = 0.0
    through: tuple[Through, ...] = ()
    rows: tuple[int, int] | None = None
    extra: tuple[str, ...] = ()
    inner: tuple[Move, ...] = ()
    charts: tuple[Chart, ...] = ()
    views: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def viewed(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arrays (of numpy or torch), or shapes, by name in the shape in which the move sees them."""
        shapes = {n: s for n, s in self.views if n in state}
        if not shapes:
            return state
        return {**state, **{n: s if isinstance(state[n], tuple) else state[n].reshape(s) for n, s in shapes.items()}}

    def to_dict(self) -> dict[str, Any]:
        through_charts: dict[str, Any] = {"inner": [m.to_dict() for m in self.inner]} if self.inner else {}
        through_charts |= {"charts": [c.to_dict() for c in self.charts]} if self.charts else {}
        return {"kind": self.kind, "parameter": self.parameter, "axis": self.axis, "index": self.index.to_dict(),
                "rep": self.rep, "power": self.power, "gain": self.gain, "gain_power": self.gain_power,
                "offset": self.offset, "through": [t.to_dict() for t in self.through],
                "rows": None if self.rows is None else list(self.rows), "extra": list(self.extra), **through_charts,
                **({"views": [[n, list(s)] for n, s in self.views]} if self.views else {})}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Move:
        return cls(d["kind"], d["parameter"], d["axis"], Index.from_dict(d["index"]), d["rep"], d["power"], d["gain"],
                   d["gain_power"], d["offset"], tuple(Through.from_dict(t) for t in d["through"]),
                   None if d["rows"] is None else tuple(d["rows"]), tuple(d["extra"]),
                   tuple(Move.from_dict(m) for m in d.get("inner", ())), tuple(Chart.from_dict(c) for c in d.get("charts", ())),
                   tuple((n, tuple(s)) for n, s in d.get("views", ())))


def natural(name: str) -> list[str | int]:
    """A key that sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def parameters_of(moves: Sequence[Move]) -> tuple[str, ...]:
    """Names of the parameters that a list of moves changes, in order, once each."""
    return tuple(dict.fromkeys(m.parameter for m in moves))
