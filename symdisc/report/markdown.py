"""The catalog as Markdown; formulas in unicode, so that it reads as text and on any host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from symdisc.report import unicode
from symdisc.report.content import Fact, Report, Row, build, number

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["render"]


def render(cat: Catalog) -> str:
    """One Markdown document: totals, table, each symmetry, discrete part, what is broken, certificate, notes."""
    report = build(cat)
    blocks = [
        f"# Symmetries of {_text(report.architecture)}",
        _facts(report.facts),
        "## Continuous symmetries",
        _table(report.rows),
    ]
    blocks += [_section(k, row) for k, row in enumerate(report.rows, 1)]
    if report.discrete:
        blocks += ["## Discrete symmetries", _table(report.discrete)]
        blocks += [_section(k, row) for k, row in enumerate(report.discrete, len(report.rows) + 1)]
    blocks += _end(report)
    return "\n\n".join(b for b in blocks if b) + "\n"


def _end(report: Report) -> list[str]:
    blocks = []
    if report.losses:
        rows = [
            (
                _text(b.family),
                _code(b.where) + (f" × {b.count}" if b.count > 1 else ""),
                _code(b.breaker),
                _text(b.reason),
            )
            for b in report.losses
        ]
        blocks += ["## Not symmetries", _grid(("what", "where", "broken by", "why"), rows)]
    if report.certificate:
        blocks += ["## Certificate", _facts(report.certificate)]
    if report.notes:
        blocks += ["## Notes", "\n".join(f"- {_text(note)}" for note in report.notes)]
    return blocks


def _facts(facts: tuple[Fact, ...]) -> str:
    return _grid(
        ("", ""), [(f"**{_text(f.label)}**", (f"{_math(f.latex)}, " if f.latex else "") + _text(f.text)) for f in facts]
    )


def _table(rows: tuple[Row, ...]) -> str:
    if not rows:
        return "None found."
    cells = [
        (_math(r.group), f"{_code(r.where)}{r.places}<br>{_text(r.name)}", _dimension(r), _formula(r), _text(r.status))
        for r in rows
    ]
    return _grid(("group", "where", "dim", "formula", "status"), cells)


def _dimension(row: Row) -> str:
    if row.order != 1:
        return "finite" if row.order else "discrete"
    return number(row.dimension) if row.counted else f"({number(row.dimension)})"


def _formula(row: Row) -> str:
    return "<br>".join(
        " ".join(x for x in (_math(latex) if latex else "", _text(names)) if x) for latex, names in row.summary()
    )


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _section(k: int, row: Row) -> str:
    where = f"{_code(row.where)}{row.places}" + (f" ({row.legend})" if row.legend else "")
    lines = [
        f"### {k}. {_text(row.name)}",
        "",
        f"- Where: {where}",
        f"- Group: {_math(row.group)}, element {_math(row.element)}",
    ]
    if row.order == 1:
        each = f" ({number(row.each)} each)" if row.count > 1 else ""
        lines.append(f"- Dimension: {number(row.dimension)}{each}{row.uncounted}")
    if row.condition:
        lines.append(f"- Condition solved: {_math(row.condition)}")
    lines.append(f"- Status: {_text(row.status)}")
    lines += [f"- Assumes: {_text(a)}" for a in row.assumptions]
    lines += [f"- Note: {_text(row.note)}"] if row.note else []
    lines.append("- Action:")
    for a in row.actions:
        times = f" × {a.count}" if a.count > 1 else ""
        lines.append(
            f"  - {_code(a.parameter)}{times}: {_math(a.latex)}" + (f" with {_math(a.letters)}" if a.letters else "")
        )
    if not row.actions:
        lines.append(f"  - {_math(row.formula) if row.formula else 'numeric, see the catalog'}")
    if row.quantities:
        lines.append("- Conserved by gradient flow:")
        lines += [f"  - {_code(line)}" for q in row.quantities for line in unicode.from_latex(q).split("\n")]
    return "\n".join(lines)


def _math(latex: str) -> str:
    """Code with a formula in it; several lines become one."""
    return _code(unicode.from_latex(latex).replace("\n", "; "))


def _code(text: str) -> str:
    """A code span: a bar would end a table's cell, a backtick the span."""
    return f"`{text.replace('`', chr(39)).replace('|', '∣')}`"


def _text(text: str) -> str:
    """Plain text: signs that Markdown or HTML would read are escaped."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
