"""The command data-dependent: pairs of a model, the exact action on a batch, and the error off it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from symdisc.cli.opened import opened
from symdisc.cli.terminal import document, out, progress, write_text
from symdisc.errors import BadInput, NotExact

if TYPE_CHECKING:
    from symdisc.torchside.sources import Source

__all__ = ["data_dependent"]

SCALES = (0.01, 0.1, 1.0)
COLUMNS = ("pair", "scale", "on_batch", "distance", "eta", "bound", "eta_global", "bound_global", "measured", "relative")


def data_dependent(
        source: str = typer.Argument(..., metavar="SOURCE", help="The model."),
        batch: int = typer.Option(1, "--batch", min=1, metavar="N", help="Samples on which the action is exact."),
        seed: int = typer.Option(0, "--seed", min=0, help="Seed of the batch, of g and of the new samples."),
        form: str = typer.Option("batch", "--form", help="batch, pseudo-inverse, least-squares; at one sample: householder, spherical, "
                                 "multiplication (h = 1, 2, 4, 8)."),
        max_condition: float = typer.Option(1e8, "--max-condition", min=1.0, help="Refuse activations with a larger condition number."),
        target: Path | None = typer.Option(None, "--out", metavar="FILE.csv", help="Write the table there, too."),
        mode: str = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document and nothing else.")) -> None:
    """Pairs U sigma(V x + b) on which every g of GL_h acts, exactly on a batch; error off the batch beside its bounds.

    Exit code 1 when the batch allows no exact action on any pair.
    """
    found = opened(source, mode, as_json, values=True)
    with progress("measuring", as_json):
        pairs, rows, refused = _measure(found, batch, seed, form, max_condition)
    if target is not None:
        write_text(target, _csv(rows))
    if as_json:
        document({"model": source, "batch": batch, "seed": seed, "form": form, "pairs": pairs, "rows": rows, "refused": refused})
    else:
        _print(pairs, rows, refused, form)
    if not rows:  # nothing is exact on this batch
        raise typer.Exit(1)


def _print(pairs: list[dict[str, Any]], rows: list[dict[str, Any]], refused: dict[str, str], form: str) -> None:
    from symdisc.torchside.datadep.network import FORMS

    out().print(f"{form}: {FORMS[form]}", markup=False, soft_wrap=True)
    for line in _lines(pairs, rows, refused):
        out().print(line, markup=False, soft_wrap=True)


def _measure(source: Source, batch: int, seed: int, form: str,
             max_condition: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    from symdisc.torchside.capture import capture
    from symdisc.torchside.datadep.bounds import off_batch
    from symdisc.torchside.datadep.network import FORMS, DataDependent, sized
    from symdisc.torchside.datadep.segments import find_pairs

    if form not in FORMS:
        raise BadInput(f"form {form!r} is unknown; take one of {', '.join(FORMS)}")
    inputs = sized(source.example, batch, seed)
    captured = capture(source.model, inputs)
    state = {n: t.detach() for n, t in source.model.state_dict().items()}
    items = [DataDependent(p, captured) for p in find_pairs(captured.graph)]
    if not items:
        raise BadInput(f"{source.name} has no pair U sigma(V x + b): no linear map whose output goes through one value into others")
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for item in items:
        try:
            rows += [r.to_dict() for r in off_batch(captured, state, item, SCALES, seed=seed, form=form, max_condition=max_condition)]
        except NotExact as error:
            refused[item.name] = str(error).removeprefix(f"{item.name}: ")
    pairs = [{"name": i.name, "sigma": i.pair.sigma, "h": i.width, "features": i.pair.features} for i in items]
    return pairs, rows, refused


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _lines(pairs: list[dict[str, Any]], rows: list[dict[str, Any]], refused: dict[str, str]) -> list[str]:
    lines = []
    for p in pairs:
        lines.append(f"{p['name']}   sigma: {p['sigma']}   g in GL({p['h']})   exact for up to {p['features']} samples x positions")
        if p["name"] in refused:
            lines.append(f"    refused: {refused[p['name']]}")
            continue
        lines.append(f"    {'scale of g':>10} {'on batch':>9} {'distance':>9} {'eta':>7} {'bound':>10} {'eta on R':>9} {'bound':>10} "
                     f"{'measured':>10} {'relative':>9}")
        for r in (r for r in rows if r["pair"] == p["name"]):
            eta, bound, whole, safe = (_number(r[k]) for k in ("eta", "bound", "eta_global", "bound_global"))
            lines.append(f"    {r['scale']:>10g} {r['on_batch']:>9.1e} {r['distance']:>9.3g} {eta:>7} {bound:>10} {whole:>9} {safe:>10} "
                         f"{r['measured']:>10.3g} {r['relative']:>9.2g}")
    return lines


def _number(value: float | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.4g}"
