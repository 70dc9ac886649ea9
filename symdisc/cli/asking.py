"""Commands that ask a catalog: explain (one tensor), diff (two architectures)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from symdisc.cli.opened import catalog_of
from symdisc.cli.terminal import document, out, progress

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.symmetry import Broken

__all__ = ["register"]

MODE = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train.")
JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    for command in (explain, diff):
        app.command(command.__name__)(command)


def explain(source: str = typer.Argument(..., metavar="CATALOG|SOURCE", help="A catalog.json, or a model."),
            parameter: str = typer.Option(..., "--parameter", metavar="NAME", help="The tensor, by its state_dict name."),
            mode: str = MODE, as_json: bool = JSON) -> None:
    """Tell everything that can be done to one tensor: symmetries, partners, conserved quantities, what was refused."""
    from symdisc.report import explain as report

    cat = catalog_of(source, mode, as_json)
    name = report.canonical(cat, parameter)
    found = report.explain(cat, name, _refused(cat, name, as_json))
    if as_json:
        document(found.to_dict())
        return
    for line in report.lines(found):
        out().print(line, markup=False, soft_wrap=True)


def _refused(cat: Catalog, name: str, quiet: bool) -> tuple[Broken, ...]:
    """What the spaces of one tensor do not admit; a catalog from a file holds its own refusals only."""
    if cat.captured is None:
        return ()
    from symdisc.torchside.whynot import why_not

    with progress("trying edits", quiet):
        return tuple(why_not(cat.captured, name))


def diff(first: str = typer.Argument(..., metavar="A", help="A catalog.json, or a model."),
         second: str = typer.Argument(..., metavar="B", help="Another one."), mode: str = MODE, as_json: bool = JSON) -> None:
    """Compare two architectures: symmetries that only one has, beside the features of the graphs that differ."""
    from symdisc.report import difference as report

    found = report.difference(catalog_of(first, mode, as_json), catalog_of(second, mode, as_json))
    if as_json:
        document({"first": first, "second": second, **found.to_dict()})
        return
    for line in report.lines(found, (first, second)):
        out().print(line, markup=False, soft_wrap=True)
