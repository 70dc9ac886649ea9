"""The engine against the oracle: on each network the found dimension, the function under a random element, and the inverse."""

from __future__ import annotations

import warnings

import pytest
import torch
from brute import keeps_function
from networks import NETWORKS, ready, references
from run_networks import distance

import symdisc
from symdisc.errors import StateMismatch

# All of them are run by `python tests/run_networks.py`; here the miniatures of the reference table, the traps, and every
# fifth of the others, so that the suite stays within minutes.
ALWAYS = ("mini_", "trap_", "masked_", "mlp_floor", "mlp_hardshrink", "mlp_step_gate", "unused")
SMALL = 230  # parameters; larger ones only where they are named above
NAMES = sorted(NETWORKS)
CHOSEN = [n for k, n in enumerate(NAMES) if n.startswith(ALWAYS) or (k % 5 == 0 and references()[n]["D"] <= SMALL)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small matrices: threads cost more than they give, and two test processes share the cores."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


@pytest.mark.parametrize("name", CHOSEN)
def test_found_dimension_is_the_fibre_dimension(name: str) -> None:
    model, maker, row = ready(name)
    catalog = symdisc.discover(model, maker(0))
    # where an operator jumps the oracle's derivative counts directions that are no symmetries
    if references()[name].get("tangent_only"):
        assert catalog.orbit_dimension <= row["fibre"]
    else:
        assert catalog.orbit_dimension == row["fibre"]
    g = catalog.sample(seed=1, scale=0.3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    moved = catalog.apply(state, g)
    assert keeps_function(model, moved, [maker(500 + i) for i in range(4)]) < 1e-9
    names = [n for n, _ in model.named_parameters()]
    assert distance(moved, state, names) > (1e-3 if catalog.orbit_dimension else -1.0)
    back = catalog.apply(moved, catalog.inverse(g))
    assert distance(back, state, names) < 1e-8


@pytest.mark.parametrize("name", ["mini_rms_kv1", "mlp_relu", "lstm", "trap_h_times_h"])
def test_certificate_of_the_module_itself(name: str) -> None:
    model, maker, row = ready(name)
    certificate = symdisc.certify(symdisc.discover(model, maker(0)))
    assert (certificate.found, certificate.fibre) == (row["fibre"], row["fibre"])
    assert certificate.complete and certificate.gap > 1e3


def test_a_catalog_reads_back_equal() -> None:
    for name in ("mini_ln", "lstm", "attn_one_bias"):
        model, maker, _ = ready(name)
        catalog = symdisc.discover(model, maker(0))
        again = symdisc.Catalog.from_json(catalog.to_json())
        assert again == catalog
        assert again.to_json() == catalog.to_json()


def test_a_state_that_does_not_fit_is_refused() -> None:
    model, maker, _ = ready("mlp_relu")
    catalog = symdisc.discover(model, maker(0))
    g = catalog.sample(seed=0)
    state = model.state_dict()
    first = next(iter(state))
    with pytest.raises(StateMismatch, match="lacks"):
        catalog.apply({k: v for k, v in state.items() if k != first}, g)
    with pytest.raises(StateMismatch, match="shape"):
        catalog.apply({**state, first: state[first][:-1]}, g)
    with pytest.raises(StateMismatch, match="NaN"):
        catalog.apply({**state, first: state[first] * float("nan")}, g)
    with pytest.raises(StateMismatch, match="model lacks"):
        catalog.apply({**state, "stranger": state[first]}, g)
