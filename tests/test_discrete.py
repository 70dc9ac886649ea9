"""The discrete part: permutations behind statistics, of groups, heads, experts and branches, against brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc
from symdisc import session
from symdisc.catalog import Catalog
from symdisc.torchside.capture import capture
from symdisc.torchside.check import TOLERANCE, Checker


def statistics(model: nn.Module) -> nn.Module:
    """Running statistics away from zero and one, evaluation mode."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model.eval()


def image(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


class Experts(nn.Module):
    """Softmax gating of experts kept as modules, or as stacked tensors."""

    def __init__(self, form: str, experts: int = 3, sizes: tuple[int, int, int] = (3, 4, 2)) -> None:
        super().__init__()
        d, h, o = sizes
        self.form, self.router = form, nn.Linear(d, experts)
        if form in ("list", "stack"):
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, o)) for _ in range(experts))
        else:
            self.up, self.shift = nn.Parameter(torch.randn(experts, d, h)), nn.Parameter(torch.randn(experts, h))
            self.down = nn.Parameter(torch.randn(experts, h, o))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.router(x).softmax(-1)
        if self.form == "list":
            return sum(gate[..., k:k + 1] * e(x) for k, e in enumerate(self.experts))  # type: ignore[return-value]
        if self.form == "stack":
            return (torch.stack([e(x) for e in self.experts], -2) * gate.unsqueeze(-1)).sum(-2)
        if self.form == "bmm":
            hidden = torch.bmm(x.unsqueeze(0).expand(len(self.up), -1, -1), self.up) + self.shift[:, None]
            return torch.einsum("ebo,be->bo", torch.bmm(F.gelu(hidden), self.down), gate)
        hidden = F.gelu(torch.einsum("bi,eij->bej", x, self.up) + self.shift)
        return torch.einsum("be,ejo,bej->bo", gate, self.down, hidden)


