"""``symdisc coverage``: the whole pipeline over the architectures of the installed libraries."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from symdisc.cli.terminal import document, folder, out, progress, write_text

__all__ = ["register"]

PACKAGES = ("torch", "transformers", "timm", "torchvision", "torch_geometric", "peft")


def register(app: typer.Typer) -> None:
    app.command("coverage")(coverage)


def coverage(architectures: list[str] = typer.Argument(None, metavar="[NAME...]", help="Architectures; all of them by default."),
             group: str | None = typer.Option(None, "--group", metavar="LIBRARY", help="Only those of one library, e.g. timm."),
             where: Path = typer.Option(Path("out/coverage"), "--out", metavar="DIR", help="Records: finished ones are not run again."),
             seconds: float = typer.Option(300.0, "--seconds", min=1.0, help="Time limit of one architecture."),
             memory: float = typer.Option(8.0, "--memory", min=1.0, help="Memory limit of one architecture, GiB."),
             jobs: int = typer.Option(1, "--jobs", min=1, help="Processes at a time."),
             seed: int = typer.Option(0, "--seed", min=0, help="Seed of weights and of the group element."),
             again: bool = typer.Option(False, "--again", help="Run finished ones again."),
             write: Path | None = typer.Option(None, "--write", metavar="DIR", help="Also write coverage.md and coverage.json here."),
             names_only: bool = typer.Option(False, "--list", help="Print the names and stop."),
             as_json: bool = typer.Option(False, "--json", help="Print one JSON document and nothing else.")) -> None:
    """Run the whole pipeline on every surveyed architecture, each in a process of its own, and print a table."""
    from symdisc.coverage import builders, runner, table

    wanted = list(architectures or builders.names(group))
    for name in wanted:
        builders.group_of(name)
    if names_only:
        return document({"architectures": wanted}) if as_json else out().print("\n".join(wanted), markup=False)
    limits = runner.Limits(seconds, memory, seed)
    records: dict[str, dict[str, Any]] = {}
    with progress("coverage", as_json) as show:
        for record in runner.survey(wanted, folder(where), limits, jobs, again):
            records[record["name"]] = record
            show(record["name"], len(records), len(wanted))
    rows = [records[n] for n in wanted]
    if write is not None:
        versions = _versions()
        write_text(folder(write) / "coverage.json", table.to_json(rows, versions))
        write_text(write / "coverage.md", table.to_markdown(rows, versions))
    if as_json:
        document({"architectures": rows, "totals": table.totals(rows)})
    else:
        _print(rows)
    if table.failures(rows):
        raise typer.Exit(1)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from symdisc.coverage import table

    shown = Table(*table.HEAD)
    for record in rows:
        shown.add_row(*table.row(record))
    out().print(shown)
    for record in rows:
        if reason := table.why(record):
            out().print(f"{record['name']}: {reason}", markup=False)
    t = table.totals(rows)
    out().print(f"{t['architectures']} architectures: {t['captured']} captured, function kept on {t['kept']}, changed on {t['changed']}, "
                f"certificate complete for {t['complete']}", markup=False)
    if (ratio := table.speed(rows)) is not None:
        out().print(f"discover / torch.export, median: {ratio:.2f}", markup=False)
