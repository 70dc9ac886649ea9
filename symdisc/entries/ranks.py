"""The certificate of one member: families derived once, ranks at calibrated weights, the complete system only where the two differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from symdisc import archgraph
from symdisc.certificate import Certificate
from symdisc.entries.polynomials import Sizes
from symdisc.errors import Undecided
from symdisc.session import _Clock as Clock
from symdisc.session import discover_captured

if TYPE_CHECKING:
    from symdisc.architectures.base import Architecture
    from symdisc.catalog import Catalog

__all__ = ["GAP", "certified"]

GAP = 1e3  # spectral gap that a certificate needs to be recorded; stored in place of the measured one, which no two machines share
DRAWS = 6  # of weights, at most: in small ReLU networks units often never switch, and that is more symmetry than at generic weights
ALIKE = 4  # draws that agree on the least surplus are believed; three in a row may have the same local one


@dataclass(frozen=True)
class _Trial:
    """The named families beside the fibre at one draw of weights, and these weights (by value name)."""

    found: Certificate
    tensors: dict[str, Any]

    @property
    def surplus(self) -> int:
        return self.found.fibre - self.found.found


def certified(architecture: Architecture, sizes: Sizes) -> tuple[Catalog, Certificate | None]:
    """The catalog at the draw of weights with the least surplus of the fibre over the named families, and its certificate; None
    where no draw decides the rank."""
    from symdisc.torchside.capture import capture
    from symdisc.torchside.family import generic

    model, args = generic(architecture.build, sizes)
    captured = capture(model, args)
    cat = discover_captured(captured, type(model).__name__, Clock(None), solve=False)
    cat = cat.replace(model=model, example=args, captured=captured)
    trials: list[_Trial] = []
    trouble = ""
    for trial in _trials(architecture, sizes, cat):
        if isinstance(trial, str):
            trouble = trial
            continue
        trials.append(trial)
        least = min(t.surplus for t in trials)
        if not least or sum(t.surplus == least for t in trials) == ALIKE:
            break
    if not trials:
        return cat.replace(orbit_dimension=None, notes=(*cat.notes, f"completeness is not decided: {trouble}")), None
    best = min(trials, key=lambda t: t.surplus)
    cat = cat.replace(captured=replace(captured, tensors=best.tensors), orbit_dimension=best.found.found)
    if not best.surplus:
        return cat, best.found
    agreed = sum(t.surplus == best.surplus for t in trials) >= ALIKE
    return _completed(cat, best.found, best.found.fibre if agreed else best.found.found)


def _trials(architecture: Architecture, sizes: Sizes, cat: Catalog) -> Iterator[_Trial | str]:
    """One after the other, or why a draw decides nothing. Weights are drawn in place: the captured tensors are the module's."""
    from symdisc.torchside.calibrate import calibrate
    from symdisc.torchside.family import generic
    from symdisc.torchside.remainder import certify_named

    captured, model = cat.captured, cat.model
    assert captured is not None and model is not None
    for seed in range(DRAWS):
        if seed:
            model.load_state_dict(generic(architecture.build, sizes, seed)[0].state_dict())
        calibrate(captured, seed)
        held = {n: t.clone() for n, t in captured.tensors.items()}
        try:
            found = certify_named(cat.replace(captured=replace(captured, tensors=held)), 0)
        except Undecided as error:
            yield str(error)
            continue
        yield _Trial(found, held) if found.exact or found.gap >= GAP else f"no gap of {GAP:g} between the singular values"


def _completed(cat: Catalog, found: Certificate, generic: int) -> tuple[Catalog, Certificate]:
    """What the complete system finds beyond the named families; of the fibre ``generic`` dimensions are there at generic weights."""
    from symdisc.torchside.remainder import complete

    assert cat.captured is not None
    arch = archgraph.build(cat.captured.graph)
    symmetries, orbit, notes = complete(cat.captured, arch, list(cat.symmetries), generic)
    flow = sum(s.dimension for s in symmetries if s.family == "flow")
    cat = cat.replace(symmetries=tuple(symmetries), orbit_dimension=orbit, notes=(*cat.notes, *notes))
    return cat, replace(found, found=orbit, flow=flow)
