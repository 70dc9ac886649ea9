"""Ensembles along orbits: K copies in one, exact where they claim to be, refused where they cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from symdisc.cli import main
from symdisc.errors import BadInput, NotExact
from symdisc.torchside.capture import capture
from symdisc.torchside.datadep.segments import find_pairs
from symdisc.torchside.datadep.site import Site
from symdisc.torchside.ensemble import FEW, SHORT, Ensemble, _voted, build, load, random_elements
from symdisc.torchside.recorded import Recorded

SOURCE = '''
import torch
from torch import nn

def factory():
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.GELU(), nn.Linear(5, 3)), (torch.randn(8, 6),)

def residual():
    return nn.Sequential(nn.Linear(6, 3)), (torch.randn(8, 6),)
'''


def network(activation: nn.Module | None = None, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), activation or nn.LeakyReLU(0.1), nn.Linear(5, 3)).double().eval()


def inputs(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.GELU(), nn.Tanh(), nn.Softplus(), nn.SiLU()], ids=lambda a: type(a).__name__)
def test_copies_agree_with_the_network_on_their_samples(activation: nn.Module) -> None:
    model, x = network(activation), inputs(5)
    made = build(model, x, 7, scale=1.0)
    assert (made.logits(x) - model(x)).abs().max() < 1e-9
    far = inputs(50, seed=2)
    assert (made.logits(far) - model(far)).abs().max() > 1e-2  # other functions elsewhere, so the test above is not empty
    assert made.diversity(far) > 1e-5


def test_one_shared_set_of_weights_equals_separate_models() -> None:
    model, x = network(), inputs(30)
    made = build(model, x, 6, scale=0.7)
    separate = torch.stack([functional_call(model, made.member(k), (x,)) for k in range(6)])
    assert (made.logits(x) - separate).abs().max() < 1e-11
    assert torch.equal(made.vote(x), torch.mode(separate.argmax(-1), 0).values)
    assert (made.mean(x) - separate.softmax(-1).mean(0)).abs().max() < 1e-12
    assert (made(x).exp() - made.mean(x)).abs().max() < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(made.shared().values(), model.state_dict().values(), strict=True))


class Gated(nn.Module):
    """A gate: sigma reads more than z."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 2), nn.Flatten(), nn.Softplus(), nn.Linear(5, 3))


def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.MaxPool2d(2), nn.GELU(), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("make, shape, which", [(Gated, (6,), "gate"), (Gated, (6,), "up"), (convolutions, (1, 4, 4), "0"),
                                                (convolutions, (1, 4, 4), "2"), (pooled, (1, 4, 4), "0")])
