"""The command ``study``: run a numerical study, or list them."""

from __future__ import annotations

from pathlib import Path

import typer

from symdisc.cli.terminal import document, errors, out, progress
from symdisc.errors import BadInput

__all__ = ["register"]

JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    app.command("study")(study)


def study(name: str | None = typer.Argument(None, metavar="[NAME]", help="Which study; without a name they are listed."),
          quick: bool = typer.Option(False, "--quick", help="Smaller sizes: under a minute."),
          where: Path | None = typer.Option(None, "--out", metavar="DIR", help="Folder of the results, out/study/NAME by default."),
          seed: int = typer.Option(0, "--seed", min=0, help="Seed of everything that is drawn."),
          data: Path | None = typer.Option(None, "--data", metavar="DIR", help="CIFAR-10 (binary) or MNIST files, for robustness."),
          as_json: bool = JSON) -> None:
    """Run a numerical study: tables, figures and a page, predictions beside measurements."""
    from symdisc.studies import STUDIES, Run, load_study

    if name is None:
        _list(list(STUDIES), as_json)
        return
    chosen = load_study(name)
    if data is not None and not chosen.reads_data:
        raise BadInput(f"the study {name} reads no data: leave --data out")
    with progress(chosen.name, as_json) as show:
        run = Run(where or Path("out/study") / name, quick, seed, show, data)
        chosen.run(run)
    if as_json:
        document({"study": name, "title": chosen.title, "quick": quick, "seed": seed, "passed": run.passed,
                  "files": [str(f) for f in run.files],
                  "checks": [{"claim": c.claim, "holds": c.holds, "numbers": c.numbers} for c in run.checks]})
    else:
        out().print(chosen.title, style="bold", markup=False)
        for c in run.checks:
            out().print(f"{'holds' if c.holds else 'FAILS'}  {c.claim}{': ' if c.numbers else ''}{c.numbers}", markup=False, soft_wrap=True)
        for file in run.files:
            out().print(f"wrote {file}", markup=False, soft_wrap=True)
    if not run.passed:
        if not as_json:
            errors().print(f"{sum(not c.holds for c in run.checks)} of {len(run.checks)} checks failed", markup=False)
        raise typer.Exit(1)


def _list(names: list[str], as_json: bool) -> None:
    from symdisc.studies import load_study

    found = [load_study(n) for n in names]
    if as_json:
        document({"studies": [{"name": s.name, "title": s.title} for s in found]})
        return
    for s in found:
        out().print(f"{s.name:<16}{s.title}", markup=False, soft_wrap=True)
