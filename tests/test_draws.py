"""Inputs drawn for probing: the whole vocabulary, many scales, masks kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.torchside.capture import capture
from symdisc.torchside.domains import vocabularies
from symdisc.torchside.draws import draw


class _Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(ids)) * mask[..., None])


def test_tokens_range_over_the_table_and_masks_stay() -> None:
    ids, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[1.0, 0.0, 1.0]])
    graph = capture(_Masked(), (ids, mask)).graph
    assert vocabularies(graph) == {graph.inputs[0]: 11}
    drawn = [draw(graph, (ids, mask), seed) for seed in range(60)]
    assert set(torch.cat([d[0].reshape(-1) for d in drawn]).tolist()) == set(range(11))
    assert all(torch.equal(d[1], mask) for d in drawn)


class _Before(nn.Module):
    """A map of both halves of a function of the input."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.first = nn.Linear(6, 4), first

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.tanh(self.a(torch.cat([y.relu(), (-y).relu()], -1)))


def test_one_sign_is_kept_where_another_means_nothing() -> None:
    x = torch.rand(5, 3) + 0.1
    for first, signed in ((torch.log, False), (torch.sqrt, False), (lambda x: x ** 0.3, False), (torch.square, True), (lambda x: x, True)):
        model = _Before(first)
        graph = capture(model, (x,)).graph
        assert bool((draw(graph, (x,), 1)[0] < 0).any()) == signed
        cat = symdisc.discover(model, (x,))
        assert cat.notes == (() if signed else ("of one sign as in the example: x; at other values of this input less may hold",))
    whole = symdisc.discover(_Before(lambda x: x), (x,))  # pictures are positive, too: entries that only negative numbers meet are read
    assert whole.orbit_dimension == symdisc.certify(whole).fibre == 0
    assert whole.verify(_Before(lambda x: x), whole.sample(0, 0.3)).passed


def test_ones_are_no_mask() -> None:
    for seed, constant in enumerate((torch.ones(2, 3), torch.zeros(2, 3), *[torch.eye(3)] * 4)):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))  # at most weights some unit rests, or never rests
        catalog = symdisc.discover(model, (constant,))
        assert catalog.orbit_dimension == 4


def test_draws_repeat_by_seed() -> None:
    x = torch.randn(4, 3)
    graph = capture(nn.Linear(3, 2), (x,)).graph
    first, again, other = (draw(graph, (x,), s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


class Looked(nn.Module):
    """Rows of a table: by a bag of them, or by plain indexing."""

    def __init__(self, bag: bool) -> None:
        super().__init__()
        self.bag, self.table = bag, nn.EmbeddingBag(5, 3, mode="sum")
        self.up, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) if self.bag else self.table.weight[ids].sum(1)
        return self.out(torch.relu(self.up(x)))


@pytest.mark.parametrize("bag", [True, False])
def test_indices_of_bags_and_of_plain_indexing_are_drawn(bag: bool) -> None:
    torch.manual_seed(0)
    captured = capture(Looked(bag).double(), (torch.zeros(3, 4, dtype=torch.int64),))
    (ids,) = draw(captured.graph, captured.example, 0)
    assert set(ids.unique().tolist()) == set(range(5))