class Attention(nn.Module):
    """Grouped heads; ``bias`` adds one constant per head to the scores, which tells the heads apart."""

    def __init__(self, heads: int, kv: int, written: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.heads, self.kv, self.written, self.bias = heads, kv, written, bias
        self.q, self.k, self.v, self.o = (nn.Linear(*s) for s in ((4, 2 * heads), (4, 2 * kv), (4, 2 * kv), (2 * heads, 3)))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (m(x).view(b, t, -1, 2).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = (z.repeat_interleave(self.heads // self.kv, 1) for z in (k, v))
        slopes = torch.arange(1.0, self.heads + 1.0, dtype=x.dtype)[:, None, None] * torch.arange(t)[None, None, :]
        if self.written:
            scores = q @ k.transpose(-1, -2)
            y = torch.softmax(scores + slopes if self.bias else scores, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=slopes if self.bias else None)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.cell = cell(2, 3, batch_first=True, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(6 if options.get("bidirectional") else 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Ensemble(nn.Module):
    """Mean of perceptrons; ``flip`` turns the input of one of them round, a false twin."""

    def __init__(self, flip: bool = False) -> None:
        super().__init__()
        self.flip, self.members = flip, nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.members[0](x.flip(-1) if self.flip else x)
        return (first + self.members[1](x) + self.members[2](x)) / 3


def conv(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: statistics(nn.Sequential(*layers))


f6, f24 = math.factorial(3), math.factorial(4)
# behind a gain of its own a channel may also change its sign: 2 for each
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "batch norm": (conv(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 2)), (2, 1, 5, 5), f24 * 2**4),
    "instance norm with statistics": (conv(nn.Conv1d(1, 3, 2), nn.InstanceNorm1d(3, affine=True, track_running_stats=True), nn.GELU(),
                                           nn.Conv1d(3, 2, 2)), (2, 1, 6), f6 * 2**3),
    "depthwise": (conv(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 2, groups=4), nn.BatchNorm2d(4), nn.GELU(),
                       nn.Conv2d(4, 2, 2)), (2, 1, 5, 5), f24 * 2**8),
    "groups wreath": (conv(nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6), nn.GELU(), nn.Conv2d(6, 3, 2)), (2, 1, 5, 5), 2**3 * f6),
    "grouped convolutions": (conv(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv2d(4, 6, 2, groups=2), nn.GroupNorm(2, 6),
                                  nn.GELU(), nn.Conv2d(6, 2, 2)), (2, 1, 5, 5), 2**2 * f6**2 * 2),
    "experts in a list": (lambda: Experts("list"), (4, 3), f24**3 * f6),
    "experts joined": (lambda: Experts("stack"), (4, 3), f24**3 * f6),
    "experts by bmm": (lambda: Experts("bmm"), (4, 3), f24**3 * f6),
    "experts by einsum": (lambda: Experts("einsum"), (4, 3), f24**3 * f6),
    "heads": (lambda: Attention(3, 3), (2, 4, 4), f6),
    "heads written out": (lambda: Attention(3, 3, written=True), (2, 4, 4), f6),
    "grouped heads": (lambda: Attention(6, 2), (2, 4, 4), f6**2 * 2),
    "grouped heads written out": (lambda: Attention(6, 3, written=True), (2, 4, 4), 2**3 * f6),
    "one key head": (lambda: Attention(3, 1), (2, 4, 4), f6),
    "heads with slopes": (lambda: Attention(3, 3, bias=True), (2, 4, 4), 1),
    "heads with slopes written out": (lambda: Attention(3, 3, written=True, bias=True), (2, 4, 4), 1),
    "rnn": (lambda: Recurrent(nn.RNN), (2, 3, 2), f6 * 8),
    "gru": (lambda: Recurrent(nn.GRU), (2, 3, 2), f6 * 8),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 3, 2), f6 * 8),
    "rnn, both directions": (lambda: Recurrent(nn.RNN, bidirectional=True), (2, 3, 2), (f6 * 8) ** 2),
    "rnn, two layers": (lambda: Recurrent(nn.RNN, num_layers=2), (2, 3, 2), (f6 * 8) ** 2),
    "relu rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), (2, 3, 2), f6),
    "ensemble": (Ensemble, (4, 3), f24**3 * f6),
    "ensemble, one input turned round": (lambda: Ensemble(flip=True), (4, 3), f24**3 * 2),
}


@pytest.mark.parametrize("name", CASES)
def test_order_of_the_discrete_part(name: str) -> None:
    make, shape, order = CASES[name]
    torch.manual_seed(0)
    model, x = make().double(), image(*shape)
    cat = symdisc.discover(model, (x,), solve=False)
    assert math.prod(d.order for d in cat.discrete) == order
    assert not [b for b in cat.broken if "S_" in b.family or "Z_2" in b.family]
    each_keeps(cat, model, x)


def each_keeps(cat: Catalog, model: nn.Module, x: Tensor) -> None:
    """A sampled element keeps the function, moves the weights where there is one, and is undone by its inverse."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    g = cat.sample(seed=5, scale=0.0)
    new = cat.apply(state, g)
    with torch.no_grad():
        assert (torch.func.functional_call(model, new, (x,)) - model(x)).abs().max() < 1e-10
    assert all(torch.allclose(v, state[k], atol=1e-12) for k, v in cat.apply(new, cat.inverse(g)).items())
    assert not cat.discrete or any(not torch.equal(v, state[k]) for k, v in new.items())


@pytest.mark.parametrize("groups, seed", [(1, 0), (2, 1), (3, 2)])
def test_channel_permutations_by_enumeration(groups: int, seed: int) -> None:
    """All 720 renumberings of six channels behind a group norm, those that keep the function counted."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv1d(1, 6, 2), nn.GroupNorm(groups, 6), nn.GELU(), nn.Conv1d(6, 2, 2)).double()
    for p in model.parameters():
        nn.init.normal_(p)
    x = image(3, 1, 5)
    state, count = model.state_dict(), 0
    with torch.no_grad():
        before = model(x)
        for order in itertools.permutations(range(6)):
            at = torch.tensor(order)
            new = {k: v[:, at] if k == "3.weight" else v if k == "3.bias" else v[at] for k, v in state.items()}
            count += int((torch.func.functional_call(model, new, (x,)) - before).abs().max() < 1e-9)
    cat = symdisc.discover(model, (x,), solve=False)
    assert math.prod(d.order for d in cat.discrete if d.family == "permutation") == count


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def hidden(act: nn.Module, bias: bool = True, padding: int = 0) -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 2), act, nn.Conv1d(3, 2, 3, padding=padding, bias=bias))


@pytest.mark.parametrize("make, groups", [
    (lambda: hidden(nn.Sigmoid()), ["S_3", "(Z_2)^3"]), (lambda: hidden(nn.Hardsigmoid()), ["S_3", "(Z_2)^3"]),
    (lambda: hidden(nn.Sigmoid(), bias=False), ["S_3"]), (lambda: hidden(nn.Sigmoid(), padding=1), ["S_3"]),
    (lambda: hidden(nn.Tanh(), bias=False, padding=1), ["S_3", "(Z_2)^3"]), (lambda: hidden(nn.GELU()), ["S_3"]),
    (lambda: hidden(Sine(), bias=False, padding=1), ["S_3", "(Z_2)^3", "Z^3"]),
], ids=["sigmoid", "hardsigmoid", "sigmoid, no bias", "sigmoid, padded", "tanh", "gelu", "sine"])
def test_affine_elements(make: Callable[[], nn.Module], groups: list[str]) -> None:
    """Where 1 - sigmoid has a bias to go to (not behind padding), and the shifts of the sine, exactly."""
    torch.manual_seed(0)
    model, x = make().double(), image(3, 2, 6)
    cat = symdisc.discover(model, (x,), solve=False)
    assert [d.group for d in cat.discrete] == groups and not cat.broken
    assert all((d.order == 0) == d.group.startswith("Z^") for d in cat.discrete)
    each_keeps(cat, model, x)
    assert ("infinite" in cat.to_markdown()) == ("Z^3" in groups)


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cat = symdisc.discover(Experts("list").double(), (image(4, 3),), solve=False)
    cat.save(tmp_path / "catalog.json")
    assert symdisc.load(tmp_path / "catalog.json").discrete == cat.discrete
    assert "S_{3}" in cat.to_latex()


