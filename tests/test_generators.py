"""Linear generators: fields, exponentials, JSON; and the search refuses what is no symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from symdisc.generators import Candidates, Generator, Part, exponentiate

LAYOUT = {"w": (2, 3), "b": (2,)}


def _state(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s) for n, s in LAYOUT.items()}


def test_every_candidate_is_the_derivative_of_its_exponential() -> None:
    candidates, state = Candidates(LAYOUT), _state()
    fields = candidates.fields(state)
    assert fields.shape == (8, candidates.count) == (8, 4 + 9 + 6 + 4 + 2)
    for k in range(candidates.count):
        g = candidates.generator(np.eye(candidates.count)[k])
        ends = [exponentiate([g], np.array([h]), state) for h in (1e-5, -1e-5)]
        slope = np.concatenate([((ends[0].get(n, state[n]) - ends[1].get(n, state[n])) / 2e-5).ravel() for n in LAYOUT])
        assert np.abs(slope - fields[:, k]).max() < 1e-8


def test_matrix_and_constant_together() -> None:
    g = Generator((Part("b", 0, ((0, 1, 2.0), (1, 1, -1.0))), Part("b", -1, ((0, 0, 0.5),))))
    state = _state()
    whole = np.array([[0, 2, 0.5], [0, -1, 0], [0, 0, 0]])
    expected = (expm(whole) @ np.append(state["b"], 1.0))[:2]
    assert np.allclose(exponentiate([g], np.array([1.0]), state)["b"], expected, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_the_inverse_has_the_opposite_sign(seed: int) -> None:
    candidates, state = Candidates(LAYOUT), _state(seed)
    g = candidates.generator(np.random.default_rng(seed).standard_normal(candidates.count))
    there = exponentiate([g], np.array([0.3]), state)
    back = exponentiate([g], np.array([-0.3]), there)
    assert all(np.allclose(back[n], state[n], atol=1e-12) for n in LAYOUT)


def test_reads_back() -> None:
    g = Generator((Part("w", 1, ((0, 2, 1 / 3),)), Part("b", -1, ((1, 0, -1.0),))))
    assert Generator.from_dict(g.to_dict()) == g
    assert g.parameters == ("w", "b") and not g.constant
