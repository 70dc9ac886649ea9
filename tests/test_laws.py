"""Counts of conservation laws against published numbers, as proofs; false laws and wrong shapes refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import ready
from torch import Tensor, nn

import symdisc
from symdisc.cli import main
from symdisc.errors import BadInput, NotProved, Undecided
from symdisc.laws import CountProblem, Evidence, Law, LawCount, Term, count_laws, problem_of
from symdisc.laws.lie import lie_span, random_state
from symdisc.residues import PRIMES, matmul, null_space, rank

REFERENCE = json.loads((Path(__file__).parent / "reference" / "law_counts.json").read_text())
SHAPES = REFERENCE["shapes"]


def shape_of(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("kind", "widths", "bias")}


def label(row: dict[str, Any]) -> str:
    return f"{row['kind']}-{'x'.join(map(str, row['widths']))}" + ("-bias" if row["bias"] else "")


# --- the published hundred --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("row", SHAPES, ids=label)
def test_published_count(row: dict[str, Any]) -> None:
    count = symdisc.count_laws(shape_of(row))
    assert (count.laws, count.parameters) == (row["laws"], row["parameters"])
    assert count.complete and count.found == count.laws and count.evidence.exact
    assert count.evidence.lie_rank == count.evidence.upper_bound == count.parameters - count.laws


def test_the_hundred_are_fifty_of_each_kind() -> None:
    assert sorted(row["kind"] for row in SHAPES) == ["linear"] * 50 + ["relu"] * 50


# --- further published numbers ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("widths, laws", REFERENCE["related"]["momentum_linear (widths -> laws of heavy ball)"],
                         ids=lambda v: "x".join(map(str, v)) if isinstance(v, list) else str(v))
def test_linear_layers_with_momentum(widths: list[int], laws: int) -> None:
    assert count_laws({"kind": "linear", "widths": widths, "flow": "momentum"}).laws == laws


@pytest.mark.parametrize("shape, laws", [
    ({"kind": "relu", "widths": [3, 4, 2], "flow": "momentum"}, 0),
    ({"kind": "nmf", "rows": 3, "rank": 2, "columns": 3, "flow": "momentum"}, 0),
    ({"kind": "icnn", "widths": [2, 3, 2], "flow": "momentum"}, 0),
    ({"kind": "nmf", "rows": 3, "rank": 2, "columns": 3}, 2),
    ({"kind": "nmf", "rows": 3, "rank": 2, "columns": 3, "mirror": "none"}, 3),
    ({"kind": "icnn", "widths": [2, 3, 2], "bias": True}, 3),
    ({"kind": "product", "factors": 5}, 4),
    ({"kind": "residual", "width": 3, "hidden": [5, 4]}, 9),
    ({"kind": "residual", "width": 3, "hidden": [2], "activation": "linear"}, 3),
    ({"kind": "conv", "channels": [2, 3, 2], "kernel": 3}, 3),
    ({"kind": "conv", "channels": [2, 3, 2], "kernel": [2, 2], "activation": "linear"}, 6),
    ({"kind": "attention", "width": 5, "key": 2, "value": 3}, 3 + 6),
    ({"kind": "attention", "width": 4, "key": 2, "heads": 4, "kv_heads": 2}, 2 * (3 + 3)),
    ({"kind": "attention", "width": 5, "key": 4, "value": 2, "rotary": True}, 2 + 3),
], ids=lambda v: v["kind"] + ("-momentum" if "flow" in v else "") if isinstance(v, dict) else str(v))
def test_other_shapes(shape: dict[str, Any], laws: int) -> None:
    count = count_laws(shape)
    assert (count.laws, count.complete) == (laws, True)


def test_two_residual_blocks_of_the_paper() -> None:
    count = count_laws({"kind": "residual", "width": 3, "hidden": [50, 20]})
    assert (count.parameters, count.laws, count.complete) == (420, 70, True)


def test_depth_and_seed_change_nothing() -> None:
    shape = {"kind": "relu", "widths": [3, 4, 3, 2], "bias": True}
    assert {count_laws(shape, seed=s).laws for s in range(4)} == {7}


# --- an oracle: brackets by hand --------------------------------------------------------------------------------------
def slow_dimension(n: int, r: int, m: int) -> int:
    """dim Lie of {grad tr(C U V)} at a random integer point, brackets as matrices of linear fields, modulo a prime."""
    p, size = PRIMES[2], r * (n + m)
    fields = []
    for a in range(n):
        for b in range(m):  # loss U[a, :] V[:, b]: theta' = S theta with a symmetric S
            s = np.zeros((size, size), np.int64)
            for k in range(r):
                s[a * r + k, n * r + k * m + b] = s[n * r + k * m + b, a * r + k] = 1
            fields.append(s)
    known: list[np.ndarray] = []
    fresh = fields
    while fresh:
        grown = []
        for s in fresh:
            if rank(np.array([x.ravel() for x in [*known, s]]), p) > len(known):
                known.append(s)
                grown.append(s)
        fresh = [(f @ g - g @ f) % p for f in fields for g in grown]
    theta = np.random.default_rng(1).integers(1, p, size)
    return rank(np.array([matmul(s, theta[:, None], p).ravel() for s in known]), p)


@pytest.mark.parametrize("n, r, m", [(2, 2, 2), (3, 2, 2), (2, 3, 1), (1, 2, 1), (3, 1, 2)])
def test_against_brackets_by_hand(n: int, r: int, m: int) -> None:
    count = count_laws({"kind": "linear", "widths": [m, r, n]})
    assert count.parameters - count.laws == slow_dimension(n, r, m)


# --- claims are tested ------------------------------------------------------------------------------------------------
def test_a_law_with_a_wrong_sign_is_refused() -> None:
    problem = problem_of({"kind": "linear", "widths": [3, 2, 3]})
    (law,) = problem.laws
    twin = Law(tuple(replace(t, sign=1) for t in law.terms), law.diagonal, law.matrix)
    with pytest.raises(NotProved, match="not conserved"):
        count_laws(replace(problem, laws=(twin,)))


def test_the_matrix_of_a_linear_layer_is_no_law_of_a_relu_layer() -> None:
    linear, relu = (problem_of({"kind": kind, "widths": [3, 2, 3]}) for kind in ("linear", "relu"))
    with pytest.raises(NotProved):
        count_laws(replace(relu, laws=linear.laws))


def test_too_few_known_laws_are_not_called_complete() -> None:
    problem = problem_of({"kind": "relu", "widths": [3, 4, 2]})
    law = Law((Term(1, "W2", "oh"), Term(-1, "W1", "hi")), diagonal="")
    count = count_laws(replace(problem, laws=(law,)))
    assert (count.laws, count.found, count.complete, count.evidence.proof) == (4, 1, False, "none")
    assert len(count.evidence.primes) == 2, "a second prime was asked"


def test_the_span_is_closed_under_the_known_laws() -> None:
    """The vectors found are tangent to the level sets; what is orthogonal to them are the gradients of the laws."""
    problem = problem_of({"kind": "linear", "widths": [2, 2, 2]})
    rng = np.random.default_rng(0)
    state, friction = random_state(problem, rng, PRIMES[0])
    span = lie_span(problem, state, friction, problem.states - 3, rng, PRIMES[0])
    left = null_space(span.basis, PRIMES[0])
    rows = problem.laws[0].rows(problem.split(state), PRIMES[0])
    assert len(left) == 3 == rank(np.concatenate([left, rows]), PRIMES[0])


# --- catalogs and models ----------------------------------------------------------------------------------------------
@cache
def catalog(name: str) -> symdisc.Catalog:
    model, maker, _ = ready(name)
    return symdisc.discover(model, maker(0), solve=False)


@pytest.mark.parametrize(
    "name, laws",
    [
        ("mlp_relu", 5),
        ("mlp_leaky_relu_deep", 12),
        ("mlp_cube", 5),
        ("linear_deep_no_bias", 15 + 6),
        ("linear_deep", 15 + 6),
        ("res_relu", 5 + 3),
        ("glu_bilinear", 3 + 3),
        ("shared_twice_relu", 4),
        ("tied_autoencoder_linear", 0),
    ],
)
def test_the_quantities_of_a_catalog_are_all_laws(name: str, laws: int) -> None:
    """Rotations and traded translations give none: the count proves that nothing is left."""
    cat = catalog(name)
    count = symdisc.count_laws(cat)
    assert (count.laws, count.found, count.complete) == (laws, laws, True)
    assert laws == sum(q.dimension for q in cat.conserved) and count.parameters == cat.parameter_count


def test_a_forgotten_symmetry_leaves_the_count_open() -> None:
    cat = catalog("linear_deep_no_bias")
    count = count_laws(cat.replace(symmetries=cat.symmetries[:1]))
    assert count.laws == 21 and count.found < 21 and not count.complete


def test_a_false_symmetry_is_refused() -> None:
    cat = catalog("mlp_relu")
    (s,) = cat.symmetries
    twin = replace(s, moves=(replace(s.moves[0], power=-s.moves[0].power), *s.moves[1:]))
    with pytest.raises(NotProved):
        count_laws(cat.replace(symmetries=(twin,)))


def test_a_model_as_it_is() -> None:
    """What was taken for its inputs is said, for a model and for a catalog."""
    count = count_laws(ready("mlp_relu")[0])
    assert count.laws == 5 and "that the model takes" in count.evidence.note
    assert count_laws(catalog("mlp_relu")).evidence.note.startswith("inputs as in the catalog: [")


class Backwards(nn.Module):
    """The first parameter is not the one that reads the input."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(5, 2), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Lead(Backwards):
    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(7, 3),)


