"""Commands that show and keep: latex, catalog show, catalog build, demo."""

from __future__ import annotations

from pathlib import Path

import typer

from symdisc.cli.opened import catalog_of
from symdisc.cli.terminal import document, out, progress, write_text
from symdisc.errors import BadInput

__all__ = ["register"]

JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    app.command("latex")(latex)
    group = typer.Typer(help="Catalogs kept in files.", rich_markup_mode=None)
    group.command("show")(show)
    group.command("build")(build)
    app.add_typer(group, name="catalog")
    app.command("demo")(demo)


def latex(source: str = typer.Argument(..., metavar="CATALOG|SOURCE", help="A catalog.json, or a model."),
          target: Path | None = typer.Option(None, "--out", metavar="FILE.tex", help="Write there instead of to the terminal."),
          fragment: bool = typer.Option(False, "--fragment", help="Without preamble: text to include in a document of yours."),
          mode: str = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train."), as_json: bool = JSON) -> None:
    """Typeset a catalog: a LaTeX document that compiles as it is."""
    text = catalog_of(source, mode, as_json or target is None).to_latex(fragment)
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


def build(names: list[str] = typer.Argument(None, metavar="[MODEL]...", help="Models of the zoo; by default those in the folder."),
          where: Path = typer.Option(Path("catalog"), "--out", metavar="DIR", help="Folder of the records."),
          check: bool = typer.Option(False, "--check", help="Write nothing; fail if a record is not what would be written."),
          as_json: bool = JSON) -> None:
    """Discover and certify models of the zoo, and keep their records: DIR/MODEL/record.json and record.tex, DIR/README.md."""
    from symdisc import build_catalog

    wanted = sorted(set(names or ())) or sorted(p.parent.name for p in where.glob("*/record.json"))
    if not wanted:
        raise BadInput(f"no records in {where}: name the models of the zoo to build")
    different: list[Path] = []
    fresh: dict[str, str] = {}
    for name in wanted:
        with progress(f"building {name}", as_json):
            texts = build_catalog.build_record(name)
        fresh[name] = texts["record.json"]
        different += _keep(where, name, texts, check, as_json)
    different += _keep(where, "", {build_catalog.INDEX: build_catalog.build_index(where, fresh)}, check, as_json)
    if as_json:
        document({"models": wanted, "differ" if check else "wrote": [str(p) for p in different]})
    if check and different:
        raise typer.Exit(1)


def _keep(where: Path, name: str, texts: dict[str, str], check: bool, quiet: bool) -> list[Path]:
    """Write the files that are not what they should be, or only tell which; the list of them."""
    from symdisc import build_catalog

    files = build_catalog.changed(where, name, texts)
    if not check:
        build_catalog.write(files, texts)
    if not quiet:
        verdict = f"{'differs' if check else 'wrote'}: {', '.join(map(str, files))}" if files else "as recorded"
        out().print(f"{name or 'index'}  {verdict}", markup=False, soft_wrap=True)
    return files


def demo(where: Path = typer.Option(Path("out/demo"), "--out", metavar="DIR", help="Folder for the files of the demo."),
         as_json: bool = JSON) -> None:
    """Real trained networks: symmetries found, weights changed, functions kept."""
    from symdisc.demo import run

    results = run(where, quiet=as_json)
    if as_json:
        document({"models": [r.to_dict() for r in results]})
    if not all(r.passed for r in results):
        raise typer.Exit(1)
