"""The part of LaTeX mathematics that our formulas use, as a tree, so that one formula can be printed in every form.

tree = parse(r"W \\mapsto g W g^{-1}")
unicode.show(tree), mathml.show(tree), typeset.show(tree)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from symdisc.report.signs import ACCENTS, COMMANDS, FUNCTIONS, IGNORED, PLAIN, SPACES, STYLES

__all__ = [
    "Accent",
    "Atom",
    "Break",
    "Fence",
    "Frac",
    "Matrix",
    "Root",
    "Script",
    "Seq",
    "Text",
    "Tree",
    "named",
    "parse",
]


@dataclass(frozen=True)
class Atom:
    """A letter, number or sign; ``tex`` is how LaTeX writes it, ``char`` how unicode does, ``kind`` its class.

    Kinds: letter, number, binary, relation, big, punctuation, space, open, close, function, unknown.
    """

    tex: str
    char: str
    kind: str


@dataclass(frozen=True)
class Text:
    """``\\style{string}`` with the string unescaped: texttt, text, mathrm, mathbf, mathbb, operatorname, mathcal."""

    style: str
    string: str


@dataclass(frozen=True)
class Seq:
    items: tuple[Tree, ...]


@dataclass(frozen=True)
class Script:
    base: Tree
    sub: Tree | None
    sup: Tree | None


@dataclass(frozen=True)
class Frac:
    top: Tree
    bottom: Tree


@dataclass(frozen=True)
class Root:
    body: Tree


@dataclass(frozen=True)
class Accent:
    mark: str
    body: Tree


@dataclass(frozen=True)
class Fence:
    left: str
    body: Tree
    right: str


@dataclass(frozen=True)
class Matrix:
    name: str
    rows: tuple[tuple[Tree, ...], ...]


@dataclass(frozen=True)
class Break:
    """A line break."""


Tree = Atom | Text | Seq | Script | Frac | Root | Accent | Fence | Matrix | Break

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\s+|.", re.DOTALL)


def parse(source: str) -> Tree:
    """The tree of a formula; a command that is not known stays as it is (kind "unknown").

    Raises ValueError for unbalanced braces.
    """
    reader = _Reader(_TOKEN.findall(source))
    tree = reader.sequence(frozenset())
    if reader.here is not None:
        raise ValueError(f"unbalanced {reader.here!r} in formula {source!r}")
    return tree


def named(node: Tree) -> bool:
    """A parameter's name, perhaps with scripts or a dot: many letters that stand for one thing."""
    if isinstance(node, Seq):
        return len(node.items) == 1 and named(node.items[0])
    if isinstance(node, (Script, Accent)):
        return named(node.base if isinstance(node, Script) else node.body)
    return isinstance(node, Text) and node.style == "texttt"


def flat(items: list[Tree]) -> Tree:
    """One tree for a list: a single item is itself; a number like (1/2) loses its brackets."""
    items = [_bare(item) for item in items]
    return items[0] if len(items) == 1 else Seq(tuple(items))


