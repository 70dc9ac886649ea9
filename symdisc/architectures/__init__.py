"""The architectures of the catalog, each in symbolic sizes: ``ARCHITECTURES["llama"].build({"d": 4, ...})``."""

from __future__ import annotations

from collections.abc import Mapping

from symdisc.architectures import convolutional, decoders, encoders, graphs, kan, perceptrons, pictures, recurrent, sequences
from symdisc.architectures.base import Architecture, Source

__all__ = ["ARCHITECTURES", "Architecture", "Source"]

TABLES = (perceptrons, kan, convolutional, encoders, pictures, decoders, sequences, recurrent, graphs)
ARCHITECTURES: Mapping[str, Architecture] = {a.name: a for table in TABLES for a in table.ENTRIES}
