"""Names for the algebra of one unit: rows (c, t, ..., b, s) to families."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from symdisc.equivariance.record import Family, Pair

__all__ = ["fixed_points", "name_unit", "total_dimension", "unit_pairs"]


def total_dimension(kind: str, unit: int, inputs: int, size: int | None) -> int:
    """Dimension at ``size`` (per unit when None): units do not mix unless f is affine or constant (lemma in
    scalar.py).
    """
    if size is None:
        return unit
    if kind == "affine":  # one matrix for all inputs and the output, one shift per input; the output shift follows
        return size * size + inputs * size
    if kind == "constant":  # anything on the inputs, and N, n with N f + n = 0
        return inputs * (size * size + size) + size * size
    return unit * size


def unit_pairs(names: Sequence[str], basis: Sequence[Sequence[sp.Expr]], proofs: Sequence[bool]) -> tuple[Pair, ...]:
    """The rows as records."""
    return tuple(
        Pair(tuple((n, v) for n, v in zip(names, row, strict=True) if v != 0), "proved" if ok else "witnessed")
        for row, ok in zip(basis, proofs, strict=True)
    )


def fixed_points(basis: Sequence[Sequence[sp.Expr]]) -> list[sp.Expr]:
    """Fixed points -t/c of the flows of a unit with one input."""
    return [-row[1] / row[0] for row in basis if len(row) == 4 and row[0] != 0]


def name_unit(
    kind: str, names: Sequence[str], basis: Sequence[Sequence[sp.Expr]], inputs: Sequence[str], size: int | None
) -> tuple[Family, ...]:
    """Families of an elementwise operator, per unit or at a size."""
    n = 1 if size is None else size
    where = ", ".join(inputs)
    label = "n" if size is None else str(size)
    if kind == "affine":
        return (
            Family(
                f"gl({label})", n * n, rf"f \text{{ is affine: }} {where} \to A\,({where}),\ A \in GL({label})", where
            ),
            Family("translations", len(inputs) * n, rf"{where} \to {where} + t", where),
        )
    if kind == "constant":
        return (
            Family("all affine maps of the input", len(inputs) * (n * n + n), rf"{where} \to A\,({where}) + t", where),
            Family("output kernel", n * n, r"N f + n = 0", "y"),
        )
    return tuple(_family(dict(zip(names, row, strict=True)), inputs, n) for row in basis)


def _family(row: dict[str, sp.Expr], inputs: Sequence[str], n: int) -> Family:
    single = len(inputs) == 1
    scales = {x: row["c" if single else f"c_{x}"] for x in inputs}
    shifts = {x: row["t" if single else f"t_{x}"] for x in inputs}
    moved = [x for x in inputs if scales[x] != 0 or shifts[x] != 0]
    where = ", ".join(moved)
    b, s = row["b"], row["s"]
    name = " and ".join(_input_name(x, scales[x], shifts[x], single) for x in moved) or "output kernel"
    name = f"diag: {name} -> {_output_name(b, s)}"
    arguments = ",\\ ".join(_input_latex(x, scales[x], shifts[x], single) for x in inputs)
    return Family(name, n, rf"f\left({arguments}\right) = {_output_latex(b, s, scales, moved)}", where)


def _input_name(x: str, c: sp.Expr, t: sp.Expr, single: bool) -> str:
    of = "" if single else f" of {x}"
    if c == 0:
        return f"translation{of}"
    return f"scale{of}" if t == 0 else f"scale{of} about {-t / c}"


def _output_name(b: sp.Expr, s: sp.Expr) -> str:
    if b == 0:
        return "nothing" if s == 0 else "translation"
    return f"scale of degree {b}" if s == 0 else f"scale of degree {b} about {-s / b}"


def _power(value: sp.Expr) -> str:
    return r"\lambda" if value == 1 else rf"\lambda^{{{sp.latex(value)}}}"


def _input_latex(x: str, c: sp.Expr, t: sp.Expr, single: bool) -> str:
    if c == 0 and t == 0:
        return x
    if c == 0:
        return rf"{x} + {sp.latex(t) if t != 1 else ''}\log\lambda"
    if t == 0:
        return rf"{_power(c)} {x}"
    return _about(c, sp.Symbol(x), -t / c)


def _output_latex(b: sp.Expr, s: sp.Expr, scales: dict[str, sp.Expr], moved: Sequence[str]) -> str:
    arguments = ", ".join(scales)
    if b == 0:
        return rf"f({arguments})" + ("" if s == 0 else rf" + {sp.latex(s) if s != 1 else ''}\log\lambda")
    if s == 0:
        return rf"{_power(b)} f({arguments}),\ \lambda > 0"
    return _about(b, sp.Symbol(rf"f({arguments})"), -s / b) + r",\ \lambda > 0"


def _about(power: sp.Expr, moved: sp.Symbol, centre: sp.Expr) -> str:
    """The scaling by a power about a point, as LaTeX."""
    back = sp.latex(centre)
    return rf"{_power(power)}\left({sp.latex(moved - centre)}\right) {'' if back.startswith('-') else '+ '}{back}"