def test_convolutions_and_gates(make: Callable[[], nn.Module], shape: tuple[int, ...], which: str) -> None:
    """Exact on the samples, equal to separate models everywhere, and no copy elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, far = make().double().eval(), torch.randn(3, *shape).double(), torch.randn(20, *shape).double()
    pair = next(p for p in find_pairs(capture(model, (x,)).graph) if p.writer.weight == f"{which}.weight")
    made = build(model, x, 4, scale=0.5, site=Site(model, x, pair))
    assert (made.logits(x) - model(x)).abs().max() < 1e-9
    assert (made.logits(far) - model(far)).abs().max() > 1e-3
    separate = torch.stack([functional_call(model, made.member(k), (far,)) for k in range(4)])
    assert (made.logits(far) - separate).abs().max() < 1e-11


def test_a_convolution_with_too_many_positions_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 2)).double().eval()
    x = torch.randn(4, 1, 12, 12, dtype=torch.float64)
    with pytest.raises(NotExact, match="positions count"):
        build(model, x, 2)
    assert len(build(model, x, 2, completion="lstsq")) == 2


def test_the_model_is_left_alone() -> None:
    model, x = network(), inputs(5)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    build(model, x, 3)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("completion, samples", [("orthogonal", 5), ("lstsq", 40)])
def test_an_exact_symmetry_gives_no_diversity(completion: str, samples: int) -> None:
    """Positive scales are a symmetry of leaky ReLU everywhere: pi(g, Z) = g. A rotation is none: the false twin."""
    model, x = network(), inputs(40)
    scales = torch.diag_embed(torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.5)
    made = build(model, x, 4, samples=samples, completion=completion, g=scales)
    far = inputs(100, seed=5)
    assert made.diversity(far) < 1e-20
    assert (made.logits(far) - model(far)).abs().max() < 1e-9
    turned = torch.linalg.qr(random_elements(4, 5, 1.0)).Q
    assert build(model, x, 4, samples=samples, completion=completion, g=turned).diversity(far) > 1e-4


def test_scale_zero_is_the_network() -> None:
    model, x = network(), inputs(20)
    made = build(model, x, 3, scale=0.0, samples=2)  # the completion makes pi(1, Z) = 1 for few samples, too
    assert (made.logits(x) - model(x)).abs().max() < 1e-12


def test_memory_is_one_network_and_small_pairs() -> None:
    made = build(network(), inputs(5), 100)
    assert made.memory.shared == 8 * (6 * 9 + 9 + 9 * 5 + 5 + 5 * 3 + 3)
    assert made.memory.pairs == 8 * 100 * (5 * 5 + 3 * 5)
    assert made.memory.share < 0.32


def test_gradients_go_through_all_members() -> None:
    model, x = network(), inputs(4)
    made = build(model, inputs(5), 3, scale=0.5)
    probe = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(made.logits(probe).mean(0).sum(), probe)
    h, e = 1e-6, torch.zeros_like(x)
    e[2, 3] = h
    measured = (made.logits(x + e).mean(0).sum() - made.logits(x - e).mean(0).sum()) / (2 * h)
    assert abs(float(slope[2, 3] - measured)) < 1e-7


def test_pairs_are_found_only_where_nothing_else_reads() -> None:
    class Residual(nn.Module):
        def __init__(self, add: bool) -> None:
            super().__init__()
            self.a, self.b, self.add = nn.Linear(4, 4), nn.Linear(4, 4), add

        def forward(self, x: Tensor) -> Tensor:
            s = torch.relu(self.a(x))
            return self.b(s) + (s if self.add else x)

    assert Site(Residual(False), torch.randn(2, 4)).pair.name == "a.weight → b.weight"
    with pytest.raises(BadInput, match="has no pair"):
        Site(Residual(True), torch.randn(2, 4))
    assert Site(network(), inputs(2)).pair.name == "2.weight → 4.weight"


def test_a_layer_used_twice_is_no_pair() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(BadInput, match="has no pair"):
        Site(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 4))


@pytest.mark.parametrize("options, message", [
    ({"copies": 0}, "at least one copy"),
    ({"copies": 2, "scale": -1.0}, "must not be negative"),
    ({"copies": 2, "completion": "guess"}, "is unknown"),
])
def test_bad_numbers(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(network(), inputs(5), **options)  # type: ignore[arg-type]


def test_samples_that_allow_no_exact_copy_are_refused() -> None:
    with pytest.raises(NotExact, match="larger than the width"):
        build(network(), inputs(20), 2, samples=6)
    same = inputs(1).repeat(5, 1)
    with pytest.raises(NotExact, match="rank"):
        build(network(), same, 2)


def test_shapes_that_do_not_fit() -> None:
    model = network()
    pair = Site(model, inputs(2)).pair
    with pytest.raises(BadInput, match="must be"):
        Ensemble(model, pair, torch.eye(4)[None], torch.zeros(1, 3, 4))


def test_file_and_back(tmp_path: Path) -> None:
    model, x = network(), inputs(9)
    made = build(model, x, 4, scale=0.5)
    made.save(tmp_path / "e.safetensors")
    back = load(tmp_path / "e.safetensors", network(seed=7), (x,))
    assert torch.equal(back.logits(x), made.logits(x))
    with pytest.raises(BadInput, match="does not fit the model"):
        load(tmp_path / "e.safetensors", nn.Sequential(nn.Linear(6, 9)).double(), (x,))


# --- the command ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[str, str]]:
    from safetensors.torch import save_file

    (tmp_path / "net.py").write_text(SOURCE)
    save_file({n: t.float() for n, t in network(nn.GELU(), seed=3).state_dict().items()}, str(tmp_path / "w.safetensors"))
    save_file({"x": inputs(40).float()}, str(tmp_path / "x.safetensors"))
    yield str(tmp_path / "w.safetensors"), f"{tmp_path / 'net.py'}:factory"
    sys.modules.pop("symdisc_source_net", None)


def test_command(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, source = files
    arguments = ["ensemble", weights, "--model", source, "--copies", "10", "--scale", "0.2", "--out", str(tmp_path / "e.safetensors")]
    assert main([*arguments, "--json", "--data", str(tmp_path / "x.safetensors")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["copies"] == 10 and told["inputs"] == 40 and told["memory"]["pairs"] == 4 * 10 * (25 + 15)
    made = load(tmp_path / "e.safetensors", network(nn.GELU()).float(), (inputs(2).float(),))
    assert len(made) == 10
    assert torch.equal(made.shared()["0.weight"], network(nn.GELU(), seed=3).state_dict()["0.weight"].float())
    assert main(arguments) == 0
    assert "10 copies" in capsys.readouterr().out


@pytest.mark.parametrize("change, message", [
    (["--copies", "0"], "copies"),
    (["--out", "e.bin"], "safetensors"),
    (["--data", "missing.safetensors"], "no such file"),
])
def test_command_refuses(files: tuple[str, str], tmp_path: Path, change: list[str], message: str,
                         capsys: pytest.CaptureFixture[str]) -> None:
    weights, source = files
    assert main(["ensemble", weights, "--model", source, "--out", str(tmp_path / "e.safetensors"), *change]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "e.safetensors").exists()


def test_command_needs_a_pair_and_fitting_weights(files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, source = files
    out = ["--out", str(tmp_path / "e.safetensors")]
    assert main(["ensemble", weights, "--model", source.replace("factory", "residual"), *out]) == 2
    assert "the model" in capsys.readouterr().err
    assert main(["ensemble", weights, "--model", source, "--samples", "6", *out]) == 2
    assert "larger than the width" in capsys.readouterr().err


# --- recordings ----------------------------------------------------------------------------------------------------------
def test_a_recording_is_the_same_function_and_follows_the_weights() -> None:
    model, x = network(), inputs(30)
    made = build(model, x, 6, scale=0.7)
    first = [made.logits(x) for _ in range(3)]
    assert all(isinstance(p, GraphModule) for p in made._run._programs.values()) and made._run._programs
    assert max(float((f - first[0]).abs().max()) for f in first) < 1e-12
    with torch.no_grad():
        made.body.get_parameter("4.bias").add_(1.0)
    assert (made.logits(x) - first[0] - 1).abs().max() < 1e-12
    low = made.float()
    assert low.logits(x.float()).dtype == torch.float32 and (low.logits(x.float()) - first[0] - 1).abs().max() < 1e-4
    asked = x.float().requires_grad_()
    assert torch.autograd.grad(low.mean(asked)[:, 0].sum(), asked)[0].abs().max() > 0


def test_what_changes_from_call_to_call_is_not_recorded() -> None:
    calls: list[int] = []

    def drifting(own: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor:
        calls.append(1)
        return own[0] * len(calls) + given[0]

    run, one = Recorded(drifting), torch.ones(2)
    found = [float(run([one], [one])[0]) for _ in range(4)]
    assert found == sorted(found) and len(set(found)) == 4


class _Onwards(nn.Module):
    """Something behind the readers, so that what they write is not what the network puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x))).sigmoid() + x[:, :3]


