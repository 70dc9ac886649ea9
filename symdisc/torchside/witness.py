"""Numeric witnesses on the real model: the function before and after a group element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.errors import StateMismatch
from symdisc.symmetry import Element
from symdisc.torchside.apart import apart, finite_count, joined
from symdisc.torchside.reweighted import called_with

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Witness", "decided_otherwise", "outputs_of", "results_of", "verify"]

# what rounding may do to a function of moderate depth, relative to its variation over inputs
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}
SHAKES = 8  # pairs of runs with weights off by that much, up and down: of two scores nearly equal each wins in one of a pair


@dataclass(frozen=True)
class Witness:
    """``max_relative_change`` of the outputs (relative to how much they vary over inputs) under a group element, and
    ``weights_changed``, the relative change of all weights, which must not be small for the check to mean anything.

    Whole numbers and truth values must be equal, or the change is infinite; those that rounding may turn are left out of it, see
    ``decided_otherwise``.
    """

    max_relative_change: float
    dtype: str
    inputs_tried: int
    weights_changed: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def outputs_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Tensor]:
    """All outputs of a model, run with other weights, that are made of floating-point numbers, complex ones among them."""
    return [t for t in results_of(model, state, inputs, kwargs) if _is_real(t)]


def results_of(model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any], kwargs: dict[str, Any] | None = None) -> list[Tensor]:
    """All tensors that a model gives, run with other weights."""
    inputs, given = torch.utils._pytree.tree_map_only(Tensor, Tensor.clone, (tuple(inputs), kwargs or {}))  # a model may write on them
    state = {n: t if t.is_floating_point() else t.clone() for n, t in state.items()}  # and count its runs
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # dropout masks must repeat
        result = called_with(model, state, inputs, given, tied=False)
    leaves = torch.utils._pytree.tree_leaves(result)
    if not leaves or not all(isinstance(t, Tensor) or t is None for t in leaves):
        leaves = list(getattr(result, "values", lambda: leaves)())
    return [t.data for t in leaves if isinstance(t, Tensor)]  # in a mode that sees through no_grad, too


def _is_real(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def decided_otherwise(run: Callable[[Mapping[str, Tensor]], Sequence[Tensor]], state: Mapping[str, Tensor], before: Sequence[Tensor],
                      after: Sequence[Tensor], rounding: float) -> bool:
    """A whole number or a truth value of ``before``, the results of ``run(state)``, is another one in ``after``, and not by rounding.

    Rounding turns a decision where two scores are nearly equal. Weights off by ``rounding``, the relative change that the other
    outputs may have, turn it there in the same way; what none of such runs gives is no rounding, and counts.
    """
    kinds = [k for k, t in enumerate(before) if not _is_real(t)]
    if any(before[k].shape != after[k].shape for k in kinds):
        return True
    other = {k: before[k] != after[k] for k in kinds}
    for step in range(2 * SHAKES):
        if not any(bool(t.any()) for t in other.values()):
            return False
        g, size = torch.Generator().manual_seed(step // 2), rounding * (-1) ** step
        shaken = {n: t * (1 + size * torch.randn(t.shape, generator=g).to(t)) if t.is_floating_point() else t for n, t in state.items()}
        again = run(shaken)
        other = {k: t & (again[k] != after[k]) if again[k].shape == t.shape else t for k, t in other.items()}
    return any(bool(t.any()) for t in other.values())


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

    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        return [joined(one) for one in zip(*(results_of(model, state, x, kwargs) for x, kwargs in calls), strict=True)]

    ones, twos = run(before), run(after)
    if not finite_count(filter(_is_real, ones)):
        raise StateMismatch("the model's outputs are not finite with its own weights, so nothing can be compared")
    dtype = next((t.dtype for t in before.values() if t.is_floating_point()), torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-3)
    change = max(apart(one, two, fine=dtype == torch.float64) for one, two in zip(ones, twos, strict=True) if _is_real(one))
    if change <= tolerance and decided_otherwise(run, before, ones, twos, tolerance):
        change = float("inf")
    return Witness(change, str(dtype).removeprefix("torch."), len(inputs), relative_change(before, after), change <= tolerance)


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
