"""Each family of symmetries with one sign, exponent or move wrong: the check that runs the graph must refuse it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import keeps_function
from networks import ready
from torch import Tensor, nn

from symdisc.elements import sample_array, sample_discrete
from symdisc.moves import Move
from symdisc.session import _Clock, _derived
from symdisc.symmetry import Discrete, Symmetry
from symdisc.torchside.capture import capture
from symdisc.torchside.check import TOLERANCE, Checker
from symdisc.torchside.kernels import run_moves

Family = Symmetry | Discrete
# small networks which together show every family that the small networks of the registry have, in each form of its moves; beside
# each one the families that it is the first to show
SUBJECTS: dict[str, tuple[str, ...]] = {
    "stream_post_layer": (
        "direction that a centred vector lacks",
        "direction that is centred away",
        "permutation of units",
        "rotation of the stream fixing 1",
        "scaling of gains",
        "shear of the stream along 1",
        "sign flips of units",
        "translation traded between parameters",
    ),
    "llama_olmo": ("change of basis", "complex scaling of rotary planes", "permutation of blocks", "scaling of hidden units"),
    "weight_norm_both": ("scale without effect", "signs of size and direction"),
    "unused": ("unused parameter",),
    "resnet_projection": ("scale of weights and running statistics", "scale traded through BatchNorm", "weights of parallel maps traded"),
    "film_relu": (),
    "glu_relu_fused_residual": ("direction that is never read", "direction that never varies"),
    "stream_rms_plus_one": ("rotation of the stream",),
    "stream_group": (),
    "mlp_square_no_bias": ("scaling of hidden units (degrees 1, 2)",),
    "factors_hadamard": ("scale between factors",),
    "weight_norm_reader": (),
    "mlp_cos": ("periods of units",),
    "power_even_scaled": ("scaling of hidden units (degrees 1, 4)",),
    "lora": ("factor traded for the weight beside it",),
    "complex_modulus": (),
    "bn1d_eval_mlp": (),
    "mlp_cube": ("scaling of hidden units (degrees 1, 3)",),
    "moe_modules_relu": (),
    "stream_layer_no_shift": (),
    "stream_batch_eval": ("change of basis in front of BatchNorm",),
    "mobilenet_block": ("change of basis behind BatchNorm",),
    "mlp_relu6": ("reflections of units",),
    "stream_post_layer_deep": ("gains that keep their spectrum",),
    "siamese": ("scaling of gains (degrees 1, 2)",),
    "stream_layer_no_bias": (),
    "attn_relative": ("constant that softmax does not see",),
    "attn_one_bias": ("bias without effect",),
    "attn_qk_norm_plain_rotary": ("scaling", "turns of rotary planes"),
}


def derived(name: str) -> tuple[nn.Module, Checker, tuple[Family, ...], list[tuple[Tensor, ...]]]:
    """(the module at the weights of the checker, the checker, families as derived, its inputs)."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, maker, _ = ready(name)
    captured = capture(model, maker(0))
    proposed, discrete, facts, _ = _derived(captured, _Clock(None))
    checker = Checker(captured, facts.gained, samples=3)
    model.load_state_dict(full(model, checker, {}))
    return model, checker, (*proposed, *discrete), checker.inputs


def full(model: nn.Module, checker: Checker, moved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the module: what the checker holds, with ``moved`` in its place, under all names of tied tensors."""
    state, aliases = {**checker.state, **moved}, checker.capture.graph.aliases
    return {name: state[aliases.get(name, name)] for name in model.state_dict()}


def wrong(family: Family, checker: Checker) -> Iterator[tuple[Move, ...]]:
    """The moves with one left out, or with one sign, exponent or representation turned; a lone move is also sent elsewhere."""
    moves = family.moves
    for k, move in enumerate(moves):
        before, after = moves[:k], moves[k + 1 :]
        if len(moves) > 1:
            yield (*before, *after)
        if move.kind in ("scale", "affine_scale", "add", "bn_shift") and move.power and family.family not in ("sign", "shift"):
            yield (*before, replace(move, power=-move.power), *after)
        if move.kind == "matmul" and family.family not in ("o", "o1"):
            yield (*before, replace(move, rep="g" if move.rep == "g^-T" else "g^-T"), *after)
        if move.gain and move.kind in ("matmul", "outer"):
            yield (*before, replace(move, gain=None), *after)
    if len(moves) == 1:
        used = {n for op in checker.ops for n in op.inputs}
        for value, name in checker.capture.graph.parameters.items():
            if value in used and name != moves[0].parameter and checker.state[name].shape == checker.state[moves[0].parameter].shape:
                yield (replace(moves[0], parameter=name),)
        yield (replace(moves[0], index=replace(moves[0].index, start=moves[0].index.start + 1)),)


def element(family: Family) -> np.ndarray:
    rng = np.random.default_rng(1)
    if isinstance(family, Symmetry):
        return sample_array(family, rng, 0.4)
    drawn = (sample_discrete(family, rng) for _ in range(99))
    return next(a for a in drawn if not np.array_equal(a, np.arange(len(a)) if family.family == "permutation" else np.abs(a)))


def forgotten(checker: Checker, moved: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """What was moved, with one entry of each tensor, the one that moved most, as it was before."""
    for name, new in moved.items():
        old, where = checker.state[name], int((new - checker.state[name]).abs().argmax())
        entry = torch.arange(new.numel()).reshape(new.shape) == where
        yield {**moved, name: torch.where(entry, old, new)}


def verdicts(name: str) -> tuple[tuple[str, tuple[tuple[bool, bool], ...]], ...]:
    """For each family its name and (refused by the check, refused by the module itself), as derived and then for each twin."""
    model, checker, families, inputs = derived(name)
    found = []
    for family in families:
        array = element(family)
        right = run_moves(family.moves, array, checker.state)
        states = [right, *forgotten(checker, right)]
        for moves in wrong(family, checker):
            with contextlib.suppress(IndexError, RuntimeError, ValueError):  # sent beyond the end of a tensor, or where it does not fit
                states.append(run_moves(moves, array, checker.state))
        found.append(
            (
                family.name,
                tuple(
                    (
                        checker.change({**checker.state, **moved}) >= TOLERANCE,
                        keeps_function(model, full(model, checker, moved), inputs) >= TOLERANCE,
                    )
                    for moved in states
                ),
            )
        )
    return tuple(found)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_check_says_of_every_twin_what_the_module_says(name: str) -> None:
    found = verdicts(name)
    for family, (right, *twins) in found:
        assert right == (False, False), f"{family} as derived"
        assert all(checked == true for checked, true in twins), family
    assert {family for family, (_, *twins) in found if any(checked for checked, _ in twins)} >= set(SUBJECTS[name])
