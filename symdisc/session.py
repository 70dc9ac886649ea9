"""The whole pipeline on one screen: capture, fold, propose, check, solve, certify."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from symdisc.catalog import Catalog
from symdisc.certificate import Certificate
from symdisc.conserved.cuts import ASSUMED
from symdisc.errors import BadInput, SymdiscError
from symdisc.symmetry import Broken, Discrete, Symmetry

if TYPE_CHECKING:
    from symdisc.moves import Chart
    from symdisc.spaces import Facts
    from symdisc.stacks import Stack
    from symdisc.torchside.capture import Capture

__all__ = ["Tried", "certify", "discover"]

Family = TypeVar("Family", Symmetry, Discrete)
Progress = Callable[[str, int, int], None]
Tried = dict[str, frozenset[tuple[str, str]]]  # what was refused, by fingerprint of the graph on which it ran

LARGE = 2_000_000  # parameters beyond which every further run of the check costs seconds
TRIALS, FEW_TRIALS = 6, 2  # random elements of the discrete factors
SOLVE_LIMIT = 2500  # parameters up to which the complete linear system is solved on the network itself by default
OTHER_WEIGHTS = (1, 2)  # seeds of further random weights at which every family is run, where that costs little
RANK_LIMIT = 10_000  # up to which the rank is taken on the network itself: a dense matrix of this order takes minutes and gigabytes


@contextlib.contextmanager
def _differentiable() -> Iterator[None]:
    """In inference mode there are no derivatives, and all that has none would count as a symmetry."""
    from symdisc.torchside.derivatives import differentiable

    with differentiable():
        yield


@_differentiable()
def discover(model: Any, example_inputs: Sequence[Any], *, kwargs: dict[str, Any] | None = None,
             progress: Progress | None = None, solve: bool | None = None) -> Catalog:
    """Derive the symmetries of ``model`` (a torch module, in the mode it is in) at ``example_inputs``.

    ``solve`` asks for the complete linear system besides the named families; by default it is solved for networks of up to
    a few thousand parameters. Raises CaptureError when the model cannot be traced and BadInput when the inputs do not fit.
    """
    from symdisc.torchside.capture import capture, plain_inputs, refuse_unready

    if not hasattr(model, "named_parameters"):
        raise BadInput(f"the model must be a torch.nn.Module, not {type(model).__name__}; put weights into a module")
    if not isinstance(example_inputs, (tuple, list)):
        raise BadInput("example_inputs must be a tuple of tensors: write discover(model, (x,))")
    refuse_unready(model)
    broken = [n for n, p in model.named_parameters() if not p.is_meta and not bool(p.isfinite().all())]
    if broken:
        raise BadInput(f"{broken[0]} holds NaN or infinite values; no symmetry can be checked at such weights")
    pairs = [n for n, p in model.named_parameters() if p.is_complex()]
    if pairs:
        raise BadInput(f"{pairs[0]} is complex; only real parameters are solved: store it as real pairs [..., 2] and read it by "
                       "torch.view_as_complex")
    example_inputs, kwargs = plain_inputs((tuple(example_inputs), kwargs))
    clock = _Clock(progress)
    with clock("capture"):
        captured = capture(model, tuple(example_inputs), kwargs)
    catalog = discover_captured(captured, type(model).__name__, clock, solve)
    with clock("train"):
        catalog = _as_trained(catalog, captured, model, example_inputs, kwargs)
    return catalog.replace(model=model, example=tuple(example_inputs), kwargs=kwargs, captured=captured,
                           timings=dict(clock.seconds))


def _as_trained(catalog: Catalog, captured: Capture, model: Any, example: Sequence[Any], kwargs: dict[str, Any] | None) -> Catalog:
    """With what the gradient that trains the model is not orthogonal to; where it cannot be run, by the flags of its parameters."""
    from symdisc.torchside.check import can_run
    from symdisc.torchside.cuts import cuts_of, frozen, of_flags

    why = "there are no values to run it on"
    if can_run(captured):
        try:
            return catalog.replace(cuts=cuts_of(captured, model, example, kwargs, catalog.symmetries))
        except Exception as error:  # the module is anyone's code, and need not run in float64 or have a backward pass
            why = f"no gradient can be taken here ({(str(error).strip() or type(error).__name__).splitlines()[0][:120]})"
    return catalog.replace(cuts=of_flags(frozen(model, captured), catalog.symmetries), notes=(*catalog.notes, f"{ASSUMED}{why}"))


def discover_captured(captured: Capture, name: str, clock: _Clock, solve: bool | None = None, tried: Tried | None = None) -> Catalog:
    """The pipeline after capture; ``tried`` keeps what was refused on small graphs, for members of a family that shrink to the same."""
    from symdisc.torchside.check import can_run
    from symdisc.torchside.decisions import decided

    graph, runs = captured.graph, can_run(captured)
    found = _found(captured, clock, runs)
    proposed, discrete, refused, notes = found.proposed, found.discrete, found.refused, list(found.notes)
    broken = [Broken(packet, "all", packet, why) for packet, why in dict.fromkeys(found.opaque)]
    if not runs:
        with clock("check"):
            proposed, discrete, refused, how = _checked_small(captured, proposed, discrete, {} if tried is None else tried)
        notes.insert(0, f"weights without values (meta device): families were derived, {how}")
    else:
        notes += _held(captured)
    notes += decided(graph)
    broken += refused
    parameters = {n: tuple(t.shape) for n, t in captured.parameters.items()}
    symmetries = list(proposed)
    orbit = sum(s.dimension for s in symmetries if s.counts)
    if solve if solve is not None else (0 < captured.size <= SOLVE_LIMIT and runs):
        from symdisc import archgraph
        from symdisc.torchside.remainder import complete

        with clock("cut"):
            arch = archgraph.build(graph)
        with clock("solve"):
            symmetries, orbit, more = complete(captured, arch, symmetries)
            notes += more
            broken += [Broken(s.site, f"{s.name}: {s.group}", "check", "proposed, but its generators change the outputs; not claimed")
                       for s in proposed if not any(s is kept for kept in symmetries)]
    elif captured.size:
        notes.append("orbit dimension taken as the dimension of the named families; completeness is for a miniature to certify")
    buffers = {n: graph.shapes[v] for v, n in graph.buffers.items()}
    return Catalog(name, tuple(symmetries), tuple(discrete), tuple(broken), parameters, buffers, dict(graph.aliases), orbit,
                   graph.training, None, tuple(notes), graph, dict(clock.seconds))


def _held(captured: Capture) -> list[str]:
    """What is said of inputs that are not varied, or not over all numbers."""
    from symdisc.torchside.domains import held, one_signed

    def told(how: str, names: Collection[str]) -> list[str]:
        which = "these inputs" if len(names) > 1 else "this input"
        return [f"{how} as in the example: {', '.join(sorted(names))}; at other values of {which} less may hold"] if names else []

    fixed = held(captured.graph, captured.example)
    return told("held", fixed) + told("of one sign", one_signed(captured.graph, captured.example) - fixed.keys())


@dataclass(frozen=True)
class _Found:
    """Factors that were derived, and that stand if the graph was ``run``; what was refused there; what else folding says."""

    proposed: list[Symmetry]
    discrete: list[Discrete]
    refused: list[Broken]
    gained: frozenset[str]
    opaque: list[tuple[str, str]]
    notes: list[str]


def _found(captured: Capture, clock: _Clock, run: bool) -> _Found:
    """Of a network with many equal layers: derived on few of them, told of all, run on all. Of any other: derived and run."""
    from symdisc.stacks import NotPeriodic
    from symdisc.torchside.layers import shortened

    with clock("fold"):
        short = shortened(captured)
    if short is not None:
        with contextlib.suppress(NotPeriodic):
            return _told(captured, *short, clock, run)
    proposed, discrete, facts, notes = _derived(captured, clock)
    found = _Found(proposed, discrete, [], facts.gained, facts.opaque, notes)
    return _run(captured, found, clock) if run else found


def _told(captured: Capture, short: Capture, stack: Stack, clock: _Clock, run: bool) -> _Found:
    """What was found on ``short``, for the network itself. Raises NotPeriodic where the one does not say what the other has."""
    from symdisc.stacks import NotPeriodic

    part = _found(short, clock, run)
    with clock("prove"):
        found = _Found(stack.told(part.proposed), stack.told(part.discrete), stack.told(part.refused), stack.names(part.gained),
                       part.opaque, stack.told(part.notes))
    if run:
        from symdisc.torchside.check import Checker

        with clock("check"):
            if not Checker(captured, found.gained).stand([*found.proposed, *found.discrete]):
                raise NotPeriodic("refused on the whole network")
    return found


def _derived(captured: Capture, clock: _Clock) -> tuple[list[Symmetry], list[Discrete], Facts, list[str]]:
    """Fold, families and proofs: (continuous and discrete factors, not yet run; the facts; notes)."""
    from symdisc.families.affine import find_affine
    from symdisc.families.blocks import find_blocks
    from symdisc.families.charts import freeze, lift, reflections
    from symdisc.families.discrete import find_discrete
    from symdisc.families.find import find_families
    from symdisc.families.proof import Judge
    from symdisc.families.signs import find_signs
    from symdisc.torchside.charts import unfolded
    from symdisc.torchside.factored import scales_between_factors
    from symdisc.torchside.fold import fold
    from symdisc.torchside.normed import normed_tables
    from symdisc.torchside.phases import phases_of_states

    with clock("fold"):
        plain, charts, silent = unfolded(captured)
        facts = fold(plain)
        freeze(facts, charts)
    with clock("families"):
        proposed, classes, spaces = find_families(plain.graph, facts)
        discrete = find_discrete(classes, spaces)
        discrete += find_blocks(classes, classes.links, discrete) + find_signs(classes, spaces) + find_affine(classes)
    with clock("prove"):
        judge, shapes = Judge(classes), {n: tuple(t.shape) for n, t in captured.parameters.items()}
        proposed = [*lift(judge(proposed), charts), *silent]
        made = {c.weight for c in charts}
        proposed += [s for s in (*phases_of_states(plain, facts), *normed_tables(plain, classes)) if not made & set(s.parameters)]
        proposed += scales_between_factors(captured, frozenset(n for s in proposed for n in s.parameters))
        discrete = [*lift(judge(discrete), charts), *reflections(charts, shapes)]
        if any(c.kind == "curve" for c in charts):
            discrete += _behind_lookups(captured, charts)
    return proposed, discrete, facts, list(classes.notes)


def _behind_lookups(captured: Capture, charts: Sequence[Chart]) -> list[Discrete]:
    """Reflections and periods of tables that ``charts`` take a function of: found where that function stands behind the lookup."""
    from symdisc.families.affine import find_affine
    from symdisc.families.charts import freeze, lift
    from symdisc.families.find import find_families
    from symdisc.families.proof import Judge
    from symdisc.torchside.charts import unfolded
    from symdisc.torchside.fold import fold

    plain, others, _ = unfolded(captured, tables=False)
    tables = {c.direction for c in charts} - {c.direction for c in others}
    if not tables:
        return []
    facts = fold(plain)
    freeze(facts, others)
    classes = find_families(plain.graph, facts)[1]
    return [d for d in lift(Judge(classes)(find_affine(classes)), others) if tables & set(d.parameters)]


def _run(captured: Capture, found: _Found, clock: _Clock) -> _Found:
    """What stands when the captured graph is run under random elements, and what is refused."""
    from symdisc.torchside.check import Checker

    proposed, discrete, refused = found.proposed, found.discrete, list(found.refused)
    small = captured.size < LARGE
    with clock("check"):
        for seed in (0, *OTHER_WEIGHTS) if small else (0,):  # units that rest at one set of weights hide errors
            checker = Checker(captured, found.gained, seed)
            proposed, bad = _keep(proposed, checker.judge(proposed, seed))
            discrete, bad_discrete = _keep(discrete, checker.judge_discrete(discrete, seed, trials=TRIALS if small else FEW_TRIALS))
            refused += bad + bad_discrete
    return replace(found, proposed=proposed, discrete=discrete, refused=refused)


def _checked_small(captured: Capture, proposed: list[Symmetry], discrete: list[Discrete], tried: Tried,
                   ) -> tuple[list[Symmetry], list[Discrete], list[Broken], str]:
    """The same for weights without values: a family stands if none of its name and place is refused on the graph at small sizes."""
    from symdisc.torchside.resize import shrunk

    try:
        small = shrunk(captured, LARGE)
        key = small.fingerprint
        if key not in tried:
            found = discover_captured(small, "", _Clock(None), False)
            tried[key] = frozenset((b.site, b.family.partition(":")[0]) for b in found.broken if b.breaker == "check")
    except SymdiscError:
        return proposed, discrete, [], "not run"
    refused = tried[key]
    told = "proposed, but refused where the same graph runs at small sizes; not claimed"

    def split(families: Sequence[Family]) -> tuple[list[Family], list[Broken]]:
        """(those that stand, the others as broken)"""
        return ([f for f in families if (f.site, f.name) not in refused],
                [Broken(f.site, f"{f.name}: {f.group}", "check", told) for f in families if (f.site, f.name) in refused])

    (stand, bad), (stand_discrete, bad_discrete) = split(proposed), split(discrete)
    return stand, stand_discrete, bad + bad_discrete, "and run on the same graph at small sizes"


def _keep(families: Sequence[Family], changes: Sequence[float]) -> tuple[list[Family], list[Broken]]:
    """Those families that leave the function alone; the others are reported as broken."""
    from symdisc.torchside.check import TOLERANCE

    kept: list[Family] = []
    refused: list[Broken] = []
    for family, change in zip(families, changes, strict=True):
        if change < TOLERANCE:
            kept.append(family)
        else:
            refused.append(Broken(family.site, f"{family.name}: {family.group}", "check",
                                  f"proposed, but the outputs change by {change:.1e}; not claimed"))
    return kept, refused


@_differentiable()
def certify(cat: Catalog, seed: int = 0) -> Certificate:
    """Compare the found orbit dimension with the fibre dimension D - rank J.

    Up to RANK_LIMIT parameters on the network itself, at its weights. Beyond, on a miniature at generic weights: the shrunken
    config built again where the model carries one, else its captured graph run at small sizes; there only the named families
    count, for they are all that a catalog of the large network holds.

    Needs the model in memory (a catalog fresh from ``discover``). Raises BadInput otherwise, and where no miniature can be made.
    """
    from symdisc.torchside.remainder import certify_model

    if cat.model is None:
        raise BadInput("certify needs the model: call it on the catalog that discover returned, or give --model")
    return certify_model(cat, seed) if cat.parameter_count <= RANK_LIMIT else _certify_small(cat, seed)


def _certify_small(cat: Catalog, seed: int) -> Certificate:
    from symdisc.torchside.miniature import miniature
    from symdisc.torchside.remainder import certify_named
    from symdisc.torchside.resize import shrunk

    if hasattr(cat.model, "config"):
        small, how = discover(*miniature(cat.model), solve=False), "the same architecture built from its shrunken config"
    else:
        captured = shrunk(cat.captured, RANK_LIMIT, seed)
        small = discover_captured(captured, cat.architecture, _Clock(None), False).replace(captured=captured)
        how = "the captured graph run at small sizes"
    found = certify_named(small, seed)
    return replace(found, miniature=True, note=f"made on a miniature of {found.D:,} parameters, {how}{found.note}")


class _Clock:
    """Seconds per stage, and progress to whoever asked for it."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.seconds = progress, {}  # type: tuple[Progress | None, dict[str, float]]

    def __call__(self, stage: str) -> _Stage:
        return _Stage(self, stage)


class _Stage:
    def __init__(self, clock: _Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()
        if self.clock.progress is not None:
            self.clock.progress(self.name, 0, 1)

    def __exit__(self, *error: object) -> None:
        self.clock.seconds[self.name] = self.clock.seconds.get(self.name, 0.0) + time.perf_counter() - self.start
        if self.clock.progress is not None:
            self.clock.progress(self.name, 1, 1)
