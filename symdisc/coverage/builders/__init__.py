"""Builders of the surveyed architectures by library; a library is imported only when one of its models is built."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from symdisc.errors import BadInput

__all__ = ["GROUPS", "Built", "NotImportable", "build", "group_of", "names"]


@dataclass(frozen=True)
class Built:
    """A model as its library makes it, and the inputs of one call."""

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class NotImportable(BadInput):
    """The library of an architecture is not installed here, or refuses to be imported."""


def _torch_nn() -> Mapping[str, Callable[[], Built]]:
    from symdisc.coverage.builders.torch_nn import MODELS

    return MODELS


def _hf() -> Mapping[str, Callable[[], Built]]:
    from symdisc.coverage.builders.hf import MODELS

    return MODELS


def _timm() -> Mapping[str, Callable[[], Built]]:
    from symdisc.coverage.builders.timm import MODELS

    return MODELS


def _torchvision() -> Mapping[str, Callable[[], Built]]:
    from symdisc.coverage.builders.torchvision import MODELS

    return MODELS


def _pyg() -> Mapping[str, Callable[[], Built]]:
    from symdisc.coverage.builders.pyg import MODELS

    return MODELS


# library -> (the package it needs, the door to its builders)
GROUPS: dict[str, tuple[str, Callable[[], Mapping[str, Callable[[], Built]]]]] = {
    "torch.nn": ("torch", _torch_nn),
    "transformers": ("transformers", _hf),
    "timm": ("timm", _timm),
    "torchvision": ("torchvision", _torchvision),
    "torch_geometric": ("torch_geometric", _pyg),
}


def names(group: str | None = None) -> tuple[str, ...]:
    """All architectures, or those of one library, in the order of their tables; nothing is imported but the tables."""
    return tuple(n for g, (_, table) in GROUPS.items() if group in (None, g) for n in table())


def group_of(name: str) -> str:
    """The library of an architecture; raises BadInput for an unknown name."""
    for group, (_, table) in GROUPS.items():
        if name in table():
            return group
    raise BadInput(f"{name!r} is not in the survey; symdisc coverage --list prints the names")


def build(name: str, seed: int = 0) -> Built:
    """The architecture with random weights (seeded), float32, in evaluation mode.

    Raises BadInput for an unknown name and NotImportable where its library is missing.
    """
    import torch

    package, table = GROUPS[group_of(name)]
    if importlib.util.find_spec(package) is None:
        raise NotImportable(f"{package} is not installed")
    from symdisc.coverage.builders.vision_ops import declare_missing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if group_of(name) != "torch.nn":
            declare_missing()
        torch.manual_seed(seed)
        try:
            built = table()[name]()
        except ImportError as error:
            raise NotImportable(f"{package} is not importable: {error}") from error
    built.model.eval()
    return built
