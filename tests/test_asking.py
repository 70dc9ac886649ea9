"""Questions to a catalog: one tensor explained, two architectures compared, the fragment, the notebook's forms.

What must be told stands beside what must not: a false twin is a tensor, a pair or an edit for which the answer is another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import symdisc
from symdisc.catalog import Catalog
from symdisc.cli import main
from symdisc.errors import BadInput
from symdisc.report import difference as differ
from symdisc.report.explain import Motion, explain, lines
from symdisc.report.features import features
from symdisc.symmetry import Broken
from symdisc.torchside.capture import capture
from symdisc.torchside.whynot import why_not
from symdisc.zoo import Attention, Block, Decoder, RMSNorm, SwiGLU, build

TOKENS = (torch.arange(12).reshape(2, 6) % 7,)


@cache
def catalog(name: str) -> Catalog:
    return symdisc.discover(*build(name), solve=False)


@cache
def decoder(rotary: bool = True, bias: bool = False, eps: float = 0.0, kv: int = 2) -> Catalog:
    """One layer, stream 4, two heads of size 2; generic weights."""
    torch.manual_seed(0)
    block = Block(Attention(4, 2, 2, kv, 6 if rotary else 0, bias), SwiGLU(4, 3), lambda: RMSNorm(4, eps))
    model = Decoder(7, 4, [block], RMSNorm(4, eps))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return symdisc.discover(model.eval(), TOKENS, solve=False)


def told(motions: tuple[Motion, ...]) -> dict[str, tuple[str, str, set[str]]]:
    """name -> (formula, size, partners): only for names that occur once."""
    return {m.name: (m.formulas[0][1], m.size, set(m.partners)) for m in motions}


# --- explain ------------------------------------------------------------------------------------------------------------------
def test_a_rotary_key_and_its_partners() -> None:
    found = explain(catalog("llama-tiny-eps"), "blocks.0.attention.k_proj.weight")
    assert found.shape == (2, 4) and found.trained
    moved = told(found.continuous)
    assert set(moved) == {"rotation of the stream", "complex scaling of rotary planes", "scaling of gains"}
    assert moved["complex scaling of rotary planes"] == (r"\theta \mapsto g^{-\top}\, \theta", "dimension 2",
                                                        {"blocks.0.attention.q_proj.weight"})
    formula, size, partners = moved["scaling of gains"]
    assert (formula, size) == (r"\theta \mapsto \theta\, D_c^{-1}", "dimension 4")
    assert partners == {"blocks.0.norm1.weight", "blocks.0.attention.q_proj.weight", "blocks.0.attention.v_proj.weight"}
    rotation = next(m for m in found.continuous if m.name == "rotation of the stream")
    assert "blocks.0.norm1.weight" in rotation.reads and rotation.letters == (r"\gamma = \texttt{blocks.0.norm1.weight}",)
    (law,) = rotation.conserved
    assert not law.enters and not law.latex and "not closed" in law.reason
    assert all(c.enters and "Q" in c.latex for m in found.continuous for c in m.conserved if m is not rotation)
    assert found.discrete == (), "the query heads that share this key head are exchanged without it"
    (swap,) = explain(catalog("llama-tiny-eps"), "blocks.0.attention.q_proj.weight").discrete
    assert swap.name == "permutation of blocks" and swap.partners == ("blocks.0.attention.o_proj.weight",)


def test_the_key_bias_does_nothing_and_the_value_bias_does() -> None:
    cat = catalog("gpt2-tiny")
    key, value = (explain(cat, f"blocks.0.attention.{n}_proj.bias") for n in "kv")
    alone = next(m for m in key.continuous if m.name == "bias without effect")
    assert alone.partners == () and alone.formulas == (("", r"\theta \mapsto \theta + t"),) and alone.conserved[0].enters
    assert "bias without effect" not in {m.name for m in value.continuous}
    assert any(m.partners == ("blocks.0.attention.o_proj.bias",) for m in value.continuous)
    assert any("translation" in s for s in explain(cat, "blocks.0.attention.o_proj.weight").steered)


def test_tied_names_are_one_tensor_and_a_buffer_is_told_as_one() -> None:
    tied = catalog("llama-tiny-tied")
    assert explain(tied, "head.weight") == explain(tied, "embed.weight") and explain(tied, "head.weight").names == ("head.weight",)
    assert explain(tied, "head.weight").continuous == () and len(explain(catalog("llama-tiny-eps"), "head.weight").continuous) == 2
    variance = explain(catalog("resnet-tiny"), "1.running_var")
    assert not variance.trained and "not counted" in variance.continuous[0].size and "buffer [4]" in lines(variance)[0]


@pytest.mark.parametrize("name, words", [
    ("blocks.0.attention.kproj.weight", "did you mean blocks.0.attention.k_proj.weight"),
    ("zzz", "its tensors are embed.weight, "),
])
def test_unknown_names_are_refused_with_close_ones(name: str, words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words)):
        explain(catalog("llama-tiny-eps"), name)


def test_refusals_are_told_where_they_belong() -> None:
    cat = catalog("llama-tiny-eps").replace(broken=(
        Broken("blocks.0.feed", "scaling: R^3", "check", "outputs change"), Broken("aten.silu", "all", "aten.silu", "no rule"),
        Broken("x", "gl", "aten.rsqrt", "why", "remove it", ("norm.weight",))))
    def breakers(n: str) -> list[str]:
        return [b.breaker for b in explain(cat, n).broken]
    assert breakers("blocks.0.feed.up_proj.weight") == ["check"]
    assert breakers("blocks.0.feed.gate_proj.weight") == ["check", "aten.silu"]
    assert breakers("norm.weight") == ["aten.rsqrt"] and breakers("head.weight") == []
    assert "    restored by: remove it" in "".join(f"\n{x}" for x in lines(explain(cat, "norm.weight")))


def test_a_record_with_refusals_reads_back() -> None:
    b = Broken("x", "gl", "aten.rsqrt", "why", "remove it", ("norm.weight",))
    assert Broken.from_dict(json.loads(json.dumps(b.to_dict()))) == b
    assert Broken.from_dict({"site": "x", "family": "gl", "breaker": "y", "reason": "z"}) == Broken("x", "gl", "y", "z")


# --- features of a graph ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, expected", [
    ("llama-tiny", {"rotary positions": "all", "norms": "5 × RMSNorm", "eps of norms": "5 × 0", "gates (products of activations)": "2",
                    "attention": "2 × attention with 2 heads on 1 key/value heads", "biases of linear maps": "none"}),
    ("gpt2-tiny", {"rotary positions": "none", "learned positions": "yes", "norms": "5 × LayerNorm", "eps of norms": "5 × 1e-05",
                   "activations": "2 × gelu", "biases of linear maps": "12 of 13", "tied parameters": "none"}),
    ("encoder-pre", {"attention": "2 × attention with 2 heads", "biases of linear maps": "all", "learned positions": "yes"}),
    ("resnet-tiny", {"attention": "none", "norms": "6 × BatchNorm with running statistics", "activations": "5 × relu"}),
    ("moe-tiny", {"attention": "none", "norms": "none", "activations": "relu"}),
])
def test_features_come_from_the_graph(name: str, expected: dict[str, str]) -> None:
    found = {f.name: f.value for f in features(capture(*build(name)).graph)}
    assert {n: found[n] for n in expected} == expected


class Normed(nn.Module):
    """Attention written out, queries and keys normed or not."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.norms = nn.ModuleList([nn.LayerNorm(2) if normed else nn.Identity() for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (m(x).unflatten(-1, (2, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = self.norms[0](q) @ self.norms[1](k).transpose(-1, -2) / 2**0.5
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("normed", [True, False])
def test_attention_written_out_and_its_norms(normed: bool) -> None:
    found = {f.name: f.value for f in features(capture(Normed(normed), (torch.randn(2, 3, 4),)).graph)}
    assert found["norm of queries and keys"] == ("all" if normed else "none")
    assert found["attention"] == "attention with 2 heads" and found["rotary positions"] == "none"


