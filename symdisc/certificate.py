"""What a completeness check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Certificate"]


@dataclass(frozen=True)
class Certificate:
    """Found orbit dimension beside the fibre dimension D - rank J.

    Where the network jumps inside, J is blind to what moves the jumps; ``fibre`` then counts the directions that also keep what inner
    steps follow from (`torchside.steady`), and ``note`` says so.
    ``gap`` is the ratio of the singular values on both sides of the cut; ``exact`` says that the rank was taken in exact
    arithmetic; ``miniature`` that it was made on a smaller network of the same structure, with ``D`` parameters. ``flow`` of the
    found dimensions have no closed form: they were read off the Jacobian itself, so for them the agreement is no evidence.
    ``outside`` are named families whose generators move the outputs: they are not counted, and nothing is complete beside them.
    """

    found: int
    fibre: int
    gap: float
    D: int
    exact: bool = False
    miniature: bool = False
    note: str = ""
    flow: int = 0
    outside: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.found == self.fibre and not self.outside

    @property
    def verdict(self) -> str:
        if self.outside:
            return f"wrong: {', '.join(self.outside)} changes the outputs"
        if self.found > self.fibre:
            return "wrong: more found than there is"
        return "complete: nothing is missing" if self.complete else f"incomplete: {self.fibre - self.found:,} dimensions have no name"

    def to_dict(self) -> dict[str, Any]:
        told = {**asdict(self), "outside": list(self.outside)}
        return {**{k: v for k, v in told.items() if v or k != "outside"}, "complete": self.complete}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Certificate:
        return cls(**{**{k: v for k, v in d.items() if k != "complete"}, "outside": tuple(d.get("outside", ()))})
