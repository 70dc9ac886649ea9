"""The oracle itself: known dimensions, false twins, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from brute import (
    Undetermined,
    distinct_parameters,
    fibre,
    generic_fibre,
    keeps_function,
    null_shares,
    randomise,
    split_spectrum,
)
from grower import grow, regrow, shrink
from networks import NETWORKS, ready, references
from networks.base import floats, mlp

QUICK = (
    "mlp_relu", "mlp_tanh", "mlp_exp", "linear_deep", "attn_one_bias", "attn_rotary_half", "mini_rms_kv1", "mini_ln",
    "bn_eval_bias", "bn_train_bias", "lstm", "gru", "ssm_dense", "mamba_core", "glu_swiglu", "weight_norm",
    "trap_h_times_h", "unused", "llama_tied",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_published_dimensions(name: str) -> None:
    model, maker, row = ready(name)
    found = fibre(model, maker, None)
    assert found.dimension == row["fibre"] == NETWORKS[name].predicted
    assert found.parameters == row["D"]
    assert found.gap > 1e5


def test_registry_is_recorded() -> None:
    rows = references()
    assert set(rows) == set(NETWORKS)
    assert all(rows[n]["predicted"] in (None, rows[n]["fibre"]) for n in rows)
    assert all(rows[n]["predicted"] == NETWORKS[n].predicted for n in rows)


def test_wrong_expectation_is_seen() -> None:
    """False twins: one operator changed, and the number changes."""
    pairs = (("mlp_relu", "mlp_elu"), ("mini_ln", "mini_ln_eps"), ("attn_rotary_half", "attn_two"),
             ("trap_h_times_h", "trap_h_times_sigmoid"))  # fmt: skip
    rows = references()
    for one, other in pairs:
        assert rows[one]["fibre"] != rows[other]["fibre"]


def test_tied_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    assert sum(p.numel() for p in distinct_parameters(model).values()) == 9
    assert fibre(model, floats(3)).dimension == 0


def test_zero_gradient_is_not_scaled_up() -> None:
    """A parameter times 1e-300 has a gradient of noise size: it must count as unseen."""

    class Whisper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.idle = nn.Linear(3, 4), nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + 1e-300 * self.idle.sum()

    assert fibre(Whisper(), floats(3)).dimension == 5


def test_small_gap_is_refused() -> None:
    with pytest.raises(Undetermined, match="no spectral gap"):
        split_spectrum(torch.logspace(0, -15.5, 32, dtype=torch.float64))


def test_exact_spectrum_is_split() -> None:
    rank, gap, smallest = split_spectrum(torch.tensor([2.0, 1.0, 1e-3, 1e-15, 1e-16], dtype=torch.float64))
    assert (rank, smallest) == (3, 5e-4)
    assert gap > 1e10


def test_dead_units_are_local() -> None:
    """A unit that never switches on adds fibre at that point only; the generic number is the smaller one."""
    model = mlp((3, 4, 4), nn.ReLU)
    dead = randomise(model, 0)
    with torch.no_grad():
        dead[0].bias[0] = -1e6
    assert fibre(dead, floats(3), None).dimension == 3 + 4 + 4
    assert generic_fibre(model, floats(3)).dimension == 4


def test_null_space_points_at_its_parameters() -> None:
    model, maker, _ = ready("unused")
    shares = null_shares(model, maker)
    assert shares["idle.weight"] == pytest.approx(6.0)
    assert shares["c.weight"] == pytest.approx(0.0, abs=1e-9)
    assert sum(shares.values()) == pytest.approx(16.0)


def test_keeps_function_tells_right_from_wrong() -> None:
    model = randomise(mlp((3, 4, 4), nn.ReLU), 0)
    inputs = [floats(3)(seed) for seed in range(5)]
    good, bad = model.state_dict(), model.state_dict()
    good = {**good, "0.weight": 2 * good["0.weight"], "0.bias": 2 * good["0.bias"], "2.weight": good["2.weight"] / 2}
    bad = {**good, "2.weight": bad["2.weight"] / 2.002}
    assert keeps_function(model, good, inputs) < 1e-14
    assert keeps_function(model, bad, inputs) > 1e-5


def test_keeps_function_refuses_untied_state() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    state = dict(model.state_dict())
    state["2.weight"] = 2 * state["2.weight"]
    with pytest.raises(ValueError, match="tied"):
        keeps_function(model, state, [floats(3)(0)])


def test_randomise_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    other = randomise(model, 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    gains = other[1].weight.tolist()
    assert gains[0] != gains[1]
    assert bool((other[1].running_var > 0).all())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), randomise(model, 3).parameters(), strict=True))


def test_train_mode_batch_statistics_are_differentiated() -> None:
    """In train mode the bias before a batch norm is invisible; in eval mode it trades with the shift."""
    model, maker = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), floats(3, batch=6)
    assert fibre(model.train(), maker).dimension == 2
    assert fibre(model.eval(), maker).dimension == 4


def test_function_of_several_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.a(x)
            return {"scaled": F.normalize(z, dim=-1), "norm": z.norm(dim=-1)}

    assert fibre(Two(), floats(3)).dimension == 0


@pytest.mark.parametrize("seed", (0, 41, 83, 130))
def test_grown_networks_regrow(seed: int) -> None:
    model, maker = grow(seed)
    again, _ = regrow(model.describe())
    inputs = [maker(s) for s in range(3)]
    assert keeps_function(model.double(), again.double().state_dict(), inputs) == 0.0


def test_shrinking_keeps_what_fails() -> None:
    text = grow(130, size=6)[0].describe()
    small = shrink(text, lambda t: "norm" in t)
    assert "norm" in small
    assert len(small) < len(text)
    regrow(small)
