"""Teleport of a checkpoint on disk: the loss from a file of data, the walk in float64, the weights rounded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.catalog import Catalog
from symdisc.errors import BadInput
from symdisc.torchside.capture import capture
from symdisc.torchside.checkpoint import Checkpoint, Fit, read_checkpoint, transform
from symdisc.torchside.compare import state_of
from symdisc.torchside.curvature import Loss
from symdisc.torchside.network import Doubled, stored_dtype
from symdisc.torchside.reweighted import called_with
from symdisc.torchside.teleport import DataOrbit, LinearOrbit, balance, teleport

if TYPE_CHECKING:
    from symdisc.torchside.sources import Source

__all__ = ["Data", "Result", "read_data", "teleport_file"]


@dataclass(frozen=True)
class Data:
    """The loss of a model on given inputs, all float64, and what to tell about it."""

    inputs: tuple[Any, ...]
    loss: Loss
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The weights to write, and the measure of the objective and the loss at both ends, in float64."""

    after: Checkpoint
    measures: tuple[float, float]
    losses: tuple[float, float]


def read_data(source: Source, path: Path | None) -> Data:
    """Inputs ``x`` [n, ...] and targets ``y`` of a safetensors file, or the example inputs of the source.

    The loss is cross-entropy for whole numbers y [n], half the mean square of the difference for floats shaped as the outputs, and
    half the mean square of the outputs without y. The model of ``source`` becomes float64. Raises BadInput in one line.
    """
    tensors = {} if path is None else read_checkpoint(path).tensors
    if path is not None and ("x" not in tensors or set(tensors) - {"x", "y"} or len(source.example) != 1):
        raise BadInput(f"{path} holds the tensors {', '.join(sorted(tensors)) or 'none'}; give x, the one input of the model, and y")
    given = (tensors["x"],) if path is not None else source.example
    inputs = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
    y, stored = tensors.get("y"), stored_dtype(source.model)
    model = source.model.double()

    def function(state: dict[str, Tensor]) -> Tensor:
        with Doubled(stored):
            return _score(_first(called_with(model, state, inputs)), y)

    try:
        with torch.no_grad():
            function({})
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise BadInput(f"the model {source.name} does not run on {path or 'its example'}: {str(error).splitlines()[0]}") from error
    notes = () if y is not None else (
        "no targets are given: the loss is half the mean square of the outputs; give --data for the loss of training",)
    return Data(inputs, Loss(function, tuple(n for n, p in model.named_parameters() if p.is_floating_point())), notes)


def _first(found: Any) -> Tensor:
    """The first tensor that the model puts out."""
    return next(t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, Tensor))


def _score(result: Tensor, y: Tensor | None) -> Tensor:
    if y is None:
        return result.square().mean() / 2
    if not y.is_floating_point():
        return nn.functional.cross_entropy(result, y.long())
    if y.shape != result.shape:
        raise ValueError(f"the targets y {list(y.shape)} are not shaped as the outputs {list(result.shape)}")
    return (result - y.double()).square().mean() / 2


def teleport_file(cat: Catalog, source: Source, before: Checkpoint, fit: Fit, data: Data, objective: str, *, on_batch: bool, steps: int,
                  step: float) -> Result:
    """New weights under the names and dtypes of ``before``. Raises as ``teleport`` and ``balance``: NotProved when the loss changes."""
    state = {n: t for n, t in state_of(cat, before, fit, torch.float64).items() if n not in cat.aliases}
    if objective == "balance":
        element, new = balance(cat, state, data.loss)
        norms = [sum(float(s[n].square().sum()) for n in cat.parameters) for s in (state, new)]
        return Result(transform(cat, before, fit, element), (norms[0], norms[1]), (data.loss(state), data.loss(new)))
    if on_batch:
        orbit = DataOrbit(capture(source.model, data.inputs), state, data.inputs)  # captured with as many samples
        found = teleport(orbit, state, data.loss, objective, steps=steps, step=step)
        tensors = {disk: _stored(cat, fit, found.state, disk, t) for disk, t in before.tensors.items()}
        after = Checkpoint(before.path, tensors, before.metadata)
    else:
        linear = LinearOrbit.of(cat)
        found = teleport(linear, state, data.loss, objective, steps=steps, step=step)
        after = transform(cat, before, fit, linear.element(found.path))
    sign = -1.0 if objective == "flat" else 1.0
    return Result(after, (sign * found.values[0], sign * found.values[-1]), (found.before, found.after))


def _stored(cat: Catalog, fit: Fit, state: dict[str, Tensor], disk: str, old: Tensor) -> Tensor:
    """The tensor called ``disk`` in the file, after the walk; tensors that the model does not know stay."""
    name = fit.names.get(disk)
    return old if name is None else state[cat.aliases.get(name, name)].to(old.dtype).contiguous()
