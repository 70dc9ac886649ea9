"""``count_laws``: how many independent conservation laws a flow has, and whether the closed forms are all of them.

The number is N - dim Lie(fields) at a generic point (arXiv:2307.00144, Cor. 3.4). Closed-form laws bound dim Lie from
above by N - rank of their gradients, brackets modulo a prime bound it from below; where the bounds meet, the count is
proved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from symdisc.errors import BadInput, NotProved, Undecided
from symdisc.laws.graphs import catalog_of_model, looks_like_catalog, looks_like_model, problem_of_catalog
from symdisc.laws.lie import Span, lie_span, random_state
from symdisc.laws.problem import CountProblem
from symdisc.laws.shapes import problem_of_shape
from symdisc.residues import PRIMES, matmul, rank

if TYPE_CHECKING:
    from symdisc.torchside.brackets import Counted

__all__ = ["Evidence", "LawCount", "count_laws", "problem_of"]

Result = TypeVar("Result")

# Eliminations cost N^3; beyond this size they take minutes, and the count of a family is seen at small sizes anyway.
MAX_STATES = 3000
PROOFS, FLOATS, DERIVED = ("bounds meet", "single field"), "float64", "float64, derived systems"
ATTEMPTS = 20  # at points where no quotient has a zero below; with a prime of 25 bits the first will mostly do


@dataclass(frozen=True)
class Evidence:
    """What a count rests on.

    ``lie_rank`` vectors of the Lie algebra, independent modulo ``primes[-1]``, were found from ``fields`` fields,
    brackets of up to ``depth`` fields and ``transports`` transports; ``upper_bound`` = states - rank of the laws'
    gradients. ``proof`` is "bounds meet", "single field" (its Lie algebra is itself), "none" (the rank stopped growing: a
    lower bound of dim Lie), "float64" (a rank by singular values: no proof) or "float64, derived systems" (all laws, as far
    as such ranks tell). ``note`` says which inputs a network was
    counted for, and how they were found.
    """

    problem: str
    states: int
    primes: tuple[int, ...]
    seed: int
    fields: int
    depth: int
    transports: int
    lie_rank: int
    upper_bound: int
    proof: str
    formulas: tuple[str, ...]
    note: str = ""

    @property
    def exact(self) -> bool:
        """Whether the number of laws is proved."""
        return self.proof in PROOFS

    def to_dict(self) -> dict[str, Any]:
        d = asdict(self)
        return {**d, "primes": list(self.primes), "formulas": list(self.formulas)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Evidence:
        return cls(**{**d, "primes": tuple(d["primes"]), "formulas": tuple(d["formulas"])})


@dataclass(frozen=True)
class LawCount:
    """``laws`` = parameters - dim Lie; ``found`` of them in closed form; ``complete``: proved that these are all.

    Ranks in float64 prove nothing: there ``complete`` is False, and ``summary`` says what they tell.
    """

    laws: int
    found: int
    complete: bool
    parameters: int
    evidence: Evidence

    @property
    def summary(self) -> str:
        """How many laws, and whether the closed forms are all of them, in words."""
        floats = " (ranks in float64, no proof)" if self.evidence.proof in (FLOATS, DERIVED) else ""
        if self.laws == self.found:
            return f"{self.laws}, all in closed form{floats}"
        return f"{'' if self.evidence.proof == DERIVED else 'at most '}{self.laws}, {self.found} in closed form{floats}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``from_dict`` gives the equal record back."""
        plain = {"laws": self.laws, "found": self.found, "complete": self.complete, "parameters": self.parameters}
        return {**plain, "evidence": self.evidence.to_dict()}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> LawCount:
        return cls(**{**d, "evidence": Evidence.from_dict(d["evidence"])})


