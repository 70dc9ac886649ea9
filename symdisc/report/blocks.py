"""A page as data: headings, paragraphs, lists and tables of text, code and formulas; writers turn it into Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from symdisc.report import typeset, unicode

__all__ = ["Block", "Code", "Heading", "Items", "Math", "Paragraph", "Piece", "Table", "Text", "markdown", "tex"]


@dataclass(frozen=True)
class Text:
    """Words."""

    words: str


@dataclass(frozen=True)
class Code:
    """A name of a parameter, a module or a command."""

    name: str


@dataclass(frozen=True)
class Math:
    """A formula in LaTeX, without dollar signs."""

    latex: str


Piece = Text | Code | Math
Line = tuple[Piece, ...]


@dataclass(frozen=True)
class Heading:
    level: int
    words: str


@dataclass(frozen=True)
class Paragraph:
    line: Line


@dataclass(frozen=True)
class Items:
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """``widths`` are parts of the text width, one a column; ``head`` may be empty."""

    head: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]
    widths: tuple[float, ...]


GAP = 0.018  # of the text width between two columns

Block = Heading | Paragraph | Items | Table


# --- Markdown -----------------------------------------------------------------------------------------------------------
def markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown; formulas in unicode, so that it reads as text and on any host."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {plain(block.words)}"
    if isinstance(block, Paragraph):
        return _said(block.line)
    if isinstance(block, Items):
        return "\n".join(f"- {_said(line)}" for line in block.lines)
    head = [plain(w) for w in block.head] or [""] * len(block.widths)
    rows = [head, ["---"] * len(head), *([_said(cell) for cell in row] for row in block.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _said(line: Line) -> str:
    return " ".join(t for t in map(_piece, line) if t).replace(" ,", ",").replace(" ;", ";").replace(" .", ".").replace(" :", ":")


def _piece(piece: Piece) -> str:
    if isinstance(piece, Math):
        return code(unicode.from_latex(piece.latex).replace("\n", "; "))
    return code(piece.name) if isinstance(piece, Code) else plain(piece.words)


def code(text: str) -> str:
    """A code span: a bar would end a table's cell, a backtick the span."""
    return f"`{text.replace('`', chr(39)).replace('|', '∣')}`" if text else ""


def plain(text: str) -> str:
    """Plain text: signs that Markdown or HTML would read are escaped."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


# --- LaTeX --------------------------------------------------------------------------------------------------------------
def tex(blocks: Sequence[Block]) -> str:
    """The body of a document: what stands between its begin and end (packages as in ``latex.PREAMBLE``)."""
    return "\n\n".join(map(_tex, blocks)) + "\n"


def _tex(block: Block) -> str:
    if isinstance(block, Heading):
        name = ("section", "section", "subsection", "subsubsection")[min(block.level, 4) - 1]
        return rf"\{name}*{{{typeset.escape(block.words)}}}"
    if isinstance(block, Paragraph):
        return _set(block.line)
    if isinstance(block, Items):
        items = (rf"\item {_set(line)}" for line in block.lines)
        return "\n".join([r"\begin{itemize}\raggedright\footnotesize", *items, r"\end{itemize}"])
    room = (1 - GAP * (len(block.widths) - 1)) / sum(block.widths)
    columns = "".join(rf"L{{{w * room:.3f}\textwidth}}" for w in block.widths)
    head = []
    if block.head:
        titles = " & ".join(typeset.escape(w) for w in block.head) + r" \\"
        head = [r"\toprule", titles, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    rows = [" & ".join(rf"\footnotesize {_set(cell)}" for cell in row) + r" \\[2pt]" for row in block.rows]
    return "\n".join([rf"\begin{{longtable}}{{@{{}}{columns}@{{}}}}", *head, *rows, r"\end{longtable}"])


def _set(line: Line) -> str:
    parts = []
    for piece in line:
        if isinstance(piece, Math):
            parts.append(r"\newline ".join(typeset.from_latex(piece.latex)))
        else:
            parts.append(typeset.name(piece.name) if isinstance(piece, Code) else typeset.words(piece.words))
    text = " ".join(p for p in parts if p)
    for sign in ",;.:":
        text = text.replace(f" {sign}", sign)
    return text
