"""Networks at other sizes: lengths explained as sums and products, and certificates made on a graph run small."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, ready
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput
from symdisc.sizes import Sizes, Unexplained, infer_sizes, shrink_sizes
from symdisc.torchside.capture import capture
from symdisc.torchside.resize import fixed_tables, shrunk


def test_a_view_takes_a_length_apart_for_everyone_who_shares_it() -> None:
    s = Sizes()
    a, b = s.new(768), s.new(768)
    s.unify(a, b)
    heads, size = s.regroup([a], [12, 64])
    assert s.evaluate(b, {s.root(heads): 2, s.root(size): 3}) == 6


def test_slices_of_a_fused_projection_become_a_view_when_they_are_alike() -> None:
    s = Sizes()
    fused = s.new(36)
    parts = [s.between(fused, 12 * k, 12 * k + 12) for k in range(3)]
    three, rest = s.regroup([fused], [3, 12])
    assert s.is_pinned(three) and all(s.root(p) == s.root(rest) for p in parts)


def test_lengths_that_do_not_fit_are_refused() -> None:
    s = Sizes()
    with pytest.raises(Unexplained):
        s.unify(s.new(3), s.new(4))
    product = s.product([s.new(4), s.new(6)])
    with pytest.raises(Unexplained):
        s.regroup([product], [3, 8])
    with pytest.raises(Unexplained):
        s.between(product, 0, 7)


@pytest.mark.parametrize("name", ["mini_ln", "attn_rotary_partial", "attn_grouped", "conv_grouped", "lora_relu", "rnn_tanh", "vit"])
def test_at_its_own_sizes_a_graph_computes_the_same_function(name: str) -> None:
    """Rewriting every literal from what the lengths are made of gives back the same literals."""
    model, maker, _ = ready(name)
    got = capture(model, maker(0))
    inferred = infer_sizes(got.graph, fixed_tables(got))
    assert not inferred.unexplained
    for op in got.graph.ops:
        if op.name in inferred.rewrites:
            new = inferred.rewrites[op.name](inferred.sizes.value)
            for k, value in new.items():
                old = op.args[k]
                same = value == old or (isinstance(old, tuple) and all(o in (-1, v) for o, v in zip(old, value, strict=True)))
                assert same or (op.packet == "aten.slice" and op.shape), (op, new)


class Fused(nn.Module):
    """One head count, one size, a fused projection, a gate: sizes that only the graph can tell."""

    def __init__(self, width: int = 96, heads: int = 4, inner: int = 200) -> None:
        super().__init__()
        self.heads = heads
        self.enter, self.qkv, self.out = nn.Linear(120, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.leave = nn.Linear(width, 2 * inner), nn.Linear(inner, width), nn.Linear(width, 130)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        b, t, d = h.shape
        q, k, v = self.qkv(h).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        h = h + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        gate, up = self.up(h).chunk(2, -1)
        return self.leave(h + self.down(torch.relu(gate) * up))


def test_order_of_widths_is_kept() -> None:
    got = capture(Fused(), (torch.randn(2, 9, 120),))
    inferred = infer_sizes(got.graph)
    chosen = shrink_sizes(got.graph, inferred)
    shapes = {n: inferred.shape(v, chosen) for v, n in got.graph.parameters.items()}
    width = shapes["out.weight"][0]
    assert shapes["qkv.weight"] == (3 * width, width)
    assert shapes["enter.weight"][1] > width and shapes["leave.weight"][0] > width
    assert shapes["up.weight"][0] == 2 * shapes["down.weight"][1]


@pytest.mark.parametrize("model, x", [
    (nn.Sequential(nn.Linear(64, 90), nn.ReLU(), nn.Linear(90, 70), nn.Tanh(), nn.Linear(70, 10)), torch.randn(4, 64)),
    (Fused(), torch.randn(2, 9, 120)),
], ids=["mlp", "fused attention"])
def test_a_large_model_without_a_config_is_certified_on_its_graph_run_small(model: nn.Module, x: Tensor) -> None:
    cat = symdisc.discover(model, (x,))
    assert cat.parameter_count > 10_000
    c = symdisc.certify(cat)
    assert c.miniature and c.D < 1500 and c.complete and c.found > 0 and "small sizes" in c.note


def test_a_small_graph_does_not_hide_what_has_no_name() -> None:
    """Turns of two layers in |a + i b|^2 have no named family: the certificate counts what is missing and says where."""

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = x.chunk(2, -1)
            return a * a + b * b

    model = nn.Sequential(nn.Linear(120, 160), Squares(), nn.Linear(80, 90))
    c = symdisc.certify(symdisc.discover(model, (torch.randn(4, 120),)))
    assert c.miniature and not c.complete and c.found < c.fibre and "0.weight" in c.note


def test_size_and_direction_of_a_normalised_weight_shrink_together() -> None:
    """The kernel of torch does not compare them, so lengths that differ corrupt memory instead of raising."""
    for dim in (0, 1, None):
        got = capture(nn.utils.parametrizations.weight_norm(nn.Linear(15, 12), dim=dim), (torch.randn(12, 15),))
        inferred = infer_sizes(got.graph, fixed_tables(got))
        values = {n: v for v, n in got.graph.parameters.items()}
        size, direction = (inferred.axes[values[f"parametrizations.weight.original{k}"]] for k in (0, 1))
        kept = [k for k, a in enumerate(size) if inferred.sizes.value(a) > 1]
        assert kept == ([] if dim is None else [dim])
        assert all(inferred.sizes.root(size[k]) == inferred.sizes.root(direction[k]) for k in kept)


def test_weight_norm_is_named_at_any_size() -> None:
    normed = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(normed(nn.Linear(120, 80)), nn.ReLU(), normed(nn.Linear(80, 90)))
    cat = symdisc.discover(model, (torch.randn(4, 120),))
    assert cat.group_dimension == 80 + 80 + 90 and symdisc.certify(cat).complete  # a scale per unit, and the lengths of both directions


def test_what_cannot_shrink_is_said() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(40, 300))
            self.register_buffer("rows", torch.arange(40).flip(0))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight[self.rows].sort(-1).values

    with pytest.raises(BadInput, match="sort"):
        shrunk(capture(Deep(), (torch.randn(3, 40),)), 10_000)


def test_most_registered_networks_are_explained() -> None:
    """Of a sample of the registry: what stays unexplained is named, and only there."""
    unexplained = {}
    for name in list(NETWORKS)[::40]:
        model, maker, _ = ready(name)
        got = capture(model, maker(0))
        inferred = infer_sizes(got.graph, fixed_tables(got))
        if inferred.unexplained:
            unexplained[name] = {op for op, _ in inferred.unexplained}
    assert all(ops <= {"aten.sort", "getitem", "aten.mv", "aten.vdot", "aten.upsample_bilinear2d"} for ops in unexplained.values())
