"""The same network at other sizes: a captured graph run again with smaller axes, without the model's source.

Literals that are lengths (views, slices, numbers of groups) are rewritten from the lengths that ``symdisc.sizes`` explains;
lengths that depend on their value (kernels, pixels, tables of indices) stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symdisc.errors import BadInput
from symdisc.opgraph import Op, OpGraph, refs
from symdisc.sizes import Inferred, infer_sizes, shrink_sizes
from symdisc.sizes.shrink import parameter_count
from symdisc.torchside.capture import Capture
from symdisc.torchside.domains import vocabularies
from symdisc.torchside.draws import draw
from symdisc.torchside.interpret import call
from symdisc.torchside.miniature import EPSILON

__all__ = ["resized", "shrunk"]

SMALLEST_EPSILON = 1e-3  # positive literals below are the eps of some norm


def shrunk(capture: Capture, most: int, seed: int = 0) -> Capture:
    """``capture`` at small sizes with generic float64 weights, same structure. BadInput above ``most`` parameters or where
    the graph cannot run at other sizes (the message names the operator)."""
    inferred = infer_sizes(capture.graph, fixed_tables(capture))
    chosen = shrink_sizes(capture.graph, inferred, _least_rows(capture, inferred))
    count = parameter_count(capture.graph, inferred, chosen)
    if count > most:
        pinned = "; ".join(f"{op}: {why}" for op, why in inferred.unexplained[:2]) or "its fixed lengths and its depth leave no fewer"
        raise BadInput(f"the smallest network of this structure has {count:,} parameters, more than {most:,} ({pinned}): "
                       "certify a smaller model of the same architecture")
    return resized(capture, inferred, chosen, seed)


def fixed_tables(capture: Capture) -> dict[str, bool]:
    """Constants and buffers of whole numbers are tables of indices and keep their lengths, unless they count 0, 1, 2, ..."""
    found = {}
    for name in (*capture.graph.buffers, *capture.graph.constants):
        t = capture.tensors.get(name)
        if isinstance(t, Tensor) and t.dim() and not t.is_floating_point() and t.dtype != torch.bool and not t.is_meta:
            found[name] = not bool((t == torch.arange(t.shape[-1])).all())
    return found


def _least_rows(capture: Capture, inferred: Inferred) -> dict[int, int]:
    """Tables that are looked up by position keep as many rows as there are places."""
    given = set(vocabularies(capture.graph))
    least: dict[int, int] = {}
    for op in capture.graph.ops:
        if op.packet == "aten.embedding" and op.shape is not None:
            table, index = (next(refs([a])) for a in op.args[:2])
            if not given & _sources(capture.graph, index):
                row = inferred.sizes.root(inferred.axes[table][0])
                least[row] = max(least.get(row, 0), max((*op.shape[:-1], 1)) + 2)
    return least


def _sources(graph: OpGraph, name: str) -> set[str]:
    """Inputs of the graph that a value is computed from."""
    seen, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here not in seen:
            seen.add(here)
            todo += graph.by_name[here].inputs if here in graph.by_name else ()
    return seen & set(graph.inputs)


def resized(capture: Capture, inferred: Inferred, chosen: Mapping[int, int], seed: int = 0) -> Capture:
    """The captured network with free lengths ``chosen``, float64, at generic weights.

    Buffers and constants keep their leading entries. Raises BadInput when an operator fails at the new sizes.
    """
    graph, generator = capture.graph, torch.Generator().manual_seed(seed)
    shapes = {name: inferred.shape(name, chosen) for name in graph.shapes}
    tensors: dict[str, Tensor] = {}
    by_name: dict[str, Tensor] = {}
    for value, tensor in capture.tensors.items():
        name = graph.parameters.get(value)
        if name is None:
            tensors[value] = _leading(tensor, shapes[value])
        else:
            name = graph.aliases.get(name, name)
            tensors[value] = by_name.setdefault(name, _generic(tensor, shapes[value], generator))
    example = tuple(_leading(x, shapes[n]) for n, x in zip(graph.inputs, capture.example, strict=True))
    ops = tuple(_rewritten(op, inferred, chosen) for op in graph.ops if op.name in graph.live)
    small = replace(graph, ops=ops, shapes=shapes, dtypes={n: "float64" if d.startswith("float") else d for n, d in graph.dtypes.items()})
    example = tuple(draw(small, example, seed))
    return Capture(_measured(small, tensors, example), tensors, example, capture.unsaved)


def _leading(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading entries of each axis, floats in float64; on the meta device there are none: positive floats, switches that are on."""
    if tensor.is_meta:
        noise = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
        return noise if tensor.is_floating_point() else torch.ones(shape, dtype=tensor.dtype)
    out = tensor[tuple(slice(n) for n in shape)].clone() if tensor.dim() else tensor.clone()
    return out.double() if out.is_floating_point() else out


def _generic(tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gains near their constant, biases of size 0.4, weights of variance 1 / fan-in."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    constant = not tensor.is_meta and tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all())
    if constant and float(tensor.reshape(-1)[0]) != 0.0:
        return float(tensor.reshape(-1)[0]) * (1.0 + 0.25 * noise.clamp(-2.5, 2.5))
    return noise / max(noise[0].numel(), 1) ** 0.5 if len(shape) > 1 else 0.4 * noise


def _rewritten(op: Op, inferred: Inferred, chosen: Mapping[int, int]) -> Op:
    change = inferred.rewrites.get(op.name)
    new = change(lambda a: inferred.sizes.evaluate(a, chosen)) if change else {}
    args = tuple(_eps(new.get(k, a), k) for k, a in enumerate(op.args))
    kwargs = tuple((k, _eps(v, 1)) for k, v in op.kwargs)
    return replace(op, args=args, kwargs=kwargs)


def _eps(arg: Any, position: int) -> Any:
    return EPSILON if position and isinstance(arg, float) and 0.0 < arg < SMALLEST_EPSILON else arg


def _measured(graph: OpGraph, tensors: Mapping[str, Tensor], example: tuple[Tensor, ...]) -> OpGraph:
    """The graph with the shapes and kinds that its operators give at the new sizes."""
    env: dict[str, Any] = {**tensors, **dict(zip(graph.inputs, example, strict=True))}
    ops = []
    for op in graph.ops:
        try:
            with torch.no_grad():
                value = env[op.name] = call(op, env, torch.float64)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(f"{op.target} (in {op.module or 'the model'}) does not run at smaller sizes: {reason}; "
                           "certify a smaller model of the same architecture") from error
        if isinstance(value, Tensor):
            op = replace(op, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))
        ops.append(op)
    return replace(graph, ops=tuple(ops))
