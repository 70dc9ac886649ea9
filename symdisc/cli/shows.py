"""Commands that show: latex, catalog show, demo."""

from __future__ import annotations

from pathlib import Path

import typer

from symdisc.cli.opened import catalog_of
from symdisc.cli.terminal import document, out, write_text

__all__ = ["register"]

JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    app.command("latex")(latex)
    group = typer.Typer(help="Catalogs kept in files.", rich_markup_mode=None)
    group.command("show")(show)
    app.add_typer(group, name="catalog")
    app.command("demo")(demo)


def latex(source: str = typer.Argument(..., metavar="CATALOG|SOURCE", help="A catalog.json, or a model."),
          target: Path | None = typer.Option(None, "--out", metavar="FILE.tex", help="Write there instead of to the terminal."),
          mode: str = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train."), as_json: bool = JSON) -> None:
    """Typeset a catalog: a LaTeX document that compiles as it is."""
    text = catalog_of(source, mode, as_json or target is None).to_latex()
    if target is not None:
        write_text(target, text)
    if as_json:
        document({"latex": text, "out": None if target is None else str(target)})
    elif target is None:
        print(text, end="")
    else:
        out().print(f"wrote {target}", markup=False)


def show(file: Path = typer.Argument(..., metavar="FILE", help="A catalog.json."), as_json: bool = JSON) -> None:
    """Print a catalog that was written by discover --out."""
    from symdisc.catalog import load

    cat = load(file)
    if as_json:
        document(cat.to_dict())
    else:
        from symdisc.report import terminal

        out().print(terminal.table(cat))


def demo(where: Path = typer.Option(Path("out/demo"), "--out", metavar="DIR", help="Folder for the files of the demo."),
         as_json: bool = JSON) -> None:
    """Real trained networks: symmetries found, weights changed, functions kept."""
    from symdisc.demo import run

    results = run(where, quiet=as_json)
    if as_json:
        document({"models": [r.to_dict() for r in results]})
    if not all(r.passed for r in results):
        raise typer.Exit(1)