@pytest.mark.parametrize("activation, flips", [
    (nn.ReLU6(), "reflections"), (nn.Hardtanh(0.0, 1.0), "reflections"), (nn.Hardtanh(-2.0, 2.0), "sign flips"),
    (nn.Hardtanh(), "sign flips"),
    (nn.LeakyReLU(0.3), None), (nn.Softplus(2.0), None)])
def test_numbers_of_a_call_decide_its_flips(activation: nn.Module, flips: str | None) -> None:
    """On the meta device nothing is run that could refuse: hardtanh between 0 and 6 must not pass for an odd function."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))
    cat = symdisc.discover(model, (torch.empty(5, 3, device="meta"),))
    assert [d.name for d in cat.discrete if "permutation" not in d.name] == ([f"{flips} of units"] if flips else [])


@pytest.mark.parametrize("factor", [30.0, 2.5, -0.37])
def test_periods_count_what_multiplies_the_input(factor: float) -> None:
    class Wave(nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return torch.sin(factor * x)

    cat = symdisc.discover(nn.Sequential(nn.Linear(3, 4), Wave(), nn.Linear(4, 2)).double(), (torch.randn(5, 3).double(),))
    assert "Z^4" in [d.group for d in cat.discrete] and not cat.broken


def test_units_that_rest_at_one_set_of_weights_hide_nothing() -> None:
    """Both units are off at the first random weights, where half a permutation changes nothing; the others refuse it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    captured = capture(model, (torch.tensor([[1.0, 1.2, 1.5, 1.9]], dtype=torch.float64),))
    proposed, discrete, facts, _ = session._derived(captured, session._Clock(None))
    (true,) = [d for d in discrete if d.name == "permutation of units"]
    half = replace(true, moves=tuple(m for m in true.moves if m.parameter.startswith("0.")))
    assert Checker(captured, facts.gained, 0).judge_discrete([half]) == [0.0]
    found = session._Found(proposed, [true, half], [], facts.gained, facts.opaque, [])
    stands = session._run(captured, found, session._Clock(None))
    assert stands.discrete == [true] and [b.breaker for b in stands.refused] == ["check"]


@pytest.mark.parametrize("meta", [False, True])
def test_fresh_statistics_are_no_constants(meta: bool) -> None:
    """Running means of zero and variances of one hold before training only: what is derived there holds behind it."""
    def build() -> nn.Module:
        body = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Tanh()]
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(3 * 4, 2)).double().eval()

    x = (torch.randn(2, 2, 6, 6, dtype=torch.float64),)
    trained = symdisc.discover(statistics(build()), x, solve=False)
    fresh = symdisc.discover(build().to("meta") if meta else build(), (x[0].to("meta"),) if meta else x, solve=False)
    assert fresh.broken == trained.broken == ()
    assert [s.moves for s in fresh.symmetries] == [s.moves for s in trained.symmetries]
    assert [d.moves for d in fresh.discrete] == [d.moves for d in trained.discrete] and trained.discrete
    assert {"1.running_mean", "1.running_var"} <= {p for d in fresh.discrete for p in d.parameters}


@pytest.mark.parametrize("name", ["heads", "heads written out", "grouped heads", "grouped heads written out", "one key head"])
def test_exchanges_of_heads_that_leave_a_tensor_behind_are_refused(name: str) -> None:
    """Heads change places with everything that is theirs: without any one tensor the outputs change, but for the key bias, unseen."""
    make, shape, _ = CASES[name]
    torch.manual_seed(0)
    model, x = make().double(), image(*shape)
    captured = capture(model, (x,))
    _, discrete, facts, _ = session._derived(captured, session._Clock(None))
    judged = Checker(captured, facts.gained, 0)
    exchanges = [d for d in discrete if "permutation" in d.name]
    assert exchanges and max(judged.judge_discrete(exchanges)) < TOLERANCE
    for true in exchanges:
        twins = [replace(true, moves=tuple(m for m in true.moves if m.parameter != left)) for left in set(true.parameters) - {"k.bias"}]
        assert twins and min(judged.judge_discrete(twins)) > TOLERANCE, true.name
