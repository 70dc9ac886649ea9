"""From symmetries and a flow to conserved quantities: each step is algebra on the generator, none looks at a name.

Write the generator as X_a(theta). Every function symmetry has <grad, X_a> = 0, so a flow theta' = -P (grad + rho) obeys
<P^-1 theta', X_a> = -<rho, X_a>. Where P^-1 X_a is the gradient of Q_a this is Q_a' = -<rho, X_a>; where X_a is linear,
that means a symmetric matrix in the inner product of P^-1. With inertia, antisymmetric matrices are conserved instead
(Noether): d/dt (f <P^-1 theta', A theta>) = 0 with f' = friction f. Sources: arXiv:2210.17216, 2012.04728, 2405.12888.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import sympy as sp

from symdisc.conserved import reasons
from symdisc.conserved.algebra import MATRIX_FAMILIES, restrict
from symdisc.conserved.charted import charted_answer
from symdisc.conserved.cuts import Cuts
from symdisc.conserved.expressions import parse_scalar
from symdisc.conserved.flow import THETA, Flow, Local, tex
from symdisc.conserved.inertia import second_order
from symdisc.conserved.linear import linear_answers
from symdisc.conserved.oneform import FormVerdict, Miniature, analyse, miniature, planar_potential
from symdisc.conserved.orthogonal import orthogonality
from symdisc.conserved.pairing import depends_on
from symdisc.conserved.quantity import ConservedQuantity, Term
from symdisc.conserved.rigid import rigid_answer
from symdisc.conserved.typeset import constraint_latex
from symdisc.curves import X, curve
from symdisc.errors import BadInput, Undecided
from symdisc.moves import ADDITIVE, Move
from symdisc.symmetry import Symmetry

__all__ = ["conserved_quantities"]

Shapes = Mapping[str, tuple[int, ...]]
LINEAR = ("matmul", "scale")


def conserved_quantities(symmetries: Sequence[Symmetry], parameters: Shapes, flow: Flow | str | None = None,
                         cuts: Cuts | None = None) -> tuple[ConservedQuantity, ...]:
    """What the flow conserves because of each symmetry, or why there is nothing.

    ``parameters`` are the shapes of all trained parameters by name; whatever else a symmetry reads is a constant.
    ``flow`` is gradient flow unless given. With inertia a matrix group gives two entries (antisymmetric and symmetric
    part), otherwise one entry per symmetry, in order. ``cuts`` says where the model trains by less than the full gradient.
    Raises BadInput for flows that do not exist or lack values.
    """
    chosen = Flow(flow) if isinstance(flow, str) else flow
    found: list[ConservedQuantity] = []
    lost, kept, still = (dict(cuts.lost), dict(cuts.kept), set(cuts.still)) if cuts else ({}, {}, set())
    for s in symmetries:
        moved = {*(m.parameter for m in s.moves), *_moved(s)}
        read = dict.fromkeys([*(n for m in s.moves for n in (m.parameter, *depends_on(m))), *_moved(s)])
        constant = set() if any(m.charts for m in s.moves) else still - moved
        shapes: Shapes = {n: tuple(parameters[n]) for n in read if n in parameters and n not in constant}
        for m in s.moves:
            shapes = m.viewed(shapes)
        why = lost.get(s, "") if lost else ""
        if not why and still & moved and chosen is not None and chosen.name != "gradient_flow":
            why = reasons.untrained(sorted(still & moved))
        if why:
            answers: Sequence[ConservedQuantity] = [Deriver(s, shapes, chosen or Flow()).none(why)]
        else:
            answers = _under_gradient_flow(s, tuple(shapes.items())) if chosen is None else Deriver(s, shapes, chosen).run()
        more = (kept[s],) if kept and s in kept else ()
        found += [replace(q, assumptions=(*q.assumptions, *more)) for q in answers] if more else answers
    return tuple(found)


def _moved(symmetry: Symmetry) -> tuple[str, ...]:
    return tuple(n for g in symmetry.generators for n in g.parameters)


@lru_cache(maxsize=8192)
def _under_gradient_flow(
    symmetry: Symmetry, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> tuple[ConservedQuantity, ...]:
    """Nonlinear generators take a tenth of a second, and a catalog is asked more than once."""
    return tuple(Deriver(symmetry, dict(shapes), Flow()).run())


@dataclass
class Deriver:
    """One symmetry under one flow: the facts about its generator, and the answers for flows of first order."""

    symmetry: Symmetry
    parameters: Shapes
    flow: Flow

    def __post_init__(self) -> None:
        s = self.symmetry
        names = tuple(dict.fromkeys([*(m.parameter for m in s.moves), *_moved(s)]))
        self.local: dict[str, Local] = {n: self.flow.at(n) for n in names if n in self.parameters}
        self.untrained = [n for n in names if n not in self.local or self.local[n].frozen]
        trained = {n for n in self.parameters if n not in self.local or not self.local[n].frozen}
        trained -= {n for n in self.parameters if n not in self.local and self.flow.at(n).frozen}
        self.trained = frozenset(trained)
        self.nonlinear = [m for m in s.moves if self.trained & set(depends_on(m))]
        self.matrix = s.family in MATRIX_FAMILIES

    # --- the way through ----------------------------------------------------------------------------------------------
    def run(self) -> list[ConservedQuantity]:
        if not self.symmetry.moves and not self.symmetry.generators:
            return [self.none(reasons.FLOW)]
        if self.untrained:
            return [self.none(reasons.untrained(self.untrained))]
        kinds = {w.kind for w in self.local.values()}
        if kinds == {"history"}:
            return [self.history()]
        if any(m.charts for m in self.symmetry.moves):
            return [charted_answer(self)]
        last = self.symmetry.moves[-1].kind.removesuffix("_bias") if self.symmetry.moves else ""
        special = {"product": reasons.PRODUCT, "blind": reasons.BLIND, "isospectral": reasons.ISOSPECTRAL, "shear": reasons.SHEAR,
                   "normed_table": reasons.NORMED}.get(last, "")
        if special and self.nonlinear:
            return [self.none(special, orthogonality(self.local))]
        if len({(w.inertia, w.friction) for w in self.local.values()}) > 1 or len(kinds) > 1:
            return [self.none("its parameters follow flows with different inertia or friction")]
        try:
            if self.symmetry.generators:
                return linear_answers(self)
            if any(w.inertia for w in self.local.values()):
                return second_order(self)
            return [self.first_order()]
        except (Undecided, BadInput) as error:
            return [self.none(f"undecided: {error}")]

    def none(
        self, reason: str, constraint: str = "", law: str = "", assumptions: tuple[str, ...] = ()
    ) -> ConservedQuantity:
        return ConservedQuantity(self.symmetry, self.flow.name, "none", "zero", "", 0, law=law, reason=reason,
                                 constraint=constraint, assumptions=(*self.symmetry.assumptions, *assumptions))

    def rigid(self, constraint: str) -> ConservedQuantity:
        """See ``conserved.rigid``."""
        return rigid_answer(self, constraint)

    def make(
        self, status: str, part: str, form: str, terms: Sequence[Term], dimension: int | None = None, **more: Any
    ) -> ConservedQuantity:
        domain = tuple(sorted({w.domain for w in self.local.values() if w.domain}))
        size = ConservedQuantity.count(part, self.symmetry) if dimension is None else dimension
        assumptions = (*self.symmetry.assumptions, *domain)
        return ConservedQuantity(
            self.symmetry, self.flow.name, status, part, form, size, tuple(terms), assumptions=assumptions, **more
        )

    # --- facts --------------------------------------------------------------------------------------------------------
    def part(self) -> str:
        """The part of the algebra whose field, in the metric P^-1, is a gradient field (for linear fields).

        A move multiplies some axis of a parameter by a or by -a^T, and moves of one parameter add up, so the matrix of
        the field is symmetric for symmetric a, and for those alone; conjugated by constant gains, D a D^-1, it is so
        for diagonal a.
        """
        if not self.matrix:
            return "entries"
        curved = any(not w.constant for w in self.local.values())
        return restrict(self.symmetry.family, "diagonal" if curved or self.conjugated else "symmetric")

    @property
    def conjugated(self) -> bool:
        return any(m.gain for m in self.symmetry.moves if m.kind == "matmul")

    def scale(self) -> sp.Expr:
        """A common constant preconditioner only changes the clock and is left out of Q."""
        values = {w.precondition for w in self.local.values()}
        return next(iter(values)) if len(values) == 1 and next(iter(self.local.values())).constant else sp.Integer(1)

    def terms(self) -> list[Term]:
        found = []
        for m in self.symmetry.moves:
            p = self.local[m.parameter].precondition
            if p.has(THETA):
                found.append(Term(m, 1.0, self.potential(m, p), tuple(self.parameters[m.parameter])))
            else:
                weight = sp.nsimplify(self.scale() / p)
                if not weight.is_number:
                    raise BadInput(f"flow {self.flow.name} has no number for the learning rate of {m.parameter}")
                found.append(Term(m, float(weight), "", tuple(self.parameters[m.parameter])))
        return found

    def potential(self, m: Move, p: sp.Expr) -> str:
        """Integral of X/P entry by entry (Q = sum D_ii int s/p(s) ds), as text in x."""
        if m.kind not in (*LINEAR, *ADDITIVE, "curved_scale"):
            raise Undecided(f"a move of kind {m.kind} under a preconditioner that depends on the parameters")
        bent = curve(m.rep) if m.kind == "curved_scale" else None
        field = bent.slope.subs(X, THETA) if bent is not None else THETA if m.kind in LINEAR else sp.Integer(1)
        return self.integral(field, p)

    @staticmethod
    def integral(field: sp.Expr, p: sp.Expr) -> str:
        """Of field / p in theta, as text in x; raises Undecided where sympy finds no closed form."""
        found = sp.integrate(sp.simplify(field / p), THETA)
        if found.has(sp.Integral):
            raise Undecided(f"sympy finds no closed form for the integral of {field / p}")
        real = sp.simplify(found).replace(sp.log, lambda a: sp.log(a if a.is_positive else sp.Abs(a)))  # entries have both signs
        return str(real.subs(THETA, sp.Symbol("x")))

    # --- first order --------------------------------------------------------------------------------------------------
    def first_order(self) -> ConservedQuantity:
        kind = next(iter(self.local.values())).kind
        if kind == "fisher" and any(w.rho != 0 for w in self.local.values()):
            return self.none(reasons.FISHER_DECAY)
        if self.nonlinear:
            return self.nonlinear_answer()
        part = self.part()
        if part == "zero":
            return self.antisymmetric()
        terms = self.terms()
        status, law, rate = self.decay(terms)
        rest = self.rest_constraint(terms, part)
        return self.make(status, part, "moment", terms, law=law, rate=rate, reason=rest[0], constraint=rest[1])

    def rest_constraint(self, terms: Sequence[Term], part: str) -> tuple[str, str]:
        """What is left of a matrix algebra beside its gradient fields: reason and differential constraint."""
        if not self.matrix:
            return "", ""
        rest = restrict(self.symmetry.family, "skew")
        plain = all(m.kind == "matmul" and m.gain is None for m in self.symmetry.moves)
        if rest == "zero" or any(w.rho != 0 and not (plain and w.radial) for w in self.local.values()):
            return ("", "") if rest == "zero" else (reasons.ANTISYMMETRIC_PART, "")
        if any(not w.constant for w in self.local.values()):
            return reasons.OFF_DIAGONAL, ""
        if self.conjugated:
            return reasons.GAINS, ""
        return reasons.ANTISYMMETRIC_PART, constraint_latex(terms, rest, self.symmetry.shape[0])

    def antisymmetric(self) -> ConservedQuantity:
        """No symmetric element: a single plane keeps its angle, few columns keep their span, otherwise a constraint."""
        terms = self.terms()
        shape = self.symmetry.shape
        plain = all(m.kind == "matmul" and m.gain is None for m in self.symmetry.moves)
        pure = all(w.constant and (w.rho == 0 or (plain and w.radial)) for w in self.local.values())
        columns = sum(m.index.copies * (prod(t.shape) // (t.shape[m.axis] if m.axis >= 0 else prod(t.shape)))
                      for m, t in ((t.move, t) for t in terms))
        part = restrict(self.symmetry.family, "skew")
        constraint = constraint_latex(terms, part, shape[0]) if pure else ""
        if pure and plain and shape[1] == 2 and columns == 1:
            return self.make("conserved", part, "plane", terms, dimension=shape[0], formula="atan2(y, x)",
                             law=r"\dot Q = 0", reason=reasons.SINGLE_PLANE, constraint=constraint)
        n = shape[1] - (1 if part == "skew fixing 1" else 0)
        if pure and plain and columns < n:
            return self.make("conserved", part, "span", terms, dimension=shape[0] * columns * (n - columns),
                             law=r"\dot Q = 0", reason=reasons.SPAN, constraint=constraint)
        if self.conjugated:
            return self.none(reasons.CONJUGATED, constraint)
        return self.none(reasons.ANTISYMMETRIC if pure else reasons.ANTISYMMETRIC_DECAY, constraint)

    def verdict(self) -> tuple[Miniature, FormVerdict]:
        """Closedness and integrability, asked first of the part of the form that lives on one nonlinear move.

        Freezing parameters restricts the form to a coordinate subspace, and what fails there fails on the whole.
        """
        s = self.symmetry
        for move in self.nonlinear:
            few = self.trained & {move.parameter, *depends_on(move)}
            mini = miniature(s.family, s.shape, s.moves, self.parameters, few)
            found = analyse(mini)
            if not found.closed and not found.integrable:
                return mini, found
        mini = miniature(s.family, s.shape, s.moves, self.parameters, self.trained)
        return mini, analyse(mini)

    def nonlinear_answer(self) -> ConservedQuantity:
        why = reasons.nonlinear(self.nonlinear, self.trained)
        left = orthogonality(self.local)
        if any(w.rho != 0 or not w.constant for w in self.local.values()):
            return self.none(why + "; the flow's decay or metric acts on it besides", left)
        mini, verdict = self.verdict()
        if verdict.closed:
            raise Undecided(
                "part of a nonlinear generator is closed on the miniature; no potential is built for such fields"
            )
        planar = self.planar(mini) if verdict.integrable else None
        if planar is not None:
            return planar
        fate = f"has no integrating factor ({verdict.witness})"
        if verdict.integrable:
            fate = "no integrating factor was found"
        return self.none(f"{why}: its one-form is not closed and {fate}", left)

    def planar(self, mini: Miniature) -> ConservedQuantity | None:
        """Scalings of two single entries per unit: in two variables an integrating factor exists."""
        moves = self.symmetry.moves
        if self.matrix or len(moves) != 2 or {self.parameters[m.parameter] for m in moves} != {self.symmetry.shape}:
            return None
        first = {u: (1 if i == 0 else 0) for i, u in enumerate(mini.unknowns)}
        field = {
            n: (c, sp.nsimplify(f.subs(first)))
            for n, c, f in zip(mini.names, mini.coordinates, mini.field, strict=True)
            if f.subs(first) != 0
        }
        # Two components are no plane where they read a third variable.
        seen = set().union(*(f.free_symbols for _, f in field.values())) - {c for c, _ in field.values()}
        if len(field) != 2 or seen or any(m.kind in ("bn_shift", "recentre", "affine_scale") for m in moves):
            return None  # the miniature replaced running statistics by numbers
        (x, fx), (y, fy) = (field[m.parameter] for m in moves)
        found = planar_potential(x, y, fx, fy)
        if found is None:
            return None
        text = str(found.subs({x: sp.Symbol("x"), y: sp.Symbol("y")}))
        return self.make(
            "conserved", "entries", "plane", self.terms(), formula=text, law=r"\dot Q = 0", reason=reasons.FACTOR
        )

    def decay(self, terms: Sequence[Term]) -> tuple[str, str, str]:
        """Q' = -<rho, X>: status, law and rate. A common factor k with <rho, X> = k Q makes it a pure decay."""
        rates = set()
        for t in terms:
            w = self.local[t.move.parameter]
            if w.rho == 0:
                rates.add(sp.Integer(0))
                continue
            rates.add(_rate(t, w, self.scale()))
        if rates == {sp.Integer(0)}:
            return "conserved", r"\dot Q = 0", "0"
        if len(rates) == 1 and None not in rates:
            rate = next(iter(rates))
            return "decays", rf"\dot Q = -{tex(rate)}\, Q", str(rate)
        return "driven", r"\dot Q = -\langle \rho(\theta), X(\theta) \rangle,\; " + reasons.decay_text(self.local), ""

    # --- preconditioners made from past gradients ---------------------------------------------------------------------
    def history(self) -> ConservedQuantity:
        averaged = any(w.averaged for w in self.local.values())
        constant = not self.nonlinear and all(m.kind in ADDITIVE for m in self.symmetry.moves) and all(
            g.constant for g in self.symmetry.generators)
        decayed = any(w.rho != 0 for w in self.local.values())
        law = r"\dot Q = -\textstyle\sum_i (N_i - c)\, m_i X_i(\theta) \;\text{for every } c" if not averaged else (
            r"\dot Q = -\textstyle\sum_i N_i m_i X_i(\theta),\; m \text{ the averaged gradient}")
        if decayed:
            law += r" - \langle \lambda\theta, X(\theta)\rangle"
        keeps = constant or not averaged
        constraint = r"\langle N^{-1}(\dot\theta + \lambda\theta), X_a(\theta)\rangle = 0" if keeps and decayed else (
            r"\langle N^{-1}\dot\theta, X_a(\theta)\rangle = 0" if keeps else "")
        return self.none(reasons.history(averaged, constant), constraint, law)


def _rate(term: Term, w: Local, clock: sp.Expr) -> sp.Expr | None:
    """k with <rho, X> = k Q for one term, or None when rho is not of that form."""
    kind = term.move.kind
    if kind not in (*LINEAR, *ADDITIVE):
        return None
    q = (
        parse_scalar(term.potential, {"x": THETA})
        if term.potential
        else (THETA**2 / 2 if kind in LINEAR else THETA) * term_weight(w, clock)
    )
    push = w.rho * (THETA if kind in LINEAR else 1)
    ratio = sp.simplify(push * clock / q)
    return None if ratio.has(THETA) else sp.nsimplify(ratio)


def term_weight(w: Local, clock: sp.Expr) -> sp.Expr:
    """clock / P, exact."""
    return clock / w.precondition
