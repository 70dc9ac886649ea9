"""A symmetry is a matter of the function, a law of what trains it: where a model cuts gradients, only what its own flow keeps is claimed.

Each claim, and each refusal, is held against the gradient flow of the module as it is, integrated by small steps of order four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc
from symdisc.conserved import ConservedQuantity
from symdisc.conserved.cuts import ASSUMED, TRIVIAL
from symdisc.torchside.network import Doubled, ModelFunction, Wide

KEPT, DRIFTS, STEPS = 1e-9, 1e-4, 60
UNITS, BASIS, TRADED = "scaling of hidden units", "change of basis", "translation traded between parameters"
State = dict[str, Tensor]


class Of(nn.Module):
    """Modules by name, and what is done with them."""

    def __init__(self, call: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


class Turned(torch.autograd.Function):
    """Identity forward; backward turns the gradient round, as in domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Endless(torch.autograd.Function):
    """Has no backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


def mlp(frozen: tuple[str, ...] = (), zero: tuple[str, ...] = (), activation: Callable[[Tensor], Tensor] = F.relu) -> nn.Module:
    model = Of(lambda m, x: m.o(activation(m.a(x))), a=nn.Linear(3, 3), o=nn.Linear(3, 2))
    return prepared(model, frozen, zero)


def prepared(model: nn.Module, frozen: tuple[str, ...] = (), zero: tuple[str, ...] = ()) -> nn.Module:
    with torch.no_grad():
        for name in zero:
            model.get_parameter(name).zero_()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def without_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = F.relu(m.a(x))
    return m.o(h)


def heads(way: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two heads on one hidden layer, the second behind ``way`` and with a hidden layer of its own."""
    def call(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(m.a(x))
        return m.o(h), m.q(F.relu(m.p(way(h))))
    return Of(call, a=nn.Linear(3, 3), o=nn.Linear(3, 2), p=nn.Linear(3, 4), q=nn.Linear(4, 2))


def table(row: float | None, **options: Any) -> nn.Module:
    """A table and a linear map; the first row ``row`` times what it was drawn as."""
    model = Of(lambda m, t: m.o(m.e(t)), e=nn.Embedding(5, 2, **options), o=nn.Linear(2, 3))
    with torch.no_grad():
        model.get_parameter("e.weight").normal_()
        if row is not None:
            model.get_parameter("e.weight")[0] *= row
    return model


def functional_row(m: Any, t: Tensor) -> Tensor:
    return m.o(F.embedding(t, m.e.weight, -1))


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    lost: dict[str, str]  # the first parameter that a lost law moves: words of its reason
    kept: int  # numbers that stay, of laws that are claimed
    condition: str = ""  # that a law which stays carries
    drifts: bool = True  # what is refused would be conserved along the full gradient, and is not


CASES = {
    "detached in one of two heads": Case(lambda: heads(torch.detach), {"a.bias": "the gradient of a.weight is not the derivative"}, 4),
    "first layer without grad": Case(lambda: Of(without_grad, a=nn.Linear(3, 3), o=nn.Linear(3, 2)),
                                     {"a.bias": "the gradient is cut before a.weight (detach or no_grad)"}, 0),
    "weight frozen": Case(lambda: mlp(("a.weight",)), {"a.bias": "a.weight is not trained"}, 0),
    "padding row": Case(lambda: table(1.0, padding_idx=0), {"e.weight": "no gradient reaches row 0 of e.weight"}, 0),
    "padding row by hand": Case(lambda: Of(functional_row, e=nn.Embedding(5, 2), o=nn.Linear(2, 3)),
                                {"e.weight": "no gradient reaches row 4 of e.weight"}, 0),
    "gradient by frequency": Case(lambda: table(None, scale_grad_by_freq=True), {"e.weight": "the gradient of e.weight is not"}, 0),
    "gradient turned round": Case(lambda: heads(Turned.apply), {"a.bias": "the gradient of a.weight is not the derivative"}, 4),
    "bias frozen": Case(lambda: mlp(("a.bias",)), {"a.bias": "a.bias is not trained"}, 0),
    "zero bias frozen": Case(lambda: mlp(("a.bias",), ("a.bias",)), {}, 3, "a.bias is not trained"),
    "zero padding row": Case(lambda: table(0.0, padding_idx=0), {"e.weight": "no gradient reaches row 0"}, 3, "no gradient reaches row 0",
                             drifts=False),  # the translation, which had no charge before
    "both partners frozen": Case(lambda: mlp(("a.weight", "a.bias", "o.weight")), {}, 3, TRIVIAL),
    "weights frozen, biases trained": Case(lambda: mlp(("a.weight", "o.weight"), activation=lambda h: 2.0 * h),
                                           {"a.weight": "a.weight is not trained"}, 3),
    "plain": Case(mlp, {}, 3),
    "plain heads": Case(lambda: heads(lambda h: h), {}, 7),
    "plain table": Case(lambda: table(None), {}, 3),
    "sparse table": Case(lambda: table(None, sparse=True), {}, 3),
}


def drawn(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)  # no unit switches on the way, where such steps would lose their order
        model = make().double()
        return model, torch.randint(0, 5, (6, 4)) if hasattr(model, "e") else torch.randn(6, 3, dtype=torch.float64)


def flowed(model: nn.Module, x: Tensor, length: float = 0.1) -> tuple[State, State]:
    """The weights before and after gradient flow of the module itself, by ``backward``: what has no gradient stays."""
    named = dict(model.named_parameters())
    start = {n: p.detach().clone() for n, p in named.items()}
    draw = torch.Generator().manual_seed(1)
    wanted = [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in torch.utils._pytree.tree_leaves(model(x))]

    def split(flat: np.ndarray) -> State:
        parts = torch.as_tensor(flat).split([t.numel() for t in start.values()])
        return {n: t.reshape(start[n].shape) for n, t in zip(start, parts, strict=True)}

    def field(flat: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            for n, t in split(flat).items():
                named[n].copy_(t)
        model.zero_grad()
        pairs = zip(torch.utils._pytree.tree_leaves(model(x)), wanted, strict=True)
        sum(((out - y).square().mean() for out, y in pairs), torch.zeros(())).backward()
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad for p in named.values()]
        return -torch.cat([s.reshape(-1) for s in slopes]).numpy()

    flat, h = torch.cat([t.reshape(-1) for t in start.values()]).numpy(), length / STEPS
    for _ in range(STEPS):
        one = field(flat)
        two = field(flat + h / 2 * one)
        three = field(flat + h / 2 * two)
        flat = flat + h / 6 * (one + 2 * two + 2 * three + field(flat + h * three))
    return start, split(flat)


def change(q: ConservedQuantity, start: State, end: State) -> float:
    return float(abs(q.evaluate(end) - q.evaluate(start)).max())


@pytest.mark.parametrize("name", CASES)
def test_what_is_claimed_is_kept_by_the_flow_of_the_module_itself(name: str) -> None:
    case = CASES[name]
    model, x = drawn(case.make)
    cat = symdisc.discover(model, (x,), solve=False)
    start, end = flowed(model, x)
    claimed = [q for q in cat.conserved if q.status == "conserved"]
    assert sum(q.dimension for q in claimed) == case.kept
    assert all(change(q, start, end) < KEPT for q in claimed)
    reasons = dict(cat.cuts.lost)
    assert {s.parameters[0] for s in reasons} == set(case.lost)
    for s, reason in reasons.items():
        (q,) = [q for q in cat.conserved if q.symmetry == s]
        assert case.lost[s.parameters[0]] in reason == q.reason and (q.form, q.constraint, q.dimension) == ("", "", 0)
    full = [q for q in cat.charges if q.symmetry in reasons and q.status == "conserved"]
    assert bool(full) == (case.drifts and bool(case.lost)) and all(change(q, start, end) > DRIFTS for q in full)
    conditions = {text for q in claimed for text in q.assumptions}
    assert len(conditions) == bool(case.condition) and all(case.condition in text for text in conditions)


@pytest.mark.parametrize("name", ["plain", "plain heads", "plain table", "sparse table"])
def test_nothing_is_said_of_models_that_cut_nothing(name: str) -> None:
    model, x = drawn(CASES[name].make)
    for everything_frozen in (False, True):  # as models are that only run: no statement on how they are trained
        cat = symdisc.discover(model.requires_grad_(not everything_frozen), (x,), solve=False)
        assert not cat.cuts and cat.conserved == cat.charges and "cuts" not in cat.to_dict() and not any(ASSUMED in n for n in cat.notes)


@pytest.mark.parametrize("name", ["padding row", "zero bias frozen", "weight frozen", "both partners frozen"])
def test_files_and_pages_say_it(name: str) -> None:
    """The law is not printed, its reason is; a law that rests on what is not trained says so. A file tells the same."""
    model, x = drawn(CASES[name].make)
    cat = symdisc.discover(model, (x,), solve=False)
    again = symdisc.Catalog.from_json(cat.to_json())
    assert again == cat and again.conserved == cat.conserved and again.cuts
    page = again.to_markdown().replace("\\", "")
    (numbers,) = [line for line in page.splitlines() if "**Conserved by gradient flow**" in line]
    assert f"| {CASES[name].kept} numbers" in numbers
    words = [*CASES[name].lost.values(), *filter(None, [CASES[name].condition])]
    plain = page.replace("of weight", "of e.weight")  # names are shortened at their site
    assert words and all(w in plain for w in words)
    assert "cuts" in cat.to_dict() and cat.to_latex() and cat.to_html()


def test_like_layers_with_and_without_a_frozen_weight_are_two_rows() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.down(F.relu(self.up(x))))

    model = nn.Sequential(*(Layer() for _ in range(3))).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    page = symdisc.discover(model, (x,), solve=False).to_markdown()
    model[0].up.weight.requires_grad_(False)  # type: ignore[union-attr]
    cut = symdisc.discover(model, (x,), solve=False).to_markdown()
    assert "12 numbers" in page and "8 numbers" in cut and page.count("### ") + 1 == cut.count("### ")


