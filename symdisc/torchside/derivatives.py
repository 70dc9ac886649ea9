"""Jacobians that can be trusted. Many outputs, or many inputs, in one go are fast, but torch's rules for that are wrong for some
operators, and nothing is said: ``prelu`` beside as many inputs as outputs, ``cdist`` always. What they give is held against plain
backward passes, and where it differs these take their place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import jacrev, vmap

__all__ = ["Function", "Parameters", "differentiable", "is_right", "jacobian_at", "jacobians"]

RTOL, ATOL = 1e-6, 1e-9  # a wrong rule is wrong in the first digit; rounding is far below

Parameters = dict[str, Tensor]
Function = Callable[..., Tensor]
Draw = tuple[Tensor, ...]


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Derivatives are taken, whatever the mode outside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def jacobians(function: Function, parameters: Parameters, draws: Sequence[Draw]) -> Tensor:
    """d function / d parameters at each of ``draws``, [draws, outputs, D]."""
    rows = _together(function, parameters, draws)
    ends = (0, len(draws) - 1)  # where every unit of the first is on, what is wrong may not show there
    if rows is not None and all(is_right(rows[k], function, parameters, draws[k]) for k in ends):
        return rows
    found: list[Tensor] = []
    for x in draws:
        one = _at_once(function, parameters, x)
        if not is_right(one, function, parameters, x):
            return torch.stack(found + [_one_by_one(function, parameters, y) for y in draws[len(found):]])
        found.append(one)
    return torch.stack(found)


def jacobian_at(function: Function, parameters: Parameters, x: Draw = ()) -> Tensor:
    """d function / d parameters at one input, [outputs, D]."""
    rows = _at_once(function, parameters, x)
    return rows if is_right(rows, function, parameters, x) else _one_by_one(function, parameters, x)


def _at_once(function: Function, parameters: Parameters, x: Draw) -> Tensor:
    parts = jacrev(function)(parameters, *x)
    return torch.cat([p.reshape(p.shape[0], -1) for p in parts.values()], 1).detach()


def _pulled_back(function: Function, parameters: Parameters, x: Draw, covectors: Sequence[Tensor]) -> Tensor:
    """Gradients of <c, function> for each of ``covectors`` by plain backward passes, [covectors, D]."""
    with torch.enable_grad():
        leaves = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
        # copies: a function may write on what it is given
        out = function({n: p.clone() for n, p in leaves.items()}, *(t.clone() for t in x))
        found = []
        for c in covectors:
            given = torch.autograd.grad(out, list(leaves.values()), c, retain_graph=True, allow_unused=True) if out.requires_grad \
                else [None] * len(leaves)
            found.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                                    for g, p in zip(given, leaves.values(), strict=True)]))
    return torch.stack(found).detach()


def _together(function: Function, parameters: Parameters, draws: Sequence[Draw]) -> Tensor | None:
    """The Jacobian at all draws in one go; None where an operator has no rule for it."""
    stacked = [torch.stack(t) for t in zip(*draws, strict=True)]
    if not stacked:
        return None  # a network without inputs: one draw is all there is
    try:
        parts = vmap(jacrev(function), in_dims=(None, *(0,) * len(stacked)), randomness="same")(parameters, *stacked)
    except RuntimeError:
        return None
    return torch.cat([p.reshape(len(draws), p.shape[1], -1) for p in parts.values()], 2).detach()


def is_right(rows: Tensor, function: Function, parameters: Parameters, x: Draw, along: Tensor | None = None) -> bool:
    """Whether a combination of ``rows`` is what one plain backward pass gives for it.

    ``rows`` are the Jacobian [outputs, D], or its product [outputs, k] with the directions ``along`` [D, k].
    """
    if not rows.numel():
        return True
    finite = rows.isfinite().all(1)
    gen = torch.Generator().manual_seed(len(rows))
    mixed = torch.randn(len(rows), generator=gen, dtype=rows.dtype) * finite
    try:
        plain = _pulled_back(function, parameters, x, [mixed])[0]
    except RuntimeError:
        return True  # nothing to hold it against
    if not bool(finite.all()) and not bool(plain.isfinite().all()):
        return True  # zero times what is not finite there: no combination of the other rows can be asked for
    plain = plain if along is None else plain @ along
    return torch.allclose(mixed[finite] @ rows[finite], plain, rtol=RTOL, atol=ATOL * max(1.0, float(rows[finite].norm())))


def _one_by_one(function: Function, parameters: Parameters, x: Draw) -> Tensor:
    with torch.no_grad():
        count = function(parameters, *(t.clone() for t in x)).numel()
    return _pulled_back(function, parameters, x, list(torch.eye(count, dtype=torch.float64)))
