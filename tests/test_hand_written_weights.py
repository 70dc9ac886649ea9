"""Weights that a network makes by itself over several axes, and matrices that are singular at some of the weights and inputs drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from claims import assert_undone, generic
from networks.base import floats
from networks.strangers import Of, parameter
from torch import Tensor, nn

import symdisc
from symdisc.torchside.interpret import resolve


def test_weights_standardised_over_three_axes() -> None:
    """Units 3; of each filter what is added to it 1, and its length, which only the gain makes up for in part 1."""

    def forward(m: Of, x: Tensor) -> Tensor:
        w = m.w - m.w.mean((1, 2, 3), keepdim=True)
        w = w / (12 * m.w.var((1, 2, 3), keepdim=True) + 1e-4).sqrt()
        return m.o(F.relu(F.conv2d(x, w * m.g[:, None, None, None], m.b)).mean((2, 3)))

    torch.manual_seed(0)
    model = generic(Of(forward, w=parameter(3, 2, 2, 3), g=parameter(3), b=parameter(3), o=nn.Linear(3, 2)))
    cat = symdisc.discover(model, floats(2, 4, 4)(0))
    assert cat.orbit_dimension == 9 and symdisc.certify(cat).complete
    assert cat.verify(model, cat.sample(seed=0, scale=0.3)).max_relative_change < 1e-9
    assert_undone(cat, model)


def test_one_singular_matrix_leaves_the_rest_of_the_batch() -> None:
    batch = torch.stack([torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.ones(2, 2)]).double()
    found = resolve("aten.linalg_inv.default")(batch)
    assert torch.equal(found[:2], torch.linalg.inv(batch[:2])) and bool(found[2].isnan().all())
    solved = resolve("aten.linalg_solve.default")(batch, torch.ones(3, 2, 1).double())
    assert bool(solved[:2].isfinite().all()) and bool(solved[2].isnan().all())
    lower = resolve("aten.linalg_cholesky.default")(torch.stack([2 * torch.eye(2), -torch.eye(2)]).double())
    assert bool(lower[0].isfinite().all()) and bool(lower[1].isnan().all())


def test_a_network_that_inverts_a_matrix() -> None:
    """y = o (I + softmax(x w))^-1 x: at large inputs the softmax may be an exchange of two tokens, and the matrix singular."""

    def forward(m: Of, x: Tensor) -> Tensor:
        mixed = (m.q(x) @ m.k(x).mT).softmax(-1) + torch.eye(2, dtype=x.dtype)
        return m.o(torch.linalg.inv(mixed) @ torch.tanh(m.v(x)))

    torch.manual_seed(0)
    model = generic(Of(forward, q=nn.Linear(3, 2), k=nn.Linear(3, 2, bias=False), v=nn.Linear(3, 3), o=nn.Linear(3, 2)))
    cat = symdisc.discover(model, floats(2, 3, spread=0.1)(0))
    assert cat.orbit_dimension == 4, "queries and keys change their basis"
    assert_undone(cat, model)
    inputs = [floats(2, 3, spread=0.1)(k) for k in range(1, 4)]  # the model itself stops at a singular matrix
    assert cat.verify(model, cat.sample(seed=0, scale=0.3), inputs=inputs).max_relative_change < 1e-8
