"""What a completeness check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Certificate"]


@dataclass(frozen=True)
class Certificate:
    """Found orbit dimension beside the fibre dimension D - rank J.

    ``gap`` is the ratio of the singular values on both sides of the cut; ``exact`` says that the rank was taken in exact
    arithmetic; ``miniature`` that it was made on a smaller network of the same structure, with ``D`` parameters. ``flow`` of the
    found dimensions have no closed form: they were read off the Jacobian itself, so for them the agreement is no evidence.
    """

    found: int
    fibre: int
    gap: float
    D: int
    exact: bool = False
    miniature: bool = False
    note: str = ""
    flow: int = 0

    @property
    def complete(self) -> bool:
        return self.found == self.fibre

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Certificate:
        return cls(**{k: v for k, v in d.items() if k != "complete"})