def test_a_padding_row_that_no_example_meets_is_met() -> None:
    """Among many words a random draw would miss it."""
    torch.manual_seed(0)
    words = nn.Embedding(40_000, 2, padding_idx=0)
    nn.init.normal_(words.weight)
    model = Of(lambda m, t: m.o(m.e(t)), e=words, o=nn.Linear(2, 3))
    cat = symdisc.discover(model, (torch.randint(1, 40_000, (2, 6)),), solve=False)
    assert all("row 0 of e.weight" in q.reason for q in cat.conserved) and len(cat.cuts.lost) == 2


def test_other_flows_know_it_too() -> None:
    model, x = drawn(CASES["weight frozen"].make)
    cat = symdisc.discover(model, (x,), solve=False)
    assert [q.status for q in cat.conserved_under("weight_decay", lam=0.1)] == ["none"]
    assert cat.conserved_under("gradient_flow") == cat.conserved
    model, x = drawn(CASES["zero bias frozen"].make)
    (q,) = symdisc.discover(model, (x,), solve=False).conserved_under("weight_decay", lam=0.1)
    assert q.status == "none" and "a.bias" in q.reason  # decay does not act on what no optimizer holds


def test_the_count_of_laws_says_which_flow_it_counts() -> None:
    notes = []
    for name in ("plain", "weight frozen"):
        model, x = drawn(CASES[name].make)
        count = symdisc.count_laws(symdisc.discover(model, (x,)))
        assert count.laws == count.found == 3
        notes.append(count.evidence.note)
    assert "full gradient" not in notes[0] and "full gradient" in notes[1] and "a.weight is not trained" in notes[1]