# --- differences --------------------------------------------------------------------------------------------------------------
def compared(a: Catalog, b: Catalog) -> tuple[dict[str, tuple[str, str]], dict[str, list[Any]]]:
    """(features, {"changed", "first", "second"} -> groups)."""
    found = differ.difference(a, b)
    assert found.traits is not None
    both = [(c.first.group, c.second.group) for c in found.changes if c.first and c.second]
    return {t.name: (t.first, t.second) for t in found.traits if t.name != "parameters"}, {
        "changed": both, "first": [c.first.name for c in found.changes if c.first and not c.second],
        "second": [c.second.name for c in found.changes if c.second and not c.first]}


def test_rotary_positions_turn_a_change_of_basis_into_complex_numbers() -> None:
    traits, sides = compared(decoder(rotary=True), decoder(rotary=False))
    assert traits == {"rotary positions": ("all", "none")}
    assert sides == {"changed": [(r"\mathrm{GL}(1,\mathbb{C})^{2}", r"\mathrm{GL}(2)^{2}")], "first": [], "second": []}
    (change,) = differ.difference(decoder(rotary=True), decoder(rotary=False)).changes
    assert change.first and change.second and (change.first.dimension, change.second.dimension) == (4, 8)
    assert change.traits == (0,), "and the rotation is what meets the same tensors"


