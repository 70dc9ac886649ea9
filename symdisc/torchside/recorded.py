"""A function of tensors run again as the flat list of operators that it was made of: for small networks most time is Python's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["Recorded"]

KEPT = 16  # recordings of different shapes; the oldest goes
IDLE = frozenset({torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default,
                  torch.ops.aten.alias.default, torch.ops.aten.detach.default})  # nothing to do where the shape stays


class Recorded:
    """``function(own, inputs)`` of two lists of tensors, recorded where shapes come a second time.

    A recording is taken into use only if it gives what the function gave; where gradients are asked for, or recording fails, the
    function itself is run.
    """

    def __init__(self, function: Callable[[Sequence[Tensor], Sequence[Any]], Tensor]) -> None:
        self.function = function
        self._programs: dict[Any, GraphModule | None] = {}
        self._met: set[Any] = set()

    def __call__(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (*own, *inputs)):
            return self.function(own, inputs)
        key = tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else None for t in (own[0], *inputs))
        program = self._programs.get(key)
        if program is not None:
            found: Tensor = program(*own, *inputs)
            return found
        result = self.function(own, inputs)
        if key in self._met and key not in self._programs:
            if len(self._programs) >= KEPT:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = None if None in key else self._record(own, inputs, result)
        self._met.add(key)
        return result

    def _record(self, own: Sequence[Tensor], inputs: Sequence[Tensor], result: Tensor) -> GraphModule | None:
        try:
            with torch.no_grad():
                program = _cleaned(make_fx(lambda *t: self.function(t[: len(own)], t[len(own) :]), tracing_mode="fake")(*own, *inputs))
                again = program(*own, *inputs)
        except Exception:
            # whatever a network does that cannot be recorded, it can still be run
            return None
        close = again.shape == result.shape and torch.allclose(again, result, rtol=1e-4, atol=1e-6, equal_nan=True)
        return program if close else None


def _cleaned(program: GraphModule) -> GraphModule:
    """Without operators that do nothing."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not node.args or not hasattr(node.args[0], "meta"):
            continue
        before, after = (n.meta.get("val") for n in (node.args[0], node))
        if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape and (
                node.target in IDLE or (node.target is torch.ops.aten.permute.default and list(node.args[1]) == sorted(node.args[1]))):
            node.replace_all_uses_with(node.args[0])
    program.graph.eliminate_dead_code()
    program.recompile()
    return program