def test_moving_to_values_does_not_need_the_law() -> None:
    """Moment maps steer along orbits whatever trains the model."""
    model, x = drawn(CASES["first layer without grad"].make)
    cat = symdisc.discover(model, (x,), solve=False)
    moved = cat.move_to(model.state_dict(), "balanced")
    assert all(float(abs(q.evaluate(moved)).max()) < 1e-9 for q in cat.charges)
    assert torch.allclose(torch.func.functional_call(model, moved, (x,)), model(x))


def test_where_no_gradient_can_be_taken_it_is_assumed_and_said() -> None:
    endless = Of(lambda m, x: m.o(Endless.apply(F.relu(m.a(x)))), a=nn.Linear(3, 3), o=nn.Linear(3, 2))
    cat = symdisc.discover(endless, (torch.randn(6, 3),), solve=False)
    assert [q.status for q in cat.conserved] == ["conserved"] and any(n.startswith(ASSUMED) for n in cat.notes)
    with torch.device("meta"):
        bare, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(6, 3)
    cat = symdisc.discover(bare, (x,))
    assert [q.status for q in cat.conserved] == ["conserved"] and any(n.startswith(ASSUMED) for n in cat.notes)
    bare[0].weight.requires_grad_(False)
    (q,) = symdisc.discover(bare, (x,)).conserved
    assert q.status == "none" and "0.weight is not trained" in q.reason


def test_the_module_is_left_as_it_is() -> None:
    """No gradients, statistics or random numbers are taken from the user."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    cat = symdisc.discover(model, (torch.randn(6, 3),), solve=False)
    assert not cat.cuts and not cat.notes[1:] and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_module_as_trained_and_as_a_function() -> None:
    model, x = drawn(CASES["first layer without grad"].make)
    state = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    slopes = []
    for as_trained in (False, True):
        out = ModelFunction(model, (x,), None, torch.float64, as_trained)(state, x)
        slopes.append(torch.autograd.grad(out.sum(), state["a.weight"], allow_unused=True)[0])
    assert slopes[0] is not None and bool(slopes[0].any()) and slopes[1] is None
    with Doubled():
        narrow = torch.ones(2, requires_grad=True)
        assert narrow.float().dtype == torch.float64 and not narrow.detach().requires_grad
    with Wide():
        assert narrow.detach().requires_grad
