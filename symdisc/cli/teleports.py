"""The command ``teleport``: other weights of the same loss, at a steeper, sharper, flatter or balanced point of their orbit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from symdisc.cli.opened import discovered, opened
from symdisc.cli.terminal import document, errors, out, progress, remarks
from symdisc.errors import BadInput, NotProved

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.torchside.checkpoint import Checkpoint, Fit
    from symdisc.torchside.curvature import Loss
    from symdisc.torchside.sources import Source

__all__ = ["register"]

MEASURES = {"gradient": "|grad|^2", "sharpness": "sharpness", "flat": "sharpness", "balance": "|theta|^2"}


def register(app: typer.Typer) -> None:
    app.command("teleport")(teleport)


@dataclass(frozen=True)
class _Result:
    """The weights to write, and the measure of the objective and the loss at both ends, in float64."""

    after: Checkpoint
    measures: tuple[float, float]
    losses: tuple[float, float]


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
    """Write weights of exactly the same loss where |grad|^2 or the sharpness is larger or smaller, or the norm least."""
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare

    if objective not in MEASURES:
        raise BadInput(f"objective {objective!r} is unknown; give {', '.join(MEASURES)}")
    if on_batch and objective == "balance":
        raise BadInput("balance is for linear symmetries: data-dependent ones conserve nothing; leave --on-batch out")
    files.check_target(target)
    before = files.read_checkpoint(checkpoint)
    source = opened(model, "eval", as_json, values=True)
    inputs, loss = _loss(source, data, as_json)
    cat = discovered(source, as_json) if not on_batch else compare.names_of(source.model)
    fit = files.fit_names(cat, before, compare.ignorable(source.model))
    remarks(fit.notes(), as_json)
    head = {"in": str(checkpoint), "out": str(target), "model": model, "objective": objective, "on_batch": on_batch}
    try:
        with progress(f"teleporting ({objective})", as_json):
            found = _found(cat, source, before, fit, loss, objective, inputs if on_batch else None, steps, step)
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


def _loss(source: Source, data: Path | None, quiet: bool) -> tuple[tuple[Any, ...], Loss]:
    """Inputs in float64 and the loss on them; the model of ``source`` becomes float64."""
    from torch import Tensor, nn
    from torch.func import functional_call

    from symdisc.torchside.checkpoint import read_checkpoint
    from symdisc.torchside.curvature import Loss

    tensors = {} if data is None else read_checkpoint(data).tensors
    if data is not None and ("x" not in tensors or set(tensors) - {"x", "y"} or len(source.example) != 1):
        raise BadInput(f"{data} holds the tensors {', '.join(sorted(tensors)) or 'none'}; give x, the one input of the model, and y")
    given = (tensors["x"],) if data is not None else source.example
    inputs = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
    y = tensors.get("y")
    if y is None:
        remarks(["no targets are given: the loss is half the mean square of the outputs; give --data for the loss of training"], quiet)
    model = source.model.double()

    def function(state: dict[str, Tensor]) -> Tensor:
        found = functional_call(model, state, inputs)
        result: Any = found if isinstance(found, Tensor) else next(iter(found.values() if isinstance(found, dict) else found))
        if y is None:
            return result.square().mean() / 2
        if not y.is_floating_point():
            return nn.functional.cross_entropy(result, y.long())
        return (result - y.double()).square().mean() / 2

    names = tuple(n for n, p in model.named_parameters() if p.is_floating_point())
    try:
        function({})
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise BadInput(f"the model {source.name} does not run on {data or 'its example'}: {str(error).splitlines()[0]}") from error
    return inputs, Loss(function, names)


def _found(cat: Catalog, source: Source, before: Checkpoint, fit: Fit, loss: Loss, objective: str, batch: tuple[Any, ...] | None,
           steps: int, step: float) -> _Result:
    import torch

    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare
    from symdisc.torchside import teleport as walks

    state = {n: t for n, t in compare.state_of(cat, before, fit, torch.float64).items() if n not in cat.aliases}
    if objective == "balance":
        element, new = walks.balance(cat, state, loss)
        norms = [sum(float(s[n].square().sum()) for n in cat.parameters) for s in (state, new)]
        return _Result(files.transform(cat, before, fit, element), (norms[0], norms[1]), (loss(state), loss(new)))
    if batch is None:
        orbit = walks.LinearOrbit.of(cat)
        found = walks.teleport(orbit, state, loss, objective, steps=steps, step=step)
        after = files.transform(cat, before, fit, orbit.element(found.path))
    else:
        found = walks.teleport(_on_batch(source, state, batch), state, loss, objective, steps=steps, step=step)
        after = files.Checkpoint(before.path, {
            disk: found.state[cat.aliases.get(fit.names[disk], fit.names[disk])].to(t.dtype).contiguous() if disk in fit.names else t
            for disk, t in before.tensors.items()}, before.metadata)
    sign = -1.0 if objective == "flat" else 1.0
    return _Result(after, (sign * found.values[0], sign * found.values[-1]), (found.before, found.after))


def _on_batch(source: Source, state: dict[str, Any], batch: tuple[Any, ...]) -> Any:
    """The action on that batch; the graph must be captured with as many samples."""
    from symdisc.torchside.capture import capture
    from symdisc.torchside.teleport import DataOrbit

    return DataOrbit(capture(source.model, batch), state, batch)
