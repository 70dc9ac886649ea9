"""Laws of torch models: convolutions, attention, exponentials, counted as proofs; what is not so is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.errors import NotProved, Undecided
from symdisc.laws import analytic, count_laws
from symdisc.laws.graphs import problem_of_catalog
from symdisc.laws.jets import Tape, contract
from symdisc.residues import PRIMES, draw
from symdisc.torchside import brackets

P = PRIMES[0]


class Attention(nn.Module):
    """Two heads of size 2 on a stream of 4; ``turned``: rotary positions on one head of size 4."""

    def __init__(self, turned: bool = False, bias: bool = False, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = (1 if turned else 2), causal
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=bias) for _ in range(4))
        angle = torch.arange(3)[:, None] * torch.tensor([1.0, 0.1]) * turned
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))
        self.turned = turned

    def turn(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * self.sin if self.turned else x

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=self.causal)
        return self.o(y.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


Make = Callable[[], tuple[nn.Module, Tensor]]
S = nn.Sequential
MODELS: dict[str, tuple[Make, int]] = {
    "tanh": (lambda: (S(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)), 0),
    "gelu": (lambda: (S(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), torch.randn(5, 3)), 0),
    "silu, relu": (lambda: (S(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 3)), 3),
    "relu, tanh": (lambda: (S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 3)), 4),
    "softplus": (lambda: (S(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)), torch.randn(5, 3)), 0),
    "elu": (lambda: (S(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 2)), torch.randn(5, 3)), 0),
    # a softmax at the end: a translation per input and one of the bias, beside the hidden units
    "softmax": (lambda: (S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(-1)), torch.randn(5, 3)), 4 + 5),
    "conv, relu, pool": (lambda: (S(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
                                  torch.randn(2, 1, 5, 5)), 2),
    "conv, tanh": (lambda: (S(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Conv1d(3, 2, 2)), torch.randn(2, 2, 4)), 0),
    "conv, linear": (lambda: (S(nn.Conv2d(2, 3, 2, bias=False), nn.Conv2d(3, 2, 2, bias=False)), torch.randn(1, 2, 3, 3)), 6),
    "conv, padding, mean": (lambda: (S(nn.Conv2d(1, 3, 3, padding=1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                       nn.Linear(3, 2)), torch.randn(2, 1, 4, 4)), 3),
    "grouped conv": (lambda: (S(nn.Conv1d(2, 4, 2, groups=2), nn.ReLU(), nn.Conv1d(4, 2, 1)), torch.randn(2, 2, 3)), 4),
    # per head d (d + 1) / 2 for queries and keys, the same for values; biases of values trade with that of the output
    "attention": (lambda: (Residual(Attention()), torch.randn(1, 3, 4)), 2 * (3 + 3)),
    "attention, biases": (lambda: (Attention(bias=True, causal=False), torch.randn(1, 3, 4)), 2 * (3 + 3) + 4),
    "attention, rotary": (lambda: (Attention(turned=True), torch.randn(1, 3, 4)), 2 + 10),
    "tokens": (lambda: (S(nn.Embedding(6, 4), Residual(Attention()), nn.Linear(4, 6)), torch.randint(0, 6, (1, 3))), 22),
}


def made(name: str) -> symdisc.Catalog:
    torch.manual_seed(0)
    model, x = MODELS[name][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return symdisc.discover(model, (x,), solve=False)


@pytest.mark.parametrize("name", MODELS)
def test_all_laws_are_found_and_proved(name: str) -> None:
    count = symdisc.count_laws(made(name))
    assert (count.laws, count.found, count.complete, count.evidence.proof) == (MODELS[name][1], MODELS[name][1], True, "bounds meet")


def test_free_exponentials_are_told() -> None:
    note = count_laws(made("tanh")).evidence.note
    assert "exponentials and their integrals as free values: between their 4 arguments per sample no integer relation holds" in note


def test_a_law_of_relu_is_none_of_tanh() -> None:
    relu = S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    known, cat = symdisc.discover(relu, (torch.randn(5, 3),)).symmetries, made("tanh")
    with pytest.raises(NotProved):
        count_laws(cat.replace(symmetries=known))


def test_a_matrix_of_a_head_is_no_law_where_positions_turn() -> None:
    plain, turned = made("attention"), made("attention, rotary")
    (keys,) = [s for s in plain.symmetries if {"inner.q.weight", "inner.k.weight"} == set(s.parameters)]
    moves = tuple(replace(m, parameter=m.parameter.removeprefix("inner.")) for m in keys.moves)
    with pytest.raises(NotProved):
        count_laws(turned.replace(symmetries=(replace(keys, moves=moves),)))


class Related(nn.Module):
    """exp(a) exp(b) = exp(a + b): values drawn freely would not know."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return torch.stack([h[..., 0].exp(), h[..., 1].exp(), h.sum(-1).exp()], -1)


def test_exponentials_with_a_relation_are_not_free() -> None:
    count = count_laws(symdisc.discover(Related(), (torch.randn(3, 2),)))
    assert "integer relation" in count.evidence.note and count.evidence.proof.startswith("float64") and not count.complete
    with pytest.raises(Undecided, match="integer relation"):
        problem_of_catalog(symdisc.discover(Related(), (torch.randn(3, 2),))).generic(np.random.default_rng(0), P)  # type: ignore[misc]


# --- in float64 ---------------------------------------------------------------------------------------------------------------
FLOATS: dict[str, tuple[Make, int]] = {
    "layer norm": (lambda: (S(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), torch.randn(5, 3)), 4),
    "batch norm": (lambda: (S(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)), 4),
    "weight norm": (lambda: (S(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)), 8),
}