@pytest.mark.parametrize("samples", [FEW - 3, FEW + 5])
@pytest.mark.parametrize("case, wide", [("dense", True), ("no bias", True), ("mixes units", False), ("goes on", False)])
def test_one_product_for_all_copies_where_it_is_the_same(case: str, wide: bool, samples: int) -> None:
    """The copies side by side in one product, only for a dense pair with elementwise sigma at the end; vmap says what is right."""
    torch.manual_seed(3)
    model = {"dense": network(nn.GELU()), "goes on": _Onwards().double().eval(), "mixes units": network(nn.Softmax(-1)),
             "no bias": nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double().eval()}[case]
    made, x = build(model, inputs(20), 4, 0.5, completion="lstsq"), inputs(samples, seed=4)
    truth = made._all(made._tensors(), (x,))
    for _ in range(3):  # the function, its recording, the recording alone
        assert (made.logits(x) - truth).abs().max() < 1e-11
        assert (made.mean_logits(x) - truth.mean(0)).abs().max() < 1e-11
    assert set(made._run._agreed.values()) == set(made._run_mean._agreed.values()) == {wide}
    named = truth.argmax(-1)
    assert torch.equal(made.vote(x), torch.stack([torch.bincount(n, minlength=3).argmax() for n in named.T]))
    leaf = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(made.logits(leaf).square().sum(), leaf)
    (true_slope,) = torch.autograd.grad(made._all(made._tensors(), (leaf,)).square().sum(), leaf)
    assert (slope - true_slope).abs().max() < 1e-9
    (slope,) = torch.autograd.grad(made.mean_logits(leaf).square().sum(), leaf)
    (true_slope,) = torch.autograd.grad(made._all(made._tensors(), (leaf,)).mean(0).square().sum(), leaf)
    assert (slope - true_slope).abs().max() < 1e-9


def test_ties_go_to_the_lowest_class() -> None:
    """Of one copy between classes, and of classes between copies; what is not a number is looked at by argmax."""
    logits = torch.tensor([[[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 1.0]]])
    assert _voted(logits).tolist() == [0, 0, 1]
    assert _voted(logits[:, 1:].requires_grad_()).tolist() == [0, 1]
    logits[1, 2, 2] = torch.nan
    assert _voted(logits).tolist() == [0, 0, 1]


@pytest.mark.parametrize("samples", [SHORT - 5, SHORT + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_vote_is_that_of_copies_asked_one_by_one(samples: int, dtype: torch.dtype) -> None:
    """A tie in one copy does not make up for what is not a number in another; the logits stay as they are."""
    draw = torch.Generator().manual_seed(0)
    clear = torch.randn(7, samples, 4, generator=draw, dtype=torch.float64).to(dtype)
    torn = clear.clone()
    torn[0, 3], torn[1, 3], torn[2:, 3, 3], torn[1, 3, 2] = 1.0, 0.0, 9.0, torch.nan
    torn[:2, 4] = torch.tensor([2.0, 2.0, 0.0, 0.0])
    torn[2:5, 5] = torch.tensor([0.0, 1.0, 1.0 + 1e-12, 0.0], dtype=dtype)  # a tie in float32, none in float64
    for logits in (clear, torn):
        kept = logits.clone()
        named = logits.argmax(-1)
        by_hand = torch.stack([torch.bincount(n, minlength=4).argmax() for n in named.T])
        assert torch.equal(_voted(logits), by_hand) and torch.equal(_voted(logits.mT.contiguous().mT), by_hand)
        assert torch.equal(_voted(logits[:1].contiguous()), named[0])
        assert torch.equal(logits.nan_to_num(7.0), kept.nan_to_num(7.0))
