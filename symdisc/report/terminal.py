"""The catalog on a terminal: one table and the totals, as a rich renderable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from symdisc.report import unicode
from symdisc.report.content import WHOLE, Report, Row, build, number
from symdisc.report.grouping import Place, merge
from symdisc.symmetry import Broken

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["refusals", "table"]

STYLES = {"proved": "green", "witnessed": "yellow"}


def table(cat: Catalog) -> RenderableType:
    """Group, where, dimension, formula and status of each symmetry; then totals, what is broken, notes."""
    report = build(cat, quantities=False)
    parts: list[RenderableType] = [_rows(report), _totals(report)]
    if report.losses:
        parts.append(_broken(report))
    parts += [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*parts)


def refusals(broken: Sequence[Broken]) -> RenderableType:
    """What spaces do not admit, those of like layers on one line: family, where, who broke it and why, the edit that restores it."""
    grid = Table(title="Not admitted", box=box.SIMPLE_HEAD, title_style="bold", title_justify="left", pad_edge=False)
    for column in ("what", "where", "broken by", "restored by"):
        grid.add_column(column, overflow="fold")
    for group in merge([Place((b.site, *b.parameters), (b.family, b.breaker, b.reason, b.remedy)) for b in broken]):
        b = broken[group.members[0]]
        weights = ", ".join(group.spread(n) for n in group.names[1:][:4]) + (", …" if len(b.parameters) > 4 else "")
        where = Text(group.spread(group.names[0]) or WHOLE)
        where.append(f"\n{weights}", style="dim")
        why = Text(b.breaker)
        why.append(f"\n{b.reason}", style="dim")
        grid.add_row(Text(b.family), where, why, Text(b.remedy or "no single edit known"))
    return grid


def _rows(report: Report) -> Table:
    grid = Table(
        title=f"Symmetries of {report.architecture}",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        pad_edge=False,
        title_justify="left",
        expand=False,
    )
    grid.add_column("group", style="bold", no_wrap=True)
    grid.add_column("where", overflow="fold", ratio=3)
    grid.add_column("dim", justify="right", no_wrap=True)
    grid.add_column("formula", overflow="fold", ratio=5)
    grid.add_column("status", no_wrap=True)
    for row in (*report.rows, *report.discrete):
        grid.add_row(
            unicode.from_latex(row.group),
            _where(row),
            _dimension(row),
            _formula(row),
            Text(row.status, style=STYLES.get(row.status, "")),
        )
    return grid


def _where(row: Row) -> Text:
    text = Text(row.where)
    text.append(row.places, style="cyan")
    text.append(f"\n{row.name}", style="dim")
    return text


def _dimension(row: Row) -> str:
    if row.order != 1:
        return "finite" if row.order else "discrete"
    return number(row.dimension) if row.counted else f"({number(row.dimension)})"


def _formula(row: Row) -> Text:
    text = Text()
    for latex, names in row.summary():
        text.append("\n" if text else "")
        text.append(unicode.from_latex(latex) if latex else "")
        text.append(("  " if latex else "") + names, style="dim")
    return text


def _totals(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for fact in report.facts:
        value = f"{unicode.from_latex(fact.latex)}, {fact.text}" if fact.latex else fact.text
        grid.add_row(fact.label, value)
    if any(not r.counted for r in report.rows):
        grid.add_row("(dim)", "moves buffers only, or lies within others: not counted")
    return grid


def _broken(report: Report) -> Table:
    grid = Table(title="Not symmetries", box=box.SIMPLE_HEAD, title_style="bold", title_justify="left", pad_edge=False)
    for column in ("what", "where", "broken by", "why"):
        grid.add_column(column, overflow="fold")
    for loss in report.losses:
        grid.add_row(
            loss.family, loss.where + (f" × {loss.count}" if loss.count > 1 else ""), loss.breaker, loss.reason
        )
    return grid
