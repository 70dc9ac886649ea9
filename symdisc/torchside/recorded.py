"""A function of tensors run again as the flat list of operators that it was made of: for small networks most time is Python's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["Recorded"]

Function = Callable[[Sequence[Tensor], Sequence[Any]], Tensor]

KEPT = 16  # recordings of different shapes; the oldest goes
IDLE = frozenset({torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.expand.default,
                  torch.ops.aten.alias.default, torch.ops.aten.detach.default})  # nothing to do where the shape stays

_ATEN = torch.ops.aten
# The same functions, with the same arguments by position.
BUILT_IN: dict[Any, Any] = {
    _ATEN.view.default: Tensor.view, _ATEN.permute.default: Tensor.permute, _ATEN.t.default: Tensor.t,
    _ATEN.transpose.int: Tensor.transpose, _ATEN.unsqueeze.default: Tensor.unsqueeze,
    _ATEN.mm.default: torch.mm, _ATEN.bmm.default: torch.bmm,
    _ATEN.addmm.default: torch.addmm, _ATEN.baddbmm.default: torch.baddbmm, _ATEN.relu.default: torch.relu,
    _ATEN.leaky_relu.default: torch.nn.functional.leaky_relu, _ATEN.tanh.default: torch.tanh}


# What makes new memory, and what may then be written over it.
FRESH = frozenset({torch.mm, torch.bmm, torch.addmm, torch.baddbmm})
IN_PLACE: dict[Any, Any] = {torch.relu: torch.relu_, torch.tanh: torch.tanh_,
                            torch.nn.functional.leaky_relu: torch.nn.functional.leaky_relu_}


class Recorded:
    """``function(own, inputs)`` of two lists of tensors, recorded where shapes come a second time.

    A recording is taken into use only if it gives what the function gave; where gradients are asked for, or recording fails, the
    function itself is run. ``faster`` is another way to the same tensor that may not exist for these inputs: it takes the place of
    the function where both were run and agreed.
    """

    def __init__(self, function: Function, faster: Function | None = None) -> None:
        self.function, self.faster = function, faster
        self._agreed: dict[Any, bool] = {}
        self._programs: dict[Any, GraphModule | None] = {}
        self._met: set[Any] = set()

    def __call__(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> Tensor:
        key = _key(own, inputs)
        differentiable = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (*own, *inputs))
        program = None if differentiable else self._programs.get(key)
        if program is not None:
            found: Tensor = program.forward(*own, *inputs)
            return found
        function = self._fastest(key, own, inputs)
        if differentiable:
            return function(own, inputs)
        result = function(own, inputs)
        if key in self._met and key not in self._programs:
            if len(self._programs) >= KEPT:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = None if None in key else self._record(function, own, inputs, result)
        self._met.add(key)
        return result

    def takes_other_way(self, own: Sequence[Tensor], inputs: Sequence[Any]) -> bool:
        """Whether ``faster`` is run for such inputs; where gradients are asked for it is not said."""
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (*own, *inputs)):
            return False
        return self._fastest(_key(own, inputs), own, inputs) is not self.function

    def _fastest(self, key: Any, own: Sequence[Tensor], inputs: Sequence[Any]) -> Function:
        if self.faster is None or None in key:
            return self.function
        if key not in self._agreed:
            try:
                with torch.no_grad():
                    self._agreed[key] = _close(self.faster(own, inputs), self.function(own, inputs))
            except Exception:
                # the other way asks more of the network than the function does
                self._agreed[key] = False
        return self.faster if self._agreed[key] else self.function

    def _record(self, function: Function, own: Sequence[Tensor], inputs: Sequence[Tensor], result: Tensor) -> GraphModule | None:
        try:
            with torch.no_grad():
                program = _cleaned(make_fx(lambda *t: function(t[: len(own)], t[len(own) :]), tracing_mode="fake")(*own, *inputs))
                return _built_in(program) if _close(program(*own, *inputs), result) else None
        except Exception:
            # whatever a network does that cannot be recorded, it can still be run
            return None


def _key(own: Sequence[Tensor], inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else None for t in (own[0], *inputs))


def _close(one: Tensor, other: Tensor) -> bool:
    """The same up to rounding in another order, which leaves errors of the size of the largest entries."""
    loose = 1e-5 if one.dtype != torch.float64 else 1e-11
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    known = other.isfinite()
    size = other[known].abs().amax() if one.is_floating_point() and known.any() else 0
    return torch.allclose(one, other, rtol=loose, atol=float(loose * size), equal_nan=True)


def _built_in(program: GraphModule) -> GraphModule:
    """The operators in BUILT_IN called by their own functions, which start in half the time of an aten overload; in place where nobody else
    reads what they are given."""
    for node in program.graph.nodes:
        node.target = BUILT_IN.get(node.target, node.target)
        if node.target in IN_PLACE and node.args[0].target in FRESH and len(node.args[0].users) == 1:
            node.target = IN_PLACE[node.target]
    program.recompile()
    return program


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
