"""The command ``ensemble``: copies of a trained model along the orbit of a data-dependent symmetry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from symdisc.cli.opened import opened
from symdisc.cli.terminal import document, out, progress
from symdisc.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from symdisc.torchside.ensemble import Ensemble
    from symdisc.torchside.sources import Source

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("ensemble")(ensemble)


def ensemble(checkpoint: Path = typer.Argument(..., metavar="CHECKPOINT", help="Weights: a safetensors file or folder."),
             model: str = typer.Option(..., "--model", metavar="SOURCE", help="The model that the weights belong to."),
             copies: int = typer.Option(100, "--copies", min=1, metavar="K", help="How many copies."),
             scale: float = typer.Option(0.1, "--scale", min=0.0, metavar="S", help="g = exp(S T), entries of T of variance 1/h."),
             target: Path = typer.Option(..., "--out", metavar="FILE.safetensors", help="The file to write."),
             data: Path | None = typer.Option(None, "--data", metavar="FILE.safetensors",
                                              help="Clean inputs [n, ...], one tensor; by default the example inputs of SOURCE."),
             samples: int | None = typer.Option(None, "--samples", min=1, help="Inputs that each copy draws; by default all it can keep."),
             fit: bool = typer.Option(False, "--fit", help="Least squares: more samples than h, kept as well as possible."),
             crossed: bool = typer.Option(False, "--crossed", help="A square of copies, in rows and columns: cheaper, exact on fewer."),
             seed: int = typer.Option(0, "--seed", min=0, help="Seed of the elements and of the draws."),
             as_json: bool = typer.Option(False, "--json", help="Print one JSON document and nothing else.")) -> None:
    """Write K copies of a trained model that agree with it on a batch: one set of weights and K small pairs, no training."""
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside.ensemble import build

    files.check_target(target)
    source = opened(model, "eval", as_json, values=True)
    _load(source, checkpoint)
    x = _inputs(source, data)
    with progress(f"building {copies} copies", as_json):
        made = build(source.model, x, copies, scale, seed, samples=samples, completion="lstsq" if fit else "orthogonal",
                     crossed=crossed)
        numbers = _measured(made, source.model, x)
        made.save(target)
    if as_json:
        document({"in": str(checkpoint), "out": str(target), "model": model, "copies": copies, "scale": scale, "seed": seed,
                  "crossed": crossed, **numbers})
        return
    memory, k = made.memory, len(made)
    out().print(f"{copies} copies of {source.name} at {made.pair.name} (h = {made.pair.width})", markup=False)
    out().print(f"memory   {memory.shared:,} bytes shared, {memory.pairs:,} in pairs: {memory.share:.1%} of {k} models", markup=False)
    out().print(f"inputs   {numbers['inputs']}: a copy names the model's class for {numbers['agreement']:.1%} of them, the vote for "
                f"{numbers['vote_agreement']:.1%}", markup=False)
    out().print(f"wrote {target}", markup=False)


def _load(source: Source, checkpoint: Path) -> None:
    """Fill the source's model with the weights of a file."""
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare

    read = files.read_checkpoint(checkpoint)
    fit = files.fit_names(compare.names_of(source.model), read, compare.ignorable(source.model))
    state = {name: read.tensors[disk] for disk, name in fit.names.items()}
    source.model.load_state_dict(state, strict=False)


def _inputs(source: Source, data: Path | None) -> Tensor:
    from symdisc.torchside.checkpoint import read_checkpoint

    if data is None:
        if len(source.example) != 1:
            raise BadInput(f"{source.name} takes {len(source.example)} inputs; an ensemble is built for models of one input")
        return source.example[0]
    tensors = read_checkpoint(data).tensors
    if len(tensors) != 1:
        raise BadInput(f"{data} holds {len(tensors)} tensors; give a file of one, the inputs [n, ...]")
    x = next(iter(tensors.values()))
    if x.ndim != source.example[0].ndim or x.shape[1:] != source.example[0].shape[1:]:
        raise BadInput(f"inputs {list(x.shape)} in {data} do not fit the model, whose example is {list(source.example[0].shape)}")
    return x.to(source.example[0].dtype)


def _measured(made: Ensemble, model: Any, x: Tensor) -> dict[str, Any]:
    """What the copies do on the given inputs, next to the trained model."""
    memory, (each, vote) = made.memory, made.agreement(model, x)
    return {"pair": made.pair.name, "width": made.pair.width, "inputs": len(x), "agreement": each, "vote_agreement": vote,
            "diversity": made.diversity(x),
            "memory": {"shared": memory.shared, "pairs": memory.pairs, "separate": memory.separate}}
