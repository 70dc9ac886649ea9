"""Compiled operators of torchvision, declared where they are missing.

The wheel of torchvision on the package index is linked against CUDA; beside a CPU build of torch its library does not load, and
its Python half, which transformers and timm import, then refuses to be imported because two operators are unknown. No surveyed
model calls them, so declaring them is enough.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

__all__ = ["declare_missing"]

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def declare_missing() -> Any:
    """Declare torchvision's operators if its own library cannot; returns what keeps the declaration alive, or None.

    Only torchvision's Python half is imported afterwards, so the declaration cannot clash with a library that does load.
    """
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None:
        return None
    try:
        import torchvision  # noqa: F401
        return None
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}{SCHEMA}")
        return library
