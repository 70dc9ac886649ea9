"""Numeric witnesses on the real model: the function before and after a group element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.errors import StateMismatch
from symdisc.symmetry import Element
from symdisc.torchside.apart import apart, finite_count, joined

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Witness", "outputs_of", "verify"]

# what rounding may do to a function of moderate depth, relative to its variation over inputs
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}


@dataclass(frozen=True)
class Witness:
    """``max_relative_change`` of the outputs (relative to how much they vary over inputs) under a group element, and
    ``weights_changed``, the relative change of all weights, which must not be small for the check to mean anything."""

    max_relative_change: float
    dtype: str
    inputs_tried: int
    weights_changed: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def outputs_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Tensor]:
    """All outputs of a model, run with other weights, that are made of floating-point numbers, complex ones among them."""
    inputs, given = torch.utils._pytree.tree_map_only(Tensor, Tensor.clone, (tuple(inputs), kwargs or {}))  # a model may write on them
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # dropout masks must repeat
        result = torch.func.functional_call(model, dict(state), inputs, given, tie_weights=False, strict=False)
    leaves = torch.utils._pytree.tree_leaves(result)
    if not leaves or not all(isinstance(t, Tensor) or t is None for t in leaves):
        leaves = list(getattr(result, "values", lambda: leaves)())
    tensors = [t for t in leaves if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())]
    return [t.data for t in tensors]  # in a mode that sees through no_grad, too


def varied(example: Sequence[Any], seed: int) -> tuple[Any, ...]:
    """Inputs like the example: floats redrawn with its spread, integers between its lowest and highest, masks kept."""
    g = torch.Generator().manual_seed(seed)
    out: list[Any] = []
    for x in example:
        if isinstance(x, Tensor) and x.is_floating_point():
            spread = float(x.std()) if x.numel() > 1 else 1.0
            noise = torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)
            out.append(x + max(spread, 0.1) * noise)
        elif isinstance(x, Tensor) and x.dtype != torch.bool and not x.is_complex() and x.numel() > 1 and int(x.max()) > 1:
            out.append(torch.randint(int(x.min()), int(x.max()) + 1, x.shape, generator=g).to(x.dtype))
        else:
            out.append(x)
    return tuple(out)


def verify(cat: Catalog, model: nn.Module, g: Element, inputs: Sequence[Any] | None, samples: int) -> Witness:
    """Compare the model with its own weights and with transformed ones, on ``inputs`` (a list of argument tuples)."""
    unsaved = {k: b.data for k, b in model.named_buffers(remove_duplicate=False)}  # tables that a file would not hold
    before = {**unsaved, **{k: v.data for k, v in model.state_dict().items()}}
    after = cat.apply(before, g)
    if inputs is None:
        example = _like_weights(cat.example, before)
        inputs = [example, *(varied(example, seed) for seed in range(1, samples))]
    calls = [(x, _varied_kwargs(cat.kwargs, k)) for k, x in enumerate(inputs)]
    runs = [[outputs_of(model, state, x, kwargs) for x, kwargs in calls] for state in (before, after)]
    ones, twos = ([joined(one) for one in zip(*run, strict=True)] for run in runs)
    if not finite_count(ones):
        raise StateMismatch("the model's outputs are not finite with its own weights, so nothing can be compared")
    dtype = next((t.dtype for t in before.values() if t.is_floating_point()), torch.float32)
    change = max(apart(one, two, fine=dtype == torch.float64) for one, two in zip(ones, twos, strict=True))
    moved = relative_change(before, after)
    return Witness(change, str(dtype).removeprefix("torch."), len(inputs), moved, change <= TOLERANCE.get(dtype, 1e-3))


def _varied_kwargs(kwargs: dict[str, Any] | None, seed: int) -> dict[str, Any]:
    """Call number 0 keeps the keyword arguments as they were given, the others vary them like positional ones."""
    given = kwargs or {}
    return dict(zip(given, varied(tuple(given.values()), 100 + seed), strict=True)) if seed else given


def _like_weights(example: Sequence[Any], state: Mapping[str, Tensor]) -> tuple[Any, ...]:
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in example)


def relative_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """|after - before| / |before| over all floating-point tensors."""
    top = bottom = 0.0
    for name, t in before.items():
        if t.is_floating_point():
            top += float((after[name].double() - t.double()).square().sum())
            bottom += float(t.double().square().sum())
    return (top / bottom) ** 0.5 if bottom else 0.0
