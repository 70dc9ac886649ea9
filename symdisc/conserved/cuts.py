"""Where a model trains by something else than the full gradient of its outputs, and what that costs.

A law of training is <X_a, theta'> = 0, so it needs the gradient that *trains* the model: frozen parameters, ``detach``, ``no_grad`` and
padding rows leave the function and its symmetries as they are, and take away part of the gradient that was orthogonal to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symdisc.symmetry import Symmetry

__all__ = ["ASSUMED", "TRIVIAL", "Cuts", "because", "provided"]

ASSUMED = "conserved quantities assume that all parameters but frozen ones are trained by the full gradient: "
TRIVIAL = "nothing that it moves is trained, so that its values are constants"
MOST = 3  # causes that a reason lists


@dataclass(frozen=True)
class Cuts:
    """``still``: parameters that no gradient reaches although the function depends on them, or that are frozen; constants of training.
    ``lost``: symmetries that the gradient of training is not orthogonal to, each with the reason. ``kept``: symmetries that it is
    orthogonal to because of what is not trained (a padding row of zeros, or all that it moves), each with that condition."""

    still: tuple[str, ...] = ()
    lost: tuple[tuple[Symmetry, str], ...] = ()
    kept: tuple[tuple[Symmetry, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.still or self.lost or self.kept)

    def pattern(self, s: Symmetry) -> str:
        """The reason with numbers in place of the names, equal for like cuts in like layers."""
        text = dict((*self.lost, *self.kept)).get(s, "")
        for k, name in sorted(enumerate(s.parameters), key=lambda item: -len(item[1])):
            text = text.replace(name, f"<{k}>")
        return text

    def to_dict(self, symmetries: Sequence[Symmetry]) -> dict[str, Any]:
        """Plain data; symmetries by their number."""
        number = {s: i for i, s in enumerate(symmetries)}
        lost, kept = ([[number[s], text] for s, text in part if s in number] for part in (self.lost, self.kept))
        return {"still": list(self.still), "lost": lost, "kept": kept}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], symmetries: Sequence[Symmetry]) -> Cuts:
        lost, kept = (tuple((symmetries[i], text) for i, text in d[part]) for part in ("lost", "kept"))
        return cls(tuple(d["still"]), lost, kept)


def because(causes: Sequence[str]) -> str:
    """Why a symmetry that holds conserves nothing, in words."""
    return f"{_listed(causes)}: the gradient that trains this model is not orthogonal to the symmetry"


def provided(causes: Sequence[str]) -> str:
    """What a law rests on where part of what the symmetry moves is not trained."""
    return f"{_listed(causes)}; the law holds at the values that are kept there"


def _listed(causes: Sequence[str]) -> str:
    told = list(causes) or ["part of the gradient is cut"]
    return "; ".join(told[:MOST]) + (f" (and {len(told) - MOST} more)" if len(told) > MOST else "")
