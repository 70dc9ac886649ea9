"""Operators that do nothing, and scores on their way to the softmax: what passes them, and what does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from brute import fibre, randomise
from networks.base import floats
from torch import Tensor, nn

import symdisc

LENGTH = 5


class Distances(nn.Module):
    """Attention to places and to a table of distances (DeBERTa), behind a norm and a mask; ``how`` says what is done otherwise."""

    def __init__(self, how: str = "", d: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.norm, self.table = nn.Linear(3, d), nn.LayerNorm(d), nn.Parameter(torch.randn(2 * LENGTH - 1, d))
        self.q, self.k, self.v, self.o, self.far, self.head = (nn.Linear(d, d) for _ in range(6))
        self.how, self.heads = how, heads

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.ones(LENGTH, 1, dtype=torch.float64)
        if self.how == "hidden":
            kept[0] = 0.0
        x = self.norm(F.gelu(self.embed(x))) * kept
        q, k, v, far = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x)), self.split(self.far(self.table))
        place = torch.arange(LENGTH)
        distance = (place[:, None] - place[None] + LENGTH - 1).expand(len(x), self.heads, LENGTH, LENGTH)
        relative = q @ far.transpose(-1, -2)
        picked = relative.gather(-1, distance) if self.how != "turned" else relative.gather(-1, distance.mT).mT
        hidden = (place[:, None] == 0) & (place[None] == 1)
        scores = (q @ k.transpose(-1, -2) + picked).masked_fill(hidden, -1e30 if self.how != "weak" else 0.5)
        return self.head(F.gelu(self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))))


BOTH = {"k.bias", "far.bias"}


@pytest.mark.parametrize("how, free", [("", BOTH), ("hidden", BOTH), ("turned", {"k.bias"}), ("weak", set())])
def test_scores_on_their_way(how: str, free: set[str]) -> None:
    """Constants of a row of scores go unseen behind a choice of columns and a low mask; not where rows are turned, or the mask is weak."""
    torch.manual_seed(1)
    model, inputs = randomise(Distances(how), 1), floats(LENGTH, 3)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert {s.parameters[0] for s in cat.symmetries if s.name == "bias without effect"} == free and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    found = fibre(model, inputs, seed=None).dimension
    assert cat.group_dimension == found if not how else cat.group_dimension <= found


class Branches(nn.Module):
    """A token beside others, normed with them and read alone, by two heads whose mean is taken; ``how`` says what else is read."""

    def __init__(self, how: str = "", d: int = 4) -> None:
        super().__init__()
        self.enter, self.token, self.others = nn.Linear(3, d), nn.Linear(d, d), nn.Linear(3, d)
        self.norm, self.heads, self.how = nn.LayerNorm(d), nn.ModuleList(nn.Linear(d, 2) for _ in range(2)), how

    def forward(self, x: Tensor) -> Tensor:
        token = self.token(F.gelu(self.enter(x)).mean(1, keepdim=True))
        x = self.norm(torch.cat([F.gelu(self.others(x)), token], 1))
        y = x[:, -1] if self.how != "other" else x[:, -2]
        y = torch.stack([head(y) for head in self.heads]).mean(0)
        return torch.cat([y, F.gelu(x[:, :1].sum(-1))], 1) if self.how == "both" else y


@pytest.mark.parametrize("how, turned", [("", 3), ("other", 0), ("both", 0)])
def test_one_place_is_read(how: str, turned: int) -> None:
    """What stands at the place read may be turned before the norm, and heads whose mean is taken trade their biases."""
    torch.manual_seed(1)
    model, inputs = randomise(Branches(how), 1), floats(LENGTH, 3)
    cat = symdisc.discover(model, inputs(0), solve=False)
    assert sum(s.dimension for s in cat.symmetries if s.name == "rotation of the stream fixing 1") == turned and cat.broken == ()
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
    if how != "both":
        assert cat.group_dimension == fibre(model, inputs, seed=None).dimension


class Beside(nn.Module):
    """A class token and patches, a table added to both; then something is added to the patches alone, and each is read by itself."""

    def __init__(self, whole: bool, d: int = 4) -> None:
        super().__init__()
        self.enter, self.token = nn.Linear(3, d), nn.Linear(3, d)
        self.table = nn.Parameter(torch.randn(1, LENGTH + 1, d))
        self.more, self.head, self.whole = nn.Linear(3, d), nn.Linear(d, 3), whole

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token(x.cos().mean(1, keepdim=True)), self.enter(x)], 1) + self.table
        seen = [self.head(F.gelu(torch.cat([y[:, :1], y[:, 1:] + self.more(x.square())], 1)))]
        if self.whole:
            seen.append(F.gelu(y).sum(-1, keepdim=True).expand(-1, -1, 3))
        return torch.cat(seen, 1)


@pytest.mark.parametrize("whole, traded", [(False, {"enter.bias", "table", "more.bias"}), (True, {"enter.bias", "token.bias", "table"})])
def test_parts_go_their_own_way(whole: bool, traded: set[str]) -> None:
    """The later bias takes from the rows of the table that patches meet, unless all is seen before it is added."""
    torch.manual_seed(1)
    model, inputs = randomise(Beside(whole), 1), floats(LENGTH, 3)
    cat = symdisc.discover(model, inputs(0), solve=False)
    found = {p for s in cat.symmetries if s.name == "translation traded between parameters" for p in s.parameters}
    assert traded <= found and ("more.bias" in found) != whole and cat.broken == ()
    assert cat.group_dimension == fibre(model, inputs, seed=None).dimension
    assert cat.verify(model, cat.sample(seed=1, scale=0.3)).max_relative_change < 1e-9
