"""The command ``teleport``: other weights of the same loss, at a steeper, sharper, flatter or balanced point of their orbit."""

from __future__ import annotations

from pathlib import Path

import typer

from symdisc.cli.opened import discovered, opened
from symdisc.cli.terminal import document, errors, out, progress, remarks
from symdisc.errors import BadInput, NotProved

__all__ = ["register"]

MEASURES = {"gradient": "|grad|^2", "sharpness": "sharpness", "flat": "sharpness", "balance": "|theta|^2"}


def register(app: typer.Typer) -> None:
    app.command("teleport")(teleport)


def teleport(checkpoint: Path = typer.Argument(..., metavar="IN.safetensors", help="Weights: a safetensors file or folder."),
             model: str = typer.Option(..., "--model", metavar="SOURCE", help="The model that the weights belong to."),
             objective: str = typer.Option("gradient", "--objective", help="gradient (larger), sharpness (larger), flat, or balance."),
             target: Path = typer.Option(..., "--out", metavar="OUT.safetensors", help="The file to write."),
             data: Path | None = typer.Option(None, "--data", metavar="FILE.safetensors", help="Inputs x [n, ...], targets y: numbers of "
                                              "classes (cross-entropy) or floats (half the mean square)."),
             on_batch: bool = typer.Option(False, "--on-batch", help="Data-dependent symmetries: exact on the data and nowhere else."),
             steps: int = typer.Option(10, "--steps", min=1, help="At most so many steps along the orbit."),
             step: float = typer.Option(0.1, "--step", min=1e-6, max=2.0, help="Length of one: conditions are at most exp(2 steps step)."),
             as_json: bool = typer.Option(False, "--json", help="Print one JSON document and nothing else.")) -> None:
    """Write weights of exactly the same loss where |grad|^2 or the sharpness is larger or smaller, or all conserved quantities vanish.

    The last, balance, is the least norm that symmetries with a conserved quantity reach.
    """
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare
    from symdisc.torchside.teleport_files import read_data, teleport_file

    if objective not in MEASURES:
        raise BadInput(f"objective {objective!r} is unknown; give {', '.join(MEASURES)}")
    if on_batch and objective == "balance":
        raise BadInput("balance is for linear symmetries: data-dependent ones conserve nothing; leave --on-batch out")
    files.check_target(target)
    before = files.read_checkpoint(checkpoint)
    source = opened(model, "eval", as_json, values=True)
    given = read_data(source, data)
    cat = discovered(source, as_json) if not on_batch else compare.names_of(source.model)
    fit = files.fit_names(cat, before, compare.ignorable(source.model))
    remarks([*fit.notes(), *given.notes], as_json)
    head = {"in": str(checkpoint), "out": str(target), "model": model, "objective": objective, "on_batch": on_batch}
    try:
        with progress(f"teleporting ({objective})", as_json):
            found = teleport_file(cat, source, before, fit, given, objective, on_batch=on_batch, steps=steps, step=step)
            witness = None if on_batch else compare.compare(cat, source, before, found.after, fit)
        if witness is not None and not witness.passed:
            raise NotProved(f"the outputs changed by {witness.max_relative_change:.1e} of their variation: take a smaller --step")
    except NotProved as error:
        if as_json:
            document({**head, "written": False, "reason": str(error)})
        errors().print(f"error: {error}; nothing is written", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    files.write_checkpoint(found.after, target)
    if as_json:
        document({**head, "written": True, "measure": MEASURES[objective], "objective_before": found.measures[0],
                  "objective_after": found.measures[1], "loss_before": found.losses[0], "loss_after": found.losses[1],
                  "witness": None if witness is None else witness.to_dict()})
        return
    out().print(f"{MEASURES[objective]}   {found.measures[0]:.6g} -> {found.measures[1]:.6g}", markup=False)
    out().print(f"loss   {found.losses[0]:.12g} -> {found.losses[1]:.12g}" + (" on the given data only" if on_batch else ""), markup=False)
    out().print(f"wrote {target}", markup=False)
