"""Attention of vision transformers: joined biases, windows that are rolled and padded, tables of relative positions, pooled heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc

WIDTH, HEADS, SIDE, IN, CLASSES = 6, 2, 4, 8, 7


class Fused(nn.Module):
    """Embedded patches, one attention over windows of 2 x 2, an MLP, a head. ``mode`` says what is different: "key": the joined bias holds
    constants where the keys are; "rotary": queries and keys are turned; "shifted": windows are rolled; "padded" by a row and cut again."""

    def __init__(self, mode: str = "") -> None:
        super().__init__()
        self.mode = mode
        self.embed, self.norm1, self.norm2 = nn.Linear(IN, WIDTH), nn.LayerNorm(WIDTH, eps=0.05), nn.LayerNorm(WIDTH, eps=0.05)
        self.qkv = nn.Parameter(torch.empty(3 * WIDTH, WIDTH))
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(WIDTH)), nn.Parameter(torch.empty(WIDTH))
        self.register_buffer("k_bias", torch.full((WIDTH,), 1.0 if mode == "key" else 0.0), persistent=False)
        self.table = nn.Parameter(torch.empty(11, HEADS))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (place[:, :, None] - place[:, None, :] + 1).permute(1, 2, 0)
        self.register_buffer("index", apart[..., 0] * 3 + apart[..., 1])
        self.out, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)
        self.norm3, self.head = nn.LayerNorm(WIDTH, eps=0.05), nn.Linear(WIDTH, CLASSES)

    def attention(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = F.pad(x, (0, 0, 0, 0, 0, int(self.mode == "padded") * 2))
        x = torch.roll(x, (-1, -1), (1, 2)) if self.mode == "shifted" else x
        x = x.reshape(b, -1, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        qkv = F.linear(x, self.qkv, torch.cat([self.q_bias, self.k_bias, self.v_bias]))
        q, k, v = qkv.reshape(-1, 4, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        if self.mode == "rotary":
            turn = torch.arange(4.0, dtype=x.dtype)[:, None]
            q, k = (torch.cat([t[..., :1] * turn.cos() - t[..., 1:2] * turn.sin(),
                               t[..., :1] * turn.sin() + t[..., 1:2] * turn.cos(), t[..., 2:]], -1) for t in (q, k))
        bias = self.table[self.index.reshape(-1)].reshape(4, 4, HEADS).permute(2, 0, 1).unsqueeze(0)
        x = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(-1, 4, c))
        x = x.reshape(b, -1, w // 2, 2, 2, c).transpose(2, 3).reshape(b, -1, w, c)
        return (torch.roll(x, (1, 1), (1, 2)) if self.mode == "shifted" else x)[:, :h]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(F.adaptive_avg_pool2d(self.norm3(x).permute(0, 3, 1, 2), 1).flatten(1))


def _catalog(model: nn.Module, *shape: int) -> symdisc.Catalog:
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return symdisc.discover(model.double(), (torch.randn(*shape, dtype=torch.float64),), solve=False)


def _dimension(cat: symdisc.Catalog, name: str) -> int:
    return sum(s.dimension for s in cat.symmetries if s.name == name)


@pytest.mark.parametrize("mode, leaning", [("", 3 * WIDTH), ("shifted", 3 * WIDTH), ("rotary", 2 * WIDTH + 2), ("key", 3 * WIDTH)])
def test_joined_biases_and_windows(mode: str, leaning: int) -> None:
    cat = _catalog(model := Fused(mode), 2, SIDE, SIDE, IN)
    assert _dimension(cat, "constant read off a centred vector") == leaning
    assert _dimension(cat, "direction that a centred vector lacks") == 4 + CLASSES
    assert _dimension(cat, "constant that softmax does not see") == HEADS
    assert _dimension(cat, "unused entries") == 2 * HEADS
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    if mode != "key":
        assert symdisc.certify(cat).complete


def test_padded_places_see_other_constants() -> None:
    """A shift behind the norm is not there at places that are padded with zeros."""
    cat = _catalog(model := Fused("padded"), 2, SIDE, SIDE, IN)
    assert not [s for s in cat.symmetries if "norm1.bias" in s.parameters and s.family == "translation"]
    assert not [s for s in cat.symmetries if "qkv" in s.parameters and s.family == "outer"]
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


class Tokens(nn.Module):
    """Scores with a table whose first row and column belong to a class token, interpolated to the size that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 2 * WIDTH)
        self.table = nn.Parameter(torch.empty(4, HEADS))
        self.register_buffer("index", torch.tensor([[3, 2, 2], [1, 0, 0], [1, 0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.embed(x).reshape(-1, 3, 2, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        grid = F.interpolate(self.table[:1].reshape(1, 1, 1, HEADS), size=(1, HEADS), mode="bilinear").reshape(1, HEADS)
        table = torch.cat([grid, self.table[1:]])
        bias = table[self.index.reshape(-1)].reshape(3, 3, HEADS).permute(2, 0, 1).unsqueeze(0)
        return F.scaled_dot_product_attention(q, k, x.unsqueeze(1).expand(-1, HEADS, -1, -1), attn_mask=bias + torch.eye(3, dtype=x.dtype))


def test_rows_of_a_class_token() -> None:
    cat = _catalog(model := Tokens(), 2, 3, 3)
    assert _dimension(cat, "constant that softmax does not see") == 2 * HEADS
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete


class Mixed(nn.Module):
    """A head that reads channels of a centred vector, each from a place of its own."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=0.05), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.apart:
            x = torch.cat([x[..., :2].roll(1, 1), x[..., 2:]], -1)
        return self.head(x.transpose(1, 2).mean(2))


@pytest.mark.parametrize("apart", [False, True])
def test_vectors_stay_whole(apart: bool) -> None:
    cat = _catalog(model := Mixed(apart), 2, 3, WIDTH)
    assert _dimension(cat, "direction that a centred vector lacks") == (0 if apart else CLASSES)
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9


class Kept(nn.Module):
    """A class token and its place among the positions, beside those patches that are kept by the order of given numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.position, self.token = nn.Parameter(torch.empty(9, WIDTH)), nn.Parameter(torch.empty(1, WIDTH))
        self.norm, self.norm2 = nn.LayerNorm(WIDTH, eps=0.05), nn.LayerNorm(WIDTH, eps=0.05)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        x = self.embed(x) + self.position[1:]
        x = torch.gather(x, 1, order.argsort(1)[:, :7, None].repeat(1, 1, WIDTH))
        x = torch.cat([(self.token + self.position[:1]).expand(len(x), -1, -1), x], 1)
        return self.norm2(x + self.mix(torch.tanh(self.norm(x))))


def test_a_class_token_has_its_own_row_of_the_positions() -> None:
    model = Kept()
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    inputs = torch.randn(3, 8, IN, dtype=torch.float64), torch.rand(3, 8, dtype=torch.float64)
    cat = symdisc.discover(model.double(), inputs, solve=False)
    traded = {s.parameters: s.dimension for s in cat.symmetries if s.name == "translation traded between parameters"}
    assert traded == {("token", "position"): WIDTH, ("embed.bias", "position"): WIDTH - 1}  # along 1 both are free
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete


class Merged(nn.Module):
    """Four neighbours are put into one vector, or the largest of them is taken. With ``torn`` entries of two of the four change places."""

    def __init__(self, merge: bool, torn: bool = False) -> None:
        super().__init__()
        self.merge, self.torn, wide = merge, torn, 4 * WIDTH if merge else WIDTH
        self.embed, self.mix, self.side = nn.Linear(IN, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.norm2, self.head = nn.LayerNorm(WIDTH, eps=0.05), nn.LayerNorm(wide, eps=0.05), nn.Linear(wide, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.mix(y)
        if not self.merge:
            return self.head(self.norm2(self.side(y).reshape(len(x), -1, 4, WIDTH).amax(2) + x[:, ::4]))
        parts = [x[:, k::4] for k in range(4)]
        if self.torn:
            parts[2:] = torch.cat([parts[2][..., :2], parts[3][..., 2:]], -1), torch.cat([parts[3][..., :2], parts[2][..., 2:]], -1)
        return self.head(self.norm2(torch.cat(parts, -1)))


@pytest.mark.parametrize("merge", [False, True])
def test_merged_places(merge: bool) -> None:
    """Concatenated places turn together; a constant along 1 is the same for all of them."""
    cat = _catalog(model := Merged(merge), 3, 8, IN)
    assert [s.group for s in cat.symmetries if s.family == "o1"] == (["SO(5)"] if merge else [])
    assert _dimension(cat, "bias without effect") == 1
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.certify(cat).complete


def test_torn_places_do_not_turn_together() -> None:
    cat = _catalog(model := Merged(True, torn=True), 3, 8, IN)
    assert not [s for s in cat.symmetries if s.family == "o1"]
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
