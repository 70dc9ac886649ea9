"""Formulas as plain unicode text: terminal, Markdown, figure labels."""

from __future__ import annotations

from symdisc.report.tex import Accent, Atom, Break, Fence, Frac, Matrix, Root, Script, Seq, Text, Tree, parse

__all__ = ["from_latex", "show"]

_SUP = dict(
    zip(
        "0123456789+-=()abcdefghijklmnoprstuvwxyzTABDEGHIJKLMNOPRUVW−⊤",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵁⱽᵂ⁻ᵀ",
        strict=True,
    )
)
_SUB = dict(zip("0123456789+-=()aehijklmnoprstuvxβγρφχ−", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ₋", strict=True))
_BLACKBOARD = {"R": "ℝ", "C": "ℂ", "Z": "ℤ", "N": "ℕ", "Q": "ℚ", "H": "ℍ"}
_BOLD = {"1": "𝟏", "0": "𝟎"}
_MARKS = {
    "dot": "\u0307",
    "ddot": "\u0308",
    "hat": "\u0302",
    "tilde": "\u0303",
    "bar": "\u0304",
    "overline": "\u0304",
    "widehat": "\u0302",
    "widetilde": "\u0303",
}
_SIMPLE = {("1", "2"): "½", ("1", "3"): "⅓", ("1", "4"): "¼", ("3", "4"): "¾"}


def from_latex(source: str) -> str:
    """A LaTeX formula as unicode text; line breaks stay."""
    return show(parse(source))


def show(tree: Tree) -> str:
    """Unicode text of a tree."""
    return _tidy(_show(tree))


def _tidy(text: str) -> str:
    for pair in ("( ", "("), (" )", ")"), (" ,", ","), (" .", "."):
        while pair[0] in text:
            text = text.replace(*pair)
    lines = [" ".join(line.replace("\u2009", " ").split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line)


def _show(node: Tree) -> str:
    if isinstance(node, Atom):
        return node.char
    if isinstance(node, Text):
        return _styled(node)
    if isinstance(node, Seq):
        return _sequence(node)
    if isinstance(node, Script):
        return _script(node)
    if isinstance(node, Frac):
        top, bottom = show(node.top), show(node.bottom)
        return _SIMPLE.get((top, bottom)) or f"{_grouped(node.top, top)}/{_grouped(node.bottom, bottom)}"
    if isinstance(node, Root):
        return f"√({show(node.body)})"
    if isinstance(node, Accent):
        body = show(node.body)
        return (
            body + _MARKS[node.mark]
            if len(body) == 1
            else (f"d/dt {body}" if node.mark == "dot" else f"{node.mark}({body})")
        )
    if isinstance(node, Fence):
        return f"{show(parse(node.left))}{_show(node.body)}{show(parse(node.right))}"
    if isinstance(node, Matrix):
        return "[" + "; ".join(", ".join(show(c) for c in row) for row in node.rows) + "]"
    assert isinstance(node, Break)
    return "\n"


def _styled(node: Text) -> str:
    table = {"mathbb": _BLACKBOARD, "mathbf": _BOLD}.get(node.style, {})
    return "".join(table.get(c, c) for c in node.string)


def _sequence(node: Seq) -> str:
    """Items side by side, with a blank where two names would run together and around relations and sums."""
    text, before = "", None
    for item in node.items:
        piece = _show(item)
        unary = isinstance(item, Atom) and item.char in "+-" and _starts(before)
        sign = isinstance(item, Atom) and item.kind in ("binary", "relation") and item.char not in "·/:"
        if sign and not unary:
            piece = f" {'−' if piece == '-' else piece} "
        elif isinstance(item, Atom) and item.char == "-":
            piece = "−"
        elif isinstance(item, Atom) and ((item.kind == "punctuation" and item.char != ".") or item.char == ":"):
            piece = f"{piece} "
        elif text and _word(before) and (_word(item) or _opens(item)) and not text.endswith(" "):
            piece = " " + piece if not (_opens(item) and _short(before)) else piece
        text, before = text + piece, item
    return text


def _starts(before: Tree | None) -> bool:
    """A sign here stands at the beginning of a term, so it is no sum."""
    if isinstance(before, Atom):
        return before.kind in ("binary", "relation", "open", "punctuation", "space", "big")
    return before is None or isinstance(before, Break)


def _word(node: Tree | None) -> bool:
    """Something that needs a blank before the next factor."""
    if isinstance(node, Script):
        return _word(node.base) or isinstance(node.base, Atom)
    if isinstance(node, Atom):
        return node.kind in ("letter", "function", "big", "number", "unknown")
    return isinstance(node, (Text, Accent, Frac, Root, Fence, Seq))


def _opens(node: Tree) -> bool:
    return isinstance(node, Fence) or (isinstance(node, Atom) and node.kind == "open")


def _short(node: Tree | None) -> bool:
    """A function sign that takes its argument without a blank."""
    inner = node.base if isinstance(node, Script) else node
    return (isinstance(inner, Atom) and inner.kind in ("letter", "function")) or (
        isinstance(inner, Text) and inner.style in ("mathrm", "operatorname")
    )


def _grouped(node: Tree, text: str) -> str:
    return f"({text})" if isinstance(node, Seq) and len(node.items) > 1 and any(c in text for c in " +−·/") else text


def _script(node: Script) -> str:
    text = _show(node.base)
    for body, table, mark in ((node.sub, _SUB, "_"), (node.sup, _SUP, "^")):
        if body is None:
            continue
        inner = show(body).replace(" ", "")
        if inner == ">0":
            text = f"({text}>0)" if node.sup is not None else f"{text}>0"
            continue
        if all(c in table for c in inner):
            text += "".join(table[c] for c in inner)
        else:
            text += f"{mark}{inner}" if len(inner) == 1 else f"{mark}{{{inner}}}"
    return text
