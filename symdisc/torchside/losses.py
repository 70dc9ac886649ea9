"""Losses taken apart into operators with rules: a network that returns its loss is a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "kl_div"]

MEAN, SUM = 1, 2


def _reduced(x: Tensor, reduction: int) -> Tensor:
    return x.mean() if reduction == MEAN else x.sum() if reduction == SUM else x


def cross_entropy(x, target, weight=None, reduction=1, ignore_index=-100, label_smoothing=0.0):  # type: ignore[no-untyped-def]
    """Targets are probabilities, or classes, of which ``ignore_index`` does not count."""
    if weight is not None or label_smoothing:
        return NotImplemented
    dim = 1 if x.dim() > 1 else 0
    scores = x.log_softmax(dim)
    if target.is_floating_point():
        loss = -(scores * target).sum(dim)
        return loss.mean() if reduction == MEAN else _reduced(loss, reduction)
    classes = torch.arange(x.shape[dim], device=x.device).reshape([-1] + [1] * (x.dim() - dim - 1))
    chosen = (target.unsqueeze(dim) == classes).to(x.dtype)
    loss = -(scores * chosen).sum(dim)
    return loss.sum() / (target != ignore_index).sum() if reduction == MEAN else _reduced(loss, reduction)


def binary_cross_entropy_with_logits(x, target, weight=None, pos_weight=None, reduction=1):  # type: ignore[no-untyped-def]
    if weight is not None or pos_weight is not None:
        return NotImplemented
    return _reduced((1 - target) * x + torch.nn.functional.softplus(-x), reduction)


def kl_div(x, target, reduction=1, *, log_target=False):  # type: ignore[no-untyped-def]
    loss: Any = torch.exp(target) * (target - x) if log_target else torch.special.xlogy(target, target) - target * x
    return _reduced(loss, reduction)
