"""Twins of a model: the same weights with one assumption broken, so that what hangs on it is seen in the dimension."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import nn

from symdisc.torchside.miniature import epsilons

__all__ = ["twins"]

SMALL = 1e-5  # the eps of a twin whose model has none


def twins(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(what is changed, the changed copy): eps of the norms to zero or above it, and train mode."""
    values = epsilons(model)
    zero = [getattr(m, k) == 0.0 for m, k in values]
    if values:
        twin = copy.deepcopy(model)
        for m, k in epsilons(twin):
            setattr(m, k, SMALL if all(zero) else 0.0)
        yield "eps > 0 in the norms" if all(zero) else "eps = 0 in the norms", twin
    if _differs_in_training(model):
        yield "train mode", copy.deepcopy(model).train()


def _differs_in_training(model: nn.Module) -> bool:
    """Some module computes something else in train mode: BatchNorm, or dropout at a rate above zero."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) or (isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0)
               for m in model.modules())
