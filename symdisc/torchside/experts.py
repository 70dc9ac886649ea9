"""Experts of transformers' mixture models, exported densely: every expert on every token, weighed by what the router chose.

The library sorts tokens by expert or loops over the experts that were hit, with shapes that depend on the data. Dense, it is the
same function: the tokens that an expert was not chosen for get its output times zero. Which experts are chosen is constant near
generic weights, and that is what symmetries are derived for (the stratum).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symdisc.torchside.exportable import exportable

__all__ = ["declare_experts", "dense_experts"]

STACKED = ("gate_up_proj", "down_proj")


def declare_experts(model: nn.Module) -> None:
    """Register ``dense_experts`` for the stacks of experts in ``model`` whose weights lie as transformers stores them."""
    for kind in {type(m) for m in model.modules() if _is_stack(m)}:
        exportable(kind, dense_experts)


def _is_stack(module: nn.Module) -> bool:
    weights = [getattr(module, name, None) for name in STACKED]
    return (type(module).__module__.startswith("transformers.") and hasattr(module, "_apply_gate") and hasattr(module, "num_experts")
            and all(isinstance(w, Tensor) and w.dim() == 3 and len(w) == module.num_experts for w in weights))


def dense_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """sum_e c[t, e] expert_e(x[t]) with c[t, e] the router's weight of expert e for token t, zero where it was not chosen. [T, d]"""
    chosen = torch.zeros(len(hidden_states), self.num_experts, dtype=hidden_states.dtype, device=hidden_states.device)
    chosen = chosen.scatter(1, top_k_index, top_k_weights.to(hidden_states.dtype))
    inner, outer = ("edo", "eod") if self.is_transposed else ("eod", "edo")
    made = torch.einsum(f"td,{inner}->teo", hidden_states, self.gate_up_proj)
    if self.has_bias:
        made = made + self.gate_up_proj_bias
    made = torch.einsum(f"teo,{outer}->ted", self._apply_gate(made), self.down_proj)
    if self.has_bias:
        made = made + self.down_proj_bias
    weighed: Tensor = torch.einsum("te,ted->td", chosen, made)
    return weighed
