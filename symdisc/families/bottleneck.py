"""Linear streams that BatchNorm in eval mode writes (linear bottlenecks): a change of basis passes through its constants.

The stream is D (W x + b - m) + beta with D = diag(gamma / sqrt(v + eps)) constant, so g acts on what is stored as
W -> D^-1 g D W and beta -> g (beta + D (b - m)) - D (b - m); b, m, v and gamma stay. Readers take g^-1.

A diagonal g can as well be left to gamma and beta. That is the sum of this change of basis, of the scale between W and gamma and of the
translation between b and beta: none of the three is a gradient field (each moves beta by gamma), and the sum is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from symdisc.families.batchnorm import ChannelNorm, channel_norms
from symdisc.families.classes import Classes
from symdisc.families.dense import Finder, Space
from symdisc.families.emit import emit_dense, emit_torus
from symdisc.families.links import Link, Links
from symdisc.families.torus import solve_torus
from symdisc.moves import Index, Move, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import WITHIN, Symmetry

__all__ = ["find_bottlenecks"]

FORMULA = (r"W \mapsto D^{-1} g D W,\; \beta \mapsto g(\beta + c) - c,\; V \mapsto V g^{-1},\; D = \operatorname{diag}(\gamma / "
           r"\sqrt{v + \epsilon}),\; c = D (b - \mu)")

SCALES = (r"V c^{-1} \bigl(c \gamma\, \tfrac{x - \mu}{\sqrt{v + \epsilon}} + c \beta\bigr) = "
          r"V \bigl(\gamma\, \tfrac{x - \mu}{\sqrt{v + \epsilon}} + \beta\bigr)")


@dataclass(frozen=True)
class _Norm(ChannelNorm):
    """One dense ``writer`` stands in front, and nothing else reads what it writes."""

    writer: DenseUse
    bias: str | None


def _norms(classes: Classes) -> list[_Norm]:
    found = (_behind_writer(classes, sub.inputs[0], norm) for sub, norm in channel_norms(classes))
    return [n for n in found if n is not None]


def _behind_writer(classes: Classes, value: str, norm: ChannelNorm) -> _Norm | None:
    writers = [u for u in classes.facts.dense if u.op == value]
    biases = [u.parameter for u in classes.facts.shifts if u.op == value]
    users = [u for u in classes.graph.users.get(value, ()) if u.name in classes.graph.live]
    if len(writers) != 1 or len(users) != 1 or value in classes.graph.outputs:
        return None
    writer = writers[0]
    if writer.rows is not None or writer.outs is None or (biases and classes.bias(writer) is None):
        return None
    if any(len(classes.uses[n]) != 1 for n in (writer.parameter, *biases)):
        return None  # a shared layer is not this stream's own
    if not np.array_equal(norm.ins, classes(writer.outs)):
        return None
    return _Norm(**vars(norm), writer=writer, bias=biases[0] if biases else None)


class _Bottlenecks(Finder):
    def __init__(self, classes: Classes, links: Links) -> None:
        super().__init__(classes, links)
        self.norms = {n.gain: n for n in _norms(classes)}
        self.found: list[tuple[Space, list[_Norm]]] = []

    def run(self) -> list[Space]:
        for norm in self.norms.values():
            if not (self.dead | self.taken | self.turned)[norm.outs].any() and len(norm.outs) > 1:
                self.grow(norm.outs, False)
        return self.spaces

    def _ends_at(self, link: Link, dual: bool, gain: int, forward: bool) -> bool:
        return link.kind == "gain" and not forward and not dual and not gain and link.gain in self.norms

    def _complete(self, space: Space) -> bool:
        """A plain change of basis, and each norm writes the whole stream."""
        mine = [n for n in self.norms.values() if (self.element[n.outs] >= 0).any()]
        whole = all(sorted(self.element[n.outs].tolist()) == list(range(space.size)) for n in mine)
        if not whole or space.family != "gl" or not super()._complete(space):
            return False
        self.found.append((space, mine))
        return True


def find_bottlenecks(classes: Classes, links: Links) -> tuple[list[Space], list[Symmetry]]:
    """Spaces of linear streams behind BatchNorm, their changes of basis, and the scales among these that leave the writers alone."""
    finder = _Bottlenecks(classes, links)
    spaces = finder.run()
    made = [(space, _symmetry(classes, space, norms)) for space, norms in finder.found if any(space is s for s in spaces)]
    kept = [(space, s) for space, s in made if s is not None]
    return spaces, [s for _, s in kept] + _scales(classes, [space for space, _ in kept])


def _scales(classes: Classes, spaces: list[Space]) -> list[Symmetry]:
    """One positive number for each unit of the streams, every other unit as it is: gains and shifts in front of a unit against its
    readers. They are listed for their charges, as all other factors together hold them."""
    if not spaces:
        return []
    units = np.concatenate([s.classes[s.gain == 0] for s in spaces])  # gains behind the stream scale besides
    torus = solve_torus(classes, np.setdiff1d(np.arange(classes.count), units))
    buffers = set(classes.graph.buffers.values())
    return [replace(s, name="scale of the stream behind BatchNorm", condition=SCALES, counts=False,
                    note=f"{WITHIN}: changes of basis of the stream, scales and translations traded in front of it")
            for s in emit_torus(classes, torus) if not buffers & set(s.parameters)]


def _symmetry(classes: Classes, space: Space, norms: list[_Norm]) -> Symmetry | None:
    """The change of basis; None where some axis holds only a part of the space, which cannot be mixed there."""
    emitted = emit_dense(classes, [space])
    if not emitted:
        return None
    plain = emitted[0]
    element = dict(zip(space.classes.tolist(), space.element.tolist(), strict=True))
    shifts = {n.shift for n in norms}
    moves = [m for m in plain.moves if m.parameter not in shifts]
    for n in norms:
        places = np.argsort([element[c] for c in n.outs.tolist()])[None, None, :]
        extra = (n.mean, n.variance)
        moves.append(Move("bn_matmul", n.writer.parameter, n.writer.out_axis, Index.of(places), gain=n.gain, offset=n.eps,
                          extra=extra[1:]))
        moves.append(Move("bn_recentre", n.shift, 0, Index.of(places), gain=n.gain, offset=n.eps,
                          extra=extra if n.bias is None else (*extra, n.bias)))
    moves.sort(key=lambda m: (m.parameter, m.axis))
    return replace(plain, name="change of basis behind BatchNorm", moves=tuple(moves), parameters=parameters_of(moves),
                   formula=FORMULA,
                   assumptions=("eval mode: running statistics are constants", "the norm's gain has no zero entry"))
