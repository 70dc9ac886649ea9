"""Whole numbers and truth values among the outputs: a label is part of the function, though it has no derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import symdisc
from symdisc.errors import BadInput
from symdisc.opgraph import OpGraph
from symdisc.torchside.capture import capture
from symdisc.torchside.check import Checker
from symdisc.torchside.compare import change
from symdisc.torchside.layers import shortened
from symdisc.torchside.witness import decided_otherwise

End = Callable[[Tensor], Any]


class Scores(nn.Module):
    """Five scores of one linear map, or behind two hidden layers, with a last step of its own."""

    def __init__(self, end: End, hidden: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh()) if hidden else nn.Identity()
        self.o, self.end = nn.Linear(4 if hidden else 3, 5), end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.o(self.body(x)))


class Deep(nn.Module):
    """Equal blocks with a skip connection, and five scores with a last step of their own."""

    def __init__(self, end: End, depth: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)) for _ in range(depth))
        self.o, self.end = nn.Linear(4, 5), end

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = x + block(x)
        return self.end(self.o(x))


def best(y: Tensor) -> dict[str, Tensor]:
    score, label = y.max(-1)
    return {"score": score, "label": label}


# what is returned; its floating-point part alone; of that, on a linear map, (dimension, discrete groups), all of it false for the whole
CASES: dict[str, tuple[End, End, tuple[int, list[str]]]] = {
    "topk": (lambda y: y.topk(2), lambda y: y.topk(2)[0], (0, ["S_5"])),
    "max": (best, lambda y: best(y)["score"], (0, ["S_5"])),
    "signs": (lambda y: (y.abs(), y > 0), lambda y: y.abs(), (0, ["(Z_2)^5"])),
    "argmax": (lambda y: (y.square().sum(-1), y.argmax(-1)), lambda y: y.square().sum(-1), (10, [])),
    "counts": (lambda y: (y.abs().sum(-1), (y > 0).double().cumsum(-1).long()), lambda y: y.abs().sum(-1), (0, ["S_5", "(Z_2)^5"])),
    "rounded": (lambda y: (y.abs().sum(-1), (3 * y).round().long()), lambda y: y.abs().sum(-1), (0, ["S_5", "(Z_2)^5"])),
    "divided": (lambda y: (y.abs(), torch.div(y, 0.5, rounding_mode="floor").int()), lambda y: y.abs(), (0, ["(Z_2)^5"])),
    "masked": (lambda y: (y.abs().sum(-1), y.masked_fill(y.detach().sum(-1, True) > 9, -torch.inf).argmax(-1)),
               lambda y: y.abs().sum(-1), (0, ["S_5", "(Z_2)^5"])),
}


def made(end: End, hidden: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Scores, Tensor]:
    torch.manual_seed(0)
    return Scores(end, hidden).to(dtype), torch.randn(40, 3, dtype=dtype)


def found(model: nn.Module, x: Tensor) -> tuple[symdisc.Catalog, tuple[int, list[str]]]:
    cat = symdisc.discover(model, (x,))
    return cat, (cat.group_dimension, [d.group for d in cat.discrete])


def labels(model: nn.Module, state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    return [t for t in tree_leaves(torch.func.functional_call(model, state, (x,))) if not t.is_floating_point()]


@pytest.mark.parametrize("name", CASES)
def test_what_moves_labels_is_not_proposed(name: str) -> None:
    whole, part, false = CASES[name]
    assert found(*made(part))[1] == false  # the twin: what its scores alone would have
    model, x = made(whole)
    cat, nothing = found(model, x)
    assert nothing == (0, []) and not cat.broken and cat.graph is not None and cat.graph.decisions
    assert any(n.startswith("what is decided") and "counts as an output" in n for n in cat.notes)
    certificate = symdisc.certify(cat)
    assert (certificate.found, certificate.fibre, certificate.complete) == (0, 0, True) and "what decides" in certificate.note


@pytest.mark.parametrize("name", CASES)
def test_nor_where_nothing_can_be_run(name: str) -> None:
    model, x = made(CASES[name][0])
    cat, nothing = found(model.to("meta"), x.to("meta"))
    assert nothing == (0, []) and not cat.broken


@pytest.mark.parametrize("name", CASES)
def test_hidden_layers_keep_what_they_have(name: str) -> None:
    true = (4, ["S_4", "S_4", "(Z_2)^4"])
    model, x = made(CASES[name][0], hidden=True)
    cat, here = found(model, x)
    assert here == true == found(*made(lambda y: y, hidden=True))[1] and not cat.broken
    certificate = symdisc.certify(cat)
    assert (certificate.found, certificate.fibre, certificate.complete) == (4, 4, True)
    g = cat.sample(1, 0.5)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    new = cat.apply(state, g)
    witness = cat.verify(model, g)
    assert witness.passed and witness.weights_changed > 0.3
    assert all(torch.equal(a, b) for a, b in zip(labels(model, state, x), labels(model, new, x), strict=True))
    assert found(model.to("meta"), x.to("meta"))[1] == true


@pytest.mark.parametrize("name", CASES)
def test_planted_symmetries_of_the_scores_alone_are_seen(name: str) -> None:
    whole, part, _ = CASES[name]
    (twin, x), (model, _) = made(part), made(whole)
    cat = symdisc.discover(twin, (x,))
    g = cat.sample(1, 0.5)
    assert cat.verify(twin, g).passed
    assert not cat.verify(model, g).passed
    state = {n: t.detach() for n, t in model.state_dict().items()}
    new = cat.apply(state, g)
    assert change(twin, state, new, [(x,)]) < 1e-9 and change(model, state, new, [(x,)]) == float("inf")
    assert change(model, state, state, [(x,)]) == 0.0
    captured = capture(model, (x,))
    assert all(c > 1e-3 for c in Checker(captured, []).judge_discrete(cat.discrete))


def test_what_labels_do_not_see_stays() -> None:
    """A shift of all scores moves neither shares nor labels; where shares are returned themselves nothing is added."""
    for end, added in ((lambda y: (2 * y.softmax(-1), y.argmax(-1)), ("linear_order",)), (lambda y: (y.softmax(-1), y.argsort(-1)), ()),
                       (lambda y: (y, y.argmax(-1)), ())):
        model, x = made(end)
        cat, (dimension, _) = found(model, x)
        assert cat.graph is not None and cat.graph.decisions == added
        assert dimension == (0 if "linear" in cat.graph.outputs else 4) and symdisc.certify(cat).complete
        assert any(n.startswith("what is decided") for n in cat.notes) == bool(added)
    model, x = made(lambda y: (2 * y.softmax(-1), y > 0))  # thresholds do see it
    assert found(model, x)[1][0] == 0


def test_whole_numbers_that_ask_for_nothing() -> None:
    """Inside of the network, or made of the inputs: the graph is the one without them."""
    for end in (lambda y: y.gather(-1, y.argmax(-1, keepdim=True)), lambda y: (y, torch.arange(5), y.shape[0] * torch.ones(2).long())):
        model, x = made(end)
        graph = capture(model, (x,)).graph
        assert graph.decisions == () and len(graph.outputs) == 1 and '"decisions"' not in graph.to_json()
    graph = capture(*_as_call(made(CASES["argmax"][0]))).graph
    assert graph.decisions == graph.outputs[1:] == ("linear_order",) and OpGraph.from_json(graph.to_json()) == graph


def test_labels_of_hidden_units() -> None:
    """The units that are read keep their places and their scales; those before and behind keep what they have."""
    class Routed(Scores):
        def forward(self, x: Tensor) -> Any:
            h = self.body[1](self.body[0](x))
            return self.o(self.body[3](self.body[2](h))), h.argmax(-1)

    torch.manual_seed(0)
    model, x = Routed(lambda y: y, hidden=True).double(), torch.randn(20, 3, dtype=torch.float64)
    cat, here = found(model, x)
    assert here == (0, ["S_4", "(Z_2)^4"]) and all(set(d.parameters) == {"body.2.weight", "body.2.bias", "o.weight"} for d in cat.discrete)
    assert cat.verify(model, cat.sample(0)).passed


def test_a_label_of_weights_alone() -> None:
    class Shown(Scores):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), self.o.weight > 0

    torch.manual_seed(0)
    model, x = Shown(lambda y: y.square().sum(-1), hidden=True).double(), torch.randn(20, 3, dtype=torch.float64)
    cat, here = found(model, x)
    assert here == (4, ["S_4"]) and "o.weight" not in {n for s in (*cat.symmetries, *cat.discrete) for n in s.parameters}
    assert symdisc.certify(cat).complete


def test_many_equal_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 4, dtype=torch.float64)
    model, twin = (Deep(end).double() for end in (CASES["topk"][0], lambda y: y))
    cat, here = found(model, x)
    assert shortened(capture(model, (x,))) is not None
    assert here == found(twin, x)[1] and here[1] == ["S_3"] * 8 and cat.verify(model, cat.sample(0)).passed
    assert symdisc.certify(cat).complete
    assert found(model.to("meta"), x.to("meta"))[1] == here


def test_only_whole_numbers_are_refused() -> None:
    with pytest.raises(BadInput, match="no floating-point tensor"):
        symdisc.discover(*_as_call(made(lambda y: y.argmax(-1))))


def test_labels_that_rounding_turns_do_not_count() -> None:
    """Two scores that differ in their last digits: the network is the same, its label of these is chance."""
    model, _ = made(lambda y: (y.sum(-1), y.argmax(-1)), hidden=True, dtype=torch.float32)
    x = torch.randn(2000, 3)
    with torch.no_grad():
        model.o.weight[1], model.o.bias[1] = model.o.weight[0] * (1 + 4e-7 * torch.randn(4)), model.o.bias[0]
        model.o.bias[:2] += 3.0
    cat = symdisc.discover(model, (x[:8],))
    state = {n: t.detach() for n, t in model.state_dict().items()}
    for seed in range(3):
        g = cat.sample(seed, 0.5)
        before, after = (labels(model, s, x)[0] for s in (state, cat.apply(state, g)))
        assert bool((before != after).any()) and set(before.tolist()) == {0, 1}
        assert cat.verify(model, g, [(x,)]).passed
    swapped = {**state, **{n: state[n][[2, 1, 0, 3, 4]] for n in ("o.weight", "o.bias")}}  # the sum of scores stays
    assert change(model, state, swapped, [(x,)], rounding=1e-3) == float("inf")


def test_one_firm_label_is_enough() -> None:
    """Weights within rounding of a threshold decide either way, and of two labels that rounding turns into each other no third comes."""
    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        return [state["w"], (state["w"] > 1.0).int()]

    state = {"w": torch.tensor([0.5, 1.0 + 1e-12, 2.0, 1.0 - 1e-12], dtype=torch.float64)}
    before = run(state)
    for flipped, counts in (((), False), ((1,), False), ((1, 3), False), ((0,), True), ((1, 2), True)):
        after = [before[0], before[1].clone()]
        after[1][list(flipped)] ^= 1
        assert decided_otherwise(run, state, before, after, 1e-9) is counts
    assert decided_otherwise(run, state, before, [before[0], torch.tensor([0, 2, 1, 0], dtype=torch.int32)], 1e-9)
    assert decided_otherwise(run, state, before, [before[0], before[1][:2]], 1e-9)


def _as_call(given: tuple[nn.Module, Tensor]) -> tuple[nn.Module, tuple[Tensor]]:
    return given[0], (given[1],)
