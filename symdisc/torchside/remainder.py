"""Named families against the complete linear system: the orbit dimension, what the names do not cover, and the certificate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp

from symdisc.archgraph import build
from symdisc.certificate import Certificate
from symdisc.elements import basis, identity_array, tangent_arrays
from symdisc.errors import BadInput, SymdiscError, Undecided
from symdisc.exact import NullSpace
from symdisc.moves import BENT
from symdisc.symmetry import Symmetry
from symdisc.torchside.algebra import Algebra, fibre, some_rows
from symdisc.torchside.apart import apart, finite_count
from symdisc.torchside.apply import act
from symdisc.torchside.interpret import wide
from symdisc.torchside.kernels import run_moves
from symdisc.torchside.linear import linear_families
from symdisc.torchside.network import Function, ModelFunction, Network, plain_kernels, stored_dtype
from symdisc.torchside.steady import STEADY, steady

if TYPE_CHECKING:
    from symdisc.archgraph import ArchGraph
    from symdisc.catalog import Catalog
    from symdisc.torchside.capture import Capture
    from symdisc.torchside.decisions import Decider

__all__ = ["certify_model", "certify_named", "complete", "linear_remainder", "module_fibre", "row_span", "surplus", "tangents"]

MOST_CARRIERS = 4  # parameters named in a note
EXACT = 1e-11  # rows near the sphere of a norm with eps go 1/eps times as far as gains: generators in place are exact enough for that
STRAY = 1e-4  # of what a generator's entries would move if none undid another; rounding is far below
NEAR, FAR = (0.2, 1e-7), (1.5, 1e-3)  # sizes of elements that must keep the outputs, and the change allowed: rounding grows with the size
FAR_TRIES = 8
NOISE = 1e-11  # of the whole Jacobian
LATER = 6000  # the draw from which on that is looked at
STEP = 1e-4  # of the central difference; its error is below 1e-8 relative, far under the rank cut of 1e-6


def tangents(symmetries: Sequence[Symmetry], state: Mapping[str, Tensor], layout: Sequence[str]) -> np.ndarray:
    """Generators of the named families at ``state``, [count, D], by central differences of the moves themselves.

    A step may leave the range of a function that parameters are read through, so such moves are differentiated in place.
    """
    rows: list[np.ndarray] = []
    for s in symmetries:
        curved = any(m.kind in BENT or m.kind == "normed_table" for m in s.moves)
        mine = [np.concatenate([change[n].double().reshape(-1).numpy() if n in change else np.zeros(state[n].numel()) for n in layout])
                for change in (_in_place(s, state) if curved else _differences(s, state))]
        rows += list(row_span(np.stack(mine), EXACT).T) if any(m.kind == "normed_table" for m in s.moves) else mine
    total = sum(state[n].numel() for n in layout)
    return np.stack(rows) if rows else np.zeros((0, total))


def _differences(s: Symmetry, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for plus, minus in tangent_arrays(s, STEP):
        a, b = act(s, plus, state), act(s, minus, state)
        yield {n: (a[n] - b[n]) / (2 * STEP) for n in a}


def _in_place(s: Symmetry, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    one = torch.from_numpy(identity_array(s))
    for a in basis(s):
        with plain_kernels():
            yield jvp(lambda g: run_moves(s.moves, g, state), (one,), (torch.from_numpy(a),))[1]


def float64_state(captured: Capture) -> dict[str, Tensor]:
    """Parameters and buffers by canonical name, floats in float64."""
    state = {n: t.detach().double() for n, t in captured.parameters.items()}
    for v, n in captured.graph.buffers.items():
        if v in captured.tensors:
            state[n] = wide(captured.tensors[v])
    return state


def complete(captured: Capture, arch: ArchGraph, symmetries: list[Symmetry],
             generic: int | None = None) -> tuple[list[Symmetry], int, list[str]]:
    """Orbit dimension at the weights, and what the named families leave: linear symmetries, then a nameless remainder.

    Every direction is accounted for: spanned by a named family, by linear fields that hold at many weights, by the remainder
    (generic, and exact along its flow), or reported as local to these weights. A named family whose generators move the outputs is
    left out. ``generic`` is the fibre dimension at generic weights; where it is not given it is looked for, and so is the part of the
    remainder that is affine.
    """
    algebra = Algebra.of(captured, arch, float64_state(captured))
    try:
        fibre_here = algebra.outputs[0]
    except Undecided as error:
        rows = tangents([s for s in symmetries if s.counts], float64_state(captured), list(algebra.network.layout))
        return symmetries, row_span(rows).shape[1], [f"completeness is not decided: {error}"]
    symmetries, rows, _ = _within(captured, symmetries, algebra.network)
    notes: list[str] = []
    known = row_span(rows).shape[1]
    try:
        if known < fibre_here.dimension:
            more, rows = linear_remainder(captured, algebra, rows)
            symmetries = [*symmetries, *more]
            known = row_span(rows).shape[1]
        if known < fibre_here.dimension and algebra.jumps:
            more, known, notes = _keeping_steps(algebra, rows)
            symmetries = [*symmetries, *more]
        elif known < fibre_here.dimension:
            rest, notes = _rest(algebra, rows, known, generic)
            symmetries, known = [*symmetries, *rest], known + sum(s.dimension for s in rest)
    except Undecided as error:
        notes.append(f"{fibre_here.dimension - known} more directions at these weights are not decided: {error}")
    return symmetries, known, notes


def _within(captured: Capture, symmetries: Sequence[Symmetry], network: Network) -> tuple[list[Symmetry], np.ndarray, tuple[str, ...]]:
    """(families whose generators X leave the outputs alone, J X = 0; these generators [count, D]; names of the other families).

    The angle to the null space of J would not do: where a weight is nearly zero rounding tilts that space by several degrees.
    """
    state, layout = float64_state(captured), list(network.layout)
    try:
        jac = some_rows(network, LATER)
    except (RuntimeError, NotImplementedError, SymdiscError):  # an operator without derivative, where the module has its own
        jac = np.zeros((1, network.size))
    size = np.abs(jac)
    kept, rows, outside = [], [np.zeros((0, network.size))], []
    for s in symmetries:
        mine = tangents([s], state, layout) if s.counts else rows[0]
        undone = np.linalg.norm(size @ np.abs(mine).T, axis=0)
        least = NOISE * np.linalg.norm(size) * np.linalg.norm(mine, axis=1)  # of entries that nothing reads there is rounding alone
        if bool((np.linalg.norm(jac @ mine.T, axis=0) <= np.maximum(STRAY * undone, least)).all()):
            kept.append(s)
            rows.append(mine)
        else:
            outside.append(f"{s.name} @{s.site}")
    return kept, np.concatenate(rows), tuple(outside)


def linear_remainder(captured: Capture, algebra: Algebra, rows: np.ndarray) -> tuple[list[Symmetry], np.ndarray]:
    """Linear symmetries beyond the generators ``rows`` [count, D] of the named ones, and all generators together."""
    more = [s for s in linear_families(captured, algebra, rows) if _keeps(algebra, s)]
    return more, np.concatenate([rows, tangents(more, float64_state(captured), list(algebra.network.layout))])


def _keeping_steps(algebra: Algebra, rows: np.ndarray) -> tuple[list[Symmetry], int, list[str]]:
    """Where values jump: symmetries beyond the generators ``rows`` [count, D] that keep the inner steps, the dimension of all that is
    known, and what is said of the rest."""
    free, jumps, known = algebra.outputs[0].dimension, ", ".join(algebra.jumps), row_span(rows).shape[1]
    kept = steady(algebra)
    if not kept:
        return [], known, [f"{free - known} more directions leave the outputs alone to first order only: {jumps} jumps"]
    algebra = algebra.beside(kept)
    found, rows = linear_remainder(algebra.capture, algebra, rows)
    known, here, notes = row_span(rows).shape[1], _dimension(algebra, rows), []
    if here < free:
        notes.append(f"{free - here} more directions leave the outputs alone to first order only, and move what steps follow from: "
                     f"{jumps} jumps")
    if known < here:
        rest, told = _rest(algebra, rows, known, None)
        found, known, notes = [*found, *rest], known + sum(s.dimension for s in rest), notes + told
    return found, known, notes


def _dimension(algebra: Algebra, rows: np.ndarray) -> int:
    """Of the span of the generators ``rows`` [count, D] and all directions that the algebra leaves free."""
    free = algebra.outputs[0]
    return row_span(np.concatenate([rows, free.basis.T])).shape[1] if algebra.capture.deciders else free.dimension


def _rest(algebra: Algebra, rows: np.ndarray, known: int, given: int | None) -> tuple[list[Symmetry], list[str]]:
    """The remainder, if it is there at generic weights; and what is to be said of it."""
    here = _dimension(algebra, rows)
    inside = known + algebra.outputs[0].dimension - here  # of the known directions, those that keep the inner steps as asked: nearly all
    generic = known + max((algebra.generic_fibre(inside) if given is None else given) - inside, 0)
    notes = []
    if generic < here:
        notes.append(f"local surplus: {here - generic} more directions leave the function alone at these weights than at generic "
                     "ones (units that never switch, vanishing or equal weights); they are not counted")
    if generic == known:
        return [], notes
    rest = _beyond(algebra.outputs[0].basis, rows, here - known)
    affine = _affine_part(algebra, rows, known) if given is None else None
    return [_remainder(rest, algebra.network, generic - known, affine)], notes


def _affine_part(algebra: Algebra, rows: np.ndarray, known: int) -> int | None:
    """How many directions beyond the ``known`` ones move all features affinely; None where the features decide no number."""
    try:
        return row_span(np.concatenate([rows, algebra.tangents.T])).shape[1] - known
    except Undecided:
        return None


def _keeps(algebra: Algebra, symmetry: Symmetry) -> bool:
    """Random elements of a linear symmetry leave the outputs alone: a derivative would not see a jump, nor small steps a distant kink."""
    network, draws = algebra.network, algebra.network.draws(3000, 8)
    before = torch.from_numpy(network.output(network.parameters, draws).reshape(len(draws), -1))
    if not finite_count([before]):
        return False
    for seed, (size, tolerance) in enumerate((NEAR, *[FAR] * FAR_TRIES), 3):
        array = size * np.random.default_rng(seed).standard_normal(symmetry.shape)
        moved = {**network.parameters, **act(symmetry, array, network.parameters)}
        after = torch.from_numpy(network.output(moved, draws).reshape(len(draws), -1))
        if not apart(before, after, fine=True) <= tolerance:
            return False
    return True


def row_span(rows: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """Orthonormal basis [D, k] of the span of rows at unit length."""
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(size > 0, size, 1.0))[size[:, 0] > 0]
    if not len(rows):
        return np.zeros((rows.shape[1], 0))
    _, s, vh = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(vh[s > tolerance * s[0]].T)


def _beyond(span: np.ndarray, rows: np.ndarray, r: int) -> np.ndarray:
    """The part of ``span`` orthogonal to ``rows``, [D, r]."""
    named = row_span(rows)
    rest = span - named @ (named.T @ span)
    u, s, _ = np.linalg.svd(rest, full_matrices=False)
    return np.asarray(u[:, :r]) if s.size else rest


def _remainder(rest: np.ndarray, network: Network, r: int, affine: int | None) -> Symmetry:
    """The record of ``r`` directions with no closed form, of which ``affine`` move the features of every node affinely."""
    names = _carriers(rest, network)
    told = "" if affine is None else f"; {min(affine, r)} of {r} move the features of every node affinely"
    site = STEADY if network.capture.deciders else "network"
    return Symmetry(
        "remainder without a name", f"R^{r} locally", "flow", site, names, r, "witnessed", (network.size,), (),
        group_latex=rf"\mathbb{{R}}^{{{r}}}",
        condition=r"J_{\mathrm{out}}(\theta)\,\dot\theta = 0",
        formula=r"\dot\theta = P_{T(\theta)}\,v",
        assumptions=("generic weights: the dimension is constant along the flow",),
        note=f"acts by its flow{told}")


def certify_model(cat: Catalog, seed: int) -> Certificate:
    """D - rank J of the torch module itself (not of the captured graph) at the weights, beside the found orbit dimension."""
    if cat.captured is None or cat.orbit_dimension is None:
        raise BadInput("this catalog has no orbit dimension (weights on the meta device or too many): certify a miniature")
    if not cat.parameter_count:
        return Certificate(0, 0, math.inf, 0, note="there are no parameters")
    space, network = module_fibre(cat, seed)
    flow = sum(s.dimension for s in cat.symmetries if s.family == "flow")
    named = [s for s in cat.symmetries if s.family != "flow"]
    rows, outside = _within(cat.captured, named, network)[1:]
    found = row_span(rows).shape[1] + flow if outside else cat.orbit_dimension
    dimension, note = space.dimension, f"float64 rank of the module's own Jacobian at its weights{_beside(cat)}"
    kept = _kept(cat) if found < dimension else ()
    if kept:
        space, network = module_fibre(cat.replace(captured=replace(cat.captured, deciders=kept)), seed)
        dimension = row_span(np.concatenate([rows, space.basis.T])).shape[1]
        note += "; what inner steps follow from (routes, masks, codes) is kept up to scale"
    return Certificate(found, dimension, space.gap, network.size, outside=outside, flow=flow, note=note)


def _kept(cat: Catalog) -> tuple[Decider, ...]:
    """What decides inner steps at which the network jumps."""
    captured: Capture = cat.captured
    algebra = Algebra.of(captured, build(captured.graph), float64_state(captured))
    return steady(algebra) if algebra.jumps else ()


def certify_named(cat: Catalog, seed: int) -> Certificate:
    """The named families alone against the fibre, at the weights; the note says which parameters carry what has no name.

    The Jacobian is the torch module's own where the catalog has one, else that of its captured graph.
    """
    if cat.model is not None:
        space, network = module_fibre(cat, seed)
    else:
        network = Network(cat.captured, float64_state(cat.captured), seed + 1)
        space = fibre(network, first=5000)[0]
    named, carriers, outside = surplus(cat, space, network)
    rest = f"; the rest lies in {', '.join(carriers[:MOST_CARRIERS])}" if named < space.dimension else ""
    more = f" and {len(carriers) - MOST_CARRIERS} more" if rest and len(carriers) > MOST_CARRIERS else ""
    return Certificate(named, space.dimension, space.gap, network.size, note=_beside(cat) + rest + more, outside=outside)


def module_fibre(cat: Catalog, seed: int) -> tuple[NullSpace, Network]:
    """Directions that leave the outputs of the torch module itself alone, at its weights, and what decides its whole numbers.

    These have no derivative, and the module does not return what they are decided by, so that is taken from the captured graph.
    """
    network = Network(cat.captured, float64_state(cat.captured), seed + 1)
    mode = cat.model.training
    model = cat.model
    stored = stored_dtype(model)
    double = model if stored == torch.float64 else None
    if double is None:
        import copy

        double = copy.deepcopy(model).double()
    double.train(mode)
    function: Function = ModelFunction(double, cat.example, cat.kwargs, stored)
    if network.graph.decisions:
        function = _joined(function, network.function(network.graph.decisions))
    try:
        return fibre(network, first=5000, function=function)[0], network
    except (RuntimeError, NotImplementedError):  # a hand-written backward pass without functional form: the captured graph has none
        return fibre(network, first=5000)[0], network


def _joined(one: Function, two: Function) -> Function:
    return lambda parameters, *x: torch.cat([one(parameters, *x), two(parameters, *x)])


def _beside(cat: Catalog) -> str:
    """What a certificate says of outputs that have no derivative."""
    return "; what decides the whole numbers and truth values among the outputs is kept with them" if cat.captured.graph.decisions else ""


def surplus(cat: Catalog, space: NullSpace, network: Network) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """(orbit dimension of the named families at the weights, parameters that carry the directions of ``space`` beyond them, families
    outside of it, which are not counted)."""
    _, rows, outside = _within(cat.captured, cat.symmetries, network)
    named = row_span(rows)
    rest = space.basis - named @ (named.T @ space.basis)
    return named.shape[1], _carriers(rest, network), outside


def _carriers(directions: np.ndarray, network: Network) -> tuple[str, ...]:
    """Parameters with a part in ``directions`` [D, r]."""
    names, at = [], 0
    for name, shape in network.layout.items():
        n = int(np.prod(shape))
        if float(np.square(directions[at:at + n]).sum()) > 1e-8:
            names.append(name)
        at += n
    return tuple(names)