@singledispatch
def problem_of(source: object) -> CountProblem:
    """What is to be counted: a shape (mapping), a CountProblem, a catalog; others register here."""
    if looks_like_catalog(source):
        return problem_of_catalog(source)
    raise BadInput(
        f"cannot count laws of a {type(source).__name__}: give a shape such as {{'kind': 'relu', 'widths': [3, 4, 2]}}"
    )


@problem_of.register
def _(source: CountProblem) -> CountProblem:
    return source


@problem_of.register(Mapping)
def _(source: Mapping[str, Any]) -> CountProblem:
    return problem_of_shape(source)


def count_laws(source: object, *, seed: int = 0) -> LawCount:
    """The independent conservation laws of the flow on a shape, a catalog, a torch module or a CountProblem.

    A module comes without inputs: they are inferred where the model takes one only width (``evidence.note`` says so), else refused.
    The flow is that along the full gradient of all parameters; ``evidence.note`` says where the model trains by less.
    Exact on residues; a run whose bounds do not meet is repeated modulo a second prime and the larger rank is kept. A network with
    operators that have no exact form (roots, in norms) is counted in float64, by the one-forms of its symmetries where these are
    complete: evidence, not called complete.
    Raises BadInput for a wrong shape, NotProved if a claimed law is not one, Undecided beyond MAX_STATES or where float64 cannot tell.
    """
    if looks_like_model(source):
        source, note = catalog_of_model(source)
        count = _of_catalog(source, seed)
        note = "; ".join([note, *count.evidence.note.split("; ")[1:]])
        return _noted(source, replace(count, evidence=replace(count.evidence, note=note)))
    return _noted(source, _of_catalog(source, seed)) if looks_like_catalog(source) else _exact(problem_of(source), seed)


def _noted(cat: Any, count: LawCount) -> LawCount:
    """What is counted is the flow along the full gradient: where the model trains by less, the note says so."""
    if not getattr(cat, "cuts", None):
        return count
    kept = sum(q.dimension for q in cat.conserved if q.status == "conserved")
    why = next((reason.split(": ")[0] for _, reason in cat.cuts.lost), f"{cat.cuts.still[0]} is not trained" if cat.cuts.still else "")
    note = f"counted for the full gradient of all parameters, which is not what trains this model ({why}): " \
           f"of the laws in closed form {kept} stand there"
    return replace(count, evidence=replace(count.evidence, note="; ".join(filter(None, (count.evidence.note, note)))))


def _of_catalog(cat: Any, seed: int) -> LawCount:
    """Exactly where that can be, else in float64; known laws without an exact form are counted in float64, too: by the forms of all
    symmetries, or with an exact bound from brackets."""
    from symdisc.torchside import brackets, derived

    try:
        problem = problem_of_catalog(cat)
        found, formulas = brackets.independent_laws(cat, seed)
        if found > _tried(problem, seed, PRIMES[0], _independent):
            with suppress(Undecided):
                return _in_floats(cat, derived.count(cat, seed), seed, "known laws have no exact form")
        exact = _exact(problem, seed)
    except Undecided as error:
        return _in_floats(cat, _counted(cat, seed), seed, str(error))
    if exact.complete or found <= exact.found:
        return exact
    note = f"{exact.evidence.note}; the gradients of known laws are compared in float64"
    return replace(exact, found=found, evidence=replace(
        exact.evidence, upper_bound=exact.parameters - found, proof=FLOATS, formulas=formulas, note=note))


def _counted(cat: Any, seed: int) -> Counted:
    """By the forms of all symmetries; where these are not complete, by brackets of the network's own fields."""
    from symdisc.torchside import brackets, derived

    try:
        return derived.count(cat, seed)
    except Undecided as error:
        try:
            return brackets.count(cat, seed)
        except Undecided as other:
            raise Undecided(f"{error}; {other}") from error


