"""Symbolic sizes on paper: polynomials, groups and index ranges as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sympy as sp

from symdisc.entries.factors import Range, Symbolic
from symdisc.entry import Poly

__all__ = ["group", "indexed", "latex", "legend", "poly", "total"]


def poly(p: sp.Expr) -> Poly:
    """The record of a polynomial, factored where that makes it shorter."""
    short = min((sp.expand(p), sp.factor(p)), key=lambda e: (sp.count_ops(e), str(e)))
    return Poly(str(short), latex(short))


def total(p: sp.Expr, outer: Sequence[str]) -> Poly:
    """A sum over the network: collected by the symbols that count layers."""
    symbols = [s for s in sorted(p.free_symbols, key=str) if s.name in outer]
    best = sp.collect(sp.expand(p), symbols) if symbols else sp.expand(p)
    return Poly(str(best), latex(best))


def latex(p: sp.Expr) -> str:
    """LaTeX of a polynomial; names of several letters are set upright, so that they do not read as products."""
    words = {s: rf"\mathrm{{{s.name}}}" for s in p.free_symbols if len(s.name) > 1 and s.name.isalpha()}
    return str(sp.latex(p, symbol_names=words))


def group(factor: Symbolic) -> str:
    """The group of all places: the group of one copy to the power of their number."""
    if factor.integers is None or factor.copies is None:
        return factor.base.replace("@", r"\cdot")
    base = factor.base
    for n in factor.integers:
        base = base.replace("@", latex(sp.factor(n)), 1)
    if factor.copies == 1:
        return base
    bare = re.fullmatch(r"(\\mathbb\{[A-Z]\}(_\{>0\})?|\\mathrm\{[A-Z]+\}\([^()]*\))", base)
    return rf"{base}^{{{latex(sp.factor(factor.copies))}}}" if bare else rf"({base})^{{{latex(sp.factor(factor.copies))}}}"


def legend(ranges: Sequence[Range], letters: str) -> str:
    r"""``n = 0, \dots, L - 1``: the values of each index that has more than one."""
    said = []
    for index, r in zip(letters, ranges, strict=False):
        if r.single is not None:
            continue
        if r.first is None or r.last is None:
            said.append(f"{index}: several")
        elif r.first == r.last:
            said.append(f"{index} = {latex(r.first)}")
        else:
            second = rf" {latex(r.first + r.step)}," if r.step > 1 else ""
            said.append(rf"{index} = {latex(r.first)},{second} \dots, {latex(r.last)}")
    return ",\\; ".join(said)


def indexed(text: str, spans: Mapping[str, str]) -> str:
    """Spans of layers that a miniature shows, ``[0, 1]``, in symbolic sizes."""
    for shown, symbolic in spans.items():
        text = text.replace(f"[{shown}]", f"[{symbolic}]")
    return text
