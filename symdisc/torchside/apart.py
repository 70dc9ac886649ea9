"""How far the outputs of two runs are apart, where some of their entries may be no finite numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["apart", "finite_count"]


def apart(before: Tensor, after: Tensor) -> float:
    """Largest difference of an entry, relative to the standard deviation of ``before`` (to its size where it has one entry).

    Networks mask scores by -inf, and take roots and logarithms outside of their range: what is no finite number before must be the
    same after (NaN for NaN), or the difference is infinite. Where ``finite_count`` is 0 nothing else is compared.
    """
    if before.shape != after.shape:
        return float("inf")
    known = before.isfinite()
    if not torch.equal(known, after.isfinite()) or not torch.equal(_kind(before[~known]), _kind(after[~known])):
        return float("inf")
    if not bool(known.any()):
        return 0.0
    one, two = _real(before[known]), _real(after[known])
    size = float(one.abs().max()) or 1.0
    one, two = one / size, two / size  # the square of a large number, in its variation, would be no number
    spread = float(one.std()) if one.numel() > 1 else 1.0
    return float((two - one).abs().max()) / max(spread, 1e-300)


def finite_count(outputs: Iterable[Tensor]) -> int:
    """Entries that there are to compare."""
    return sum(int(t.isfinite().sum()) for t in outputs)


def _kind(t: Tensor) -> Tensor:
    return _real(t).nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t).double() if t.is_complex() else t.double()
