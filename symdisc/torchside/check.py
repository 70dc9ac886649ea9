"""Check proposed families by running the captured graph with random parameters: a false one must not get through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from symdisc.elements import identity_discrete, sample_array, sample_discrete
from symdisc.errors import BadInput
from symdisc.symmetry import Discrete, Symmetry
from symdisc.torchside.apart import apart, finite_count, joined
from symdisc.torchside.capture import Capture
from symdisc.torchside.draws import draw
from symdisc.torchside.interpret import ancestors, evaluate, wide
from symdisc.torchside.kernels import run_moves

__all__ = ["Checker", "can_run", "random_state"]

CALMER = 4  # times that random weights are divided by four, at most, to have finite outputs
TOLERANCE = 1e-8  # float64, relative to the variation of the outputs; a false family is off by 1e-3 or more


def can_run(capture: Capture) -> bool:
    """Buffers and constants have values (a model on the meta device has none)."""
    graph = capture.graph
    return not any(t.is_meta for n, t in capture.tensors.items() if n not in graph.parameters) and not any(
        t.is_meta for t in capture.example)


def random_state(capture: Capture, gains: Collection[str], seed: int) -> dict[str, Tensor]:
    """Generic float64 parameters of sensible size by canonical name; running variances and other buffers as they are."""
    g = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, like in capture.parameters.items():
        noise = torch.randn(like.shape, generator=g, dtype=torch.float64)
        if name in gains:
            state[name] = 1.0 + 0.3 * noise.clamp(-2.0, 2.0)
        elif like.dim() >= 2:
            state[name] = noise / float(max(int(np.prod(like.shape[1:])), 1)) ** 0.5
        else:
            state[name] = 0.3 * noise
    for value, name in capture.graph.buffers.items():
        tensor = capture.tensors.get(value)
        if tensor is not None:
            state[name] = wide(tensor)
    return state


def _nontrivial(d: Discrete, rng: np.random.Generator) -> np.ndarray:
    """A random element that is not the identity, so that the check means something."""
    while True:
        array = sample_discrete(d, rng)
        if not np.array_equal(array, identity_discrete(d)):
            return array


def _elements(families: Sequence[Symmetry | Discrete], seed: int, scale: float = 0.3) -> list[tuple[Symmetry | Discrete, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(s, _nontrivial(s, rng) if isinstance(s, Discrete) else sample_array(s, rng, scale)) for s in families]


class Checker:
    """Runs the graph in float64 for given parameters, on a few inputs, and compares."""

    def __init__(self, capture: Capture, gains: Collection[str], seed: int = 0, samples: int = 2) -> None:
        self.capture, self.gains = capture, frozenset(gains)
        graph = capture.graph
        self.state = random_state(capture, gains, seed)
        self._move_statistics(seed)
        self.ops = ancestors(graph, graph.outputs)
        example = tuple(wide(t) for t in capture.example)
        self.inputs = [example, *(draw(graph, example, s) for s in range(1, samples))]
        try:
            self.reference = self.run(self.state)
        except IndexError as error:
            raise BadInput(f"the network does not run on its own example inputs: {error}; indices must lie within tables") from error
        self._calm()

    def _calm(self) -> None:
        """Smaller weights as long as more of the outputs become finite: exponentials overflow at weights that are no trained ones."""
        most = sum(t.numel() for t in self.reference)
        for _ in range(CALMER):
            count = finite_count(self.reference)
            if count == most:
                return
            before = self.state, self.reference
            self.state = {n: t / 4 if n in self.capture.parameters and n not in self.gains else t for n, t in self.state.items()}
            self.reference = self.run(self.state)
            if finite_count(self.reference) <= count:
                self.state, self.reference = before
                return

    def _move_statistics(self, seed: int) -> None:
        """Running statistics at zero and one would hide errors."""
        g = torch.Generator().manual_seed(seed + 1)
        for name in self.capture.graph.buffers.values():
            tensor = self.state.get(name)
            if tensor is None or not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                self.state[name] = 0.5 + torch.rand(tensor.shape, generator=g, dtype=torch.float64)
            elif name.endswith("running_mean"):
                self.state[name] = 0.5 * torch.randn(tensor.shape, generator=g, dtype=torch.float64)

    def run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Each output at all inputs, one behind the other along the first axis."""
        graph, tensors = self.capture.graph, self.capture.tensors
        fixed = {n: wide(t) for n, t in tensors.items() if n in graph.constants}
        env = {**fixed, **{v: state[n] for v, n in {**graph.parameters, **graph.buffers}.items() if n in state}}
        results = []
        with torch.no_grad():
            for x in self.inputs:
                torch.manual_seed(0)  # dropout masks and the like must repeat
                values = evaluate(self.ops, {**env, **dict(zip(graph.inputs, x, strict=True))}, graph.outputs, torch.float64)
                results.append([values[o].detach() for o in graph.outputs])
        return [joined(one) for one in zip(*results, strict=True)]

    def change(self, state: Mapping[str, Tensor]) -> float:
        """Largest change of any output, relative to its variation; infinite where the network has no finite outputs."""
        if not finite_count(self.reference):
            return float("inf")
        return max(apart(before, after, fine=True) for before, after in zip(self.reference, self.run(state), strict=True))

    def moved(self, factors: Sequence[tuple[Symmetry | Discrete, np.ndarray]]) -> dict[str, Tensor]:
        state = dict(self.state)
        for s, array in factors:
            state.update(run_moves(s.moves, array, state))
        return state

    def stand(self, families: Sequence[Symmetry | Discrete], seed: int = 0) -> bool:
        """A random element of each, all of them at once, leaves the function alone: enough where each was run by itself elsewhere."""
        return self._try(_elements(families, seed)) < TOLERANCE

    def judge(self, families: Sequence[Symmetry | Discrete], seed: int = 0, scale: float = 0.3,
              progress: Callable[[int, int], None] | None = None) -> list[float]:
        """Change of the function under a random element of each family: all together first, then halves of what fails."""
        factors = _elements(families, seed, scale)
        changes = [0.0] * len(factors)
        pending, done = [list(range(len(factors)))] if factors else [], 0
        while pending:
            part = pending.pop()
            change = self._try([factors[k] for k in part])
            if change >= TOLERANCE and len(part) > 1:
                half = len(part) // 2
                pending += [part[half:], part[:half]]
                continue
            for k in part:
                changes[k] = change
            done += len(part)
            if progress is not None:
                progress(done, len(factors))
        return changes

    def judge_discrete(self, families: Sequence[Discrete], seed: int = 0, trials: int = 6) -> list[float]:
        """The same for discrete factors. Two false ones can undo each other (a sign before and behind an odd operator), so random
        subsets act together, and as soon as one fails all families are tried alone, several elements each."""
        rng = np.random.default_rng(seed)
        for trial in range(trials if families else 0):
            part = [d for d in families if trial == 0 or rng.random() < 0.5]
            if self._try([(d, _nontrivial(d, rng)) for d in part]) >= TOLERANCE:
                return [max(self._try([(d, _nontrivial(d, rng))]) for _ in range(3)) for d in families]
        return [0.0] * len(families)

    def _try(self, factors: list[tuple[Symmetry | Discrete, np.ndarray]]) -> float:
        try:
            return self.change(self.moved(factors))
        except (RuntimeError, IndexError, KeyError):
            return float("inf")  # moves that do not fit the tensors are no symmetry
