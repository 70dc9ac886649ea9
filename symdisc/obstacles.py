"""Why not: for every feature space and every family that a space may have, what forbids it and which edit would take that away.

A feature space is what a dense weight writes or reads. The facts that folding recorded name the operator behind every
restriction; here they are gathered over all units that the space is tied to. An edit that exchanges operators is a *swap*, and
``torchside.whynot`` derives the families of the swapped graph to see whether the family is there then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from symdisc.families.charts import ODD
from symdisc.families.classes import Classes, components
from symdisc.families.dense import Space
from symdisc.families.naming import common_path
from symdisc.spaces import Norm
from symdisc.symmetry import Broken, Discrete, Symmetry

__all__ = ["Obstacle", "Obstacles", "Refusal"]


@dataclass(frozen=True)
class Obstacle:
    """What forbids a family. ``edit`` would take it away ("" when none is known); ``swap``: (operator, operator put in its
    place) where that is all there is to the edit, ("", name) to set the small constant of one operator to 0, ("product", "") to keep
    one factor of each product of activations."""

    breaker: str
    reason: str
    edit: str = ""
    swap: tuple[str, str] | None = None


@dataclass(frozen=True)
class Refusal:
    """A family that a space lacks: ``kind`` is the family alone, ``sides`` the weights (parameter, axis) that hold the space.

    ``swaps`` are those of all obstacles, or None where an obstacle has none; ``edits`` counts the different edits; ``tie`` is
    equal for spaces that move together.
    """

    broken: Broken
    kind: str
    units: int
    sides: tuple[tuple[str, int], ...]
    edits: int
    swaps: tuple[tuple[str, str], ...] | None
    tie: int


TURNED = Obstacle("rotary positions", "planes of two units are turned by constant angles", "leave the rotary positions out")
UNCENTRED = "use RMSNorm in place of LayerNorm", ("aten.layer_norm", "aten.rms_norm")
GROUPED = "leave the mean in", None
LINEAR = "keep one linear factor in place of the product"
# What folding writes beside units that may not be mixed or scaled.
WORDS = {
    "product": Obstacle("aten.mul", "each unit is multiplied by another activation", LINEAR, ("product", "")),
    "constant factor per unit": Obstacle("aten.mul", "each unit is multiplied by constants of its own"),
    "running statistics": Obstacle("running statistics", "each unit is divided by its own running deviation"),
    "constant added": Obstacle("aten.add", "a constant is added", "leave the constant out"),
    "constant bias": Obstacle("constant bias", "a constant is added", "leave the constant out"),
    "mean subtracted": Obstacle("aten.sub", "the mean over the units is subtracted"),
    "computed factor": Obstacle("computed factor", "a factor is computed from parameters"),
    "computed shift": Obstacle("computed shift", "a shift is computed from parameters"),
    "computed bias": Obstacle("computed bias", "a bias is computed from parameters"),
    "computed weight": Obstacle("computed weight", "the weight is computed from parameters"),
    ODD: Obstacle("computed weight", "the weight is computed from parameters"),
    "summed over units": Obstacle("aten.sum", "the units are summed"),
    "softmax": Obstacle("aten.softmax", "the weights of attention are not linear in the scores"),
    "output": Obstacle("output", "it is what the network gives out"),
}


@dataclass
class _Place:
    """A feature space: its classes, the weights (parameter, axis) that hold it, the modules around it."""

    members: np.ndarray
    sides: list[tuple[str, int]] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


class Obstacles:
    """Reads what the spaces of one folded network admit, from its facts and from what was found."""

    def __init__(self, classes: Classes, spaces: Sequence[Space], symmetries: Sequence[Symmetry], discrete: Sequence[Discrete]) -> None:
        self.classes, self.facts = classes, classes.facts
        self.family = {int(c): s.family for s in spaces for c in s.classes.ravel()}
        self.acting: dict[tuple[str, int], dict[str, set[int]]] = {}  # kind of symmetry -> positions that it moves
        factors: list[Symmetry | Discrete] = [*symmetries, *discrete]
        for s in factors:
            kind = "common scale" if s.family == "scale" and s.shape == (1,) else s.family
            for m in s.moves:
                self.acting.setdefault((m.parameter, m.axis), {}).setdefault(kind, set()).update(m.index.positions().ravel().tolist())

    def refusals(self) -> tuple[Refusal, ...]:
        """What each space does not admit, in order of the spaces and of the families."""
        return tuple(r for place in self.places() for r in self.lacking(place))

    def admits(self, sides: Sequence[tuple[str, int]], kind: str, units: int) -> bool:
        """A symmetry of this kind, or a change of basis, moves all units of the space that these weights hold."""
        for wanted in (kind, "gl", *(["scale"] if kind == "common scale" else [])):
            moved = [self.acting[side][wanted] for side in sides if wanted in self.acting.get(side, {})]
            if moved and all(len(m) >= units for m in moved):
                return True
        return False

    def on(self, place: _Place) -> set[str]:
        """Kinds of symmetries that move weights of a space along it."""
        return {kind for side in place.sides for kind in self.acting.get(side, {})}

    # --- spaces -------------------------------------------------------------------------------------------------------
    def places(self) -> list[_Place]:
        """Feature spaces that lie inside the network: neither raw data nor what is given out."""
        found: dict[tuple[int, ...], _Place] = {}
        for use in self.facts.dense:
            for vec, axis in ((use.outs, use.out_axis), (use.ins, use.in_axis)):
                members = np.unique(self.classes(vec)) if vec is not None else np.zeros(0, dtype=np.int64)
                members = members[members != self.classes.data]
                if len(members) and not self.given_out[members].any():
                    place = found.setdefault(tuple(members.tolist()), _Place(members))
                    place.sides.append((use.parameter, axis))
                    place.modules.append(use.module)
        return list(found.values())

    @cached_property
    def given_out(self) -> np.ndarray:
        mask = np.zeros(self.classes.count, dtype=bool)
        for units, why in self.facts.fixed:
            if why == "output":
                mask[self.classes(units)] = True
        return mask

    def tied(self, members: np.ndarray) -> np.ndarray:
        """All classes that a matrix on these would have to move too: across norms, gains, copies and contractions."""
        links = self.classes.links
        seen = np.zeros(self.classes.count, dtype=bool)
        frontier = members
        while len(frontier):
            seen[frontier] = True
            at, _ = links.at(frontier)
            new = np.unique(np.concatenate([links.left[at], links.right[at]]))
            frontier = new[~seen[new] & (new != self.classes.data)]
        return np.flatnonzero(seen)

    @cached_property
    def together(self) -> np.ndarray:
        """Component number of each class: tied by links or by an operator that acts on each unit by itself."""
        links = self.classes.links
        pairs = [(links.left, links.right), *((self.classes(a), self.classes(b)) for a, b, _ in self.facts.elementwise)]
        free = [(a[keep], b[keep]) for a, b in pairs for keep in [(a != self.classes.data) & (b != self.classes.data)]]
        return components(self.classes.count, free)

    # --- families -----------------------------------------------------------------------------------------------------
    def lacking(self, place: _Place) -> Iterator[Refusal]:
        """One record for each family that the space lacks and for which an obstacle is known."""
        family, acting = self.family.get(int(place.members[0]), ""), self.on(place)
        if family == "gl":
            return
        n, all_ = len(place.members), self.tied(place.members)
        norms = [x for x in self.facts.norms if np.isin(self.classes(x.ins), all_).any()]
        own = [x for x in norms if np.isin(self.classes(x.ins), place.members).any()]
        mixing = [*self.killed(all_), *self.ties(all_)]
        units = 2 * n if family == "complex" else n  # the two units of a rotary plane are one class
        block = min([units, *self.heads(place), *(len(x.ins) for x in own)])
        if block > 1:
            yield from self.told(place, "gl", f"change of basis GL({block})" + (" of each head" if block < units else ""),
                                 [TURNED] if family == "complex" else mixing + self.only_rotations(norms))
        if norms and n > 1 and block == n and family != "o":
            yield from self.told(place, "o", f"rotation SO({n})", self.centring(norms) if family == "o1" else mixing)
        if own and "common scale" not in acting:
            yield from self.told(place, "common scale", "common scale R_{>0}", self.eps(norms))
        if not norms and "scale" not in acting and family != "complex":
            yield from self.told(place, "scale", f"scales of units R_{{>0}}^{n}", self.fixed(place.members))
        if not family and "sign" not in acting:
            yield from self.told(place, "sign", f"sign flips (Z_2)^{n}", self.signs(place.members))
        if not family and "permutation" not in acting and n > 1:
            yield from self.told(place, "permutation", f"permutations S_{n}", self.rigid(place.members))

    def heads(self, place: _Place) -> Iterator[int]:
        """Sizes of the blocks in which the space is contracted with another one (queries with keys)."""
        for dual in self.facts.duals:
            if any(np.isin(self.classes(side), place.members).any() for side in (dual.left, dual.right)):
                yield dual.left.shape[-1]

    def told(self, place: _Place, kind: str, family: str, found: Iterable[Obstacle]) -> Iterator[Refusal]:
        """All obstacles in one record; nothing is said where none was found."""
        known = list(dict.fromkeys(found))
        if not known:
            return
        edits, swaps = [o.edit for o in known], [o.swap for o in known]
        broken = Broken(common_path(place.modules), family, ", ".join(dict.fromkeys(o.breaker for o in known)),
                        "; ".join(dict.fromkeys(o.reason for o in known)), " and ".join(dict.fromkeys(edits)) if all(edits) else "",
                        tuple(dict.fromkeys(p for p, _ in place.sides)))
        yield Refusal(broken, kind, len(place.members), tuple(place.sides), len(set(edits)),
                      None if None in swaps else tuple(x for x in swaps if x), int(self.together[place.members[0]]))

    # --- obstacles ----------------------------------------------------------------------------------------------------
    def killed(self, members: np.ndarray) -> list[Obstacle]:
        """What forbids mixing these classes."""
        return [self.worded(why, "acts on each unit by itself", "leave {} out", "aten.alias")
                for why in self.reasons(self.facts.killed, members)]

    def fixed(self, members: np.ndarray) -> list[Obstacle]:
        """What forbids scaling these classes one by one."""
        return [self.worded(why, "f(c x) is not a power of c times f(x)", "use relu in place of {}", "aten.relu")
                for why in self.reasons(self.facts.fixed, members)]

    def signs(self, members: np.ndarray) -> list[Obstacle]:
        """Operators that let no sign pass."""
        passing = ("constant factor per unit", "running statistics", "product", "mean subtracted", "summed over units", ODD)
        return [self.worded(why, "f(-x) is neither f(x) nor -f(x)", "use tanh in place of {}", "aten.tanh")
                for why in self.reasons(self.facts.killed, members) if why not in passing]

    def rigid(self, members: np.ndarray) -> list[Obstacle]:
        """Constants of their own keep units in place."""
        held = [*self.facts.rigid, *(units for _, units, _ in self.facts.marked)]
        met = any(np.isin(self.classes(units), members).any() for units in held)
        return [Obstacle("constants", "each unit meets constants of its own", "give all units the same constants")] if met else []

    def ties(self, members: np.ndarray) -> list[Obstacle]:
        """Weights used at several places by the names of their tied tensors."""
        found = []
        for parameter, uses in self.classes.uses.items():
            names = [a for a, c in self.classes.graph.aliases.items() if c == parameter]
            touched = [v for u in uses for v in (getattr(u, "outs", None), getattr(u, "ins", None)) if v is not None]
            if names and len({u.op for u in uses}) > 1 and any(np.isin(self.classes(v), members).any() for v in touched):
                found.append(Obstacle(f"{names[0]} = {parameter}", "one weight is used at two places",
                                      f"untie {names[0]} from {parameter}"))
        return found

    def only_rotations(self, norms: Sequence[Norm]) -> list[Obstacle]:
        packets = dict.fromkeys(map(self.packet, norms))
        return [Obstacle(p, "a norm keeps lengths under rotations only", "leave the norms out", (p, "aten.alias") if " " not in p else None)
                for p in packets]

    def centring(self, norms: Sequence[Norm]) -> list[Obstacle]:
        return [Obstacle(self.packet(x), "the norm subtracts the mean, so the direction of ones stays",
                         *(GROUPED if self.packet(x) == "aten.group_norm" else UNCENTRED)) for x in norms if x.centred]

    def eps(self, norms: Sequence[Norm]) -> list[Obstacle]:
        """Norms with a constant under the root."""
        found = [(x, *self.under_root(x)) for x in norms]
        return [Obstacle(self.packet(x), f"eps = {size:g} is added under the root", "set eps to 0", ("", op))
                for x, op, size in found if size > 0]

    def under_root(self, norm: Norm) -> tuple[str, float]:
        """(operator that adds it, eps): a norm written out adds it to the mean of the squares."""
        if norm.eps:
            return norm.op, norm.eps
        frontier = [norm.op]
        while frontier:
            for op in self.classes.graph.users.get(frontier.pop(), ()):
                size = next((float(a) for a in op.args[1:] if isinstance(a, (int, float))), 0.0) if op.packet == "aten.add" else 0.0
                if size:
                    return op.name, size
                frontier += [op.name] if op.packet in ("aten.mean", "aten.sum", "aten.div") else []
        return norm.op, 0.0

    def packet(self, norm: Norm) -> str:
        op = self.classes.graph.by_name.get(norm.op)
        return norm.op if op is None else op.packet if op.packet.endswith("norm") else f"norm written out ({op.packet})"

    # --- facts --------------------------------------------------------------------------------------------------------
    def reasons(self, table: Sequence[tuple[np.ndarray, str]], members: np.ndarray) -> list[str]:
        """Distinct reasons recorded for any of these classes."""
        inside = np.zeros(self.classes.count, dtype=bool)
        inside[members] = True
        return list(dict.fromkeys(why for units, why in table if inside[self.classes(units)].any()))

    @cached_property
    def entrywise(self) -> frozenset[str]:
        """Operators that act on each unit by itself."""
        return frozenset(self.classes.graph.by_name[op].packet for _, _, op in self.facts.elementwise)

    def worded(self, why: str, reason: str, edit: str, swap: str) -> Obstacle:
        if why in self.entrywise:
            return Obstacle(why, reason, edit.format(why), (why, swap))
        if why in WORDS:
            return WORDS[why]
        if why in dict(self.facts.opaque):
            return Obstacle(why, "the operator has no rule, so nothing is claimed through it")
        return Obstacle(why, "the operator treats its units apart" if why.startswith("aten.") else why)
