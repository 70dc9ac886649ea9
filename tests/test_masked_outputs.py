"""Outputs beside large numbers, as scores of what must not be chosen are: what is false beside them is seen all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import symdisc
from symdisc.catalog import Catalog
from symdisc.certificate import Certificate
from symdisc.symmetry import Element, Factor
from symdisc.torchside.apart import apart
from symdisc.torchside.capture import capture
from symdisc.torchside.check import Checker
from symdisc.torchside.compare import change

MASK = torch.tensor([False, True, False, False])
LOWEST = torch.finfo(torch.float32).min
ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "written over": lambda y: y.masked_fill(MASK, -1e9), "lowest number": lambda y: y.masked_fill(MASK, LOWEST),
    "added": lambda y: y + MASK * -1e9, "units of its own": lambda y: y * torch.tensor([1.0, 1e8, 1.0, 1e-5]),
    "by the input": lambda y: torch.where(y[..., 1:2] > 0, y, -1e9)}


class Sorted(nn.Module):
    """3 - 4 - 4, thresholds in increasing order: no unit may take the place of another."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.t, self.o, self.end = nn.Linear(3, 4, bias=False), nn.Parameter(torch.randn(4)), nn.Linear(4, 4), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.o(torch.sigmoid(self.a(x) - self.t.sort(-1).values)))


class Learned(nn.Module):
    """Attention of width 2 to three tokens and to two learned keys and values beside them."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 4)
        self.mk, self.mv, self.end = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 2)), end

    def forward(self, x: Tensor) -> Tensor:
        k = torch.cat((self.k(x), self.mk.expand(len(x), -1, -1)), 1)
        v = torch.cat((self.v(x), self.mv.expand(len(x), -1, -1)), 1)
        return self.end(self.o((self.q(x) @ k.mT).softmax(-1) @ v))


class Fused(Learned):
    """The same by the fused operator."""

    def forward(self, x: Tensor) -> Tensor:
        k = torch.cat((self.k(x), self.mk.expand(len(x), -1, -1)), 1)
        v = torch.cat((self.v(x), self.mv.expand(len(x), -1, -1)), 1)
        return self.end(self.o(nn.functional.scaled_dot_product_attention(self.q(x), k, v)))


@pytest.mark.parametrize("end", ENDS)
def test_sorted_units_stay_in_their_places(end: str) -> None:
    torch.manual_seed(0)
    cat = symdisc.discover(Sorted(ENDS[end]).double(), (torch.randn(5, 3, dtype=torch.float64),))
    assert not cat.discrete and {b.family.partition(":")[0] for b in cat.broken} >= {"permutation of units", "reflections of units"}


@pytest.mark.parametrize("kind", [Learned, Fused])
@pytest.mark.parametrize("end", ["written over", "units of its own"])
def test_learned_keys_and_values(kind: type[Learned], end: str) -> None:
    """A constant added to the values of the tokens alone, or to their keys alone, is seen; nothing of the kind is proposed."""
    torch.manual_seed(0)
    model, x = kind(ENDS[end]).double(), torch.randn(3, 3, 3, dtype=torch.float64)
    cat = symdisc.discover(model, (x,))
    certificate = symdisc.certify(cat)
    assert certificate.complete and not cat.broken
    assert certificate.found == 12 + 3 * (end == "written over")  # a row of weights and a bias that nothing reads
    before = model(x).detach()[..., ~MASK]
    for k, s in enumerate(cat.symmetries):
        element = Element((Factor("continuous", k, symdisc.elements.sample_array(s, np.random.default_rng(k), 0.3)),))
        after = functional_call(model, cat.apply(model.state_dict(), element), (x,)).detach()[..., ~MASK]
        assert float(((after - before) / before.std((0, 1))).abs().max()) < 1e-10, s.name


def planted() -> Catalog:
    """tanh units with the scales that ReLU units have."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double(), torch.randn(6, 3, dtype=torch.float64)
    false = symdisc.discover(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double(), (x,)).symmetries
    return symdisc.discover(model, (x,)).replace(symmetries=false, orbit_dimension=sum(s.dimension for s in false))


def test_nothing_is_complete_beside_a_false_family() -> None:
    certificate = symdisc.certify(planted())
    assert (certificate.found, certificate.fibre, certificate.complete) == (0, 0, False)
    assert certificate.outside == ("scaling of hidden units @",) and certificate.verdict.startswith("wrong: scaling of hidden units")
    assert Certificate.from_dict(certificate.to_dict()) == certificate
    true = replace(certificate, outside=())
    assert true.complete and "outside" not in true.to_dict() and Certificate.from_dict(true.to_dict()) == true


def test_the_complete_system_leaves_a_false_family_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the check that runs the network lets one through, the Jacobian does not."""
    cat = planted()
    monkeypatch.setattr(Checker, "judge", lambda self, families, *_, **__: [0.0] * len(families))
    monkeypatch.setattr("symdisc.session._derived", _with(cat))
    again = symdisc.discover(cat.model, cat.example)
    assert not again.symmetries and again.orbit_dimension == 0
    assert [(b.family, b.breaker) for b in again.broken] == [("scaling of hidden units: R_{>0}^5", "check")]


def _with(cat: Catalog) -> Callable[..., object]:
    from symdisc import session

    derived = session._derived
    return lambda *a: (list(cat.symmetries), *derived(*a)[1:])


# --- the measure ------------------------------------------------------------------------------------------------------
def test_marks_are_no_variation() -> None:
    one = torch.randn(6, 4, dtype=torch.float64)
    two = one + 1e-3
    for value in (-1e9, -1e300, LOWEST):
        a, b = (t.masked_fill(MASK, value) for t in (one, two))
        assert 3e-4 < apart(a, b) < 3e-3 and 3e-4 < apart(a, b, fine=True) < 1e-2 and apart(a, a, fine=True) == 0.0
    moved = two.masked_fill(MASK, -1e9)
    assert apart(one.masked_fill(MASK, -1e9), moved.masked_fill(MASK, -2e9)) > 0.1  # a mark that moves is none


def test_columns_of_very_different_size() -> None:
    sizes = torch.tensor([1e6, 1.0, 1e-3, 0.0], dtype=torch.float64)
    one = torch.randn(8, 4, dtype=torch.float64)
    two = one.clone()
    two[3, 2] += 0.01
    assert apart(one * sizes, two * sizes) < 1e-9 < 5e-3 < apart(one * sizes, two * sizes, fine=True) < 0.1
    dust = 1e-17 * torch.randn(8, 4, dtype=torch.float64)
    assert apart(one * sizes, one * sizes + dust, fine=True) < 1e-9
    steady = 5.0 + 1e-9 * one  # what hardly varies is measured by its size
    assert apart(steady, steady + 1e-15, fine=True) < 1e-12


def test_a_change_beside_a_mark_is_seen_in_files() -> None:
    torch.manual_seed(0)
    model, x = Sorted(ENDS["written over"]).double(), torch.randn(5, 3, dtype=torch.float64)
    state = {n: t.detach().clone() for n, t in model.named_parameters()}
    moved = {**state, "a.weight": state["a.weight"].flip(0)}
    assert change(model, state, state, [(x,)]) == 0.0 < 1e-2 < change(model, state, moved, [(x,)])
    captured = capture(model, (x,))
    judged = Checker(captured, [], 0)
    assert judged.change({**judged.state, "a.weight": judged.state["a.weight"].flip(0)}) > 1e-2
