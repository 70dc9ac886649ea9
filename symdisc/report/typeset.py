"""LaTeX that any stock LaTeX takes: text escaped, formulas in a normal form that can be broken into lines."""

from __future__ import annotations

import re
import unicodedata

from symdisc.report.signs import GREEK
from symdisc.report.tex import Accent, Atom, Break, Fence, Frac, Matrix, Root, Script, Seq, Text, Tree, named, parse

__all__ = ["escape", "from_latex", "inline", "name", "show", "words"]

_SAFE = re.compile(r"[A-Za-z0-9 ,.()+-]*")  # what styles of mathematics take as it is
LONG_WORD = 20  # characters from which a name in plain text may be broken
LONG_NAME = 12  # the same for a name of a parameter in a formula
LONG = 40  # characters from which a pair of brackets may be broken, so it must not be \left..\right, and a fraction is set as a product

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "\n": " ",
    "\t": " ",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "∈": r"$\in$",
    "−": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≠": r"$\ne$",
    "→": r"$\to$",
    "↦": r"$\mapsto$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "½": r"$\frac12$",
    "⊕": r"$\oplus$",
    "\u00a0": "~",
    "√": r"$\surd$",
    "∞": r"$\infty$",
    "≈": r"$\approx$",
    "\u2009": r"\,",
    "∣": r"$|$",
    "↔": r"$\leftrightarrow$",
    "⁻": "$^{-}$",
    "ℝ": r"$\mathbb{R}$",
}
_ESCAPES |= {sign: f"$^{{{digit}}}$" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_ESCAPES |= {sign: f"$_{{{digit}}}$" for digit, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}
_GREEK = {char: name for name, char in GREEK.items()}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u0304": "=",
    "\u0307": ".",
    "\u030c": "v ",
    "\u0327": "c ",
    "\u0306": "u ",
    "\u030b": "H ",
    "\u030a": "r ",
}


def escape(text: str) -> str:
    """Any text as LaTeX text; a character that stock fonts lack is written as its code point."""
    return "".join(_character(c) for c in text)


def _character(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    if c in _GREEK:
        return rf"$\{_GREEK[c]}$"
    if " " <= c <= "~":
        return c
    parts = unicodedata.normalize("NFD", c)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return rf"\texttt{{U+{ord(c):04X}}}"


def words(text: str) -> str:
    """Text in which long words with dots inside (names of parameters) may be broken after them."""
    return " ".join(re.sub(r"\.(?=.)", r".\\allowbreak{}", escape(w)) if len(w) > LONG_WORD else escape(w) for w in text.split(" "))


def name(text: str) -> str:
    """A parameter or module name in typewriter, which may be broken after dots and underscores."""
    broken = escape(text).replace(".", r".\allowbreak{}").replace(r"\_", r"\_\allowbreak{}")
    return rf"\texttt{{{broken}}}"


def inline(tree: Tree) -> list[str]:
    """One ``$...$`` per line of the formula; long ones can be broken at commas, sums and relations."""
    items = tree.items if isinstance(tree, Seq) else (tree,)
    lines: list[list[Tree]] = [[]]
    for item in items:
        if isinstance(item, Break):
            lines.append([])
        else:
            lines[-1].append(item)
    return [_line(line) for line in lines if line]


def _line(line: list[Tree]) -> str:
    """A line of a formula; words that stand in it are text, so that they can be broken."""
    parts: list[list[Tree]] = [[]]
    for item in line:
        if _words(item) or (parts[-1] and _words(parts[-1][-1])):
            parts.append([])
        parts[-1].append(item)
    return "".join(_part(part) for part in parts if part)


def _words(node: Tree) -> bool:
    return isinstance(node, Text) and node.style == "text"


def _part(part: list[Tree]) -> str:
    first = part[0]
    if len(part) == 1 and isinstance(first, Text) and first.style == "text":
        return escape(first.string)
    if len(part) == 1 and isinstance(first, Text) and first.style == "texttt":
        return name(first.string)
    return f"${show(Seq(tuple(part)))}$"


def show(node: Tree) -> str:
    """LaTeX of a tree in normal form: every argument in braces, so that no script meets a second one."""
    if isinstance(node, Atom):
        broken = r" \allowbreak" if node.kind == "punctuation" and node.char in ",;" else ""
        return node.tex + broken + (" " if node.tex[-1].isalpha() or broken else "")
    if isinstance(node, Text):
        return _text(node)
    if isinstance(node, Seq):
        return _sequence(node)
    if isinstance(node, Script):
        base = show(node.base)
        simple = isinstance(node.base, (Atom, Text))
        sub = "" if node.sub is None else f"_{{{show(node.sub)}}}"
        sup = "" if node.sup is None else f"^{{{show(node.sup)}}}"
        return (base.rstrip() if simple else f"{{{base}}}") + sub + sup
    if isinstance(node, Frac):
        return _fraction(node)
    if isinstance(node, Root):
        return rf"\sqrt{{{show(node.body)}}}"
    if isinstance(node, Accent):
        if named(node.body) and node.mark == "dot":  # a dot would be lost above a long name
            return rf"\tfrac{{d}}{{dt}}{show(node.body)}"
        return rf"\{node.mark}{{{show(node.body)}}}"
    if isinstance(node, Fence):
        return _fence(node)
    if isinstance(node, Matrix):
        return _matrix(node)
    assert isinstance(node, Break)
    return r"\\ "


def _fraction(node: Frac) -> str:
    """A long product over a short number is a fraction times the product, which can be broken."""
    top, bottom = show(node.top), show(node.bottom)
    if len(top) > LONG and isinstance(node.bottom, Atom) and isinstance(node.top, Seq) and not any(map(_adds, node.top.items)):
        return rf"\tfrac{{1}}{{{bottom}}}\,{top}"
    return rf"\tfrac{{{top}}}{{{bottom}}}"


def _adds(node: Tree) -> bool:
    return isinstance(node, Atom) and node.kind in ("binary", "relation")


def _sequence(node: Seq) -> str:
    """Side by side; two names in a row are set apart, and a line may end between two pairs of brackets."""
    text, before = "", None
    for item in node.items:
        if before is not None and named(before) and named(item):
            text += r"\,"
        elif isinstance(before, Fence) and isinstance(item, Fence):
            text += r"\allowbreak "
        text += show(item)
        before = item
    return text


def _text(node: Text) -> str:
    if node.style == "texttt" and len(node.string) > LONG_NAME:
        return r"\allowbreak ".join(rf"\texttt{{{escape(part)}}}" for part in re.findall(r"[^._]*[._]|[^._]+", node.string))
    if node.style in ("texttt", "text", "textbf", "textit"):
        return rf"\{node.style}{{{escape(node.string)}}}"
    if not _SAFE.fullmatch(node.string):
        return rf"\text{{{escape(node.string)}}}"
    return rf"\{node.style}{{{node.string}}}"


def _fence(node: Fence) -> str:
    body = show(node.body)
    if len(body) > LONG and node.left and node.right:
        return f"{node.left} {body}{node.right} "
    return rf"\left{node.left or '.'} {body}\right{node.right or '.'} "


def _matrix(node: Matrix) -> str:
    rows = r" \\ ".join(" & ".join(show(c) for c in row) for row in node.rows)
    name = node.name if node.name != "array" else "matrix"
    return rf"\begin{{{name}}}{rows}\end{{{name}}}"


def from_latex(source: str) -> list[str]:
    """``inline`` of a formula given as text."""
    return inline(parse(source))