class Two(Backwards):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


class Any2(nn.Module):
    """Broadcasts: any width runs."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.ones(4, 1)), nn.Parameter(torch.ones(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True) @ self.w.T


def test_inputs_are_inferred_from_what_the_model_takes() -> None:
    count = count_laws(Backwards())
    assert (count.laws, count.complete) == (5, True)
    assert count.evidence.note == "x taken as [2, 3], the only width of 5, 2, 3 that the model takes"
    assert count_laws(Lead()).evidence.note == "inputs from the model's own example_inputs()"


@pytest.mark.parametrize("model, message", [
    (Two(), "whose forward takes x, y: give count_laws the catalog"),
    (Any2(), "tensors of the widths 1, 4, 3; give count_laws"),
    (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)), "no matrix to read a width from"),
    (nn.Sequential(nn.Flatten(0), nn.Linear(3, 2)), "no .* tensor of width 3, 2; give"),
], ids=["two inputs", "any width", "no matrix", "none fits"])
def test_inputs_that_are_not_determined_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        count_laws(model)


def test_the_command_counts_at_the_inputs_of_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "zoo:mlp-relu"]) == 0
    assert "inputs as in the catalog" in capsys.readouterr().out


def test_a_catalog_from_a_file_has_no_graph() -> None:
    with pytest.raises(BadInput, match="has no graph"):
        count_laws(symdisc.Catalog.from_json(catalog("mlp_relu").to_json()))


# --- records and refusals ---------------------------------------------------------------------------------------------
def test_records_are_read_back() -> None:
    count = count_laws({"kind": "linear", "widths": [3, 2, 3]})
    assert LawCount.from_dict(json.loads(json.dumps(count.to_dict()))) == count
    assert Evidence.from_dict(count.evidence.to_dict()) == count.evidence
    assert all("W2" in text and "W1" in text for text in count.evidence.formulas)


@pytest.mark.parametrize("shape, message", [
    ({"kind": "rnn", "widths": [2, 2]}, "kind 'rnn' is not known"),
    ({"kind": ["linear"], "widths": [2, 2]}, "is not known"),
    ({"kind": "linear"}, "needs widths"),
    ({"kind": "linear", "widths": [3]}, "at least 2"),
    ({"kind": "linear", "widths": "332"}, "list"),
    ({"kind": "linear", "widths": [3, 0, 2]}, "positive"),
    ({"kind": "linear", "widths": [3, True, 2]}, "positive"),
    ({"kind": "linear", "widths": [3, 2], "bias": 1}, "true or false"),
    ({"kind": "linear", "widths": [3, 2], "depth": 2}, "does not take depth"),
    ({"kind": "relu", "widths": [3, 2], "flow": "adam"}, "flow is 'adam'"),
    ({"kind": "attention", "width": 4, "key": 3, "rotary": True}, "even"),
    ({"kind": "attention", "width": 4, "key": 2, "heads": 3, "kv_heads": 2}, "does not divide"),
    ({"kind": "icnn", "widths": [2, 2]}, "three"),
    (7, "cannot count laws of a int"),
])
def test_wrong_shapes_are_refused(shape: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        count_laws(shape)


def test_what_is_too_large_is_undecided() -> None:
    with pytest.raises(Undecided, match="smaller copy"):
        count_laws({"kind": "linear", "widths": [60, 60]})


def test_problems_of_ones_own() -> None:
    """x^2 y: one field, two variables, one law, whatever is known."""
    def potential(tape: Any, theta: Any, sample: Any) -> Any:
        square = tape.einsum("a,a->a", theta["x"], theta["x"])
        return tape.einsum("a,a->", tape.einsum("a,a->a", square, theta["y"]), sample["c"])

    problem = CountProblem("x^2 y", (("x", (1,)), ("y", (1,))), (("c", (1,)),), potential, generators=1)
    count = count_laws(problem)
    assert (count.laws, count.found, count.complete, count.evidence.proof) == (1, 0, False, "single field")