def test_biases_add_translations_and_nothing_else() -> None:
    traits, sides = compared(decoder(bias=False), decoder(bias=True))
    assert traits == {"biases of linear maps": ("none", "4 of 8")}
    assert sides["first"] == sides["changed"] == []
    assert set(sides["second"]) == {"translation traded between parameters"}
    assert differ.difference(decoder(bias=False), decoder(bias=True)).dimensions[1] - decoder().group_dimension == 4


def test_a_tie_takes_the_rotation_and_the_final_gain() -> None:
    traits, sides = compared(catalog("llama-tiny-eps"), catalog("llama-tiny-tied"))
    assert traits == {"tied parameters": ("none", "head.weight = embed.weight")}
    assert sides["first"] == ["rotation of the stream", "scaling of gains"] and sides["changed"] == []
    assert set(sides["second"]) == {"permutation of units", "sign flips of units"}


@pytest.mark.parametrize("a, b, traits, lost", [
    ("llama-tiny-ln", "llama-tiny-ln-eps", {"eps of norms": ("5 × 0", "5 × 1e-05")}, ["scaling"]),
    ("mlp-relu", "mlp-tanh", {"activations": ("2 × relu", "2 × tanh")}, ["scaling of hidden units"] * 2),
])
def test_one_edit_one_feature(a: str, b: str, traits: dict[str, tuple[str, str]], lost: list[str]) -> None:
    found, sides = compared(catalog(a), catalog(b))
    assert found == traits and sides["first"] == lost


def test_key_value_heads_change_exponents() -> None:
    traits, sides = compared(decoder(kv=1), decoder(kv=2))
    assert traits == {"attention": ("attention with 2 heads on 1 key/value heads", "attention with 2 heads")}
    assert sides["first"] == sides["second"] == []
    assert sides["changed"] == [(r"\mathrm{GL}(2)", r"\mathrm{GL}(2)^{2}"),
                                (r"\mathrm{GL}(1,\mathbb{C})", r"\mathrm{GL}(1,\mathbb{C})^{2}")]


