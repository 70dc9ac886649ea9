"""Answers read back, and answers for symmetries that have no moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import ready
from test_conserved import EXACT, conserved_of, gradient_at, norm, overlap, point, slopes, subject

import symdisc
from symdisc.catalog import Catalog
from symdisc.conserved import ConservedQuantity, Flow, conserved_quantities
from symdisc.errors import BadInput
from symdisc.generators import Generator, Part
from symdisc.symmetry import Symmetry


# --- records ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["attn_rotary_partial", "stream_layer", "softmax_head", "bn_eval_bias"])
def test_a_catalog_read_back_conserves_the_same(name: str) -> None:
    model, _, cat = subject(name)
    again = Catalog.from_json(cat.to_json()).conserved
    assert again == cat.conserved
    arrays = {n: t.numpy() for n, t in point(model).items()}
    for q in again:
        assert ConservedQuantity.from_dict(q.to_dict()) == q
        if q.form:
            value = q.evaluate(arrays)
            assert isinstance(value, np.ndarray) and np.allclose(value, q.evaluate(point(model)).numpy(), rtol=1e-13)


def test_a_symmetry_without_moves_gets_a_reason() -> None:
    flow = Symmetry("remainder", "R^3", "flow", "", ("w",), 3, "witnessed", (3,))
    (q,) = conserved_quantities([flow], {"w": (4, 4)})
    assert q.status == "none" and "not recorded as moves" in q.reason and q.latex()


def test_a_missing_parameter_is_named() -> None:
    q = conserved_of("mlp_relu")[0]
    with pytest.raises(BadInput, match=q.parameters[0].replace(".", r"\.")):
        q.evaluate({})


# --- linear symmetries without a name ---------------------------------------------------------------------------------
def test_linear_symmetries_without_a_name() -> None:
    """mlp_exp: the hidden bias shifts by t while the outer column shrinks by exp(-t): Q_u = b_u - 1/2 |W2[:, u]|^2."""
    model, maker, _ = ready("mlp_exp")
    cat = symdisc.discover(model, maker(0))
    found = [q for q in cat.conserved if q.form == "linear"]
    assert sum(q.dimension for q in found) == 5
    state = point(model)
    grad = gradient_at(model, maker(1), cat, state)
    _, b1, w2, _ = (state[n] for n in cat.parameters)
    by_hand = b1 - (w2**2).sum(0) / 2
    values = torch.cat([q.evaluate(state) for q in found])
    assert torch.allclose(abs(values).sort().values, abs(by_hand).sort().values, rtol=1e-12)
    for q in found:
        assert overlap(slopes(q, state, cat), grad) < EXACT
        assert float(abs(q.residual(state, grad)).max()) < EXACT * norm(grad) * norm(state)
        assert ConservedQuantity.from_dict(q.to_dict()) == q and q.latex()
        assert np.allclose(q.evaluate({n: t.numpy() for n, t in state.items()}), q.evaluate(state).numpy())


def test_antisymmetric_linear_generators_give_none() -> None:
    turn = Generator((Part("w", 0, ((0, 1, 1.0), (1, 0, -1.0))),))
    grow = Generator((Part("w", 0, ((0, 0, 1.0), (1, 1, 1.0))), Part("v", -1, ((0, 0, -0.5),))))
    plain = Symmetry("x", "G", "linear", "", ("w", "v"), 2, "witnessed", (2,), generators=(turn, grow))
    shapes = {"w": (2, 3), "v": (1,)}
    (q,) = conserved_quantities([plain], shapes)
    assert q.dimension == 1 and "antisymmetric" in q.reason and q.constraint
    w, v = np.arange(6.0).reshape(2, 3), np.array([2.0])
    assert q.evaluate({"w": w, "v": v}) == pytest.approx((w**2).sum() / 2 - 1.0)
    (none,) = conserved_quantities([replace(plain, generators=(turn,))], shapes)
    assert not none.form and "antisymmetric" in none.reason
    (rated,) = conserved_quantities([plain], shapes, Flow("learning_rates", {"eta": {"w": 2, "v": 1}}))
    assert rated.evaluate({"w": w, "v": v}) == pytest.approx((w**2).sum() / 4 - 1.0)
