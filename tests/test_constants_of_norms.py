"""Constants that readers of a norm make by leaning along 1/gamma, and tables that lean while they are tied."""

from __future__ import annotations

import pytest
import torch
from claims import generic
from torch import Tensor, nn
from torch.nn import functional as F

import symdisc

VOCABULARY, FEATURES, WIDTH, HEADS, SIZE, INNER = 9, 7, 6, 2, 4, 7


class Block(nn.Module):
    """A decoder block behind one norm; ``mode`` says what is different.

    "plain": queries, keys and values without biases, a bias behind the output map. "offset": the norm multiplies by 1 + weight.
    "rotary": half of each head is turned. "fused": one weight writes all three. "parallel": the MLP's bias takes what the values
    write. "memory": one more key that no weight writes. "bent": values pass an odd function. "no shift": the norm has no bias.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, inner = mode, HEADS * SIZE
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=0.05, elementwise_affine=mode != "offset", bias=mode != "no shift")
        if mode == "offset":
            self.gain, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.qkv = nn.ModuleList([nn.Linear(WIDTH, 3 * inner, bias=False)] if mode == "fused" else
                                 [nn.Linear(WIDTH, inner, bias=False) for _ in range(3)])
        self.out = nn.Linear(inner, WIDTH, bias=mode != "parallel")
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.memory = nn.ParameterList(torch.randn(HEADS, 1, SIZE) for _ in range(2 if mode == "memory" else 0))
        self.head = nn.Linear(WIDTH, 7)

    def heads(self, x: Tensor) -> list[Tensor]:
        parts = [p for m in self.qkv for p in m(x).split(HEADS * SIZE, -1)]
        return [p.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for p in parts]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x) * (1.0 + self.gain) + self.shift if self.mode == "offset" else self.norm(x)
        q, k, v = self.heads(y)
        if self.mode == "rotary":
            q, k = turned(q), turned(k)
        if self.mode == "memory":
            k, v = (torch.cat([t, m.expand(len(x), -1, -1, -1)], 2) for t, m in zip((k, v), self.memory, strict=True))
        v = torch.tanh(v) if self.mode == "bent" else v
        a = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        if self.mode == "parallel":
            x = x + a + self.down(F.silu(self.up(y)))
        else:
            x = x + a
            x = x + self.down(F.silu(self.up(x)))
        return self.head(F.silu(x))


def turned(x: Tensor) -> Tensor:
    """The first half of each head turned by an angle that grows with the position."""
    a, b, rest = x[..., :1], x[..., 1:2], x[..., 2:]
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    c, s = angle.cos(), angle.sin()
    return torch.cat([c * a - s * b, s * a + c * b, rest], -1)


def found(cat: symdisc.Catalog, name: str) -> dict[str, int]:
    """Dimension by the first parameter of each symmetry of this name."""
    total: dict[str, int] = {}
    for s in cat.symmetries:
        if s.name == name:
            total[s.parameters[0]] = total.get(s.parameters[0], 0) + s.dimension
    return total


LEANING = "constant read off a centred vector"
KEYS, VALUES = "qkv.1.weight", "qkv.2.weight"


@pytest.mark.parametrize("mode, expected", [
    ("plain", {KEYS: 8, VALUES: 8}), ("offset", {KEYS: 8, VALUES: 8}), ("rotary", {KEYS: 4, VALUES: 8}),
    ("fused", {"qkv.0.weight": 16}), ("parallel", {KEYS: 8, VALUES: 8}), ("memory", {}), ("bent", {KEYS: 8}), ("no shift", {})])
def test_constants_of_readers(mode: str, expected: dict[str, int]) -> None:
    """Found where something takes the constant away, refused where nothing does; nothing is missing, nothing counted twice."""
    model = generic(Block(mode))
    cat = symdisc.discover(model, (torch.randn(3, 5, FEATURES, dtype=torch.float64),), solve=False)
    assert (found(cat, LEANING), cat.broken) == (expected, ())
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert symdisc.Catalog.from_json(cat.to_json()) == cat
    if mode != "memory":  # there the key of its own would have to move along
        certificate = symdisc.certify(cat)
        assert (certificate.found, certificate.complete) == (certificate.fibre, True)


class Tied(nn.Module):
    """Embedded and read out by one table behind a norm. ``mode``: "plain"; "no bias" of the logits; "no table" that trades with the
    tokens; "shiftless" norm, which needs no bias; "bent" logits."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.embed, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(4, WIDTH)
        self.mix, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=0.05, bias=mode != "shiftless")
        self.bias = nn.Parameter(torch.randn(VOCABULARY))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x if self.mode == "no table" else x + self.positions(places)
        x = self.norm(x + F.silu(self.mix(x)))
        logits = x @ self.embed.weight.T
        if self.mode == "bent":
            logits = torch.tanh(logits)
        return logits if self.mode in ("no bias", "shiftless") else logits + self.bias


@pytest.mark.parametrize("mode, expected", [("plain", 1), ("no bias", 0), ("no table", 0), ("shiftless", 1), ("bent", 0)])
def test_tied_tables_lean(mode: str, expected: int) -> None:
    model = generic(Tied(mode))
    example = (torch.randint(0, VOCABULARY, (6, 4)), torch.randint(0, 4, (6, 4)))
    cat = symdisc.discover(model, example, solve=False)
    assert sum(found(cat, "tied table leaning along 1/gamma").values()) == expected
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    if mode in ("plain", "shiftless"):
        certificate = symdisc.certify(cat)
        assert certificate.found == certificate.fibre