def _bare(node: Tree) -> Tree:
    if isinstance(node, Fence) and isinstance(node.body, Frac) and (node.left, node.right) == ("(", ")"):
        parts = (node.body.top, node.body.bottom)
        if all(isinstance(part, Atom) and part.kind == "number" for part in parts):
            return node.body
    return node


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    @property
    def here(self) -> str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def take(self) -> str:
        token = self.here
        if token is None:
            raise ValueError(f"formula ends too early: {''.join(self.tokens)!r}")
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        found = self.take()
        if found != token:
            raise ValueError(f"{token!r} expected, {found!r} found in formula {''.join(self.tokens)!r}")

    def sequence(self, ends: frozenset[str]) -> Tree:
        """Items up to (not with) one of the ``ends``, or a closing brace, or the end."""
        items: list[Tree] = []
        while (token := self.here) is not None and token not in ends and token != "}":
            if token.isspace():
                self.take()
            elif token in ("^", "_"):
                self._script(items)
            elif token in IGNORED:
                self.take()
            else:
                items.append(self.item())
        return flat(items)

    def _script(self, items: list[Tree]) -> None:
        mark = self.take()
        body = self.argument()
        base: Tree = items.pop() if items else Seq(())
        if isinstance(base, Script) and mark == "_" and base.sub is None:
            items.append(Script(base.base, body, base.sup))
        elif isinstance(base, Script) and mark == "^" and base.sup is None:
            items.append(Script(base.base, base.sub, body))
        else:
            items.append(Script(base, body, None) if mark == "_" else Script(base, None, body))

    def argument(self) -> Tree:
        while self.here is not None and self.here.isspace():
            self.take()
        if self.here is not None and self.here.isdigit() and len(self.here) > 1:
            digit, rest = self.here[0], self.here[1:]  # TeX takes one digit: x^12 is x^1 2
            self.tokens[self.position] = rest
            return Atom(digit, digit, "number")
        return self.item()

    def item(self) -> Tree:
        token = self.take()
        if token == "{":
            inside = self.sequence(frozenset())
            self.expect("}")
            # a group that ends in scripts is closed: a further script belongs to all of it
            return Seq((inside,)) if isinstance(inside, Script) else inside
        if token == "\\\\":
            return Break()
        name = token[1:] if token.startswith("\\") else ""
        if name in STYLES:
            return self._text(name)
        if name in ACCENTS:
            return Accent(name, self.argument())
        if name in ("frac", "tfrac", "dfrac"):
            return Frac(self.argument(), self.argument())
        if name == "sqrt":
            return Root(self.argument())
        if name == "left":
            left = self._delimiter()
            body = self.sequence(frozenset({"\\right"}))
            self.expect("\\right")
            return Fence(left, body, self._delimiter())
        if name == "begin":
            return self._matrix()
        return _atom(token)

    def _delimiter(self) -> str:
        while self.here is not None and self.here.isspace():
            self.take()
        token = self.take()
        return "" if token == "." else token

    def _raw(self) -> str:
        self.expect("{")
        depth = 1
        parts: list[str] = []
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "".join(parts)
            parts.append(token)

    def _text(self, style: str) -> Tree:
        raw = self._raw()
        if style == "text" and "$" in raw:
            pieces = raw.split("$")
            return Seq(tuple(parse(p) if k % 2 else Text("text", _plain(p)) for k, p in enumerate(pieces) if p))
        return Text(style, _plain(raw))

    def _matrix(self) -> Tree:
        name = self._raw()
        if name == "array":
            self._raw()
        rows: list[tuple[Tree, ...]] = []
        cells: list[Tree] = []
        while True:
            cells.append(self.sequence(frozenset({"&", "\\\\", "\\end"})))
            token = self.take()
            if token != "&":
                rows.append(tuple(cells))
                cells = []
            if token == "\\end":
                self._raw()
                return Matrix(name, tuple(r for r in rows if r != (Seq(()),)))
            if token == "}":
                raise ValueError(f"unbalanced brace in formula {''.join(self.tokens)!r}")


def _plain(raw: str) -> str:
    """Text without its escapes."""
    for escape, sign in (("asciitilde", "~"), ("asciicircum", "^"), ("less", "<"), ("greater", ">"), ("backslash", "\\")):
        raw = raw.replace(rf"\text{escape}{{}}", sign)
    return re.sub(r"\\([_&%#$^{} ])(?:\{\})?", r"\1", raw)


def _atom(token: str) -> Atom:
    if token in SPACES:
        return Atom(token, SPACES[token], "space")
    if token in COMMANDS:
        char, kind = COMMANDS[token]
        return Atom(token, char, kind)
    if token[1:] in FUNCTIONS and token.startswith("\\"):
        return Atom(token, token[1:], "function")
    if token.startswith("\\"):
        return Atom(token, token[1:], "unknown")
    if token[0].isdigit():
        return Atom(token, token, "number")
    return Atom(token, token, PLAIN.get(token, "letter"))
