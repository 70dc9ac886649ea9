"""Certificates of miniatures: the draw of weights with the least surplus counts, and what is local to a draw is no symmetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from symdisc import archgraph
from symdisc.architectures.base import Architecture
from symdisc.entries.ranks import DRAWS, certified
from symdisc.torchside import calibrate
from symdisc.torchside.algebra import Algebra, fibre
from symdisc.torchside.capture import Capture, capture
from symdisc.torchside.network import Network
from symdisc.torchside.remainder import float64_state

SIZES = {"n": 4}


def _relu(sizes: Mapping[str, int]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Three inputs, n ReLU units, two outputs: n scales at generic weights."""
    return nn.Sequential(nn.Linear(3, sizes["n"]), nn.ReLU(), nn.Linear(sizes["n"], 2)).eval(), (torch.randn(3, 3),)


ARCHITECTURE = Architecture("relu", "ReLU", {"n": "units"}, _relu, (SIZES,), None)


def _resting(counts: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In draw k, ``counts[k]`` units never switch on: each then has its four incoming weights and two outgoing ones for free."""
    def draw(captured: Capture, seed: int = 0) -> None:
        bias = next(v for v, n in captured.graph.parameters.items() if n == "0.bias")
        captured.tensors[bias][:counts[seed]] = -100.0

    monkeypatch.setattr(calibrate, "calibrate", draw)


def test_the_draw_with_the_least_surplus_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _resting((2, 1, 0), monkeypatch)
    cat, found = certified(ARCHITECTURE, SIZES)
    assert found is not None and (found.found, found.fibre, found.flow, cat.orbit_dimension) == (4, 4, 0, 4)


def test_what_differs_from_draw_to_draw_is_told_as_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scales and the six free weights of the unit at rest make the fibre; the scale of that unit is among the six."""
    _resting((1, 1, *(2,) * (DRAWS - 2)), monkeypatch)
    cat, found = certified(ARCHITECTURE, SIZES)
    assert found is not None and (found.found, found.fibre, found.flow) == (4, 3 + 6, 0)
    assert any(note.startswith("local surplus: 5") for note in cat.notes)
    assert not any(s.family == "flow" for s in cat.symmetries)


def test_weights_that_are_kept_are_those_of_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later draw in place does not change them: the graph at the kept weights has the recorded rank."""
    _resting((0,), monkeypatch)
    cat, _ = certified(ARCHITECTURE, SIZES)
    assert cat.captured is not None and cat.model is not None
    network = Network(cat.captured, float64_state(cat.captured))
    before = network.output(network.parameters, network.draws(0, 1))
    with torch.no_grad():
        for p in cat.model.parameters():
            p.zero_()
    again = Network(cat.captured, float64_state(cat.captured))
    assert (again.output(again.parameters, again.draws(0, 1)) == before).all() and before.any()


def test_scores_of_many_places_are_summed_for_the_rank() -> None:
    """A score for every pixel: random sums of outputs see the same directions as the outputs one by one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 1)).double().eval()
    captured = capture(model, (torch.randn(2, 1, 20, 20, dtype=torch.float64),))
    network = Network(captured, float64_state(captured))
    summed = fibre(network)[0]
    assert summed.dimension == 2
    jacobian = network.jacobian(network.parameters, network.draws(50, 1))
    assert abs(jacobian @ summed.basis).max() < 1e-9 * abs(jacobian).max()


class Stepped(nn.Module):
    """A perceptron whose hidden units are lifted where they are positive: by ``step`` at once, or (0) by nothing."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.up, self.down, self.step = nn.Linear(2, 3), nn.Linear(3, 1), step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(x)
        return self.down(torch.tanh(torch.where(h > 0, h + self.step, h)).softmax(-1))


def test_jumps_are_found_where_they_are_and_what_reads_them_is_not_blamed() -> None:
    found = {}
    for step in (0.0, 1.0):
        captured = capture(Stepped(step).double().eval(), (torch.randn(4, 2, dtype=torch.float64),))
        found[step] = Algebra.of(captured, archgraph.build(captured.graph), float64_state(captured)).jumps
    assert found[0.0] == () and "aten.where" in found[1.0] and "aten.linear" not in found[1.0]
    smooth = capture(nn.Sequential(nn.Linear(2, 3), nn.ReLU6(), nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 1)).double().eval(),
                     (torch.randn(4, 2, dtype=torch.float64),))
    algebra = Algebra.of(smooth, archgraph.build(smooth.graph), float64_state(smooth))
    assert algebra.arch.nodes and algebra._inexplicit == [] and algebra.jumps == ()


def test_many_inputs_are_differentiated_in_parts_of_bounded_size() -> None:
    captured = capture(_relu(SIZES)[0].double(), (torch.randn(3, 3, dtype=torch.float64),))
    whole, parts = (Network(captured, float64_state(captured)) for _ in range(2))
    assert whole.together > 8
    parts.__dict__["together"] = 3
    draws = whole.draws(0, 8)
    rows = whole.jacobian(whole.parameters, draws)
    assert rows.shape == (8 * 3 * 2, whole.size) and abs(parts.jacobian(parts.parameters, draws) - rows).max() < 1e-12
