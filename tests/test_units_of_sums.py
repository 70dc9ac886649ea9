"""Units that a sum unites: a single rotary plane is no axis of data, scalings of the states of a recurrence look alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symdisc


class OnePlane(nn.Module):
    """Scores of heads of size 2, written out: each head is one rotary plane (``turned``) or two units that stay apart."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned, self.q, self.k, self.v = turned, *(nn.Linear(3, 4, bias=False) for _ in range(3))

    def _heads(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (2, 2)).transpose(1, 2)

    def _rotary(self, y: Tensor) -> Tensor:
        angle = torch.arange(y.shape[2], dtype=torch.float64)[:, None]
        turned = torch.cat([-y[..., 1:], y[..., :1]], -1)
        return y * angle.cos() + turned * angle.sin() if self.turned else y

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(m(x)) for m in (self.q, self.k, self.v))
        return torch.tanh(self._rotary(q) @ self._rotary(k).transpose(2, 3)) @ v


class Recurrence(nn.Module):
    """y_i = sum_m C_m h_im + D_i v_i, where h_im is B_m v_i with what is left of it one token before: ``n`` states of every channel."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.inner, self.b, self.c, self.out = (nn.Linear(i, o, bias=False) for i, o in ((4, 3), (3, n), (3, n), (3, 2)))
        self.skip, self.left = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3, n))

    def forward(self, x: Tensor) -> Tensor:
        v = F.silu(self.inner(x))
        u = v[..., None] * self.b(v)[..., None, :]
        h, v = u[:, 1:] + self.left.exp() * u[:, :-1], v[:, 1:]
        return self.out((h @ self.c(v)[..., None]).squeeze(-1) + self.skip * v)


def _found(model: nn.Module, x: Tensor) -> tuple[symdisc.Catalog, list[tuple[str, int]]]:
    torch.manual_seed(1)
    for p in model.double().parameters():
        nn.init.normal_(p, std=0.6)
    cat = symdisc.discover(model, (x,), solve=False)
    return cat, sorted((s.family, s.dimension) for s in cat.symmetries)


@pytest.mark.parametrize("turned, wanted", [(True, [("complex", 4)]), (False, [("gl", 8)])])
def test_a_single_rotary_plane_is_found_where_scores_are_written_out(turned: bool, wanted: list[tuple[str, int]]) -> None:
    """The plane leaves complex numbers; without the rotation, which the false twin lacks, the whole of GL(2)."""
    cat, found = _found(OnePlane(turned), torch.randn(2, 4, 3, dtype=torch.float64))
    assert found == wanted and not cat.broken
    assert symdisc.certify(cat).fibre == sum(n for _, n in wanted)


@pytest.mark.parametrize("n", [2, 3])
def test_scalings_of_states_are_one_factor(n: int) -> None:
    cat, found = _found(Recurrence(n), torch.randn(2, 5, 4, dtype=torch.float64))
    assert found == [("scale", 1), ("scale", n)] and not cat.broken
    assert symdisc.certify(cat).fibre == n + 1
