"""Control flow that torch.export cannot follow: an author's export-friendly forward for one kind of submodule.

    @symdisc.exportable(Router)
    def dense(self, x):
        ...                     # the same function of the same parameters, without data-dependent shapes

It replaces ``Router.forward`` while a model is captured, and only then. Before, both are run on what the submodule receives at
the example inputs, and must give the same outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput, CaptureError

__all__ = ["exportable", "substituted"]

Forward = Callable[..., Any]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative; coarser kinds of numbers get COARSE
COARSE = 5e-2


@singledispatch
def _substitute(module: Any) -> tuple[Forward, Forward] | None:
    """(the forward that is replaced, the forward to export) for the class of ``module``."""
    return None


def exportable(kind: type[nn.Module], forward: Forward | None = None) -> Any:
    """Export ``forward(self, *args, **kwargs)`` in place of the forward of modules of class ``kind``; usable as a decorator.

    ``forward`` must compute the same outputs from the same parameters, under their names. Subclasses take part unless they
    have a forward of their own. Raises BadInput where ``kind`` is no module class.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise BadInput(f"exportable takes a class of modules, not {kind!r}")

    def register(function: Forward) -> Forward:
        original = kind.forward
        _substitute.register(kind)(lambda module: (original, function))
        return function

    return register if forward is None else register(forward)


@contextlib.contextmanager
def substituted(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[None]:
    """Within the context submodules of registered classes have their export-friendly forward.

    Raises CaptureError, naming the submodule, where its outputs at the example differ from those of the original.
    """
    found = {name: (module, pair[1]) for name, module in model.named_modules()
             if (pair := _substitute(module)) is not None and type(module).forward is pair[0]}
    if found and not any(p.is_meta for p in model.parameters()):  # without values there is nothing to compare
        _compare(model, found, args, kwargs)
    try:
        for module, forward in found.values():
            module.forward = forward.__get__(module)
        yield
    finally:
        for module, _ in found.values():
            del module.forward


def _compare(model: nn.Module, found: dict[str, tuple[nn.Module, Forward]], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    handles = [module.register_forward_pre_hook(lambda m, a, k, name=name: calls.append((name, *_copies(a, k))), with_kwargs=True)
               for name, (module, _) in found.items()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*_copies(tuple(args), {})[0], **_copies((), kwargs)[1])
            for name, a, k in calls:
                module, forward = found[name]
                wanted, made = (_leaves(_seeded(f, module, a, k)) for f in (type(module).forward, forward))
                if len(wanted) != len(made) or not all(map(_same, wanted, made)):
                    raise CaptureError(f"the forward registered for {type(module).__name__} gives other outputs than the module "
                                       f"{name!r} itself at the example inputs: it must be the same function of the same parameters")
    finally:
        for handle in handles:
            handle.remove()


def _copies(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What was handed in, safe from a forward that writes into it."""
    found: tuple[tuple[Any, ...], dict[str, Any]] = torch.utils._pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
    return found


def _seeded(forward: Forward, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    torch.manual_seed(0)  # dropout inside must repeat
    args, kwargs = _copies(args, kwargs)
    return forward(module, *args, **kwargs)


def _leaves(outputs: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def _same(wanted: Tensor, made: Tensor) -> bool:
    if wanted.shape != made.shape or wanted.dtype != made.dtype:
        return False
    if wanted.is_meta:
        return True  # without values there is nothing more to compare
    if not wanted.is_floating_point():
        return torch.equal(wanted, made)
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return torch.allclose(wanted, made, rtol=0.0, atol=TOLERANCE.get(wanted.dtype, COARSE) * max(size, 1e-30), equal_nan=True)