@pytest.mark.parametrize("name", FLOATS)
def test_roots_are_counted_in_float64_and_not_called_proofs(name: str) -> None:
    torch.manual_seed(0)
    model, x = FLOATS[name][0]()
    count = count_laws(symdisc.discover(model.train(), (x,), solve=False))
    assert (count.laws, count.found, count.complete, count.evidence.exact) == (FLOATS[name][1], FLOATS[name][1], False, False)
    assert "(ranks in float64, no proof)" in count.summary and "relative singular values" in count.evidence.note


@pytest.mark.parametrize("name", ["relu, tanh", "conv, linear", "attention", "attention, rotary", "tokens"])
def test_brackets_in_float64_agree_with_the_exact_ones(name: str) -> None:
    counted = brackets.count(made(name), 0)
    cat = made(name)
    assert (cat.parameter_count - counted.span, counted.found) == (MODELS[name][1],) * 2


def test_a_law_that_is_none_is_refused_in_float64() -> None:
    relu = S(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    known = symdisc.discover(relu, (torch.randn(5, 3),)).symmetries
    with pytest.raises(NotProved):
        brackets.count(made("tanh").replace(symmetries=known), 0)


def test_one_channel_behind_a_norm_has_its_quantities() -> None:
    """Running statistics are no parameters, and as long as the gain beside them."""
    model = S(nn.Conv2d(2, 1, 2), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 2, 2)).eval()
    cat = symdisc.discover(model, (torch.randn(1, 2, 4, 4),), solve=False)
    assert sum(q.dimension for q in cat.conserved if q.status == "conserved") > 0


# --- the functions ------------------------------------------------------------------------------------------------------------
ORDER = 5


def derivative(jet: np.ndarray) -> np.ndarray:
    """In time, without the last coefficient."""
    return jet[:, 1:] * np.arange(1, jet.shape[1]).reshape(1, -1, *[1] * (jet.ndim - 2)) % P


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return contract("a,a->a", a, b, ORDER, P)


def argument() -> np.ndarray:
    return draw(np.random.default_rng(0), (2, ORDER, 3, 4), P)


def test_functions_obey_their_equations() -> None:
    tape, x = Tape(ORDER, P), argument()
    node, one = tape.leaf(x), np.zeros_like(x)
    one[0, 0] = 1
    functions = (analytic.exp, analytic.tanh, analytic.sigmoid, analytic.softplus, analytic.reciprocal)
    e, t, s, soft, r = (f(tape, node).value for f in functions)
    sine, cosine = (n.value for n in analytic.circle(tape, node))
    slopes = ((e, e), (t, one - times(t, t)), (s, times(s, one - s)), (soft, s), (r, -times(r, r)), (sine, cosine), (cosine, -sine))
    for value, slope in slopes:
        assert (derivative(value) == times(slope % P, derivative(x))[:, : ORDER - 1]).all()
    assert ((times(sine, sine) + times(cosine, cosine) - one) % P == 0).all()
    minus = tape.leaf(-x % P)
    assert ((analytic.tanh(tape, minus).value + t) % P == 0).all()
    assert ((soft - analytic.softplus(tape, minus).value - x) % P == 0).all()
    assert ((analytic.erf(tape, minus).value + analytic.erf(tape, node).value) % P == 0).all()
    both = analytic.normal(tape, minus).value + analytic.normal(tape, node).value - one
    assert (both % P == 0).all()


@pytest.mark.parametrize("function", [analytic.exp, analytic.tanh, analytic.sigmoid, analytic.softplus, analytic.erf, analytic.normal,
                                      analytic.reciprocal, lambda t, x: analytic.circle(t, x)[0], lambda t, x: analytic.circle(t, x)[1]])
def test_gradients_are_the_directions_backwards(function: Callable[..., object]) -> None:
    tape, x = Tape(ORDER, P), argument()
    node = tape.leaf(x)
    weights = tape.constant(draw(np.random.default_rng(1), (4,), P))
    result = tape.einsum("a,a->", function(tape, node), weights)  # type: ignore[arg-type]
    gradient = tape.gradient(result, [node])[0]
    assert (result.value[1] == contract("a,a->", gradient[:1], x[1:], ORDER, P)[0]).all()


def test_relations_are_seen() -> None:
    columns = draw(np.random.default_rng(2), (20, 3), P)
    assert analytic.independent(columns, P) and analytic.independent(np.c_[columns, -columns[:, 0] % P], P)
    assert not analytic.independent(np.c_[columns, columns.sum(1) % P], P)
    assert not analytic.independent(np.c_[columns, (columns[:, 0] + 7) % P], P)


def test_brackets_side_by_side_are_compared_up_to_the_rounding_of_their_largest_entries() -> None:
    large = torch.tensor([1e9, 1e-3], dtype=torch.float64)
    assert brackets._alike(large + torch.tensor([0.0, 1e-7]), large) and not brackets._alike(large * (1 + 1e-5), large)
    small = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    assert not brackets._alike(small + torch.tensor([0.0, 1e-7]), small)


def test_brackets_that_are_hard_to_tell_apart_count_where_rounding_lies_lower() -> None:
    """Singular values of 1e-10 above one of rounding are a rank; a slope without a gap is none, and asks for more brackets."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    found, doubt = brackets._judged(turn @ np.diag([1, 1e-3, 1e-6, 4e-10, 1e-15, 0]) @ turn.T)
    assert found is not None and found.rank == 4 and doubt is None
    found, doubt = brackets._judged(turn @ np.diag([1, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14]) @ turn.T)
    assert found is None and isinstance(doubt, Undecided)