def _in_floats(cat: Any, counted: Counted, seed: int, reason: str) -> LawCount:
    size = cat.parameter_count
    above, below = (f"{v[0]:.0e}" if v else "none" for v in (counted.evidence.above[:1], counted.evidence.below[:1]))
    note = f"inputs as in the catalog; {reason}; ranks in float64, relative singular values {above} | {below}"
    proof = DERIVED if counted.closed else FLOATS
    evidence = Evidence(cat.architecture, size, (), seed, counted.fields, counted.depth, 0, counted.span, size - counted.found, proof,
                        counted.formulas, note)
    return LawCount(size - counted.span, counted.found, False, size, evidence)


def _exact(problem: CountProblem, seed: int) -> LawCount:
    if problem.states > MAX_STATES:
        raise Undecided(f"{problem.name} has {problem.states} states, above {MAX_STATES}: count a smaller copy of it")
    told = problem.generic(np.random.default_rng(seed), PRIMES[0]) if problem.generic else ""
    span, found = _attempt(problem, seed, PRIMES[0])
    used = [PRIMES[0]]
    if span.rank + found < problem.states and problem.generators != 1:
        again, found_again = _attempt(problem, seed + 1, PRIMES[1])
        used.append(PRIMES[1])
        span, found = max(span, again, key=lambda s: s.rank), max(found, found_again)
    laws = problem.states - span.rank
    proof = "bounds meet" if laws == found else "single field" if problem.generators == 1 else "none"
    evidence = Evidence(
        problem=problem.name,
        states=problem.states,
        primes=tuple(used),
        seed=seed,
        fields=span.fields,
        depth=span.depth,
        transports=span.transports,
        lie_rank=span.rank,
        upper_bound=problem.states - found,
        proof=proof,
        formulas=tuple(law.text() for law in problem.laws),
        note="; ".join(filter(None, (problem.note, told))),
    )
    return LawCount(laws, found, laws == found, problem.size, evidence)


def _attempt(problem: CountProblem, seed: int, prime: int) -> tuple[Span, int]:
    """Rank of the Lie algebra and of the laws at one random point modulo a prime; each law is tested on each field."""
    return _tried(problem, seed, prime, _at)


def _tried(problem: CountProblem, seed: int, prime: int, work: Callable[[CountProblem, np.random.Generator, int], Result]) -> Result:
    for again in range(ATTEMPTS):
        rng = np.random.default_rng((seed, again))
        try:
            return work(problem, rng, prime)
        except ZeroDivisionError:  # a quotient met one of the residues that have no inverse
            continue
    raise Undecided(f"{problem.name} divides by zero at {ATTEMPTS} random points")


def _at(problem: CountProblem, rng: np.random.Generator, prime: int) -> tuple[Span, int]:
    state, friction = random_state(problem, rng, prime)
    rows = _law_rows(problem, state, friction, prime)
    found = rank(rows[1], prime)
    span = lie_span(problem, state, friction, problem.states - found, rng, prime)
    moved = matmul(rows[1], span.basis.T, prime).any(axis=1) if len(rows[1]) else np.zeros(0, bool)
    bad = np.flatnonzero(moved)
    if len(bad):
        raise NotProved(
            f"{problem.name}: the law {rows[0][bad[0]]} is not conserved; check its signs against the metric"
        )
    return span, found


def _independent(problem: CountProblem, rng: np.random.Generator, prime: int) -> int:
    """How many of the laws of the problem are independent at a random point."""
    state, friction = random_state(problem, rng, prime)
    return rank(_law_rows(problem, state, friction, prime)[1], prime)


def _law_rows(problem: CountProblem, state: np.ndarray, friction: int, prime: int) -> tuple[list[str], np.ndarray]:
    d = problem.size
    momentum = problem.flow == "momentum"
    theta = problem.split(state[1 : d + 1] if momentum else state)
    speed = problem.split(state[d + 1 :]) if momentum else None
    blocks = [law.rows(theta, prime, speed, friction) for law in problem.laws]
    names = [law.text() for law, block in zip(problem.laws, blocks, strict=True) for _ in block]
    return names, np.concatenate([np.zeros((0, problem.states), np.int64), *blocks])
