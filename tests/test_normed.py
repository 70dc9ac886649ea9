"""Tables read through a norm with eps: what their gains and shifts may do, in closed form, its charge, and where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch
from brute import fibre, randomise
from networks.base import tokens
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput
from symdisc.normed import ALL, CENTRED, MODULO, Ball, coordinates, lifted, lowered, moved, size, slopes, split
from symdisc.symmetry import Element, Factor, Symmetry
from symdisc.torchside.kernels import run_moves

WORDS, D = 5, 3
KEPT, BROKEN = 1e-10, 1e-5
KINDS = (ALL, MODULO, CENTRED)


def rows(seed: int, count: int = WORDS, d: int = D) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, d))


# --- formulas ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 0.4])
def test_the_norm_its_inverse_and_the_potential(centred: bool, eps: float) -> None:
    """Against torch's own norms; scaled rows have the scaled norm, the generator is the derivative and the gradient of the potential."""
    ball, e, factor = Ball(eps, centred), rows(0), 0.8
    own = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
    theirs = own(torch.from_numpy(e), (D,), eps=eps).numpy()
    assert ball.norm(e) == pytest.approx(theirs, abs=1e-14)
    there = ball.scaled(e, factor)
    assert ball.norm(there) == pytest.approx(factor * theirs, abs=1e-13)
    if centred:  # the mean moves by the rule of one dimension, without centring
        assert there.mean(-1) == pytest.approx(Ball(eps, False).scaled(e.mean(-1)[:, None], factor)[:, 0])
    assert ball.scaled(there, 1 / factor) == pytest.approx(e, rel=1e-9)
    step = 1e-9 if eps < 0.1 else 1e-6
    slope = (ball.scaled(e, np.exp(step)) - ball.scaled(e, np.exp(-step))) / (2 * step)
    assert slope == pytest.approx(ball.pushed(e), rel=1e-5, abs=1e-5 * np.abs(slope).max())
    x, h = rows(1), 1e-5
    change = (ball.potential(e + h * x).sum() - ball.potential(e - h * x).sum()) / (2 * h)
    assert change == pytest.approx((x * ball.pushed(e)).sum(), rel=1e-7)
    with np.errstate(invalid="ignore"):
        assert np.isnan(ball.scaled(e, 1e3)).all()


def allowed(kind: str, gain: np.ndarray) -> np.ndarray:
    """The second way: null space of what (s, u), with a c for each row where that is free, must not do to random n. [2 d, k]"""
    d, count = len(gain), 12
    n = rows(3, count, d)
    n = n if kind == ALL else n - n.mean(1, keepdims=True)
    if kind == ALL:
        return np.eye(2 * d)
    equations = np.concatenate([n, np.tile(1 / gain, (count, 1))], 1)  # 1^T (n s + u/gamma) of each row
    if kind == MODULO:
        equations = np.concatenate([equations, -np.eye(count) * (1 / gain).sum()], 1)  # ... = c 1^T (1/gamma)
    _, values, vh = np.linalg.svd(equations)
    return np.asarray(vh[int((values > 1e-10).sum()):, :2 * d].T)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_of_elements_are_what_the_conditions_leave(kind: str) -> None:
    gain, t = np.array([0.7, -1.3, 0.4, 1.1]), np.eye(size(kind, 4, True))
    mine = np.stack([np.concatenate([p for p in split(kind, e, 4, lambda: gain) if p is not None]) for e in t], 1)
    whole = allowed(kind, gain)
    assert np.linalg.matrix_rank(whole, 1e-8) == len(t) + (kind == MODULO)  # a shift along 1 is seen by nothing and moves no row
    assert np.linalg.matrix_rank(np.concatenate([mine, whole], 1), 1e-8) == np.linalg.matrix_rank(whole, 1e-8)
    assert np.linalg.matrix_rank(mine, 1e-8) == len(t)
    basis = np.stack([lifted(w) for w in np.eye(3)], 1)
    assert basis.T @ basis == pytest.approx(np.eye(3)) and np.abs(basis.sum(0)).max() < 1e-15
    assert np.stack([lowered(v) for v in np.eye(4)], 1) == pytest.approx(basis.T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [False, True])
