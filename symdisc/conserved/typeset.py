"""Conserved quantities as sympy expressions and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import sympy as sp

from symdisc.conserved import linear
from symdisc.conserved.elementwise import elementwise_law
from symdisc.conserved.expressions import parse_scalar
from symdisc.conserved.flow import load_flows
from symdisc.conserved.flow import tex as flow_tex
from symdisc.conserved.pairing import depends_on
from symdisc.conserved.section import section_expression, section_latex
from symdisc.moves import ADDITIVE
from symdisc.normed import ALL

if TYPE_CHECKING:
    from symdisc.conserved.quantity import ConservedQuantity, Term

__all__ = ["constraint_latex", "expression", "latex", "tex_name"]


_TEXT = str.maketrans({"_": r"\_", "^": r"\^{}", "<": r"\textless{}", ">": r"\textgreater{}"})


def tex_name(name: str) -> str:
    """A parameter name in typewriter, underscores escaped."""
    return rf"\texttt{{{name.replace('_', chr(92) + '_')}}}"


def _unfolded(term: Term, blocks: int) -> tuple[sp.MatrixExpr, str]:
    """The columns that the group multiplies, as a matrix expression [size, columns], and their LaTeX name.

    A matrix that is moved as a whole is itself or its transpose; otherwise the symbol stands for the unfolding of one
    block.
    """
    move = term.move
    size = move.index.size
    rest = prod(term.shape) // (term.shape[move.axis] if move.axis != -1 else prod(term.shape))
    whole = (
        blocks == 1 and move.index.copies == 1 and move.rows is None and len(term.shape) <= 2 and move.axis in (0, 1)
    )
    if whole and (term.shape[move.axis] == size):
        symbol = sp.MatrixSymbol(move.parameter, term.shape[0], term.shape[1] if len(term.shape) == 2 else 1)
        return (symbol if move.axis == 0 else symbol.T), tex_name(move.parameter)
    label = f"{move.parameter}[{move.axis}]"
    upper = rf"{tex_name(move.parameter)}_{{({move.axis})}}" + ("^{(b)}" if blocks > 1 else "")
    return sp.MatrixSymbol(label, size, move.index.copies * max(rest, 1)), upper


def _turn(term: Term) -> int:
    """What a diagonal element a does to log of the entries: a for g, -a for its inverse."""
    return 1 if term.move.rep == "g" else -1


def _terms_of_matrices(q: ConservedQuantity) -> tuple[sp.MatrixExpr, dict[sp.Basic, str]]:
    """c (W W^T - ...) with the first coefficient taken out."""
    parts, names = [], {}
    common = sp.nsimplify(q.terms[0].weight) / 2
    for term in q.terms:
        w, label = _unfolded(term, q.symmetry.shape[0])
        names[w.args[0] if w.is_Transpose else w] = label
        coefficient = sp.nsimplify(term.weight) * _turn(term) / 2
        parts.append(coefficient / common * w * w.T)
    return sp.MatMul(common, sp.MatAdd(*parts), evaluate=False), names


def _unit(q: ConservedQuantity) -> tuple[sp.Symbol, ...]:
    return () if prod(q.symmetry.shape) == 1 else (sp.Symbol("u", integer=True, positive=True),)


def _count(term: Term) -> int:
    """Entries of one unit (or of one component of a translation)."""
    move = term.move
    if move.axis == -1:
        return move.index.copies
    rest = prod(term.shape) // term.shape[move.axis]
    return (term.shape[move.axis] if move.kind == "outer" else move.index.copies * rest)


def _normed(term: Term) -> sp.Expr:
    """sum over the rows of |c|^2/2 + |c|^4/(4 d eps), c a row, or if the norm centres a row less its mean, and then the mean."""
    (rows, d), eps = term.shape, sp.nsimplify(term.move.offset, rational=True)
    base = sp.IndexedBase(sp.Symbol(term.move.parameter, real=True))
    t, i = sp.symbols("t i", integer=True, positive=True)
    square, mean = sp.Sum(base[t, i] ** 2, (i, 1, d)), sp.Sum(base[t, i], (i, 1, d)) ** 2 / d
    fourth = square**2 if term.move.rep == ALL else (square - mean) ** 2 + mean**2
    return sp.Sum(square / 2 + fourth / (4 * d * eps), (t, 1, rows))


def _normed_latex(term: Term) -> str:
    """The same by lengths of rows, a bar for the part along 1."""
    digits, _, power = f"{term.move.offset:g}".partition("e")
    eps = digits if not power else ("" if digits == "1" else rf"{digits} \cdot ") + rf"10^{{{int(power)}}}"
    row = rf"{tex_name(term.move.parameter)}_{{t}}"
    mean = rf"\overline{{{tex_name(term.move.parameter)}}}_{{t}}"
    fourth = rf"|{row}|^{{4}}" if term.move.rep == ALL else rf"|{row} - {mean}|^{{4}} + |{mean}|^{{4}}"
    return rf"\sum_{{t}} \left(\frac{{|{row}|^{{2}}}}{{2}} + \frac{{{fourth}}}{{4 d \cdot {eps}}}\right)"


def _terms_of_units(q: ConservedQuantity, printed: bool = False) -> tuple[sp.Expr, dict[sp.Basic, str]]:
    x = sp.Symbol("x", real=True)
    total, names = sp.Integer(0), {}
    for term in q.terms:
        move = term.move
        if move.kind == "normed_scale" and not term.potential:
            whole = sp.Symbol(f"potential({move.parameter})", real=True)
            names[whole] = _normed_latex(term)
            total += sp.nsimplify(move.power * term.weight) * (whole if printed else _normed(term))
            continue
        base = sp.IndexedBase(sp.Symbol(move.parameter + ("" if move.axis <= 0 else f"[{move.axis}]"), real=True))
        unit = _unit(q)
        names[base.label] = tex_name(move.parameter) + ("" if move.axis <= 0 else f"^{{({move.axis})}}")
        additive = move.kind in ADDITIVE
        shape = parse_scalar(term.potential, {"x": x}) if term.potential else (x if additive else x**2 / 2)
        if move.kind == "curved_scale" and not term.potential:
            shape = elementwise_law(move.rep).formula
        if move.kind == "affine_scale":
            shape = shape + sp.nsimplify(move.offset) * x
        if move.kind == "recentre":
            centre = sp.IndexedBase(sp.Symbol(move.extra[0], real=True))
            shape = shape - centre[unit or (1,)] * x
            names[centre.label] = tex_name(move.extra[0])
        sign = _turn(term) if move.kind == "matmul" else 1 if move.kind == "outer" else sp.nsimplify(move.power)
        total += sign * sp.nsimplify(term.weight) * _summed(term, base, shape, unit, names)
    return total, names


def _summed(term: Term, base: sp.IndexedBase, shape: sp.Expr, unit: tuple[sp.Symbol, ...], names: dict[sp.Basic, str]) -> sp.Expr:
    """``shape``, in x, summed over the entries of one unit; over all, weighed by the matrix L of a map, if weights that stay make one."""
    move, k, x = term.move, sp.Symbol("k", integer=True, positive=True), sp.Symbol("x", real=True)
    factor = sp.Mul(*(sp.nsimplify(step.offset) for step in move.through if step.kind == "scale"))
    read = depends_on(move) if move.kind in ADDITIVE else ()
    if read:
        matrix = sp.IndexedBase(sp.Symbol(f"L[{', '.join(read)}]", real=True))
        names[matrix.label] = rf"L^{{({', '.join(map(tex_name, read))})}}"
        n = _count(term) * move.index.blocks * move.index.size if move.kind == "add" else prod(term.shape)
        return factor * sp.Sum(matrix[(*unit, k)] * shape.subs(x, base[k]), (k, 1, n))
    n = _count(term)
    if n == 1:
        return factor * shape.subs(x, base[unit or (1,)])
    # the named axis first: a sum runs along it, a scale has it for units
    return factor * sp.Sum(shape.subs(x, base[(k, *unit) if move.kind == "outer" else (*unit, k)]), (k, 1, n))


def _expression(q: ConservedQuantity, printed: bool = False) -> tuple[sp.Basic, dict[sp.Basic, str]]:
    if q.form == "section":
        return section_expression(q), {}
    if q.generators:
        return _of_generators(q), {}
    if q.form == "plane":
        x, y = sp.symbols("x y", real=True)
        value = sp.atan2(y, x) if q.formula == "atan2(y, x)" else parse_scalar(q.formula, {"x": x, "y": y})
        return value, {}
    if q.form == "span":
        columns = sum(t.move.index.copies * (prod(t.shape) // t.shape[max(t.move.axis, 0)]) for t in q.terms)
        x = sp.MatrixSymbol("X", q.symmetry.shape[1], columns)
        return x * (x.T * x).inv() * x.T, {}
    if q.form == "momentum":
        return _momentum(q)
    matrix = len(q.symmetry.shape) == 3 and all(t.move.kind == "matmul" for t in q.terms)
    if not matrix or any(t.potential for t in q.terms):
        return _terms_of_units(q, printed)
    total, names = _terms_of_matrices(q)
    return (sp.Trace(total) if q.part == "scalar" else total), names


def _factor(q: ConservedQuantity) -> sp.Expr:
    constants = {n: sp.Symbol(n, positive=True) for rule in load_flows().values() for n, kind in rule.symbols if kind == "number"}
    return parse_scalar(q.factor, {"t": sp.Symbol("t"), **constants})


def _of_generators(q: ConservedQuantity) -> sp.Basic:
    value = linear.expression(q.generators, dict(q.shapes), q.potentials, q.form == "momentum")
    return _factor(q) * value if q.form == "momentum" else value


def _momentum(q: ConservedQuantity) -> tuple[sp.Basic, dict[sp.Basic, str]]:
    names: dict[sp.Basic, str] = {}
    total = None
    for term in q.terms:
        if term.move.kind != "matmul":
            base = sp.IndexedBase(sp.Symbol(f"d/dt {term.move.parameter}", real=True))
            names[base.label] = rf"\dot{{{tex_name(term.move.parameter)}}}"
            part = sp.nsimplify(term.weight * term.move.power) * _summed(term, base, sp.Symbol("x", real=True), _unit(q), names)
        else:
            w, label = _unfolded(term, q.symmetry.shape[0])
            inner = w.args[0] if w.is_Transpose else w
            v = sp.MatrixSymbol(f"d/dt {inner.name}", *inner.shape)
            names.update({inner: label, v: rf"\dot{{{label}}}"})
            dot = v.T if w.is_Transpose else v
            # g and g^-T turn alike along antisymmetric elements: -(y x^T) has the skew part of x y^T.
            part = sp.nsimplify(term.weight) / 2 * (dot * w.T - w * dot.T)
        total = part if total is None else total + part
    return _factor(q) * total, names


def _tex(value: sp.Basic, names: dict[sp.Basic, str]) -> str:
    """sympy puts brackets around the factor of a matrix expression."""
    return str(sp.latex(value, symbol_names=names).replace(r"\left(\frac{1}{2}\right)", r"\frac{1}{2}"))


def expression(q: ConservedQuantity) -> sp.Basic:
    """The quantity of one block or unit."""
    return _expression(q)[0]


def latex(q: ConservedQuantity) -> str:
    """Formula and law, or the reason and the constraint that stays."""
    lines = []
    if q.form == "section":
        lines.append(rf"{section_latex(q)},\quad {q.law}")
    elif q.generators:
        momentum = flow_tex(_factor(q)) if q.form == "momentum" else ""
        lines.append(f"{linear.tex(q.generators, dict(q.shapes), q.potentials, momentum)},\\quad {q.law}")
    elif q.form:
        value, names = _expression(q, printed=True)
        blocks = q.symmetry.shape[0] if q.symmetry.shape else 1
        head = "Q" if blocks == 1 else ("Q_{b}" if len(q.symmetry.shape) == 3 else "Q_{u}")
        lines.append(f"{head} = {_tex(value, names)}" + (f",\\quad {q.law}" if q.law else ""))
    elif q.law:
        lines.append(q.law)
    if q.constraint:
        lines.append(q.constraint)
    if not q.form and q.reason:
        lines.append(rf"\text{{none: {q.reason.translate(_TEXT)}}}")
    return r" \\ ".join(lines)


def constraint_latex(terms: Sequence[Term], part: str, blocks: int) -> str:
    """<theta', A theta> = 0 for the elements A of ``part`` (the whole of X for moves that are not matrices)."""
    pieces = []
    for term in terms:
        move, weight = term.move, sp.latex(sp.nsimplify(term.weight))
        scale = "" if term.weight == 1 else f"{weight}\\,"
        if move.kind != "matmul" or move.gain is not None:
            return r"\langle \dot\theta, X_a(\theta) \rangle = 0 \;\text{for all } a"
        w, label = _unfolded(term, blocks)
        dot, flipped = rf"\dot{{{label}}}", w.is_Transpose
        # The braces: a block's name has a superscript of its own.
        turned, turning = rf"{{{label}}}^{{\top}}", rf"{{{dot}}}^{{\top}}"
        left, right = (dot, turned) if not flipped else (turning, label)
        back, front = (label, turning) if not flipped else (turned, dot)
        if move.rep == "g":
            pieces.append(f"+ {scale}{left} {right}")
        else:
            pieces.append(f"- {scale}{back} {front}")
    total = " ".join(pieces).removeprefix("+ ")
    name = {"skew": r"\operatorname{skew}", "skew fixing 1": r"\operatorname{skew}_{\mathbf{1}^{\perp}}"}.get(part, "")
    return rf"{name}\left({total}\right) = 0"
