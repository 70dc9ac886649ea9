"""Run (parts of) an operator graph on torch tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch

from symdisc.errors import UnknownOperator
from symdisc.opgraph import Literal, Op, OpGraph, Ref

__all__ = ["ancestors", "call", "evaluate", "resolve", "wide"]


MADE = frozenset(f"aten.{n}" for n in ("full", "zeros", "ones", "empty", "arange", "eye", "linspace", "scalar_tensor"))
# at weights and inputs that are drawn, matrices may be singular
UNCHECKED = {"aten.linalg_inv.default": torch.linalg.inv_ex, "aten.inverse.default": torch.linalg.inv_ex,
             "aten.linalg_solve.default": torch.linalg.solve_ex, "aten.linalg_cholesky.default": torch.linalg.cholesky_ex}


@cache
def resolve(target: str) -> Callable[..., Any]:
    """The torch callable named by ``aten.add.Tensor``, ``getitem`` or ``namespace.name.overload``."""
    if target == "getitem":
        return operator.getitem
    if target == "aten.slice_scatter.default":
        return _written_over
    if target in ("aten.detach.default", "aten.detach_.default"):  # what training does not see, the function depends on
        return lambda x: x
    if target == "aten.copy.default":  # as a copy it has no derivative
        return lambda into, source, *_: source.to(into.dtype).expand_as(into)
    if target == "aten._weight_norm.default":  # torch's kernel has no forward derivative
        return _normed
    if target in UNCHECKED:
        return _unchecked(UNCHECKED[target])
    if target in ("aten.view.default", "aten._unsafe_view.default"):
        target = "aten.reshape.default"  # strides seen while tracing need not be those met here
    parts = target.split(".")
    try:
        found: Any = getattr(getattr(torch.ops, parts[0]), parts[1])
        return getattr(found, parts[2]) if len(parts) > 2 else found
    except AttributeError:
        if hasattr(operator, parts[-1]):
            return getattr(operator, parts[-1])
        raise UnknownOperator(f"operator {target} is not registered; import the package that defines it") from None


def _written_over(into: torch.Tensor, source: torch.Tensor, dim: int = 0, start: int | None = None, end: int | None = None,
                  step: int = 1) -> torch.Tensor:
    """slice_scatter with an end inside the axis: under vmap its derivative counts beyond 2^63 otherwise."""
    return torch.slice_scatter(into, source, dim, start, None if end is None else min(end, into.shape[dim]), step)


def _normed(direction: torch.Tensor, size: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """size * direction / |direction|, norms over all axes but ``dim`` (over all, if -1)."""
    axes = [a for a in range(direction.dim()) if a != dim] if dim >= 0 else list(range(direction.dim()))
    return size * direction / direction.square().sum(axes, keepdim=True).sqrt()


def _unchecked(function: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """NaN where there is no answer instead of an error: one singular matrix does not spoil the rest of a batch."""
    def run(matrix: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result, info = function(matrix, *args, **kwargs)
        return torch.where((info == 0).reshape(info.shape + (1,) * (result.dim() - info.dim())), result, torch.nan)

    return run


def _value(arg: Any, env: Mapping[str, Any], dtype: torch.dtype | None) -> Any:
    if isinstance(arg, Ref):
        return env[arg.name]
    if isinstance(arg, tuple):
        return [_value(a, env, dtype) for a in arg]
    if isinstance(arg, Literal):
        if arg.kind == "dtype":
            found = getattr(torch, arg.text)
            if dtype is None or not (found.is_floating_point or found.is_complex):
                return found
            return dtype.to_complex() if found.is_complex else dtype
        if arg.kind == "device":
            return torch.device("cpu") if arg.text.startswith("meta") else torch.device(arg.text)
        if arg.kind in ("layout", "memory_format"):
            return getattr(torch, arg.text)
    return arg


def wide(t: torch.Tensor) -> torch.Tensor:
    """Floating-point numbers in float64, complex ones in complex128, others as they are."""
    return t.to(torch.complex128) if t.is_complex() else t.double() if t.is_floating_point() else t


def call(op: Op, env: Mapping[str, Any], dtype: torch.dtype | None = None) -> Any:
    """The result of one operator; every floating dtype literal is replaced by ``dtype`` when given, complex ones by its pairs."""
    kwargs = {k: _value(v, env, dtype) for k, v in op.kwargs}
    if dtype is not None and op.packet in MADE and op.dtype.startswith("float") and kwargs.get("dtype") is None:
        kwargs["dtype"] = dtype  # torch's default would be float32, too narrow for the least float64 as a mask
    result = resolve(op.target)(*[_value(a, env, dtype) for a in op.args], **kwargs)
    if dtype is not None and isinstance(result, torch.Tensor) and result.is_floating_point() and result.dtype != dtype:
        return result.to(dtype)  # whole numbers times 0.1 are float32, whatever the weights are
    return result


def ancestors(graph: OpGraph, wanted: Iterable[str], given: Iterable[str] = ()) -> tuple[Op, ...]:
    """The operators needed for ``wanted`` when the values ``given`` are supplied, in order."""
    stop, need = set(given), set(wanted) - set(given)
    chosen = []
    for op in reversed(graph.ops):
        if op.name in need:
            chosen.append(op)
            need.update(n for n in op.inputs if n not in stop)
    return tuple(reversed(chosen))


def evaluate(ops: Iterable[Op], env: Mapping[str, Any], wanted: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Run ``ops`` in order from ``env``; returns the values of ``wanted``."""
    values = dict(env)
    for op in ops:
        if op.name not in env:
            values[op.name] = call(op, values, dtype)
    return {name: values[name] for name in wanted}
