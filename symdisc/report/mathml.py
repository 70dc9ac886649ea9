"""Formulas as MathML, which browsers show without a script or a font from the network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from symdisc.report.tex import Accent, Atom, Break, Fence, Frac, Matrix, Root, Script, Seq, Text, Tree, named, parse

__all__ = ["from_latex", "show"]

LONG = 12  # parts from which a line may wrap

_TAGS = {"letter": "mi", "function": "mi", "number": "mn", "unknown": "mi"}
_VARIANT = {"mathbf": {"1": "𝟏", "0": "𝟎"}, "mathbb": {"R": "ℝ", "C": "ℂ", "Z": "ℤ", "N": "ℕ", "Q": "ℚ", "H": "ℍ"}}
_MARKS = {
    "dot": "˙",
    "ddot": "¨",
    "hat": "^",
    "widehat": "^",
    "tilde": "~",
    "widetilde": "~",
    "bar": "¯",
    "overline": "¯",
}
_SPACE = {
    "\\,": "0.17em",
    "\\;": "0.28em",
    "\\:": "0.22em",
    "\\ ": "0.28em",
    "~": "0.28em",
    "\\quad": "1em",
    "\\qquad": "2em",
}


def from_latex(source: str) -> str:
    """MathML of a LaTeX formula: one <math> element per line of it."""
    return show(parse(source))


def show(tree: Tree) -> str:
    """MathML of a tree: a <math> element per line; a long sum has one per term, so that it wraps."""
    items = _opened(tree.items) if isinstance(tree, Seq) else [tree]
    lines: list[list[list[Tree]]] = [[[]]]
    for item in items:
        if isinstance(item, Break):
            lines.append([[]])
            continue
        begins = isinstance(item, Atom) and (item.char in "+-" or item.tex == "\\quad")
        if len(items) > LONG and begins and lines[-1][-1]:
            lines[-1].append([])
        lines[-1][-1].append(item)
    return "<br>".join(" ".join(_term(t, k > 0) for k, t in enumerate(line) if t) for line in lines)


def _term(items: Sequence[Tree], goes_on: bool) -> str:
    """One <math> element; the sign that begins a term stands between two terms all the same."""
    inside = _side_by_side(items)
    if goes_on:
        inside = inside.replace("<mo>", '<mo form="infix">', 1)
    return f"<math><mrow>{inside}</mrow></math>"


def _opened(items: Sequence[Tree]) -> list[Tree]:
    """A bracket around a long sum taken apart, for the sum to wrap too."""
    out: list[Tree] = []
    for item in items:
        if isinstance(item, Fence) and isinstance(item.body, Seq) and len(item.body.items) > LONG:
            out += [parse(item.left), *item.body.items, parse(item.right)]
        else:
            out.append(item)
    return out


def _show(node: Tree) -> str:
    if isinstance(node, Atom):
        return _atom(node)
    if isinstance(node, Text):
        return _text(node)
    if isinstance(node, Seq):
        return f"<mrow>{_side_by_side(node.items)}</mrow>"
    if isinstance(node, Script):
        return _script(node)
    if isinstance(node, Frac):
        return f"<mfrac>{_show(node.top)}{_show(node.bottom)}</mfrac>"
    if isinstance(node, Root):
        return f"<msqrt>{_show(node.body)}</msqrt>"
    if isinstance(node, Accent) and named(node.body) and node.mark == "dot":
        return f"<mrow><mfrac><mi>d</mi><mrow><mi>d</mi><mi>t</mi></mrow></mfrac>{_show(node.body)}</mrow>"
    if isinstance(node, Accent):
        return f'<mover accent="true">{_show(node.body)}<mo>{_MARKS[node.mark]}</mo></mover>'
    if isinstance(node, Fence):
        left, right = (f'<mo fence="true">{_delimiter(d)}</mo>' if d else "" for d in (node.left, node.right))
        return f"<mrow>{left}{_show(node.body)}{right}</mrow>"
    if isinstance(node, Matrix):
        rows = "".join(f"<mtr>{''.join(f'<mtd>{_show(c)}</mtd>' for c in row)}</mtr>" for row in node.rows)
        return f"<mrow><mo>(</mo><mtable>{rows}</mtable><mo>)</mo></mrow>"
    assert isinstance(node, Break)
    return '<mspace linebreak="newline"/>'


def _side_by_side(items: Sequence[Tree]) -> str:
    """Two names in a row are set apart."""
    text, before = "", False
    for item in items:
        here = named(item)
        text += ('<mspace width="0.3em"/>' if before and here else "") + _show(item)
        before = here
    return text


def _delimiter(token: str) -> str:
    atom = parse(token)
    return escape(atom.char if isinstance(atom, Atom) else token)


def _atom(node: Atom) -> str:
    if node.kind == "space":
        width = _SPACE.get(node.tex)
        return f'<mspace width="{width}"/>' if width else ""
    tag = _TAGS.get(node.kind, "mo")
    stretchy = ' stretchy="false"' if node.kind in ("open", "close") else ""
    upright = ' mathvariant="normal"' if tag == "mi" and len(node.char) == 1 and not node.char.isalpha() else ""
    return f"<{tag}{stretchy}{upright}>{escape('−' if node.char == '-' else node.char)}</{tag}>"


def _text(node: Text) -> str:
    if node.style in _VARIANT:
        string = "".join(_VARIANT[node.style].get(c, c) for c in node.string)
        return f'<mi mathvariant="normal">{escape(string)}</mi>'
    if node.style in ("mathrm", "operatorname", "mathcal", "boldsymbol"):
        return f'<mi mathvariant="normal">{escape(node.string)}</mi>'
    kind = ' class="tt"' if node.style == "texttt" else ""
    return f"<mtext{kind}>{escape(node.string).replace(' ', '&#160;')}</mtext>"


def _script(node: Script) -> str:
    base = _show(node.base) or "<mrow></mrow>"
    big = isinstance(node.base, Atom) and node.base.kind == "big"
    if node.sub is not None and node.sup is not None:
        tag = "munderover" if big else "msubsup"
        return f"<{tag}>{base}{_show(node.sub)}{_show(node.sup)}</{tag}>"
    if node.sub is not None:
        tag = "munder" if big else "msub"
        return f"<{tag}>{base}{_show(node.sub)}</{tag}>"
    assert node.sup is not None
    tag = "mover" if big else "msup"
    return f"<{tag}>{base}{_show(node.sup)}</{tag}>"
