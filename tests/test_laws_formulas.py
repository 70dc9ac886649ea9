"""The numbers of the literature as formulas of the sizes, against the exact count: residual, attention, convolution, NMF, momentum."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import symdisc


def counted(**shape: Any) -> int:
    """The laws of a shape, proved to be all."""
    count = symdisc.count_laws(shape)
    assert count.complete and count.found == count.laws and count.evidence.exact
    return count.laws


def triangle(n: int) -> int:
    return n * (n + 1) // 2


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("width, hidden", [(3, [2]), (3, [4]), (2, [3, 2])], ids=str)
def test_a_residual_block_has_the_laws_of_its_block_without_the_skip(activation: str, width: int, hidden: list[int]) -> None:
    """arXiv:2506.06194; each block counted alone."""
    alone = sum(counted(kind=activation, widths=[width, h, width]) for h in hidden)
    assert counted(kind="residual", width=width, hidden=hidden, activation=activation) == alone
    assert alone == sum(h if activation == "relu" else triangle(h) for h in hidden)


@pytest.mark.parametrize("key, value, heads", [(2, 2, 1), (3, 2, 1), (2, 3, 2), (1, 2, 3)])
def test_attention_per_head(key: int, value: int, heads: int) -> None:
    """d_k (d_k + 1)/2 + d_v (d_v + 1)/2 per head (arXiv:2506.06194)."""
    assert counted(kind="attention", width=5, key=key, value=value, heads=heads) == heads * (triangle(key) + triangle(value))


@pytest.mark.parametrize("key, value, heads", [(2, 2, 1), (4, 2, 1), (2, 3, 2)])
def test_rotary_attention_per_head(key: int, value: int, heads: int) -> None:
    """One law per frequency, d_k / 2, instead of the first part."""
    found = counted(kind="attention", width=5, key=key, value=value, heads=heads, rotary=True)
    assert found == heads * (key // 2 + triangle(value))


@pytest.mark.parametrize("channels, kernel", [([2, 3, 2], 2), ([1, 4, 2], [2, 2]), ([2, 3, 2, 2], 2)], ids=str)
def test_convolutions_per_channel(channels: list[int], kernel: Any) -> None:
    """One law per hidden channel with ReLU, the symmetric matrix without, taps summed; biases join and add none."""
    hidden = channels[1:-1]
    assert counted(kind="conv", channels=channels, kernel=kernel) == sum(hidden)
    assert counted(kind="conv", channels=channels, kernel=kernel, bias=True) == sum(hidden)


def test_linear_convolutions_keep_the_symmetric_matrix() -> None:
    assert counted(kind="conv", channels=[2, 3, 2], kernel=[2, 2], activation="linear") == triangle(3)


@pytest.mark.parametrize("rows, rank, columns", [(3, 2, 3), (4, 3, 3), (3, 1, 2)])
def test_nmf_with_an_entropic_mirror(rows: int, rank: int, columns: int) -> None:
    """One law per column, sum U - sum V (arXiv:2405.12888); none survives momentum."""
    assert counted(kind="nmf", rows=rows, rank=rank, columns=columns) == rank
    assert counted(kind="nmf", rows=rows, rank=rank, columns=columns, mirror="mixed") == rank


def test_nmf_keeps_nothing_with_momentum() -> None:
    assert counted(kind="nmf", rows=3, rank=2, columns=3, flow="momentum") == 0


@pytest.mark.parametrize("widths", [[3, 2, 3], [4, 3, 4], [3, 2, 2, 3], [2, 1, 2]], ids=str)
def test_linear_networks_with_momentum_keep_the_rotations_of_narrow_layers(widths: list[int]) -> None:
    assert counted(kind="linear", widths=widths, flow="momentum") == sum(r * (r - 1) // 2 for r in widths[1:-1])


@pytest.mark.parametrize("widths, bias", [([3, 2, 3], False), ([2, 4, 2], True), ([2, 3, 2, 2], False)], ids=str)
def test_relu_networks_with_momentum_keep_none(widths: list[int], bias: bool) -> None:
    assert counted(kind="relu", widths=widths, bias=bias, flow="momentum") == 0


@pytest.mark.parametrize("n, m, r", [(2, 2, 2), (2, 3, 2), (3, 2, 3), (1, 2, 5), (2, 2, 4), (2, 2, 6), (1, 1, 4), (2, 3, 4)])
def test_two_linear_layers_narrow_and_wide(n: int, m: int, r: int) -> None:
    """r (r + 1)/2, and (n + m)(r - (n + m)/2 + 1/2) from r = n + m on (arXiv:2307.00144)."""
    s = n + m
    wanted = triangle(r) if r < s else s * (2 * r - s + 1) // 2
    assert symdisc.count_laws({"kind": "linear", "widths": [m, r, n]}).laws == wanted


def test_products_and_deep_networks() -> None:
    for factors in range(2, 6):
        assert counted(kind="product", factors=factors) == factors - 1
    for widths in itertools.product((2, 3), repeat=2):
        assert counted(kind="linear", widths=[3, *widths, 3]) == sum(map(triangle, widths))
        assert counted(kind="relu", widths=[3, *widths, 3], bias=True) == sum(widths)
