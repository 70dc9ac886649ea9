"""Linear streams that BatchNorm in eval mode reads in front of a linear map: a change of basis passes through its constants.

The norm hands on y = D (x - m) + beta with D = diag(gamma / sqrt(v + eps)) constant. Where x goes to g x, beta goes to
D (g (D^-1 beta - m) + m), so that y goes to D g D^-1 y, which the next weight takes back: V -> V D g^-1 D^-1. Padding with zeros
commutes with it. b, m, v and gamma stay. Pre-activation blocks without an activation there (MaxViT, CoAtNet) have such norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.batchnorm import ChannelNorm, channel_norms
from symdisc.families.classes import Classes
from symdisc.families.dense import Finder, Space
from symdisc.families.emit import emit_dense
from symdisc.families.links import Links
from symdisc.families.shear import Shears
from symdisc.moves import Move, parameters_of
from symdisc.symmetry import Symmetry

__all__ = ["find_preactivated"]

CONSTANTS = ("running statistics", "constant factor per unit")
FORMULA = (r"\beta \mapsto D (g (D^{-1} \beta - \mu) + \mu),\; V \mapsto V D g^{-1} D^{-1},\; D = \operatorname{diag}(\gamma / "
           r"\sqrt{v + \epsilon})")


@dataclass(frozen=True)
class _Norm(ChannelNorm):
    """``factor`` multiplies by 1 / sqrt(v + eps)."""

    factor: str


def _norms(classes: Classes) -> list[_Norm]:
    """Those behind which nothing forbids to mix: an activation there is the usual case."""
    found = []
    for sub, norm in channel_norms(classes):
        if not classes.killed[norm.outs].any() and len(np.unique(norm.ins)) == len(norm.ins) > 1:
            factor = next(u.name for u in classes.graph.users[sub.name] if u.name in classes.graph.live)
            found.append(_Norm(**vars(norm), factor=factor))
    return found


class _Reads(Finder):
    """Spaces in front of such norms: what their constants do to the units is known and no obstacle."""

    def __init__(self, classes: Classes, links: Links, norms: list[_Norm]) -> None:
        super().__init__(classes, links)
        self.norms = {n.gain: n for n in norms}
        self.found: list[tuple[Space, list[_Norm]]] = []
        factors, facts = {n.factor for n in self.norms.values()}, classes.facts
        self.dead = np.zeros(classes.count, dtype=bool)
        self.dead[classes.data] = True
        for units in [*(u for u, why in facts.killed if why not in CONSTANTS), *(u for _, u, _ in facts.marked),
                      *(u.outs for u in facts.statistics if u.op not in factors)]:
            self.dead[classes(units)] = True
        self.behind = np.zeros(classes.count, dtype=bool)
        for norm in self.norms.values():
            self.behind[norm.outs] = True
        self.turned = classes.rotated & self.behind  # factors of the units in front are these norms' or recorded as marks

    def run(self) -> list[Space]:
        for norm in self.norms.values():
            if not (self.dead | self.taken | self.turned)[norm.ins].any():
                self.grow(norm.ins, False)
        return self.spaces

    def _complete(self, space: Space) -> bool:
        """The space stands in front of each of these norms that it meets, whole, and of no other conjugating gain."""
        mine = [n for n in self.norms.values() if (self.element[n.ins] >= 0).any()]
        whole = [sorted(self.element[n.ins].tolist()) == list(range(space.size)) and not self.gain[n.ins].any() for n in mine]
        if not mine or not all(whole) or self.turned[space.classes].any() or not all(map(self._read_whole, mine)):
            return False
        front = [gain is not None and gain[2] for gain in space.gains]
        if self.classes.rotated[space.classes[np.array(front)[space.gain]]].any():
            return False  # another BatchNorm writes the stream, with constants of its own
        if not super()._complete(space):
            return False
        self.found.append((space, mine))
        return True

    def _read_whole(self, norm: _Norm) -> bool:
        """Whatever reads the norm's channels reads all of them once, in their order: the constants stand along that axis."""
        reads = (self.classes(u.ins) for u in self.classes.facts.dense if u.ins is not None)
        return all(np.array_equal(vec, norm.outs) for vec in reads if np.isin(vec, norm.outs).any())


class _ShearedReads(_Reads, Shears):
    """The same for shears along 1, which the centring norms of the stream do not see."""

    def run(self) -> list[Space]:
        return Shears.run(self)


def find_preactivated(classes: Classes, links: Links, streams: Sequence[Space]) -> tuple[list[Space], list[Symmetry], list[Symmetry]]:
    """Spaces in front of BatchNorms that dense weights read; their changes of basis or rotations, and their shears.

    Behind those that write one of ``streams`` any matrix may act already, which is the same as in front of them.
    """
    behind = np.concatenate([s.classes for s in streams] or [np.zeros(0, dtype=np.int64)])
    norms = [n for n in _norms(classes) if not np.isin(n.outs, behind).any()]
    if not norms:
        return [], [], []
    finders = _Reads(classes, links, norms), _ShearedReads(classes, links, norms)
    for finder in finders:
        finder.run()
    turned, sheared = ([(space, s) for space, norms in f.found if any(space is kept for kept in f.spaces)
                        for s in _symmetry(classes, space, norms)] for f in finders)
    return [space for space, _ in turned], [s for _, s in turned], [s for _, s in sheared]


def _symmetry(classes: Classes, space: Space, norms: list[_Norm]) -> list[Symmetry]:
    """None where some axis holds a part of the space only."""
    plain = next(iter(emit_dense(classes, [space])), None)
    if plain is None:
        return []
    by_gain, by_shift = {n.gain: n for n in norms}, {n.shift: n for n in norms}
    moves = []
    for move in plain.moves:
        norm = by_gain.get(move.gain or "")
        if move.parameter in {n.mean for n in norms}:
            continue
        if move.parameter in by_shift:
            norm = by_shift[move.parameter]
            moves.append(Move("bn_recentre", move.parameter, 0, move.index, gain=norm.gain, gain_power=-1, offset=norm.eps,
                              extra=(norm.mean, norm.variance)))
        elif norm is not None:
            moves.append(replace(move, kind="bn_matmul", gain_power=1, offset=norm.eps, extra=(norm.variance,)))
        else:
            moves.append(move)
    return [replace(plain, name=f"{plain.name} in front of BatchNorm", moves=tuple(moves), parameters=parameters_of(moves),
                    formula=FORMULA, assumptions=("eval mode: running statistics are constants", "gains have no zero entry"))]
