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
COLUMNS = ("pair", "scale", "on_batch", "distance", "eta", "bound", "measured", "relative")


def data_dependent(
        source: str = typer.Argument(..., metavar="SOURCE", help="The model."),
        batch: int = typer.Option(1, "--batch", min=1, metavar="N", help="Samples on which the action is exact."),
        seed: int = typer.Option(0, "--seed", min=0, help="Seed of the batch, of g and of the new samples."),
        target: Path | None = typer.Option(None, "--out", metavar="FILE.csv", help="Write the table there, too."),
        mode: str = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document and nothing else.")) -> None:
    """Pairs U sigma(V x + b) on which every g of GL_h acts, exactly on a batch; error off the batch beside its bound."""
    found = opened(source, mode, as_json, values=True)
    with progress("measuring", as_json):
        pairs, rows, refused = _measure(found, batch, seed)
    if target is not None:
        write_text(target, _csv(rows))
    if as_json:
        document({"model": source, "batch": batch, "seed": seed, "pairs": pairs, "rows": rows, "refused": refused})
        return
    for line in _lines(pairs, rows, refused):
        out().print(line, markup=False, soft_wrap=True)


def _measure(source: Source, batch: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    from symdisc.torchside.capture import capture
    from symdisc.torchside.datadep.bounds import off_batch
    from symdisc.torchside.datadep.network import DataDependent, sized
    from symdisc.torchside.datadep.segments import find_pairs

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
            rows += [r.to_dict() for r in off_batch(captured, state, item, SCALES, seed=seed)]
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
        lines.append(f"    {'scale of g':>10} {'on batch':>9} {'distance':>9} {'eta':>7} {'bound':>10} {'measured':>10} {'relative':>9}")
        for r in (r for r in rows if r["pair"] == p["name"]):
            eta, bound = (f"{r[k]:.4g}" if r[k] is not None else "none" for k in ("eta", "bound"))
            lines.append(f"    {r['scale']:>10g} {r['on_batch']:>9.1e} {r['distance']:>9.3g} {eta:>7} {bound:>10} {r['measured']:>10.3g} "
                         f"{r['relative']:>9.2g}")
    return lines
