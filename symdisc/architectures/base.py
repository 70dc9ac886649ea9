"""What an architecture of the catalog is: a builder in symbolic sizes, the sizes at which it is certified, and its sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Architecture", "Built", "Sizes", "Source"]

Sizes = Mapping[str, int]
Built = tuple["nn.Module", tuple[Any, ...]]


@dataclass(frozen=True)
class Source:
    """A place in the literature: ``text`` the citation in one line, ``where`` what it states, ``known`` whether that is the symmetry
    itself (otherwise the source defines the architecture or its published size)."""

    text: str
    where: str
    known: bool = False


@dataclass(frozen=True)
class Architecture:
    """One architecture in independent sizes.

    ``symbols`` maps each size symbol to its meaning; ``build`` takes a value for each and returns a module in eval mode, with the
    initial weights of its library, and the positional inputs of one call (it also works under ``torch.device("meta")``).
    ``miniatures`` are the sizes at which certificates are taken, ``published`` the name and the sizes of a model that people use.
    """

    name: str
    title: str
    symbols: Mapping[str, str]
    build: Callable[[Sizes], Built]
    miniatures: tuple[Sizes, ...]
    published: tuple[str, Sizes] | None
    sources: tuple[Source, ...] = ()
    assumptions: tuple[str, ...] = ()