def test_what_stands_behind_the_norm_is_kept(kind: str, shift: bool) -> None:
    """gamma n + beta, exactly or up to c 1 in each row; slopes are the transpose of the derivative."""
    rng, gain, beta, e = np.random.default_rng(5), np.array([0.7, 1.3, 0.4]), rows(6, 1)[0], rows(7)
    ball = Ball(0.3, kind != ALL)

    def act(t: np.ndarray, table: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s, u = split(kind, t, D, lambda: g)
        return moved(kind, ball, table, g, s, u, np.expm1), g * np.exp(s), beta + (0 if u is None else u)

    t = 0.1 * rng.standard_normal(size(kind, D, shift))
    t[:1 if kind == CENTRED else D] += 0.5
    new, after, beta2 = act(t, e, gain)
    difference = ball.norm(new) * after + beta2 - ball.norm(e) * gain - beta
    difference -= difference.mean(1, keepdims=True) if kind == MODULO else 0.0
    assert np.abs(difference).max() < 1e-14 and np.abs(new - e).max() > 1e-2
    assert act(-t, new, after)[0] == pytest.approx(e, rel=1e-12)
    one, other = 0.4 * t, 0.6 * t + np.abs(t)  # elements commute
    assert act(other, *act(one, e, gain)[:2])[0] == pytest.approx(act(one, *act(other, e, gain)[:2])[0], rel=1e-12)
    x, h = rows(8), 1e-6
    slope = [(x * (act(h * v, e, gain)[0] - act(-h * v, e, gain)[0])).sum() / (2 * h) for v in np.eye(len(t))]
    s, u = slopes(kind, ball, e, gain, x)
    assert coordinates(kind, s, u if shift else None, lambda: gain) == pytest.approx(np.array(slope), rel=1e-7, abs=1e-8)


# --- networks ---------------------------------------------------------------------------------------------------------
class Hand(nn.Module):
    """An RMSNorm, or with ``centred`` a LayerNorm without shift, as people write them."""

    def __init__(self, centred: bool = False, front: float = 1.0) -> None:
        super().__init__()
        self.weight, self.centred, self.front = nn.Parameter(torch.ones(D)), centred, front

    def forward(self, x: Tensor) -> Tensor:
        x = self.front * x
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Seen(nn.Module):
    """Reads every number of a vector."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        self.o = nn.Linear(d, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.o(torch.tanh(x.cumsum(1) + torch.sin(x))))


class Stream(nn.Module):
    """A residual stream that centring norms alone read."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        self.n, self.m = nn.LayerNorm(d), nn.LayerNorm(d)
        self.a, self.b, self.o = nn.Linear(d, 4), nn.Linear(4, d), nn.Linear(d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.o(self.m(x + self.b(torch.tanh(self.a(self.n(x)).cumsum(1))))))


class Table(nn.Module):
    def __init__(self, norm: nn.Module, body: nn.Module, words: int = WORDS, d: int = D, **more: int) -> None:
        super().__init__()
        self.e, self.n, self.body = nn.Embedding(words, d, **more), norm, body

    def forward(self, i: Tensor) -> Tensor:
        return torch.as_tensor(self.body(self.n(self.e(i))))


def layer(eps: float = 1e-5, bias: bool = True, d: int = D) -> nn.LayerNorm:
    return nn.LayerNorm(d, eps=eps, bias=bias)


# network -> (dimension of what is named, its status)
TABLES: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "centred, its mean not seen": (lambda: Table(layer(), Stream()), 2 * D - 1, "proved"),
    "the same, far from the sphere": (lambda: Table(layer(0.5), Stream()), 2 * D - 1, "proved"),
    "the same, no shift": (lambda: Table(layer(bias=False), Stream()), D, "proved"),
    "the same, padded": (lambda: Table(layer(), Stream(), padding_idx=0), 2 * D - 1, "proved"),
    "the same, fewer words than entries": (lambda: Table(layer(d=4), Stream(4), 2, 4), 7, "proved"),
    "centred, its mean seen": (lambda: Table(layer(), Seen()), D, "proved"),
    "the same without shift": (lambda: Table(layer(bias=False), Seen()), 1, "proved"),
    "not centred": (lambda: Table(nn.RMSNorm(D, eps=1e-5), Seen()), D, "proved"),
    "by hand": (lambda: Table(Hand(), Seen()), D, "witnessed"),
    "by hand, centred": (lambda: Table(Hand(centred=True), Seen()), 1, "witnessed"),
    "scaled in front": (lambda: Table(Hand(front=D**0.5), Seen()), D, "witnessed"),
}


