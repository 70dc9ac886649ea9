"""Is the gradient that trains a module orthogonal to its symmetries? A few backward passes of the module as it is.

Symmetries are those of the function. What trains it may be less than its derivative: frozen parameters, ``detach``, ``no_grad``, padding
rows, backward passes written by hand. So plain gradients of random combinations of the outputs, at random inputs and weights, are held
against each generator. Only where one is not orthogonal, the derivative of the captured graph, which has no cuts, is taken too: it tells
the entries that training does not move, which then keep the values that they have, and the parameters whose gradient is another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.conserved import ConservedQuantity, Cuts
from symdisc.conserved.cuts import TRIVIAL, because, provided
from symdisc.errors import SymdiscError
from symdisc.symmetry import Symmetry
from symdisc.torchside.alignment import pull
from symdisc.torchside.capture import Capture, tie_groups
from symdisc.torchside.check import random_state
from symdisc.torchside.domains import vocabularies
from symdisc.torchside.interpret import wide
from symdisc.torchside.network import Function, ModelFunction, Network, plain_kernels, stored_dtype
from symdisc.torchside.pieces import moved_by, norm

__all__ = ["cuts_of", "frozen", "of_flags"]

State = dict[str, Tensor]
LARGE = 2_000_000  # parameters beyond which one draw has to do
OFF = 1e-6  # cosine between gradient and generator beyond which they are not orthogonal; a cut gives a share of 1
NOISE = 1e-9  # of the whole gradient, below which a pull is rounding
LESS = 1e-3  # what the full gradient's cosine is at most of that, or the cut is not to blame
APART = 1e-6  # relative difference of two gradients that are not the same
NUDGE = 0.3  # of the size of the weights, by which they are moved: generic ones near those that are there
PADDED = 0.25  # share of the indices of an input that point to a padding row


def frozen(model: nn.Module, capture: Capture) -> tuple[str, ...]:
    """Parameters that no gradient is asked for; none where that is all of them, as the flags then speak of running, not of training."""
    names = tie_groups(model)
    found = [n for n, p in model.named_parameters() if not p.requires_grad and names[n] in capture.parameters]
    return () if len(found) == len(capture.parameters) else tuple(dict.fromkeys(names[n] for n in found))


def of_flags(still: Sequence[str], symmetries: Sequence[Symmetry]) -> Cuts:
    """What the flags alone say, where nothing can be run: a symmetry that moves trained and frozen parameters together keeps nothing."""
    lost = []
    for s in symmetries:
        held = [n for n in _moved(s) if n in still]
        if held and len(held) < len(_moved(s)):
            lost.append((s, because([_not_trained(n) for n in held])))
    return Cuts(tuple(still), tuple(lost), _trivial(still, symmetries))


def _trivial(still: Sequence[str], symmetries: Sequence[Symmetry]) -> tuple[tuple[Symmetry, str], ...]:
    return tuple((s, TRIVIAL) for s in symmetries if still and _moved(s) and set(_moved(s)) <= set(still))


def cuts_of(capture: Capture, model: nn.Module, example: Sequence[Any], kwargs: Mapping[str, Any] | None,
            symmetries: Sequence[Symmetry]) -> Cuts:
    """Where ``model`` trains by something else than the derivative of its outputs. Whatever the module raises is passed on."""
    asked = [s for s in symmetries if (s.moves or s.generators) and set(_moved(s)) <= set(capture.parameters)]
    still = frozen(model, capture)
    trial = _Trial(capture, model, tuple(example), kwargs, still)
    suspects = trial.suspects(asked)
    if not suspects:
        return Cuts(still, kept=_trivial(still, asked))
    trial.look()
    lost = trial.refuted(suspects) if trial.seen else suspects
    causes = {n: trial.cause(n) for n in capture.parameters}
    told = {s: [c for n in _moved(s) if (c := causes[n])] for s in suspects}
    held = tuple((s, provided(told[s])) for s in suspects if s not in lost and told[s])
    unreached = trial.unreached()
    constant = tuple(n for n in capture.parameters if n in still or n in unreached)
    return Cuts(constant, tuple((s, because(told[s])) for s in lost), (*held, *_trivial(constant, [s for s in asked if s not in suspects])))


@dataclass
class _Seen:
    """At one draw: the gradient that trains, the full one, and which parameters the first does not reach at all."""

    trained: State
    full: State
    unreached: frozenset[str]


@dataclass
class _Trial:
    """The module at a few random weights and inputs."""

    capture: Capture
    model: nn.Module
    example: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None
    still: tuple[str, ...]
    held: State = field(default_factory=dict)  # masks of entries that training leaves where they are
    seen: list[_Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        stored = stored_dtype(self.model)
        self.own = {n: t.detach().double() for n, t in self.capture.parameters.items() if not t.is_meta}
        self.base = random_state(self.capture, (), 3)
        self.plain: Function = ModelFunction(self.model, self.example, self.kwargs, stored, as_trained=True)
        network = Network(self.capture, self.base)
        self.ways: list[Function] = [network.function(self.capture.graph.outputs),
                                     ModelFunction(self.model, self.example, self.kwargs, stored)]
        given = [tuple(wide(t) for t in self.capture.example)]
        given += network.draws(1, 1) if self.capture.size < LARGE else []
        self.inputs = [_padded(self.capture, self.model, x, k) for k, x in enumerate(given)]

    def states(self) -> list[State]:
        """Weights around those of the model, then random ones; entries that are not trained as they are."""
        draw = torch.Generator().manual_seed(5)
        found = []
        for k in range(len(self.inputs)):
            state = dict(self.base)
            for n, own in self.own.items():
                if k == 0:
                    size = float(own.square().mean().sqrt()) if own.numel() else 0.0
                    state[n] = own + NUDGE * (size or 1.0) * torch.randn(own.shape, generator=draw, dtype=torch.float64)
                if n in self.held:
                    state[n] = torch.where(self.held[n], own, state[n])
            found.append(state)
        return found

    def gradient(self, function: Function, state: State, k: int, like: Tensor | None = None) -> tuple[State, frozenset[str], Tensor]:
        """Of a fixed random combination of the outputs: by name (zeros where there is none), names without one, and the outputs.

        ``like`` are outputs that those of ``function`` must agree with, or it is another function: raises RuntimeError.
        """
        asked = [n for n in self.capture.parameters if n not in self.still or function is not self.plain]
        leaves = {n: state[n].clone().requires_grad_(n in asked) for n in self.capture.parameters}
        with torch.enable_grad(), plain_kernels(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = function({n: p.clone() for n, p in leaves.items()}, *(t.clone() for t in self.inputs[k]))
            if like is not None and (out.shape != like.shape or not torch.allclose(out, like, rtol=1e-6, atol=1e-8, equal_nan=True)):
                raise RuntimeError("another function")
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(k), dtype=out.dtype) * out.isfinite()
            rows = torch.autograd.grad(out, [leaves[n] for n in asked], weight, allow_unused=True) if out.requires_grad \
                else [None] * len(asked)
        found = {n: (g if g.layout == torch.strided else g.to_dense()).detach() for n, g in zip(asked, rows, strict=True) if g is not None}
        return ({n: found.get(n, torch.zeros_like(p.detach())) for n, p in leaves.items()},
                frozenset(n for n in leaves if n not in found), out.detach())

    def suspects(self, symmetries: Sequence[Symmetry]) -> list[Symmetry]:
        """Those that the gradient of training is not orthogonal to."""
        found: set[int] = set()
        for k, state in enumerate(self.states()):
            gradient = self.gradient(self.plain, state, k)[0]
            whole = float(norm(list(gradient.values())))
            found |= {i for i, s in enumerate(symmetries) if i not in found and OFF < _cosine(s, gradient, state, whole) < float("inf")}
        return [s for i, s in enumerate(symmetries) if i in found]

    def look(self) -> None:
        """Both gradients at all draws; what training leaves alone although the outputs depend on it then keeps its values, and again."""
        self._both()
        for n, own in self.own.items():
            if n in self.still:
                self.held[n] = torch.ones_like(own, dtype=torch.bool)
            elif self.seen:
                zero, counts = self._zero(n)
                if bool((zero & counts).any()):
                    self.held[n] = zero & counts
        if self.seen and self.held:
            self._both()

    def _both(self) -> None:
        self.seen, self.at = [], self.states()
        for k, state in enumerate(self.at):
            trained, unreached, out = self.gradient(self.plain, state, k)
            for way in self.ways:
                try:
                    self.seen.append(_Seen(trained, self.gradient(way, state, k, out)[0], unreached))
                    break
                except (RuntimeError, NotImplementedError, SymdiscError):
                    continue
        if len(self.seen) < len(self.at):
            self.seen = []

    def _zero(self, name: str) -> tuple[Tensor, Tensor]:
        """Entries without a gradient in training, and entries that the outputs depend on."""
        return (torch.stack([s.trained[name] == 0 for s in self.seen]).all(0),
                torch.stack([s.full[name] != 0 for s in self.seen]).any(0))

    def refuted(self, symmetries: Sequence[Symmetry]) -> list[Symmetry]:
        """Those that the full gradient is orthogonal to, and that of training is not."""
        found = []
        for s in symmetries:
            for seen, state in zip(self.seen, self.at, strict=True):
                cut, full = (_cosine(s, g, state, float(norm(list(seen.full.values())))) for g in (seen.trained, seen.full))
                if OFF < cut < float("inf") and full < LESS * cut:
                    found.append(s)
                    break
        return found

    def unreached(self) -> frozenset[str]:
        """Parameters that the outputs depend on and that training does not reach."""
        always = frozenset.intersection(*(s.unreached for s in self.seen)) if self.seen else frozenset()
        return frozenset(n for n in always if bool(self._zero(n)[1].any()))

    def cause(self, name: str) -> str:
        """What is wrong with the gradient of a parameter, in words; empty where it is the full one."""
        if not self.seen:
            return _not_trained(name) if name in self.still else ""
        zero, counts = self._zero(name)
        if not bool(counts.any()) or not any(_differ(s.trained[name], s.full[name]) for s in self.seen):
            return ""
        if name in self.still:
            return _not_trained(name)
        if bool((zero | ~counts).all()):
            return f"the gradient is cut before {name} (detach or no_grad)"
        rows = (zero & counts).flatten(1).any(1).nonzero().flatten().tolist() if zero.dim() > 1 else []
        rest = [r for r in range(len(zero)) if r not in rows]
        if rows and bool(zero[rows].all()) and not any(_differ(s.trained[name][rest], s.full[name][rest]) for s in self.seen):
            return f"no gradient reaches row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:8]))} of {name} (padding_idx)"
        return f"the gradient of {name} is not the derivative of the outputs (detached in part, or by a backward pass of its own)"


def _moved(s: Symmetry) -> tuple[str, ...]:
    return moved_by(_bare(s))


def _bare(s: Symmetry) -> ConservedQuantity:
    """Enough to pair the generators with a covector."""
    return ConservedQuantity(s, "gradient_flow", "none", "zero", "", 0)


def _not_trained(name: str) -> str:
    return f"{name} is not trained (requires_grad is False)"


def _cosine(s: Symmetry, gradient: State, state: State, whole: float) -> float:
    """Between the gradient of what a symmetry moves and its generators; 0 where it is rounding, or there is no generator at hand."""
    mine = {n: gradient[n] for n in _moved(s)}
    own = float(norm(list(mine.values())))
    try:
        size = pull(_bare(s), mine, state)
    except (SymdiscError, RuntimeError, IndexError, KeyError):
        return 0.0
    return size / own if own and size > NOISE * whole else 0.0


def _differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) > APART * float(other.norm())


def _padded(capture: Capture, model: nn.Module, x: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Inputs in which some indices point to a padding row, where the network has such rows."""
    graph = capture.graph  # operators are traced without their padding
    rows = [r for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and (r := m.padding_idx) is not None]
    if not rows:
        return x
    draw, sizes, found = torch.Generator().manual_seed(seed), vocabularies(graph), []
    for name, t in zip(graph.inputs, x, strict=True):
        usable = [r for r in dict.fromkeys(rows) if r < sizes.get(name, 0)]
        for r in usable if not t.is_floating_point() else ():
            t = torch.where(torch.rand(t.shape, generator=draw) < PADDED, torch.full_like(t, r), t)
        found.append(t)
    return tuple(found)
