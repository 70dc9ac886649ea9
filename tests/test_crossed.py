"""Ensembles in rows and columns: 2 n small pairs that are n n copies, exact on half the samples, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_ensemble import inputs, network
from torch import nn
from torch.func import functional_call

from symdisc.errors import BadInput
from symdisc.torchside.crossed import Crossed
from symdisc.torchside.ensemble import build, load


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.GELU(), nn.Tanh()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("count", [3, 40])
def test_crossed_copies_are_the_separate_models(activation: nn.Module, count: int) -> None:
    """Both ways to predict, of few samples and of many, and the file give what each copy gives as a model of its own."""
    model, x = network(activation), inputs(count)
    made = build(model, x, 9, scale=0.7, crossed=True)
    assert isinstance(made, Crossed) and (len(made), made.turns.shape) == (9, (2, 3, 3, 3))  # h = 5: groups of 3 and 2
    separate = torch.stack([functional_call(model, made.member(k), (x,)) for k in range(9)])
    for _ in range(3):  # the recorded program comes into use
        assert (made.logits(x) - separate).abs().max() < 1e-11 and (made.mean_logits(x) - separate.mean(0)).abs().max() < 1e-11
    assert (made.mean(x) - separate.softmax(-1).mean(0)).abs().max() < 1e-12
    assert torch.equal(made.vote(x), torch.mode(separate.argmax(-1), 0).values)
    assert made.diversity(inputs(50, seed=4)) > 1e-6 and len(separate.flatten(1).unique(dim=0)) == 9
    assert made.memory.pairs < build(model, x, 9, scale=0.7).memory.pairs


def test_crossed_copies_keep_the_samples_of_half_the_width(tmp_path: Path) -> None:
    model = network()
    x = inputs(2)
    made = build(model, x, 4, scale=1.0, crossed=True)
    assert (made.logits(x) - model(x)).abs().max() < 1e-9
    far = inputs(50, seed=2)
    assert (made.logits(far) - model(far)).abs().max() > 1e-2
    made.save(tmp_path / "e.safetensors")
    back = load(tmp_path / "e.safetensors", network(seed=3), (x,))
    assert isinstance(back, Crossed) and torch.equal(back.logits(far), made.logits(far))


def test_crossed_copies_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(BadInput, match="7 copies make no square of rows and columns: take 4 or 9"):
        build(network(), inputs(5), 7, crossed=True)
    with pytest.raises(BadInput, match="mixes hidden units"):
        build(network(nn.Softmax(-1)), inputs(5), 4, crossed=True)
    with pytest.raises(BadInput, match="need a dense pair"):
        image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double().eval()
        build(image, torch.randn(4, 1, 4, 4, dtype=torch.float64), 4, crossed=True)
    with pytest.raises(BadInput, match="must be"):
        made = build(network(), inputs(5), 4, crossed=True)
        assert isinstance(made, Crossed)
        Crossed(network(), made.pair, made.turns, made.readers[:1])


def test_crossed_means_of_halves_that_disagree() -> None:
    """Logits of one half that are far apart where those of the other are, the other way round: no exponential of theirs is left."""
    model, x = network(nn.Softplus()).float(), inputs(9).float()
    made = build(model, x.abs(), 4, scale=0.5, crossed=True)
    assert isinstance(made, Crossed)
    made.readers[0, :, 0] += 4000.0
    made.readers[1, :, 1] += 4000.0
    for _ in range(2):
        assert (made.mean(x) - made.logits(x).softmax(-1).mean(0)).abs().max() < 1e-5 and made.mean(x).isfinite().all()
        assert torch.equal(made.vote(x), torch.mode(made.logits(x).argmax(-1), 0).values)


def test_crossed_votes_where_copies_have_several_largest() -> None:
    model = network(nn.Softplus())
    made = build(model, inputs(9), 4, scale=0.0, crossed=True)
    last = made.body.get_submodule("4")
    with torch.no_grad():
        last.weight[1], last.bias[1] = last.weight[0], last.bias[0]
    assert isinstance(made, Crossed)
    made.readers[:, :, 1] = made.readers[:, :, 0]
    x = inputs(30, seed=5)
    assert torch.equal(made.vote(x), made.logits(x)[0].argmax(-1)) and (made.mean(x) - made.logits(x)[0].softmax(-1)).abs().max() < 1e-12
