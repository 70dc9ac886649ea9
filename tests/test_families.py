"""Families found by propagation: how many dimensions of which kind, and what must not be claimed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import ready

import symdisc
from symdisc.families.hashing import mix, runs, unique_pairs

# network -> dimension of all named families
NAMED = {"attn_one_bias": 32, "attn_window": 32, "attn_alibi": 64, "mini_rms_kv1": 45, "mini_ln_eps": 82, "mini_gelu": 155}


@pytest.mark.parametrize("name", NAMED)
def test_named_dimension(name: str) -> None:
    model, maker, row = ready(name)
    cat = symdisc.discover(model, maker(0), solve=False)
    assert cat.group_dimension == NAMED[name] == row["fibre"]


def test_rows_chosen_by_data_are_not_told_apart() -> None:
    """Biases looked up by user: all rows trade one constant with the common bias, a row that the example happens not to touch is no
    exception; factors permute together."""
    model, maker, _ = ready("matrix_factors_bias")
    cat = symdisc.discover(model, maker(0), solve=False)
    rows = {s.parameters[0]: s for s in cat.symmetries if {"bu", "bi"} & set(s.parameters)}
    assert {n: (s.family, s.dimension, s.moves[0].index.copies) for n, s in rows.items()} == {
        n: ("translation", 1, model.get_parameter(n).numel()) for n in ("bu", "bi")}
    assert all({"user.weight", "item.weight"} <= set(d.parameters) for d in cat.discrete)


def test_zero_padding_alone_does_not_stop_folding() -> None:
    model, maker, _ = ready("local_response")
    assert symdisc.discover(model, maker(0), solve=False).group_dimension == 0


def test_runs_and_pairs() -> None:
    keys, parts = runs(np.array([5, 3, 5, 3, 9]))
    assert keys.tolist() == [3, 5, 9] and [p.tolist() for p in parts] == [[1, 3], [0, 2], [4]]
    assert unique_pairs(np.array([2, 1, 2]), np.array([7, 8, 7])).tolist() == [[1, 2], [8, 7]]
    assert len(np.unique(mix(np.arange(10000)))) == 10000


def test_a_norm_right_behind_raw_data_hides_a_direction_of_its_reader() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.LayerNorm(4, eps=0.05), torch.nn.Linear(4, 3)).double()
    for p in model.parameters():
        torch.nn.init.normal_(p)
    cat = symdisc.discover(model, (torch.randn(5, 4, dtype=torch.float64),), solve=False)
    assert sorted(s.dimension for s in cat.symmetries) == [3, 4, 4]  # the scales, the shifts, and three blind directions
    assert symdisc.certify(cat).fibre == 11