def discovered(make: Callable[[], nn.Module], words: int = WORDS) -> tuple[nn.Module, symdisc.Catalog]:
    torch.manual_seed(4)
    model = randomise(make(), 4)
    return model, symdisc.discover(model, tokens(words, 4)(0))


def of_tables(cat: symdisc.Catalog) -> list[Symmetry]:
    return [s for s in cat.symmetries if any(m.kind.startswith("normed_") for m in s.moves)]


@pytest.mark.parametrize("name", TABLES)
def test_tables_make_up_for_gains_and_shifts(name: str) -> None:
    """As many as the oracle counts; far elements keep the outputs, are undone, and survive JSON and type-setting."""
    make, dimension, status = TABLES[name]
    words = 2 if "fewer" in name else WORDS
    model, cat = discovered(make, words)
    assert cat.orbit_dimension == fibre(model, tokens(words, 4), seed=None).dimension
    found = of_tables(cat)
    assert sum(s.dimension for s in found if s.counts) == dimension and {s.status for s in found} == {status}
    assert len(found) == 1 + (dimension > 1) and not any(b.breaker == "check" for b in cat.broken)
    if "fewer" not in name:
        assert not any(s.family == "flow" for s in cat.symmetries)
    state = model.state_dict()
    for seed in range(3):
        element = cat.sample(seed=seed, scale=0.4, discrete=False)
        assert cat.verify(model, element).max_relative_change < 1e-8
        there = cat.apply(state, element)
        assert float((there["e.weight"] - state["e.weight"]).abs().max()) > 1e-2
        back = cat.apply(there, cat.inverse(element))
        assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-8
    assert symdisc.Catalog.from_json(cat.to_json()) == cat and "N^{-1}" in cat.to_latex() and cat.to_markdown() and cat.to_html()


