"""Generators that only turn: the subspace that the flow keeps, along flows of order eight, beside theory, and where nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp
from torch import nn

import symdisc
from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities
from symdisc.generators import Generator, Part
from symdisc.symmetry import Symmetry

Tensors = dict[str, torch.Tensor]
KEPT, BROKEN = 1e-10, 1e-5
RATES, LAM = {"w": 0.5, "v": 1.5}, 0.2


def turn(i: int, j: int, names: str = "w", axis: int = 0, sign: float = -1.0) -> Generator:
    return Generator(tuple(Part(n, axis, ((i, j, 1.0), (j, i, sign))) for n in names))


def all_turns(k: int, names: str = "w", axis: int = 0) -> tuple[Generator, ...]:
    return tuple(turn(i, j, names, axis) for i in range(k) for j in range(i + 1, k))


def symmetry(generators: Sequence[Generator]) -> Symmetry:
    names = tuple(dict.fromkeys(n for g in generators for n in g.parameters))
    count = len(generators)
    return Symmetry("x", "G", "linear", "", names, count, "witnessed", (count,), generators=tuple(generators))


@dataclass(frozen=True)
class Case:
    """Generators, what they leave of the parameters, shapes, and how many numbers theory says are kept."""

    generators: tuple[Generator, ...]
    seen: Callable[[Tensors], list[torch.Tensor]]
    shapes: dict[str, tuple[int, ...]]
    kept: int


QUATERNION = tuple(Generator((Part("w", 0, entries),)) for entries in (
    ((0, 1, -1.0), (1, 0, 1.0), (2, 3, -1.0), (3, 2, 1.0)), ((0, 2, -1.0), (2, 0, 1.0), (3, 1, -1.0), (1, 3, 1.0)),
    ((0, 3, -1.0), (3, 0, 1.0), (1, 2, -1.0), (2, 1, 1.0))))
BOTH_PLANES = Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, -1.0), (2, 3, 1.0), (3, 2, -1.0))),))
ABOUT = Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, -1.0))), Part("w", -1, ((0, 0, 0.5),))))


def length(p: Tensors) -> torch.Tensor:
    return (p["w"] ** 2).sum()


CASES = {
    "a vector": Case(all_turns(3), lambda p: [length(p)], {"w": (3,)}, 2),
    "a vector, by quaternions": Case(QUATERNION, lambda p: [length(p)], {"w": (4,)}, 3),
    "planes by themselves": Case((turn(0, 1), turn(2, 3)), lambda p: [p["w"][0] ** 2 + p["w"][1] ** 2, p["w"][2] ** 2 + p["w"][3] ** 2,
                                                                      p["w"][4]], {"w": (5,)}, 2),
    "few columns": Case(all_turns(4), lambda p: [p["w"].T @ p["w"]], {"w": (4, 2)}, 4),
    "few rows": Case(all_turns(4, axis=1), lambda p: [p["w"] @ p["w"].T], {"w": (2, 4)}, 4),
    "two vectors": Case(all_turns(3, "wv"), lambda p: [length(p), p["w"] @ p["v"], p["v"] @ p["v"]], {"w": (3,), "v": (3,)}, 2),
    "about a shifted centre": Case((ABOUT,), lambda p: [p["w"][0] ** 2 + (p["w"][1] + 0.5) ** 2, p["w"][2]], {"w": (3,)}, 1),
}
FLOWS = {"gradient": Flow(), "rates": Flow("learning_rates", {"eta": RATES}), "decay": Flow("weight_decay", {"lam": LAM})}


def split(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for n, s in shapes.items():
        size = int(np.prod(s))
        found[n] = flat[start:start + size].reshape(s)
        start += size
    return found


def joined(values: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([v.ravel() for v in values.values()])


def run(case: Case, flow: str, spoil: float = 0.0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Start and end of the flow of a random loss of what is seen; ``spoil`` lets it see a single entry, too."""
    rng = np.random.default_rng(5)
    begin = {n: rng.uniform(0.4, 1.1, s) * rng.choice([-1, 1], s) for n, s in case.shapes.items()}

    def loss(p: Tensors) -> torch.Tensor:
        total = spoil * p["w"].reshape(-1)[0] * p["w"].reshape(-1)[1]
        for k, part in enumerate(case.seen(p)):
            total = total + torch.sin((1.0 + 0.3 * k) * part + 0.4).sum() + 0.1 * (part ** 2).sum()
        return total

    def right(_: float, flat: np.ndarray) -> np.ndarray:
        p = {n: torch.tensor(v, requires_grad=True) for n, v in split(flat, case.shapes).items()}
        slopes = torch.autograd.grad(loss(p), list(p.values()))
        rates = [RATES[n] if flow == "rates" else 1.0 for n in p]
        decay = LAM if flow == "decay" else 0.0
        return -np.concatenate([r * (g + decay * x).detach().numpy().ravel() for r, g, x in zip(rates, slopes, p.values(), strict=True)])

    end = solve_ivp(right, (0.0, 0.4), joined(begin), method="DOP853", rtol=1e-13, atol=1e-14)
    assert end.success
    return begin, split(end.y[:, -1], case.shapes)


