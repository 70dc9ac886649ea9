"""The architectures of the catalog, each in symbolic sizes: ``ARCHITECTURES["llama"].build({"d": 4, ...})``."""

from __future__ import annotations

from collections.abc import Mapping

from symdisc.architectures import convolutional, kan, perceptrons
from symdisc.architectures.base import Architecture, Source

__all__ = ["ARCHITECTURES", "Architecture", "Source"]

ARCHITECTURES: Mapping[str, Architecture] = {
    a.name: a for table in (perceptrons, kan, convolutional) for a in table.ENTRIES}
