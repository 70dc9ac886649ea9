"""Forms of the data-dependent action in networks: exact where they say so, jumps where they say so; refusals, also by the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import symdisc
from symdisc.cli import main
from symdisc.errors import BadInput, NotExact
from symdisc.torchside.capture import capture
from symdisc.torchside.datadep.network import FORMS, DataDependent
from symdisc.torchside.datadep.segments import find_pairs


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_its_sample_in_a_network(form: str) -> None:
    """Batch of one, h = 4, where all forms exist: all are exact there, and only the pseudo-inverse moves U at g = 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    (item,) = symdisc.discover(model, (x,)).data_dependent
    assert set(item.forms) == set(FORMS)
    moved = item.apply(model.state_dict(), item.sample(1, 1.0), form=form)
    assert (torch.func.functional_call(model, moved.state, (x,)) - model(x)).abs().max() < 1e-12
    still = item.apply(model.state_dict(), torch.eye(4, dtype=torch.float64), form=form).state
    change = float((still["2.weight"] - model[2].weight).detach().abs().max())
    assert change < 1e-12 if form not in ("pseudo-inverse", "least-squares") else change > 1e-2


@pytest.mark.parametrize("form", ["householder", "spherical"])
def test_pointwise_forms_are_actions_of_the_whole_group(form: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    (item,) = symdisc.discover(model, (torch.randn(1, 3, dtype=torch.float64),)).data_dependent
    assert "multiplication" not in item.forms and "continuous outside of" in item.forms[form]
    g, f, state = item.sample(1, 1.0), item.sample(2, 1.0), model.state_dict()
    both = item.apply(item.apply(state, f, form=form).state, g, form=form).state
    once = item.apply(state, g @ f, form=form).state
    assert max(float((both[n] - once[n]).abs().max()) for n in state) < 1e-10
    with pytest.raises(BadInput, match="1, 2, 4, 8 only"):
        item.apply(state, g, form="multiplication")


def test_the_jump_of_the_householder_form_shows_in_the_weights() -> None:
    """Two g that differ by 1e-7, whose activations lie on both sides of the ray -e_1: other weights, the same output; the batch
    form has its singularity elsewhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(0.5), nn.Linear(3, 2)).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    item = symdisc.discover(model, (x,)).data_dependent[0]
    z = (model[0](x))[0].detach()
    size = z.norm()
    sides = []
    for turn in ((1e-7, 1e-7), (1e-7, -1e-7)):
        goal = torch.tensor([-1.0, *turn], dtype=torch.float64) * size
        g = torch.eye(3, dtype=torch.float64) + torch.outer(goal - z, z) / size**2
        sides.append(item.apply(model.state_dict(), g + 0.0, form="householder").state["2.weight"])
    assert (sides[0] - sides[1]).abs().max() > 0.05


@pytest.mark.parametrize("form, count, error, message", [
    ("householder", 2, NotExact, "householder form acts at one sample and position, and the batch has 2"),
    ("pseudo-inverse", 6, NotExact, "larger than the width 5"),
    ("radial", 1, BadInput, "form 'radial' is unknown; take one of batch, householder"),
])
def test_forms_that_do_not_fit_are_refused(form: str, count: int, error: type[Exception], message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    item = symdisc.discover(model, (torch.randn(count, 3, dtype=torch.float64),)).data_dependent[0]
    with pytest.raises(error, match=message):
        item.apply(model.state_dict(), item.sample(1, 0.5), form=form)


# --- transformers as people have them -------------------------------------------------------------------------------------
CONFIGS = {
    "Llama": ("LlamaForCausalLM", {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
                                   "num_key_value_heads": 2, "head_dim": 4},
              {"self_attn.v_proj.weight → self_attn.o_proj.weight": (8, 16), "mlp.gate_proj.weight → mlp.down_proj.weight": (24, 24),
               "mlp.up_proj.weight → mlp.down_proj.weight": (24, 24)}),
    "Bert": ("BertModel", {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4},
             {"attention.self.value.weight → attention.output.dense.weight": (16, 16),
              "intermediate.dense.weight → output.dense.weight": (24, 24)}),
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 1, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
             {"attn.c_attn.weight → attn.c_proj.weight": (48, 16), "mlp.c_fc.weight → mlp.c_proj.weight": (64, 64)}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_value_paths_and_gates_of_transformers(name: str) -> None:
    """The value path (grouped heads and a fused projection, too) and both halves of a gated feed-forward: found, and exact on a batch.

    Compared is the captured graph in float64: the library itself computes its norms in float32.
    """
    import transformers

    kind, settings, wanted = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=11, use_cache=False, **settings)
    model = getattr(transformers, kind)(config).double().eval()
    captured = capture(model, (torch.randint(0, 11, (1, 5)),))
    pairs = {p.name: p for p in find_pairs(captured.graph)}
    for short, sizes in wanted.items():
        (found,) = [p for n, p in pairs.items() if all(part in n for part in short.split(" → "))
                    and n.split(" → ")[0].endswith(short.split(" → ")[0]) and n.endswith(short.split(" → ")[1])]
        assert (found.width, found.features) == sizes
        item = DataDependent(found, captured)
        moved = item.apply(model.state_dict(), item.sample(1, 0.7))
        assert moved.on_batch < 1e-12
        assert (moved.state[found.readers[0].weight] - model.state_dict()[found.readers[0].weight]).norm() > 0.02


# --- the command ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options, said", [
    (["--batch", "9"], "refused: a batch of 9 is larger than the width 6"),
    (["--batch", "3", "--form", "spherical"], "refused: the spherical form acts at one sample"),
    (["--batch", "3", "--max-condition", "1"], "over the bound 1.0e+00"),
])
def test_refusals_on_the_command_line(capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert main(["data-dependent", "zoo:mlp-tanh", *options]) == 1
    lines = [t for t in capsys.readouterr().out.splitlines() if "refused" in t]
    assert len(lines) == 2 and said in lines[0]  # one for each pair


def test_dead_units_are_refused_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sigma(Z) of rank 0: no unit is on."""
    (tmp_path / "dead.py").write_text(
        "import torch\nfrom torch import nn\ndef make():\n    m = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))\n"
        "    nn.init.constant_(m[0].bias, -100.0)\n    return m, (torch.randn(2, 3),)\n")
    assert main(["data-dependent", f"{tmp_path / 'dead.py'}:make", "--batch", "2"]) == 1
    assert "has rank 0, not 2" in capsys.readouterr().out
    assert main(["data-dependent", "zoo:mlp-tanh", "--form", "radial"]) == 2
    assert "form 'radial' is unknown" in capsys.readouterr().err


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data-dependent", "zoo:mlp-tanh", "--batch", "3"]) == 0
    shown = capsys.readouterr().out
    assert "0.weight → 2.weight   sigma: tanh   g in GL(6)" in shown and "eta on R" in shown and "R_Z = [sigma(Z) | N(Z)]" in shown
    assert main(["data-dependent", "zoo:gpt2-tiny", "--json"]) == 1  # six positions, four features
    assert '"refused"' in capsys.readouterr().out
