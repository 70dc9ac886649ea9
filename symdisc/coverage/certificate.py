"""The certificate of one surveyed architecture: of the module itself where it is small, else of its graph at small sizes."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from symdisc.errors import BadInput, SymdiscError, Undecided

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.exact import NullSpace
    from symdisc.torchside.network import Network

__all__ = ["certified", "within"]

RANK_LIMIT = 2000  # parameters up to which ranks are taken of the module itself: a rank costs their number cubed
SMALL_LIMIT = 2700  # up to which they are taken of the graph at small sizes, where nothing smaller is left
TRIALS = ((200, 12), (700, 3), (SMALL_LIMIT, 2))  # of weights, at most, by parameters: a surplus may be local to some
RANK_SECONDS, LINEAR_SECONDS = 80.0, 30.0  # of the processor; a rank that takes longer is told as not taken
AGAIN_SECONDS = 40.0  # after which no further weights are tried
Record = dict[str, Any]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Undecided inside the block after ``seconds`` of processor time; only the main thread can be stopped so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Undecided(f"not decided within {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


@dataclass
class Ranked:
    """A catalog at certain weights: the fibre there, the span of the named families, and both as numbers."""

    cat: Catalog
    space: NullSpace
    network: Network
    rows: np.ndarray  # [count, D]

    @property
    def found(self) -> int:
        from symdisc.torchside.remainder import row_span

        return int(row_span(self.rows).shape[1])


def certified(cat: Catalog, seed: int) -> Record:
    """Found and fibre dimension, the parameters that carry a surplus, and how the rank was taken.

    Of the module itself, at generic weights; if it has more than RANK_LIMIT parameters or its rank is not decided, of its
    captured graph at small sizes, where the families are derived anew. Raises Undecided or BadInput where neither can be done.
    """
    trouble = ""
    if cat.captured.size <= RANK_LIMIT:
        try:
            return {**_best(lambda trial: _of_module(cat, seed + trial)), "rank_of": "the module"}
        except Undecided as error:
            trouble = str(error)
    try:
        known: dict[str, Catalog] = {}
        return {**_best(lambda trial: _of_graph(cat, seed + trial, known)), "rank_of": "its graph at small sizes"}
    except SymdiscError as error:
        raise Undecided("; ".join(dict.fromkeys(t for t in (trouble, str(error)) if t))) from error


def _best(ranked: Callable[[int], Ranked]) -> Record:
    """The trial with the smallest fibre: what is more at other weights is local to them (units that never switch)."""
    best: Ranked | None = None
    trouble = Undecided("no weights tried")
    most, spent, trial = TRIALS[-1][1], time.process_time(), 0
    while trial < most and time.process_time() - spent < AGAIN_SECONDS:
        try:
            with within(RANK_SECONDS):
                here = ranked(trial)
            most = next(n for size, n in TRIALS if here.network.size <= size)
            if best is None or here.space.dimension - here.found < best.space.dimension - best.found:
                best = here
            if best.found == best.space.dimension:
                break
        except Undecided as error:
            trouble = error
        trial += 1
    if best is None:
        raise trouble
    record = _described(best)
    return record if record["complete"] else _with_linear(best, record)


def _of_module(cat: Catalog, seed: int) -> Ranked:
    """At weights drawn in place: the captured tensors are those of the module."""
    from symdisc.torchside.calibrate import calibrate
    from symdisc.torchside.remainder import module_fibre

    calibrate(cat.captured, seed)
    held = replace(cat.captured, tensors={n: t.clone() for n, t in cat.captured.tensors.items()})  # the next draw is made in place
    cat = cat.replace(captured=held)
    return _ranked(cat, *module_fibre(cat, seed))


def _of_graph(cat: Catalog, seed: int, known: dict[str, Catalog]) -> Ranked:
    """``known`` keeps the families, which do not depend on weights, from one trial to the next."""
    from symdisc.session import _Clock, discover_captured
    from symdisc.torchside.algebra import fibre
    from symdisc.torchside.calibrate import calibrate
    from symdisc.torchside.network import Network
    from symdisc.torchside.remainder import float64_state
    from symdisc.torchside.resize import shrunk

    captured = shrunk(cat.captured, SMALL_LIMIT, seed)
    calibrate(captured, seed)
    if "small" not in known:
        known["small"] = discover_captured(captured, cat.architecture, _Clock(None), solve=False)
    network = Network(captured, float64_state(captured), seed + 1)
    return _ranked(known["small"].replace(captured=captured), fibre(network, first=5000)[0], network)


def _ranked(cat: Catalog, space: NullSpace, network: Network) -> Ranked:
    from symdisc.torchside.remainder import float64_state, tangents

    rows = tangents([s for s in cat.symmetries if s.counts], float64_state(cat.captured), list(network.layout))
    return Ranked(cat, space, network, rows)


def _described(here: Ranked) -> Record:
    from symdisc.torchside.carriers import carriers
    from symdisc.torchside.remainder import row_span

    named = row_span(here.rows)
    found, fibre = named.shape[1], here.space.dimension
    return {"found": found, "fibre": fibre, "complete": found == fibre, "rank_D": here.network.size,
            "surplus": list(carriers(here.space.basis, named, here.network.layout)) if found < fibre else [],
            "gap": f"above 1e{math.floor(math.log10(here.space.gap))}" if math.isfinite(here.space.gap) else "infinite"}


def _with_linear(here: Ranked, record: Record) -> Record:
    """The same with the linear symmetries that no family names, where the linear system is small enough to be solved."""
    from symdisc import archgraph
    from symdisc.torchside.algebra import Algebra
    from symdisc.torchside.remainder import float64_state, linear_remainder

    captured = here.cat.captured
    try:
        with within(LINEAR_SECONDS):
            algebra = Algebra.of(captured, archgraph.build(captured.graph), float64_state(captured))
            rows = linear_remainder(captured, algebra, here.rows)[1]
    except (Undecided, BadInput):
        return record
    if len(rows) == len(here.rows):
        return record
    more = _described(Ranked(here.cat, here.space, here.network, rows))
    return {**more, "linear": more["found"] - record["found"]}
