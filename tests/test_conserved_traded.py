"""Constants traded behind trained scales: what the miniature says of their one-forms is so of the network, and what is claimed is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy.integrate import solve_ivp
from test_conserved_forms import KEPT, Net, State, change, flowed
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc
from symdisc.conserved import Flow
from symdisc.conserved.oneform import analyse, miniature
from symdisc.conserved.pairing import depends_on, pairing
from symdisc.symmetry import Symmetry

# torch loads its rules for forward derivatives by this at the first of them
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

TRADED, LACKING = "translation traded between parameters", "direction that a centred vector lacks"
ENDS = {"I": (4, 3), "i": (4,), "B": (4, 4), "b": (4,), "O": (2, 4), "o": (2,)}
TWO = {**ENDS, "C": (4, 4), "c": (4,)}
FUSED = {"I": (4, 3), "i": (4,), "g": (4,), "s": (4,), "W": (6, 4), "w": (6,)}


def branch(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(torch.tanh(F.layer_norm(h, (4,))), weight, bias)


def residual(p: Net, x: Tensor) -> Tensor:
    h = F.linear(x, p.I, p.i)
    return F.linear(h + (p.z * branch(h, p.B, p.b).unflatten(-1, (2, 2))).flatten(-2) if p.z.dim() == 2 else h + p.z * branch(h, p.B, p.b),
                    p.O, p.o)


def twice(p: Net, x: Tensor) -> Tensor:
    """One number of the vector z for each branch, or one for both."""
    h = F.linear(x, p.I, p.i)
    h = h + p.z[0] * branch(h, p.B, p.b)
    return F.linear(h + p.z[-1] * branch(h, p.C, p.c), p.O, p.o)


def skipped(p: Net, x: Tensor) -> Tensor:
    h = F.linear(x, p.I, p.i)
    return F.linear(p.z * h + branch(h, p.B, p.b), p.O, p.o)


def channel(p: Net, x: Tensor) -> Tensor:
    """One channel at four places, each with a scale of its own."""
    return F.linear(p.z * F.conv1d(x[:, None], p.I, p.i).flatten(1), p.O, p.o)


def fused(p: Net, x: Tensor) -> Tensor:
    """Two readers in the rows of one weight."""
    h = F.layer_norm(F.linear(x, p.I, p.i), (4,), p.g, p.s)
    return torch.cat([torch.tanh(F.linear(h, p.W[:3], p.w[:3])), torch.relu(F.linear(h, p.W[3:], p.w[3:]))], -1)


# name -> (network, shape of its input, what has no conserved function although its generator is known, conserved numbers)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, int]] = {
    "one scale": (lambda: Net({**ENDS, "z": (1,)}, residual), (6, 3), TRADED, 2),
    "a scale for each unit": (lambda: Net({**ENDS, "z": (4,)}, residual), (6, 3), TRADED, 4),
    "a scale for each group": (lambda: Net({**ENDS, "z": (2, 1)}, residual), (6, 3), TRADED, 2),
    "two branches, one scale": (lambda: Net({**TWO, "z": (1,)}, twice), (6, 3), TRADED, 3),
    "two branches, two of one vector": (lambda: Net({**TWO, "z": (2,)}, twice), (6, 3), TRADED, 3),
    "scaled skip": (lambda: Net({**ENDS, "z": (4,)}, skipped), (6, 3), TRADED, 4),
    "one channel, flattened": (lambda: Net({"I": (1, 1, 2), "i": (1,), "O": (2, 4), "o": (2,), "z": (4,)}, channel), (6, 5), TRADED, 5),
    "readers in the rows of one weight": (lambda: Net(FUSED, fused), (6, 3), LACKING, 8),
}  # fmt: skip


@cache
def drawn(name: str) -> tuple[nn.Module, Tensor, symdisc.Catalog]:
    make, shape, _, _ = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model, x = make().double(), torch.randn(shape, dtype=torch.float64)
    return model, x, symdisc.discover(model, (x,))


def of_network(s: Symmetry, model: nn.Module) -> tuple[bool, bool]:
    """Whether some element has a closed form on the whole network, and whether a generic one is integrable: curls by autograd."""
    start = {n: p.detach() for n, p in model.named_parameters()}
    names = tuple(dict.fromkeys(n for m in s.moves for n in (m.parameter, *depends_on(m)) if n in start))
    sizes = [start[n].numel() for n in names]
    draw = torch.Generator().manual_seed(7)

    def unpacked(flat: Tensor) -> State:
        return {**start, **{n: t.view(start[n].shape) for n, t in zip(names, flat.split(sizes), strict=True)}}

    def form(flat: Tensor) -> Tensor:
        def paired(x: Tensor) -> Tensor:
            along, state = unpacked(x), unpacked(flat)
            return torch.stack([pairing(m, along[m.parameter], state[m.parameter], state, s.shape).reshape(-1) for m in s.moves]).sum(0)
        return torch.func.jacfwd(paired)(torch.zeros_like(flat))

    curls, integrable = [], True
    for _ in range(2):
        flat = torch.cat([start[n].reshape(-1) for n in names])
        flat = flat + 0.3 * torch.randn(flat.shape, generator=draw, dtype=flat.dtype)
        slopes = torch.func.jacfwd(form)(flat)  # [element, entry, derivative]
        curl = slopes - slopes.transpose(1, 2)
        element = torch.randn(len(curl), generator=draw, dtype=flat.dtype)
        omega, turn = element @ form(flat), torch.einsum("k,kij->ij", element, curl)
        kernel = torch.eye(len(flat), dtype=flat.dtype) - torch.outer(omega, omega) / (omega @ omega)
        integrable &= bool((kernel @ turn @ kernel).abs().max() < 1e-9 * turn.abs().max())  # d omega on the kernel of omega
        curls.append(curl.flatten(1))
    values = torch.linalg.svdvals(torch.cat(curls, 1))
    return bool((values < 1e-9 * values[0]).any()), integrable


@pytest.mark.parametrize("name", CASES)
def test_the_miniature_agrees_with_the_network(name: str) -> None:
    model, _, cat = drawn(name)
    known = [s for s in cat.symmetries if s.name in (TRADED, LACKING) and any(depends_on(m) for m in s.moves)]
    assert CASES[name][2] in {s.name for s in known}
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    for s in known:
        found = analyse(miniature(s.family, s.shape, s.moves, shapes, frozenset(shapes)))
        assert found.dimension == min(2, s.dimension), s.name
        assert (found.closed > 0, found.integrable) == of_network(s, model), s.name


@pytest.mark.parametrize("name", CASES)
def test_what_is_claimed_is_kept_and_nothing_is_missing(name: str) -> None:
    model, x, cat = drawn(name)
    found = [q for q in cat.conserved if q.form and q.status == "conserved"]
    count = symdisc.count_laws(cat)
    assert sum(q.dimension for q in found) == CASES[name][3] == count.laws == count.found
    start, end = flowed(model, x, 0.3)
    assert all(change(q, start, end) < KEPT * max(1.0, float(abs(q.evaluate(start)).max())) for q in found)
    none = next(q for q in cat.conserved if q.symmetry.name == CASES[name][2])
    assert none.status == "none" and "has no integrating factor" in none.reason and none.constraint
    assert TRADED in cat.to_markdown() and cat.to_latex()


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_orthogonal_to_the_generators_and_not_to_twins(name: str) -> None:
    model, x, cat = drawn(name)
    state = {n: p.detach() for n, p in model.named_parameters()}
    out = model(x)
    slopes = dict(zip(state, torch.autograd.grad(torch.cosh(out).sum(), list(model.parameters())), strict=True))
    for q in (q for q in cat.conserved if q.symmetry.name == CASES[name][2]):
        assert float(abs(q.residual(state, slopes)).max()) < KEPT
        last = q.symmetry.moves[-1]
        twin = replace(q, symmetry=replace(q.symmetry, moves=(*q.symmetry.moves[:-1], replace(last, power=-last.power))))
        assert float(abs(twin.residual(state, slopes)).max()) > 1e-6


def metric_flow(model: nn.Module, x: Tensor) -> tuple[State, State]:
    """theta' = -(1 + theta^2) grad for all but z."""
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = [n for n in start if n != "z"]

    def unpacked(flat: Tensor) -> State:
        return {**start, **{n: t.view(start[n].shape) for n, t in zip(names, flat.split([start[n].numel() for n in names]), strict=True)}}

    def right(_: float, flat: object) -> object:
        theta = torch.as_tensor(flat).requires_grad_(True)
        loss = torch.cosh(0.3 * torch.func.functional_call(model, unpacked(theta), (x,))).sum()
        return (-(1 + theta**2) * torch.autograd.grad(loss, theta)[0]).detach().numpy()

    begin = torch.cat([start[n].reshape(-1) for n in names]).numpy()
    return start, unpacked(torch.as_tensor(solve_ivp(right, (0.0, 0.02), begin, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]))


