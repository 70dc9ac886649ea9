"""Named families alone against the oracle: what counts at sizes where no linear system is solved."""

from __future__ import annotations

import pytest
import torch
import transformers
from networks import ready
from torch import Tensor, nn

import symdisc
from symdisc.torchside.miniature import miniature

RECURRENT = ("rnn_tanh", "rnn_relu", "lstm_last", "lstm_projected", "gru", "rnn_cell_loop", "lstm_cell_loop", "gru_cell_loop")


@pytest.mark.parametrize("name", RECURRENT)
def test_two_biases_of_a_recurrent_cell(name: str) -> None:
    """b_ih + b_hh at every step; of a GRU only for two of its three gates."""
    model, maker, row = ready(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert cat.group_dimension == row["fibre"] and cat.broken == ()
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert all(s.status == "proved" for s in cat.symmetries)


class Twice(nn.Module):
    """Two biased maps added at two steps; ``mode`` says what the second step does differently."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.mode = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), mode

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x) + self.b(torch.ones(3, 4, dtype=x.dtype)))
        a, b = self.a(x), self.b(h)
        if self.mode == "turned":
            b = b.flip(-1)
        if self.mode == "seen":
            b = b + torch.sin(b)
        return self.c(torch.tanh(torch.add(a, b, alpha=2) if self.mode == "doubled" else a + b))


@pytest.mark.parametrize("mode, expected", [("same", 4), ("turned", 0), ("seen", 0), ("doubled", 0)])
def test_biases_that_meet_otherwise_do_not_trade(mode: str, expected: int) -> None:
    torch.manual_seed(0)
    cat = symdisc.discover(Twice(mode).double(), (torch.randn(3, 3, dtype=torch.float64),), solve=False)
    assert (cat.group_dimension, cat.broken) == (expected, ())


@pytest.mark.parametrize("kind, norm, biases", [
    ("gpt_neox", "layers.0.input_layernorm.bias", 1), ("phi", "layers.0.input_layernorm.bias", 4)])
def test_translations_pass_rotary_heads(kind: str, norm: str, biases: int) -> None:
    """A norm's shift reaches query and key biases row by row, also where two rows share a rotary plane."""
    model, example = miniature(transformers.CONFIG_MAPPING[kind]())
    cat = symdisc.discover(model, example, solve=False)
    assert cat.broken == ()
    found = [s for s in cat.symmetries if s.moves[0].parameter == norm and s.moves[0].kind == "add"]
    assert [(s.dimension, len(s.parameters) - 1) for s in found] == [(8, biases)]


ENCODERS = {"torch_encoder_pre": 4, "torch_encoder_post_two": 4, "torch_encoder_no_bias": 4, "torch_encoder_bare": 0}


@pytest.mark.parametrize("name", ENCODERS)
def test_stream_sheared_along_one(name: str) -> None:
    """A linear map reads the stream past the norms: x + 1 l^T x, and the constant part of biases, behind norms and in front."""
    model, maker, row = ready(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    shears = [s for s in cat.symmetries if s.family == "shear"]
    assert (cat.group_dimension, sum(s.dimension for s in shears)) == (row["fibre"], ENCODERS[name])
    assert all(s.status == "proved" for s in cat.symmetries)
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    element = cat.sample(seed=1, scale=0.3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    back = cat.apply(cat.apply(state, element), cat.inverse(element))
    assert max(float((back[k] - v).abs().max()) for k, v in state.items()) < 1e-10


class Read(nn.Module):
    """A stream read by a norm and by a head; ``mode`` says what else sees it; halves have norms of their own."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.enter, self.inner, self.leave, self.mode = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 6), mode
        self.norm = nn.RMSNorm(4) if mode == "rms" else nn.LayerNorm(2 if mode == "halves" else 4, elementwise_affine=mode == "norm")

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        n = self.norm(h.unflatten(-1, (2, 2))).flatten(-2) if self.mode == "halves" else self.norm(h)
        h = h + self.inner(torch.tanh(n))
        return self.leave(torch.sin(h) if self.mode == "sine" else h + torch.cos(h[..., :1]) if self.mode == "part" else h)


@pytest.mark.parametrize("mode, expected", [("norm", 4), ("plain", 4), ("rms", 0), ("halves", 4), ("sine", 0), ("part", 0)])
def test_shear_of_streams_that_something_else_sees(mode: str, expected: int) -> None:
    torch.manual_seed(0)
    cat = symdisc.discover(Read(mode).double(), (torch.randn(3, 5, dtype=torch.float64),), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.family == "shear") == expected
    assert all("permutation" in b.family for b in cat.broken)


class Bottleneck(nn.Module):
    """Two convolutions with BatchNorm that write one linear stream, as in MobileNetV2; ``mode`` says what is different."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.enter, self.up, self.down = (nn.Conv2d(a, b, 1, bias=mode == "biased") for a, b in ((4, 3), (3, 5), (5, 3)))
        if mode == "grouped":
            self.down = nn.Conv2d(5, 5, 1, groups=5)
            self.up, self.enter = nn.Conv2d(5, 5, 1), nn.Conv2d(4, 5, 1)
        width = self.enter.out_channels
        self.first, self.last = nn.BatchNorm2d(width, affine=mode != "bare"), nn.BatchNorm2d(width, affine=mode != "bare")
        self.head, self.mode = nn.Linear(width, 4), mode

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.enter(x))
        x = torch.relu(x) if self.mode == "relu" else x
        x = x + self.last(self.down(torch.sin(self.up(x))))
        if self.mode == "shared":
            x = x + self.first(self.enter(torch.sin(self.enter(torch.cat([x, x[:, :1]], 1)))[:, :1].expand(-1, 4, -1, -1)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("mode, expected", [("plain", 9), ("biased", 9), ("fresh", 9), ("grouped", 0), ("relu", 0), ("bare", 0),
                                            ("shared", 0), ("train", 0)])
def test_change_of_basis_behind_batchnorm(mode: str, expected: int) -> None:
    torch.manual_seed(0)
    model = Bottleneck(mode).double().train(mode == "train")
    for module in (model.first, model.last):
        nn.init.normal_(module.running_mean, std=float(mode != "fresh"))
        nn.init.uniform_(module.running_var, 0.5, 2.0)
        for p in module.parameters():
            nn.init.normal_(p)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    cat = symdisc.discover(model, (x,), solve=False)
    found = [s for s in cat.symmetries if s.name == "change of basis behind BatchNorm"]
    assert (sum(s.dimension for s in found), all(s.status == "proved" for s in found)) == (expected, True)
    assert not any(b.family.startswith("change of basis") for b in cat.broken)
    assert symdisc.Catalog.from_json(cat.to_json()) == cat and cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    if found:
        assert "D_{d }^{-1}g" in cat.to_latex()
        model(x).square().sum().backward()
        gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        laws = [q for q in cat.conserved if q.symmetry in found]
        assert laws and all(float(q.residual(model.state_dict(), gradient).abs().max()) < 1e-9 for q in laws)


@pytest.mark.parametrize("name", ["vit", "vit_relu", "attn_relative"])
def test_tables_that_are_added(name: str) -> None:
    """Class token and patches against the position table; a constant per head of a table of scores."""
    model, maker, row = ready(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert (cat.group_dimension, cat.broken) == (row["fibre"], ())
    assert all(s.status == "proved" for s in cat.symmetries)
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


class Tables(nn.Module):
    """A class token before patches with a table added; scores with a table of their own. ``mode`` spoils one of them."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.patch, self.token, self.place = nn.Linear(3, 4), nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.query, self.key, self.scores, self.mode = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4)), mode
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.patch(x)], 1)
        seen = torch.sin(x) if self.mode == "seen" else x
        x = torch.sin(seen * self.place if self.mode == "product" else torch.cat([seen, seen[:, :1]], 1)[:, 1:] + self.place
                      if self.mode == "turned" else x + self.place[:, :1] if self.mode == "one row" else seen + self.place)
        s = self.query(x) @ self.key(x).transpose(1, 2) + self.scores
        s = torch.sigmoid(s) if self.mode == "sigmoid" else s.softmax(1) if self.mode == "columns" else s.softmax(-1)
        return self.head(torch.sin(s @ x))


@pytest.mark.parametrize("mode, trades, constants", [
    ("plain", 8, 1), ("seen", 0, 1), ("product", 0, 1), ("turned", 8, 1), ("one row", 0, 1), ("sigmoid", 8, 0), ("columns", 8, 0)])
def test_tables_that_something_else_sees(mode: str, trades: int, constants: int) -> None:
    torch.manual_seed(0)
    cat = symdisc.discover(Tables(mode).double(), (torch.randn(2, 3, 3, dtype=torch.float64),), solve=False)
    found = [s for s in cat.symmetries if "place" in s.parameters and len(s.parameters) == 2 and s.family == "translation"]
    softmax = [s for s in cat.symmetries if s.name == "constant that softmax does not see"]
    assert (sum(s.dimension for s in found), sum(s.dimension for s in softmax)) == (trades, constants)
    assert not any("constant" in b.family for b in cat.broken)


class Masked(nn.Module):
    """Heads with a table of distances behind a causal mask that writes ``low``, as T5 has them."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low, self.table = low, nn.Embedding(6, 2)
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(3)
        bias = self.table((place[:, None] - place).clamp(min=0)).permute(2, 0, 1)[None]
        bias = torch.where(place[:, None] >= place, bias, self.low)
        q, k, v = (f(x).unflatten(-1, (2, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("low, constants", [(-1e30, 2), (-1.0, 0)])
def test_table_of_distances_behind_a_mask(low: float, constants: int) -> None:
    torch.manual_seed(0)
    model = Masked(low).double()
    cat = symdisc.discover(model, (torch.randn(2, 3, 4, dtype=torch.float64),), solve=False)
    found = [s for s in cat.symmetries if s.parameters == ("table.weight",)]
    assert {s.name: s.dimension for s in found}.get("constant that softmax does not see", 0) == constants
    assert sum(s.dimension for s in found) == (8 if constants else 0)  # rows of distances that no pair has
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert not any("constant" in b.family for b in cat.broken)
