"""A module run with other weights, and left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["called_with"]


def called_with(model: nn.Module, state: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, *,
                tied: bool = True) -> Any:
    """``functional_call``, which leaves the other weights behind where one module is registered under two names."""
    with _restored(model):
        return functional_call(model, dict(state), tuple(args), dict(kwargs or {}), tie_weights=tied, strict=False)


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    held: list[tuple[Any, dict[str, Any]]] = [(own, dict(own)) for m in model.modules() for own in (m._parameters, m._buffers) if own]
    try:
        yield
    finally:
        for own, before in held:
            own.update(before)
