"""A family of models in symbolic sizes: one member captured for its structure alone, or made with generic weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from symdisc.errors import CaptureError
from symdisc.torchside.capture import Capture, capture
from symdisc.torchside.miniature import make_decidable, randomise

__all__ = ["Build", "generic", "shapes", "structure"]

Build = Callable[[Mapping[str, int]], tuple[nn.Module, tuple[Any, ...]]]
STATISTICS_STEPS = 20  # batches after which running statistics are those of random inputs


def structure(build: Build, sizes: Mapping[str, int]) -> tuple[Capture, str]:
    """The captured graph of the member at ``sizes`` and the name of its class; parameters never have values, buffers do.

    Works at sizes of real models. The example inputs of the capture are on the meta device, so that nothing is run at it.
    """
    try:
        return _on_meta(build, sizes)
    except CaptureError:  # routing by value cannot be traced without values: with them, they are dropped behind
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, args = build(sizes)
        found = capture(model, args)
        tensors = {v: t.to("meta") if v in found.graph.parameters else t for v, t in found.tensors.items()}
        return replace(found, tensors=tensors, example=tuple(x.to("meta") for x in found.example)), type(model).__name__


def _on_meta(build: Build, sizes: Mapping[str, int]) -> tuple[Capture, str]:
    with _parameters_on_meta(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, args = build(sizes)
    values = dict(model.named_buffers(remove_duplicate=False))
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to("meta")
    args = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), args)
    found = capture(model, args)
    tensors = {v: values.get(found.graph.buffers.get(v, ""), t) for v, t in found.tensors.items()}
    return replace(found, tensors=tensors), type(model).__name__


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters lose their values as soon as a module registers them; buffers keep theirs (rotary angles decide the group)."""
    register = nn.Module.register_parameter

    def without_values(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = without_values  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def generic(build: Build, sizes: Mapping[str, int], seed: int = 0) -> tuple[nn.Module, tuple[Any, ...]]:
    """The member at ``sizes`` with generic weights and statistics in float64, the same for the same seed, in the mode it was built in.

    Every eps > 0 is raised (of 1e-12 no rank could tell that it breaks a scale); padding rows get gradients like the others.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, args = build(sizes)
        model = model.double()
        args = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
        randomise(model, seed)
        make_decidable(model)
        _statistics(model, args)
    return model, args


def _statistics(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Running statistics are set to those of random inputs: at invented ones many ReLU units would never switch."""
    if not any(name.endswith("running_var") for name, _ in model.named_buffers()):
        return
    training = model.training
    model.train()
    with torch.no_grad():
        for _ in range(STATISTICS_STEPS):
            model(*torch.utils._pytree.tree_map_only(torch.Tensor, _fresh, args))
    model.train(training)


def _fresh(t: torch.Tensor) -> torch.Tensor:
    return torch.randn_like(t) if t.is_floating_point() else t


def shapes(build: Build, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of the member at ``sizes`` by name, each tied tensor once; nothing is captured.

    No tensor takes memory (experts of a large model come as one), unless a module asks for the values of its buffers.
    """
    try:
        return _shapes(build, sizes, torch.device("meta"))
    except (RuntimeError, NotImplementedError):
        return _shapes(build, sizes, _parameters_on_meta())


def _shapes(build: Build, sizes: Mapping[str, int], where: contextlib.AbstractContextManager[Any]) -> dict[str, tuple[int, ...]]:
    with where, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {n: tuple(p.shape) for n, p in build(sizes)[0].named_parameters()}