@pytest.mark.parametrize("name", ["one scale", "a scale for each unit"])
def test_behind_scales_that_stay_there_is_a_sum_in_any_metric(name: str) -> None:
    model, x, cat = drawn(name)
    (plain,) = (q for q in cat.conserved_under(Flow("learning_rates", {"eta": {"z": 0, "*": 1}})) if q.symmetry.name == TRADED
                and q.form)
    assert str(plain.expression) == "-Sum(L[z][k]*b[k], (k, 1, 4)) + Sum(i[k], (k, 1, 4))"
    metric = Flow("preconditioned", {"P": {"z": "0", "*": "1 + theta**2"}, "lam": 0})
    (curved,) = (q for q in cat.conserved_under(metric) if q.symmetry.name == TRADED and q.form)
    start, end = metric_flow(model, x)
    assert change(plain, start, end) > 1e-4 and change(curved, start, end) < KEPT


def test_one_number_for_all_rows_of_a_weight() -> None:
    """Swin's merging: the constant along all rows that a norm centres away is one number, not one for each row."""
    from symdisc.architectures import ARCHITECTURES

    architecture = ARCHITECTURES["swin"]
    built, example = architecture.build(architecture.miniatures[0])
    cat = symdisc.discover(built.double(), tuple(t.double() for t in example), solve=False)
    found = [q for q in cat.conserved if q.symmetry.name == "constant read off a centred vector" and "merging" in q.symmetry.site]
    assert found
    state = {n: t.detach().double() for n, t in built.state_dict().items()}
    out = built(*(t.double() for t in example))
    (out * torch.linspace(0.5, 2.0, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
    slopes = {n: p.grad for n, p in built.named_parameters() if p.grad is not None}
    for q in found:
        assert q.status == "none" and "no integrating factor" in q.reason
        assert float(abs(q.residual(state, slopes)).max()) < 1e-9
        other = {n: s + 0.1 * (n.endswith("reduction.weight")) for n, s in slopes.items()}
        assert float(abs(q.residual(state, other)).max()) > 1e-3