def test_a_model_does_not_differ_from_itself_and_a_file_has_no_graph() -> None:
    cat = catalog("llama-tiny-eps")
    same = differ.difference(cat, cat)
    assert (same.changes, same.traits) == ((), ()) and same.common == len(differ._all_lines(cat))
    assert "no symmetry is different" in differ.lines(same)
    kept = Catalog.from_json(cat.to_json())
    assert differ.difference(cat, kept).traits is None and differ.difference(cat, kept).changes == ()
    assert any("no operator graph" in line for line in differ.lines(differ.difference(cat, kept)))


# --- why not ------------------------------------------------------------------------------------------------------------------
def edits(cat: Catalog) -> dict[tuple[str, str], tuple[str, str]]:
    """(family, first weight) -> (breaker, edit)."""
    return {(b.family, b.parameters[0]): (b.breaker, b.remedy) for b in cat.why_not}


def with_feed(feed: nn.Module, norm: Callable[[], nn.Module] = lambda: RMSNorm(4, 0.0), rotary: int = 6) -> Catalog:
    torch.manual_seed(0)
    model = Decoder(7, 4, [Block(Attention(4, 2, 2, 2, rotary, False), feed, norm)], norm())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return symdisc.discover(model.eval(), TOKENS, solve=False)


class Gated(nn.Module):
    """down(act(gate x) * up x), or one factor alone."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], product: bool = True) -> None:
        super().__init__()
        self.act, self.product = act, product
        self.gate, self.up, self.down = nn.Linear(4, 3, False), nn.Linear(4, 3, False), nn.Linear(3, 4, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x) if self.product else self.up(x))


def test_each_edit_of_a_gated_decoder_restores_what_it_says() -> None:
    """Told edits are made in the model itself, and the family is there; where none is told the edit at hand does not help."""
    before = with_feed(Gated(torch.nn.functional.silu))
    found = edits(before)
    up, gate = "blocks.0.feed.up.weight", "blocks.0.feed.gate.weight"
    assert found[("change of basis GL(3)", up)] == ("aten.mul", "keep one linear factor in place of the product")
    assert found[("scales of units R_{>0}^3", gate)] == ("aten.silu", "use relu in place of aten.silu")
    assert found[("change of basis GL(3)", gate)] == ("aten.silu", ""), "the product would still stand in the way"
    rotary = found[("change of basis GL(2) of each head", "blocks.0.attention.q_proj.weight")]
    assert rotary == ("rotary positions", "leave the rotary positions out")
    assert found[("change of basis GL(4)", "embed.weight")] == ("norm written out (aten.pow)", "leave the norms out")
    assert not [f for f, _ in found if f.startswith(("common scale", "rotation"))], "eps is 0 and the stream turns already"

    def groups(cat: Catalog, weight: str) -> set[str]:
        return {f"{s.family} {s.group}" for s in cat.symmetries if weight in s.parameters}
    assert "gl GL(3)" in groups(with_feed(Gated(torch.nn.functional.silu, product=False)), up) - groups(before, up)
    assert "scale R_{>0}^3" in groups(with_feed(Gated(torch.relu)), gate) - groups(before, gate)
    assert "gl GL(2)^2" in groups(decoder(rotary=False), "blocks.0.attention.q_proj.weight")
    assert "gl GL(4)" in groups(with_feed(Gated(torch.relu), nn.Identity), "embed.weight")
    assert "gl GL(3)" not in groups(with_feed(Gated(lambda x: x)), gate), "the refused edit does not restore it"


def test_edits_of_norms_and_ties_are_those_of_the_zoo() -> None:
    stream = "embed.weight"
    layer = edits(catalog("llama-tiny-ln-eps"))
    assert layer[("common scale R_{>0}", stream)] == ("aten.layer_norm", "set eps to 0")
    assert layer[("rotation SO(4)", stream)] == ("aten.layer_norm", "use RMSNorm in place of LayerNorm")
    assert ("common scale R_{>0}", stream) not in edits(catalog("llama-tiny-ln"))
    tied = edits(catalog("llama-tiny-tied"))
    assert tied[("rotation SO(4)", stream)] == ("head.weight = embed.weight", "untie head.weight from embed.weight")
    written = edits(catalog("llama-tiny-eps"))
    assert written[("common scale R_{>0}", stream)] == ("norm written out (aten.pow)", "set eps to 0")
    assert ("rotation SO(4)", stream) not in written


def test_activations_trade_scales_for_signs() -> None:
    relu, tanh = edits(catalog("mlp-relu")), edits(catalog("mlp-tanh"))
    assert set(relu) == {(family.format(n), weight) for n, weight in ((6, "0.weight"), (4, "2.weight"))
                         for family in ("change of basis GL({})", "sign flips (Z_2)^{}")}
    assert relu[("sign flips (Z_2)^6", "0.weight")] == ("aten.relu", "use tanh in place of aten.relu")
    assert tanh[("scales of units R_{>0}^6", "0.weight")] == ("aten.tanh", "use relu in place of aten.tanh")
    assert relu[("change of basis GL(6)", "0.weight")] == ("aten.relu", "leave aten.relu out")
    assert why_not(capture(*build("mlp-linear"))) == (), "a linear network lacks nothing"


def test_no_edit_is_told_where_none_helps() -> None:
    lstm = why_not(capture(*build("lstm-tiny")))
    assert {b.breaker for b in lstm} == {"aten.sigmoid, aten.tanh", "aten.mul"} and not any(b.remedy for b in lstm)
    with pytest.raises(BadInput, match="no operator graph"):
        _ = Catalog.from_json(catalog("mlp-relu").to_json()).why_not


# --- forms --------------------------------------------------------------------------------------------------------------------
def test_a_fragment_is_the_document_without_its_frame() -> None:
    whole, part = catalog("llama-tiny-eps").to_latex(), catalog("llama-tiny-eps").to_latex(fragment=True)
    for word in (r"\documentclass", r"\usepackage[", r"\begin{document}", r"\end{document}"):
        assert word in whole and word not in part
    body = whole.partition(r"\section*")[2].rpartition(r"\end{document}")[0]
    assert body in part and part.count(r"\begingroup") == part.count(r"\endgroup") == 1


def test_a_notebook_sees_one_formula_and_rules_of_its_own() -> None:
    cat = catalog("llama-tiny-eps")
    formula = cat._repr_latex_()
    assert formula.startswith("$$") and formula.endswith("$$") and formula.count("{") == formula.count("}")
    assert r"\mathrm{SO}(4)" in formula and r"\text{dimension 27}" in formula and r"\mathbb{R}_{>0}^{15}" in formula
    html = cat._repr_html_()
    assert html.startswith('<div class="symdisc"><style>\n.symdisc {') and html.endswith("</div>")
    assert "<body" not in html and "body {" not in html and ":root" not in html and "<h1>" in html


# --- commands -----------------------------------------------------------------------------------------------------------------
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "zoo:mlp-relu", "--parameter", "2.weight", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["size"] for m in found["continuous"]] == ["dimension 6", "dimension 4"] and found["shape"] == [4, 6]
    assert any("use tanh" in b["remedy"] for b in found["broken"])
    assert main(["diff", "zoo:mlp-relu", "zoo:mlp-tanh"]) == 0
    text = capsys.readouterr().out
    assert "activations   A: 2 × relu   B: 2 × tanh" in text and "only in A" in text
    assert main(["discover", "zoo:mlp-tanh", "--why-not"]) == 0
    assert "use relu in place of aten.tanh" in capsys.readouterr().out
    kept = str(tmp_path / "kept.json")
    catalog("mlp-tanh").save(kept)
    assert main(["explain", kept, "--parameter", "2.wieght"]) == 2
    assert "did you mean 2.weight" in capsys.readouterr().err
    assert main(["diff", kept, kept, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    assert main(["latex", kept, "--fragment"]) == 0
    assert capsys.readouterr().out == catalog("mlp-tanh").to_latex(fragment=True)
