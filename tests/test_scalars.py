"""Outputs without axes: losses, norms, extremes; and models that make float32 numbers whatever their weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from brute import generic_fibre
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc
from symdisc.cli import app
from symdisc.torchside.decompose import TABLE

Loss = Callable[[Tensor, Tensor], Tensor]


class Ended(nn.Module):
    """3 - 4 - 3 with tanh, and a number for what the second input asks."""

    def __init__(self, end: Loss) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Linear(3, 4), nn.Linear(4, 3), end

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.end(self.b(torch.tanh(self.a(x))), y)


# the loss, whether its target is a class, and its fibre dimension: what is centred away of 4 + 1 numbers per unit, or a turn of outputs
LOSSES: dict[str, tuple[Loss, bool, int]] = {
    "cross entropy": (F.cross_entropy, True, 5),
    "cross entropy of probabilities": (lambda z, y: F.cross_entropy(z, y.softmax(-1)), False, 5),
    "summed": (lambda z, y: F.cross_entropy(z, y, reduction="sum"), True, 5),
    "kl": (lambda z, y: F.kl_div(z.log_softmax(-1), y.softmax(-1), reduction="batchmean"), False, 5),
    "kl of logarithms": (lambda z, y: F.kl_div(z.log_softmax(-1), y.log_softmax(-1), reduction="sum", log_target=True), False, 5),
    "binary": (lambda z, y: F.binary_cross_entropy_with_logits(z, y.sigmoid()), False, 0),
    "smooth": (F.smooth_l1_loss, False, 0), "norm": (lambda z, y: z.norm() + 0 * y.sum(), False, 3),
    "largest": (lambda z, y: z.max() + 0 * y.sum(), False, 0), "deviation": (lambda z, y: z[:, 0].std() + y.sum(), False, 11),
    "ratio": (lambda z, y: (z / z.norm()).sum() + y.sum(), False, -1)}


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_that_returns_a_number(name: str) -> None:
    torch.manual_seed(0)
    end, classes, expected = LOSSES[name]
    model = Ended(end).double()
    y = torch.tensor([0, 2, 1, 1, 0]) if classes else torch.randn(5, 3, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    cat = symdisc.discover(model, (x, y))
    certificate = symdisc.certify(cat)
    assert certificate.complete

    def inputs(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, 3, (5,), generator=g) if classes else torch.randn(5, 3, generator=g, dtype=torch.float64)
        return torch.randn(5, 3, generator=g, dtype=torch.float64), drawn

    dimension = generic_fibre(model, inputs).dimension
    assert certificate.fibre == dimension and dimension == (expected if expected >= 0 else dimension)
    assert any("permutation" in d.name for d in cat.discrete) and cat.verify(model, cat.sample(0, 0.3)).passed
    assert cat.to_markdown() and cat.to_latex() and cat.conserved is not None


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # that 'mean' of kl_div divides by all entries
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_torchs(reduction: str) -> None:
    aten, kind = torch.ops.aten, {"none": 0, "mean": 1, "sum": 2}[reduction]
    z, p = torch.randn(6, 4, 3), torch.randn(6, 4, 3).softmax(1)
    y = torch.randint(0, 4, (6, 3))
    y[0, 0] = -100
    one, its = z[0, :, 0], y[1, 0]
    pairs = [(TABLE[aten.cross_entropy_loss.default](z, y, None, kind), F.cross_entropy(z, y, reduction=reduction)),
             (TABLE[aten.cross_entropy_loss.default](z, p, None, kind), F.cross_entropy(z, p, reduction=reduction)),
             (TABLE[aten.cross_entropy_loss.default](one, its, None, kind), F.cross_entropy(one, its, reduction=reduction)),
             (TABLE[aten.binary_cross_entropy_with_logits.default](z, p, None, None, kind),
              F.binary_cross_entropy_with_logits(z, p, reduction=reduction)),
             (TABLE[aten.kl_div.default](z, p, kind), F.kl_div(z, p, reduction=reduction)),
             (TABLE[aten.kl_div.default](z, p.log(), kind, log_target=True), F.kl_div(z, p.log(), reduction=reduction, log_target=True))]
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_gain_that_is_clamped_has_no_linear_symmetry() -> None:
    """Inside (0, 1) it may be traded with what reads it, which ends where it reaches 1: a flow, not a group that acts on all weights."""

    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o, self.g = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.tensor([0.2, 0.5, 0.7]))

        def forward(self, x: Tensor) -> Tensor:
            return self.o(torch.tanh(self.a(x)) * self.g.clamp(0, 1))

    torch.manual_seed(0)
    model, x = Clamped().double(), torch.randn(4, 3, dtype=torch.float64)
    cat = symdisc.discover(model, (x,))
    assert [(s.family, s.dimension) for s in cat.symmetries] == [("flow", 3)] and symdisc.certify(cat).complete
    for seed in range(4):
        assert cat.verify(model, cat.sample(seed, 1.5, discrete=False)).passed


class Stepped(nn.Module):
    """A time step that becomes float32 by torch's default, or by name."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.a, self.b, self.o, self.named = nn.Linear(3, 4), nn.Linear(1, 4), nn.Linear(4, 2), named

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        w = (t.float() if self.named else t)[:, None] * 0.1
        return self.o(torch.tanh(self.a(x) + self.b(w)))


def by_name() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Stepped(True), (torch.randn(2, 3), torch.tensor([3, 9]))


def by_default() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Stepped(False), (torch.randn(2, 3), torch.tensor([3, 9]))


@pytest.mark.parametrize("factory", [by_name, by_default])
def test_whole_numbers_that_become_float32(factory: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    model, x = factory()
    cat = symdisc.discover(model, x)
    certificate = symdisc.certify(cat)
    assert (certificate.found, certificate.fibre, cat.broken) == (4, 4, ()) and "own Jacobian" in certificate.note
    save_file(model.state_dict(), tmp_path / "in.safetensors")
    files = [str(tmp_path / "in.safetensors"), "--out", str(tmp_path / "out.safetensors")]
    ran = CliRunner().invoke(app, ["apply", *files, "--model", f"{__file__}:{factory.__name__}"])
    assert ran.exit_code == 0, ran.output
    assert torch.get_default_dtype() == torch.float32


def test_in_inference_mode_derivatives_are_taken_all_the_same() -> None:
    """Without derivatives every direction would leave the outputs alone to first order."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with torch.inference_mode():
        x = torch.randn(5, 3, dtype=torch.float64)
        cat = symdisc.discover(model, (x,))
        certificate = symdisc.certify(cat)
        made = nn.Linear(3, 2)
        with pytest.raises(symdisc.errors.BadInput, match="made in inference mode"):
            symdisc.discover(made, (x.float(),))
    assert (cat.orbit_dimension, certificate.found, certificate.fibre, cat.symmetries, cat.notes) == (0, 0, 0, (), ())
    with torch.no_grad():
        assert symdisc.certify(symdisc.discover(model, (torch.randn(5, 3, dtype=torch.float64),))).fibre == 0
