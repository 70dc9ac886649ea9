"""A stream that centring norms read, and a linear map too: x -> (1 + 1 l^T) x, which no centring norm sees.

LN(x + c 1) = LN(x) for any c, so also for c = l^T x. Writers of the stream become (1 + 1 l^T) W, linear readers
W (1 + 1 l^T)^{-1}; what the norms hand on does not move. Where norms alone read the stream every writer has this freedom for
itself (``Invisible.writers``), and nothing is claimed here.
"""

from __future__ import annotations

import numpy as np

from symdisc.families.classes import Classes
from symdisc.families.dense import Finder, Space
from symdisc.families.links import Link, Links

__all__ = ["Shears", "find_shears"]


class Shears(Finder):
    """Grows streams in front of centring norms."""

    def run(self) -> list[Space]:
        """One space for each stream in front of a centring norm."""
        for link in self.links.all:
            members = link.left
            plain = link.kind == "norm1" and len(members) > 1 and len(np.unique(members)) == len(members)
            if plain and not (self.taken | self.dead | self.turned)[members].any():
                self.grow(members, False)
        return self.spaces

    def _ends_at(self, link: Link, dual: bool, gain: int, forward: bool) -> bool:
        return link.kind == "norm1" and forward and not dual and not gain

    def _complete(self, space: Space) -> bool:
        """Each norm sees the whole vector once, no unit is on both sides of a contraction, and something else reads it."""
        if space.family != "gl" or not self._read(space):
            return False
        for link in self.links.all:
            element = self.element[link.left] if link.kind == "norm1" else np.zeros(0)
            if (element >= 0).any() and sorted(element.tolist()) != list(range(space.size)):
                return False
        complete = super()._complete(space)
        space.family = "shear"
        return complete

    def _read(self, space: Space) -> bool:
        """A linear map reads the stream past the norms."""
        return any(use.ins is not None and bool((self.element[self.classes(use.ins)] >= 0).any())
                   for use in self.classes.facts.dense)


def find_shears(classes: Classes, links: Links) -> list[Space]:
    """Spaces of family "shear": matrices 1 + 1 l^T."""
    return Shears(classes, links).run()
