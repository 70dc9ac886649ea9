"""How far the outputs of two runs are apart, where some of their entries may be no finite numbers, or numbers of no interest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["apart", "finite_count", "joined"]

FAR = 1e3  # times the median from which on a value that comes again, unmoved, is the mark of a masked entry
STEADY = 1e-2  # of the size of a column: what varies less is measured by its size, for rounding is relative to that
FAINT = 1e-6  # of the usual column: what is fainter may be rounding alone


def apart(before: Tensor, after: Tensor, fine: bool = False) -> float:
    """Largest difference of an entry, relative to the standard deviation of ``before`` (to its size where it has one entry).

    With ``fine`` relative to the deviation within its column, the entries that differ in the first index alone: outputs may differ
    in size by many orders. Networks mask scores by -inf, and take roots and logarithms outside of their range: what is no finite
    number before must be the same after (NaN for NaN), or the difference is infinite. Where ``finite_count`` is 0 nothing else is
    compared. Scores are masked by large numbers, too: beside them nothing would seem to move, so they do not count as variation.
    """
    if before.shape != after.shape:
        return float("inf")
    known = before.isfinite()
    if not torch.equal(known, after.isfinite()) or not torch.equal(_kind(before[~known]), _kind(after[~known])):
        return float("inf")
    one, two = (_rows(t.masked_fill(~known, 0)) for t in (before, after))
    seen = _rows(torch.complex(known.double(), known.double()) if before.is_complex() else known.double()) > 0
    seen &= ~_marks(one, two, seen)
    size = float((one.abs() * seen).max()) if one.numel() else 0.0
    if not size:
        return float((two * seen).abs().max() > 0) / 1e-300 if one.numel() else 0.0
    one, two = (torch.where(seen, t / size, 0.0) for t in (one, two))  # the square of a large number would be no number
    return float(((two - one).abs() / _scale(one, seen, fine)).max())


def finite_count(outputs: Iterable[Tensor]) -> int:
    """Entries that there are to compare."""
    return sum(int(t.isfinite().sum()) for t in outputs)


def joined(runs: Sequence[Tensor]) -> Tensor:
    """One output at several inputs, along the first axis."""
    alike = all(t.dim() and t.shape[1:] == runs[0].shape[1:] for t in runs)
    return torch.cat([t if alike else t.reshape(-1) for t in runs])


def _scale(one: Tensor, seen: Tensor, fine: bool) -> Tensor:
    """What differences are relative to, of each column or of all entries."""
    if not fine or len(one) < 2:
        values = one[seen]
        return (values.std() if values.numel() > 1 else values.abs().max()).clamp(min=1e-300)
    count = seen.sum(0).clamp(min=1)
    mean = one.sum(0) / count
    spread = ((one - mean).square() * seen).sum(0).div(count).sqrt()
    scale = torch.maximum(spread, STEADY * one.square().sum(0).div(count).sqrt())
    return scale.clamp(min=max(FAINT * float(scale[scale > 0].median()), 1e-300))


def _marks(one: Tensor, two: Tensor, seen: Tensor) -> Tensor:
    """Entries far larger than most, the same in both runs, whose value comes again."""
    far = seen & (one == two)
    if bool(far.any()):
        far &= one.abs() > FAR * one[seen].abs().median()
    values, count = one[far].unique(return_counts=True)
    return far & torch.isin(one, values[count > 1]) if values.numel() else far


def _rows(t: Tensor) -> Tensor:
    """[first index, all others] in float64, complex numbers as two."""
    flat = t.reshape(len(t), -1) if t.dim() > 1 else t.reshape(-1, 1)
    return torch.view_as_real(flat).double().flatten(1) if t.is_complex() else flat.double()


def _kind(t: Tensor) -> Tensor:
    real = torch.view_as_real(t).double() if t.is_complex() else t.double()
    return real.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
