"""A captured network without most of its equal layers."""

from __future__ import annotations

import torch

from symdisc.stacks import Stack, find_stack
from symdisc.torchside.capture import Capture

__all__ = ["shortened"]

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # differ between trained layers; no derivation reads their values


def shortened(capture: Capture) -> tuple[Capture, Stack] | None:
    """The network with three layers of its longest stack, and that stack; None where no layers repeat often enough."""
    graph = capture.graph

    def same(a: str, b: str) -> bool:
        one, other = capture.tensors.get(a), capture.tensors.get(b)
        if graph.buffers.get(a, "").endswith(STATISTICS) or one is other:
            return True
        return one is not None and other is not None and one.is_meta == other.is_meta and (one.is_meta or torch.equal(one, other))

    stack = find_stack(graph, same)
    short = None if stack is None else stack.short()
    if stack is None or short is None:
        return None
    held = {*short.parameters, *short.buffers, *short.constants}
    return Capture(short, {v: t for v, t in capture.tensors.items() if v in held}, capture.example, capture.unsaved - stack.removed), stack
