"""symdisc: parameter symmetries of neural networks, derived, proved, certified complete, and applied to real weights."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Catalog": "catalog", "Symmetry": "symmetry", "Element": "symmetry", "Certificate": "certificate", "load": "catalog",
    "discover": "session", "certify": "session", "equivariance": "equivariance", "count_laws": "laws",
    "Monitor": "torchside.monitor", "exportable": "torchside.exportable", "SymdiscError": "errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are loaded when first used, so that ``import symdisc`` does not import torch."""
    if name in _HOMES:
        return getattr(import_module(f"symdisc.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'symdisc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