def answer(case: Case, flow: str = "gradient") -> ConservedQuantity:
    (q,) = conserved_quantities([symmetry(case.generators)], case.shapes, FLOWS[flow])
    return q


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", CASES)
def test_the_subspace_is_kept(name: str, flow: str) -> None:
    """To 1e-10 while the weights move, with as many numbers as theory says; not by a loss that sees one entry more."""
    case = CASES[name]
    q = answer(case, flow)
    if flow == "decay" and any(p.axis < 0 for g in case.generators for p in g.parts):
        assert q.status == "none"  # decay pulls to 0, not to the centre
        return
    assert (q.status, q.form, q.dimension) == ("conserved", "section", case.kept)
    assert ConservedQuantity.from_dict(q.to_dict()) == q and "Q" in q.latex() and q.expression is not None
    begin, end = run(case, flow)
    before, after = q.evaluate(begin), q.evaluate(end)
    assert abs(joined(end) - joined(begin)).max() > 0.02 and abs(after - before).max() < KEPT
    assert np.linalg.matrix_rank(before[:, :len(before)]) == case.kept
    spoiled = run(case, flow, spoil=0.5)
    assert abs(q.evaluate(spoiled[1]) - q.evaluate(spoiled[0])).max() > BROKEN


def test_a_wrong_plane_is_not_kept() -> None:
    """The false twin: as many numbers are asked for, of a turn that the network does see."""
    case = CASES["planes by themselves"]
    q = answer(case)
    twin = replace(q, generators=(turn(0, 2), q.generators[1]))
    begin, end = run(case, "gradient")
    assert abs(q.evaluate(end) - q.evaluate(begin)).max() < KEPT
    assert abs(twin.evaluate(end) - twin.evaluate(begin)).max() > BROKEN


@pytest.mark.parametrize("generators, shape", [((BOTH_PLANES,), (4,)), (all_turns(3), (3, 3)), (all_turns(2), (2, 2))],
                         ids=["two planes at once", "as many columns as rows", "a plane of two columns"])
def test_nothing_is_kept_where_the_subspace_is_everything(generators: tuple[Generator, ...], shape: tuple[int, ...]) -> None:
    (q,) = conserved_quantities([symmetry(generators)], {"w": shape})
    assert (q.status, q.form) == ("none", "") and "contact type" in q.reason and q.constraint


def test_few_columns_keep_their_span() -> None:
    """Two ways: the least subspace by iteration, and the projector W (W^T W)^-1 W^T of theory, for each column the same."""
    w = np.random.default_rng(2).standard_normal((4, 2))
    span = w @ np.linalg.inv(w.T @ w) @ w.T
    away = answer(CASES["few columns"]).evaluate({"w": w})
    assert away == pytest.approx(np.kron(np.eye(4) - span, np.eye(2)), abs=1e-12)


@pytest.mark.parametrize("name", ["a vector", "planes by themselves"])
def test_the_formula_is_what_is_evaluated(name: str) -> None:
    q = answer(CASES[name])
    expression = q.expression
    assert expression is not None
    (symbol,) = expression.atoms(sp.MatrixSymbol)
    values = np.random.default_rng(1).standard_normal(CASES[name].shapes["w"])
    put = expression.subs(symbol, sp.Matrix(values[:symbol.shape[0]])).doit().as_explicit()
    assert np.array(put.tolist(), dtype=float) == pytest.approx(q.evaluate({"w": values}), abs=1e-12)
    by_torch = q.evaluate({"w": torch.tensor(values)})
    assert by_torch.numpy() == pytest.approx(q.evaluate({"w": values}), abs=1e-14)


@pytest.mark.parametrize("flow", FLOWS)
def test_what_stretches_as_well_is_no_turn(flow: str) -> None:
    """A shear, or a turn that grows: no subspace through 0 is kept, and decay along theta is not orthogonal to them."""
    for entries in (((0, 1, 1.0),), ((0, 1, 1.0), (1, 0, -1.0), (0, 0, 1.0), (1, 1, 1.0))):
        (q,) = conserved_quantities([symmetry([Generator((Part("w", 0, entries),))])], {"w": (3,)}, FLOWS[flow])
        assert (q.status, q.form) == ("none", "") and "stretch" in q.reason and q.constraint


def test_too_many_entries_are_told() -> None:
    (q,) = conserved_quantities([symmetry(all_turns(3))], {"w": (3, 60)})
    assert q.status == "none" and "180 entries" in q.reason and q.constraint


class LengthAlone(nn.Module):
    """A vector of which the network sees the length."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.randn(3)), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.w(x)) + (self.v**2).sum() * x


def test_the_direction_of_a_vector_counts_as_laws() -> None:
    """Found, derived, and as many as brackets leave room for."""
    torch.manual_seed(0)
    cat = symdisc.discover(LengthAlone().double(), (torch.randn(4, 2, dtype=torch.float64),))
    (q,) = (q for q in cat.conserved if q.form == "section")
    assert q.dimension == 2 and r"|\theta|^{2}" in q.latex()
    count = symdisc.count_laws(cat)
    assert (count.laws, count.found) == (2, 2)
