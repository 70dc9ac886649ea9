"""Networks some of whose outputs are no finite numbers: masked scores, logarithms and roots outside of their range, overflow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.errors import StateMismatch, Undecided
from symdisc.torchside.apart import apart, finite_count
from symdisc.torchside.capture import capture
from symdisc.torchside.check import Checker, random_state
from symdisc.torchside.compare import change

INF, NAN = float("inf"), float("nan")


class Ended(nn.Module):
    """3 - 5 - 4 with a last step of its own."""

    def __init__(self, end: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.a, self.b, self.end, self.act = nn.Linear(3, 5), nn.Linear(5, 4), end, act

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.b(self.act(self.a(x))))


def made(end: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor] = torch.relu) -> Ended:
    torch.manual_seed(0)
    return Ended(end, act)


def masked(value: float) -> Callable[[Tensor], Tensor]:
    return lambda y: y.masked_fill(torch.tensor([False, True, False, False]), value)


def towers(y: Tensor) -> Tensor:
    """exp exp (3 y): finite at weights of the usual start, beyond float64 at larger ones."""
    return torch.exp(torch.exp(3.0 * y))


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {  # and the dimension: 5 units, and 6 numbers of a row that nothing reads
    "masked by -inf": (masked(-INF), 11), "masked by NaN": (masked(NAN), 11), "logarithm": (torch.log, 5), "exponentials": (towers, 5)}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_finite_decides(name: str) -> None:
    end, dimension = ENDS[name]
    model, x = made(end), torch.randn(6, 3)
    cat = symdisc.discover(model, (x,))
    assert [(s.family, s.dimension, s.status) for s in cat.symmetries][:1] == [("scale", 5, "proved")]
    assert [d.family for d in cat.discrete] == ["permutation"] and not cat.broken
    certificate = symdisc.certify(cat)
    assert certificate.found == certificate.fibre == cat.group_dimension == dimension
    witness = cat.verify(model, cat.sample(0, 0.3))
    assert witness.passed and witness.weights_changed > 0.05


@pytest.mark.parametrize("name", [*ENDS, "complex numbers"])
def test_a_false_symmetry_is_seen_beside_them(name: str) -> None:
    """Units of another activation are no ReLU units: the scale that the one has breaks the other."""
    end, _ = ENDS.get(name, (torch.fft.fft, 5))
    cat = symdisc.discover(made(end), (torch.randn(6, 3),))
    other = made(end, torch.tanh)
    assert not cat.verify(other, cat.sample(0, 0.3)).passed
    state = {n: t.detach() for n, t in other.named_parameters()}
    moved = cat.apply(state, cat.sample(0, 0.3))
    assert change(other, state, state, [(torch.randn(6, 3),)]) == 0.0 < 1e-3 < change(other, state, moved, [(torch.randn(6, 3),)])
    captured = capture(other, (torch.randn(6, 3),))
    assert min(Checker(captured, [], seed).judge([cat.symmetries[0]], seed)[0] for seed in range(3)) > 1e-3


def test_weights_are_made_smaller_where_outputs_overflow() -> None:
    captured = capture(made(lambda y: torch.exp(torch.exp(torch.exp(y.cosh())))), (torch.randn(6, 3),))
    checkers = [Checker(captured, [], seed) for seed in range(6)]
    assert all(finite_count(c.reference) == c.reference[0].numel() for c in checkers)
    made_smaller = [float((random_state(captured, [], seed)["a.weight"] / c.state["a.weight"]).max()) for seed, c in enumerate(checkers)]
    assert {round(m) for m in made_smaller} <= {1, 4, 16, 64, 256} and max(made_smaller) > 3.9


def test_nothing_finite_is_said() -> None:
    model, x = made(lambda y: y * NAN), torch.randn(6, 3)
    cat = symdisc.discover(made(torch.tanh), (x,))
    with pytest.raises(StateMismatch, match="not finite"):
        cat.verify(model, cat.sample(0, 0.3))
    none = symdisc.discover(model, (x,), solve=False)
    assert not none.symmetries and {b.breaker for b in none.broken} == {"check"}


def test_no_derivative_anywhere_ends() -> None:
    """A root of a negative number makes the whole backward pass NaN."""
    cat = symdisc.discover(made(lambda y: torch.sqrt(y - 9.0) + y), (torch.randn(6, 3),), solve=False)
    with pytest.raises(Undecided, match="no finite derivative"):
        symdisc.certify(cat)


def test_apart() -> None:
    one = torch.tensor([1.0, 2.0, -INF, NAN])
    assert apart(one, one.clone()) == 0.0 and finite_count([one]) == 2 and finite_count([one[2:]]) == 0
    assert apart(one, one + 0.1) == pytest.approx(0.1 / 0.5 ** 0.5, rel=1e-5)
    for other in ([1.0, 2.0, INF, NAN], [1.0, 2.0, NAN, NAN], [1.0, NAN, -INF, NAN], [1.0, 2.0, -INF, 3.0], [1.0, 2.0, -INF]):
        assert apart(one, torch.tensor(other)) == INF
    assert apart(one[2:], one[2:]) == 0.0 and apart(torch.ones(0), torch.ones(0)) == 0.0
    assert apart(torch.tensor([4.0]), torch.tensor([5.0])) == pytest.approx(0.25)
    huge = torch.tensor([1e200, 2e200], dtype=torch.float64)  # its variance is beyond float64
    assert apart(huge, 1.1 * huge) == pytest.approx(apart(1e-200 * huge, huge * 1.1e-200)) == pytest.approx(0.2 * 2.0 ** 0.5)
    assert apart(torch.tensor([1.0 + 2.0j, 0.0]), torch.tensor([1.0 + 2.5j, 0.0])) > 0.1