class Twin(Table):
    """Something is missing: ``forward`` of each says what."""

    def __init__(self, forward: Callable[[Table, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__(layer() if norm is None else norm, Seen())
        self.p, self.call = nn.Parameter(torch.randn(4, D)), forward

    def forward(self, i: Tensor) -> Tensor:
        return self.call(self, i) + 0 * self.p.sum()


def _plain(m: Table, i: Tensor) -> Tensor:
    return torch.as_tensor(m.body(m.n(m.e(i))))


TWINS: dict[str, Callable[[], nn.Module]] = {
    "eps is zero": lambda: Twin(_plain, layer(0.0)),
    "eps of the dtype": lambda: Twin(_plain, nn.RMSNorm(D)),
    "no gain": lambda: Twin(_plain, nn.LayerNorm(D, elementwise_affine=False)),
    "positions in front of the norm": lambda: Twin(lambda m, i: m.body(m.n(m.e(i) + m.p))),  # type: ignore[attr-defined]
    "the table writes the logits, too": lambda: Twin(lambda m, i: m.body(m.n(m.e(i))) @ m.e.weight.new_ones(4, D) @ m.e.weight.mT),
    "the rows go on beside the norm": lambda: Twin(lambda m, i: m.body(m.n(m.e(i)) + m.e(i))),
    "the gain is used twice": lambda: Twin(lambda m, i: m.body(m.n(m.n(m.e(i))))),
    "the gain is read besides": lambda: Twin(lambda m, i: m.body(m.n(m.e(i))) * m.n.weight.sum()),
    "the norm is read in front of the gain": lambda: Twin(
        lambda m, i: m.body(m.n(m.e(i))) + torch.nn.functional.layer_norm(m.e(i), (D,)).sum(-1, keepdim=True).sin()),
    "some of the entries": lambda: Twin(lambda m, i: m.body(torch.cat([m.n(m.e(i))[..., :1], m.e(i)[..., 1:]], -1))),
    "not a norm": lambda: Twin(lambda m, i: m.body(m.n.weight * torch.tanh(m.e(i)))),
}


@pytest.mark.parametrize("name", TWINS)
def test_near_misses_are_not_claimed(name: str) -> None:
    model, cat = discovered(TWINS[name])
    assert of_tables(cat) == []
    assert cat.verify(model, cat.sample(seed=1, scale=0.2)).max_relative_change < 1e-7


def test_a_wrong_eps_or_kind_is_no_symmetry() -> None:
    """The moves with one number off change the function: that they keep it is no accident of small changes."""
    model, cat = discovered(TABLES["centred, its mean seen"][0])
    i, state = tokens(WORDS, 4)(0), {n: p.detach() for n, p in model.named_parameters()}
    before = model(*i).detach()
    for s in of_tables(cat):
        element = next(f.array for f in cat.sample(seed=3, scale=0.3, discrete=False).factors if cat.symmetries[f.which] == s)

        def change(moves: tuple, element: np.ndarray = element) -> float:  # type: ignore[type-arg]
            new = torch.func.functional_call(model, {**state, **run_moves(moves, element, state)}, i)
            return float((new - before).abs().max())

        assert change(s.moves) < 1e-12
        off = tuple(replace(m, offset=m.offset * 1.5) if m.kind in ("normed_table", "normed_scale") else m for m in s.moves)
        assert change(off) > 1e-3
    wide = next(s for s in of_tables(cat) if s.counts)  # as if nothing saw the mean
    free = tuple(replace(m, rep=MODULO, gain=m.gain if m.kind == "normed_table" else None) for m in wide.moves)
    assert change(free, np.array([0.9, 0.5, 0.7, 0.1, 0.2])) > 1e-3


def test_an_element_out_of_the_ball_is_refused_in_one_line_and_samples_stay_inside() -> None:
    model, cat = discovered(TABLES["centred, its mean not seen"][0])
    for s in of_tables(cat):
        array = np.full(1, 0.5) if s.family == "scale" else np.full(s.shape, -0.5)
        with pytest.raises(BadInput, match="out of the ball"):
            cat.apply(model.state_dict(), Element((Factor("continuous", cat.symmetries.index(s), array),)))
    with torch.no_grad():
        model.n.weight.mul_(torch.tensor([1.0, 0.02, 1.0]))  # type: ignore[operator]
    small = symdisc.discover(model, tokens(WORDS, 4)(0))
    assert small.verify(model, small.sample(seed=2, scale=0.5)).max_relative_change < 1e-8


def test_single_precision_keeps_the_function() -> None:
    """Rows move to the centre of the ball, beside means that were as large as they: nothing of them may drown."""
    model, _ = discovered(TABLES["centred, its mean not seen"][0])
    with torch.no_grad():
        model.e.weight += 3.0  # type: ignore[operator, union-attr]
    single = model.float()
    cat = symdisc.discover(single, tokens(WORDS, 4)(0), solve=False)
    element = Element(tuple(f for f in cat.sample(seed=5, scale=0.5, discrete=False).factors if cat.symmetries[f.which] in of_tables(cat)))
    witness = cat.verify(single, element)
    assert witness.max_relative_change < 3e-5 and witness.weights_changed > 0.1


# --- laws -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["not centred", "centred, its mean not seen", "centred, its mean seen", "the same without shift"])
def test_the_common_scale_has_a_charge(name: str) -> None:
    """|gamma|^2/2 against |c|^2/2 + |c|^4/(4 d eps) (and the mean alike), with eps 0.4: kept along a flow of order eight, not with the
    quartic off; driven under decay. The other elements have none, and the count of laws agrees."""
    torch.manual_seed(1)

    class Few(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = TABLES[name][0]().n
            norm.eps = 0.4  # type: ignore[assignment, union-attr]
            self.t = Table(norm, nn.Identity(), 3)

        def forward(self, i: Tensor) -> Tensor:
            x = self.t(i)
            x = torch.nn.functional.layer_norm(x, (D,), eps=0.3) if "not seen" in name else x
            return torch.sin(x) + x * x

    model, cat = randomise(Few(), 2), None
    i = (torch.arange(3)[None],)
    cat = symdisc.discover(model, i)
    charges = [q for q in cat.conserved if any(t.move.kind == "normed_scale" for t in q.terms)]
    (charge,) = charges
    assert charge.status == "conserved" and charge.expression is not None and charge.latex()
    assert all(q.status == "none" and q.reason for q in cat.conserved if any(m.kind == "normed_table" for m in q.symmetry.moves))
    (driven,) = [q for q in cat.conserved_under("weight_decay", lam=0.3) if q.terms and q.symmetry == charge.symmetry]
    assert driven.status == "driven"
    assert all(q.status == "none" for q in cat.conserved_under("momentum", tau=1) if q.symmetry == charge.symmetry)
    count = symdisc.count_laws(cat)
    assert count.laws == count.found
    target, shapes = torch.randn(model(*i).shape, dtype=torch.float64), {n: p.shape for n, p in model.named_parameters()}
    cuts = np.cumsum([0, *(s.numel() for s in shapes.values())])

    def values(flat: np.ndarray) -> dict[str, Tensor]:
        return {n: torch.tensor(flat[a:b].reshape(s)) for (n, s), (a, b) in zip(shapes.items(), pairwise(cuts), strict=True)}

    def right(_: float, flat: np.ndarray) -> np.ndarray:
        p = {n: v.requires_grad_() for n, v in values(flat).items()}
        loss = (torch.func.functional_call(model, p, i) - target).square().mean()
        return -np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, list(p.values()))])

    begin = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    end = solve_ivp(right, (0.0, 1.0), begin, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    before, after = (charge.evaluate(values(v)) for v in (begin, end))
    assert float(abs(after - before).max()) < KEPT and abs(end - begin).max() > 1e-2
    off = replace(charge, terms=tuple(replace(t, move=replace(t.move, offset=0.6)) if t.move.kind == "normed_scale" else t
                                      for t in charge.terms))
    assert float(abs(off.evaluate(values(end)) - off.evaluate(values(begin))).max()) > BROKEN
    for q in cat.conserved:  # every generator is orthogonal to the gradient
        slope = right(0.0, begin)
        assert float(abs(q.residual(values(begin), values(slope))).max()) < 1e-12


def test_its_formula_is_its_value() -> None:
    """The typeset expression, summed out, against ``evaluate``."""
    _, cat = discovered(TABLES["centred, its mean seen"][0])
    (charge,) = [q for q in cat.conserved if any(t.move.kind == "normed_scale" for t in q.terms)]
    gamma, table = rows(11, 1)[0], rows(12)
    assert charge.expression is not None
    value = charge.expression.doit()
    numbers = {s: (table[tuple(int(k) - 1 for k in s.indices)] if str(s.base) == "e.weight" else gamma[int(s.indices[0]) - 1])
               for s in value.atoms(sp.Indexed)}
    assert float(value.subs(numbers)) == pytest.approx(float(charge.evaluate({"n.weight": gamma, "e.weight": table})[0]), rel=1e-10)
