"""Two checkpoints of one model: do they compute the same function?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.catalog import Catalog
from symdisc.errors import BadInput, StateMismatch
from symdisc.torchside.apart import apart, finite_count, joined
from symdisc.torchside.capture import tie_groups
from symdisc.torchside.checkpoint import Checkpoint, Fit
from symdisc.torchside.network import Doubled, stored_dtype
from symdisc.torchside.witness import TOLERANCE, Witness, decided_otherwise, relative_change, results_of, varied

if TYPE_CHECKING:
    from symdisc.torchside.sources import Source

__all__ = ["change", "compare", "ignorable", "names_of"]


def names_of(model: nn.Module) -> Catalog:
    """A catalog without symmetries: only names, shapes and ties, for fitting a file to a model."""
    ties = tie_groups(model)
    shapes = {n: tuple(t.shape) for n, t in (*model.named_parameters(), *model.named_buffers())}
    parameters = {n: shapes[n] for n, _ in model.named_parameters()}
    buffers = {n: s for n, s in shapes.items() if n not in parameters}
    aliases = {n: c for n, c in ties.items() if n != c}
    return Catalog(type(model).__name__, (), (), (), parameters, buffers, aliases, None, model.training)


def ignorable(model: nn.Module) -> tuple[str, ...]:
    """Patterns of names on disk that the model itself declares to be of no use."""
    return tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())


def state_of(cat: Catalog, checkpoint: Checkpoint, fit: Fit, dtype: torch.dtype) -> dict[str, Tensor]:
    """The file's tensors by the model's names, ties filled in, floats in ``dtype``."""
    state = {model: checkpoint.tensors[disk] for disk, model in fit.names.items()}
    first = {cat.aliases.get(n, n): t for n, t in state.items()}
    for alias, name in cat.aliases.items():
        if name in first:
            state[alias] = state[name] = first[name]
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}


def compare(cat: Catalog, source: Source, before: Checkpoint, after: Checkpoint, fit: Fit, samples: int = 8) -> Witness:
    """Run the model of ``source`` in float64 with both checkpoints on several inputs; raises BadInput on the meta device.

    What is left is the rounding of the stored weights, so the tolerance is that of their dtype.
    """
    if source.meta:
        raise BadInput(f"{source.name} is on the meta device and cannot be run: use --no-check, or a source with values")
    kept, model = Doubled(stored_dtype(source.model)), source.model.double()
    example = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in source.example)
    inputs = [example, *(varied(example, seed) for seed in range(1, samples))]
    states = [state_of(cat, c, fit, torch.float64) for c in (before, after)]
    stored = [t.dtype for t in before.tensors.values() if t.is_floating_point()]
    coarse = max(set(stored), key=lambda d: torch.finfo(d).eps, default=torch.float32)
    tolerance = TOLERANCE.get(coarse, 1e-1)
    with kept:
        worst = change(model, states[0], states[1], inputs, rounding=tolerance)
    return Witness(worst, str(coarse).removeprefix("torch."), len(inputs), relative_change(*states), worst <= tolerance)


def change(model: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], inputs: Sequence[Any],
           kwargs: dict[str, Any] | None = None, rounding: float = TOLERANCE[torch.float64]) -> float:
    """Largest difference of any output between two sets of weights, relative to its variation over the inputs.

    Infinite where whole numbers or truth values differ that weights off by ``rounding`` do not turn. Raises StateMismatch where no
    output is finite.
    """
    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        found = [results_of(model, {n: t.clone() for n, t in state.items()}, x, kwargs) for x in inputs]
        return [joined(one) for one in zip(*found, strict=True)]

    ones, twos = run(before), run(after)
    reals = [(one, two) for one, two in zip(ones, twos, strict=True) if one.is_floating_point() or one.is_complex()]
    if not finite_count(one for one, _ in reals):
        raise StateMismatch("the model's outputs are not finite with the given weights, so nothing can be compared")
    worst = max(apart(one, two) for one, two in reals)
    return float("inf") if worst <= rounding and decided_otherwise(run, before, ones, twos, rounding) else worst
