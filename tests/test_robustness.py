"""The robustness study: images, attacks, the objective by which g is chosen, paired differences, a quick run of the whole."""

from __future__ import annotations

import gzip
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symdisc.cli import main
from symdisc.errors import BadInput
from symdisc.studies import robustness
from symdisc.studies.adaptive import ATTACKS, Plan, ensemble_losses, network_loss, on_ensemble, on_network
from symdisc.studies.attacks import clip_only, fgsm, gradient, pgd
from symdisc.studies.base import Run
from symdisc.studies.defences import DEFENCES, Setting
from symdisc.studies.images import HIGH, LOW, Images, cifar10, digits, mnist, patches, read_folder
from symdisc.studies.robustness_page import _verdict, paired
from symdisc.torchside.ensemble import build


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(0.1), nn.Linear(8, 10)).eval().requires_grad_(False)


# --- images -----------------------------------------------------------------------------------------------------------------
def test_made_images_are_in_range_and_the_same_again() -> None:
    a, b, other = patches(40, 3), patches(40, 3), patches(40, 4)
    assert a.x.shape == (40, 3, 32, 32) and float(a.x.min()) >= LOW and float(a.x.max()) <= HIGH
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and not torch.equal(a.x, other.x)
    assert float((patches(40, 3, contrast=0.0).x - a.x).abs().max()) > 0.2  # the digits are there


def test_splits_are_disjoint() -> None:
    images = digits()
    numbered = Images("n", torch.arange(len(images)).float(), images.y)
    a, b = numbered.split(0, 1000, 797)
    assert set(a.x.tolist()) | set(b.x.tolist()) == set(range(1797))
    with pytest.raises(BadInput, match="1797 images, 1798 are needed"):
        images.split(0, 1798)


def _write_mnist(folder: Path, images: int = 6, labels: int = 6, zipped: bool = False) -> None:
    pixels = np.arange(images * 784, dtype=np.uint64).astype(np.uint8)
    contents = {"train-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, images, 28, 28) + pixels.tobytes(),
                "train-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, labels) + bytes(i % 10 for i in range(labels))}
    for name, content in contents.items():
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_mnist_files(tmp_path: Path, zipped: bool) -> None:
    _write_mnist(tmp_path, zipped=zipped)
    images = read_folder(tmp_path)
    assert images.x.shape == (6, 1, 28, 28) and images.y.tolist() == [0, 1, 2, 3, 4, 5]
    assert float(images.x[0, 0, 0, 5]) == pytest.approx(5 / 255 - 0.5) and float(images.x.max()) == HIGH


def test_cifar_files(tmp_path: Path) -> None:
    row = bytes([7]) + bytes([255]) * 1024 + bytes([0]) * 2048
    (tmp_path / "data_batch_1.bin").write_bytes(row * 3)
    images = read_folder(tmp_path)
    assert images.x.shape == (3, 3, 32, 32) and images.y.tolist() == [7] * 3
    assert float(images.x[:, 0].min()) == HIGH and float(images.x[:, 1:].max()) == LOW


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(BadInput, match="neither"):
        read_folder(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(BadInput, match="pickles, which could run code"):
        read_folder(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3074))
    with pytest.raises(BadInput, match="no multiple of 3073"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(BadInput, match="label 10"):
        cifar10(tmp_path)
    _write_mnist(tmp_path, labels=5)
    with pytest.raises(BadInput, match="6 images but 5 labels"):
        mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 9, 28, 28))
    with pytest.raises(BadInput, match="cut off"):
        mnist(tmp_path)


# --- attacks ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("radius", [0.0, 0.03, 0.4, 2.0])
def test_attacks_stay_in_the_ball_and_in_the_range(radius: float) -> None:
    images = digits().split(0, 60)[0]
    loss = network_loss(small(), images.y)
    for attacked in (fgsm(loss, images.x, radius), pgd(loss, images.x, radius, steps=6)):
        assert float((attacked - images.x).abs().max()) <= radius + 1e-6
        assert float(attacked.min()) >= LOW and float(attacked.max()) <= HIGH


def test_attacks_raise_the_loss_and_more_steps_raise_it_more() -> None:
    images = digits().split(0, 60)[0]
    loss = network_loss(small(), images.y)
    clean, one = loss(images.x).mean(), loss(fgsm(loss, images.x, 0.1)).mean()
    many = loss(pgd(loss, images.x, 0.1, steps=20)).mean()
    assert clean < one <= many + 1e-3
    noise = loss((images.x + 0.1 * torch.randn(images.x.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(LOW, HIGH))
    assert noise.mean() < one  # it is the direction that does it


def test_pgd_finds_the_corner_of_a_linear_loss() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5])
    attacked = pgd(lambda x: x @ weight, torch.zeros(1, 3), 0.2, steps=10)
    assert torch.allclose(attacked, torch.tensor([[0.2, -0.2, 0.2]]))


def test_a_wrong_pixel_range_is_refused() -> None:
    """The defect of the published notebooks: images of [-0.5, 0.5] attacked in [0, 1]."""
    images = digits().split(0, 5)[0]
    for attack in (fgsm, pgd):
        with pytest.raises(BadInput, match="measure the clipping"):
            attack(network_loss(small(), images.y), images.x, 0.1, low=0.0, high=1.0)
        with pytest.raises(BadInput, match="must not be negative"):
            attack(network_loss(small(), images.y), images.x, -0.1)
    assert float((clip_only(images.x, 0.0, 1.0) - images.x).abs().max()) == 0.5


def test_the_adaptive_gradient_is_that_of_the_expectation_over_members() -> None:
    images = digits().split(0, 30)[0]
    x, y = images.x.double(), images.y
    made = build(small().double(), x, 5, scale=0.5, samples=8)
    loss = ensemble_losses(made, small().double(), y)["members"]
    slope = gradient(loss, x)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    h = 1e-6
    measured = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    assert torch.allclose((slope * direction).flatten(1).sum(1), measured, rtol=1e-5, atol=1e-7)
    each = torch.stack([gradient(lambda x, k=k: nn.functional.cross_entropy(made.logits(x)[k], y, reduction="none"), x) for k in range(5)])
    assert torch.allclose(slope, each.mean(0), atol=1e-10)


def test_the_losses_of_an_ensemble_of_equal_copies_are_those_of_the_network() -> None:
    images = digits().split(0, 20)[0]
    model = small()
    made = build(model, images.x, 3, scale=0.0, samples=4)
    alone = network_loss(model, images.y)(images.x)
    losses = {name: loss(images.x) for name, loss in ensemble_losses(made, model, images.y).items()}
    assert torch.allclose(losses["members"], alone, atol=1e-4) and torch.allclose(losses["mean"], alone, atol=1e-4)
    assert torch.allclose(losses["joint"], 2 * alone, atol=1e-4)
    apart = ensemble_losses(build(model, images.x, 3, scale=1.0, samples=4), model, images.y)
    assert (apart["mean"](images.x) <= apart["members"](images.x) + 1e-6).all()  # Jensen; equal only where the copies agree
    assert float((apart["mean"](images.x) - apart["members"](images.x)).abs().max()) > 1e-3


def test_pgd_goes_on_from_where_it_is_started() -> None:
    """A loss whose gradient vanishes but near one corner: found from there, not from the middle of the ball."""
    def loss(x: Tensor) -> Tensor:
        return (x.sum(1) - 0.35).relu()

    x, corner = torch.zeros(1, 2), torch.full((1, 2), 0.19)
    assert torch.allclose(pgd(loss, x, 0.2, steps=8, start=corner), torch.full((1, 2), 0.2))
    assert float(loss(pgd(loss, x, 0.2, steps=8, start=-corner))) == 0.0
    assert float((pgd(loss, x, 0.2, steps=2, start=torch.full((1, 2), 9.0)) - x).abs().max()) <= 0.2 + 1e-6  # brought into the ball


def test_an_ensemble_and_the_network_face_as_many_tries() -> None:
    images = digits().split(0, 20)[0]
    model = small()
    plan = Plan(images, 0.1, 4, 0)
    first = on_network(plan, model)
    second = on_ensemble(plan, build(model, images.x, 3, samples=4), model, first)
    assert set(first) == set(second) == {t for tries in ATTACKS.values() for t in tries}
    assert all(float((x - images.x).abs().max()) <= 0.1 + 1e-6 for x in (*first.values(), *second.values()))
    assert torch.equal(first["PGD transfer"], second["PGD transfer"])
    started = [network_loss(model, images.y)(first[t]) for t in ("PGD transfer", "PGD members from transferred")]
    assert (started[1] >= started[0]).all()  # what goes on from a result is no weaker
    assert set(ATTACKS["PGD worst"]) == {t for t in first if t.startswith("PGD")}


# --- defences -----------------------------------------------------------------------------------------------------------------
def test_every_defence_keeps_clean_images_better_than_chance() -> None:
    train, clean, test = digits().split(0, 600, 200, 200)
    model = robustness.train(robustness.perceptron, train, 15, 3e-3, 0)
    truth = (model(test.x).argmax(1) == test.y).double().mean()
    made = {name: make(Setting(model, clean, 12, 0)) for name, make in DEFENCES.items()}
    right = {name: float((e.vote(test.x) == test.y).double().mean()) for name, e in made.items()}
    assert truth > 0.85 and min(right.values()) > 0.7
    # the objective is met: more diversity than a random fit, at an off-batch loss that stays within reach
    assert made["chosen: diverse"].diversity(test.x) > 1.3 * made["fitted to 4h samples"].diversity(test.x)
    assert right["chosen: diverse"] > float(truth) - 0.05


def test_paired_differences_use_the_same_seed() -> None:
    rows = [{"network": "n", "seed": s, "defence": d, "attack": "none", "radius": 0.0, "vote": 0.1 * s + gain}
            for s in range(4) for d, gain in (("trained network", 0.0), ("other", 0.02))]
    (found,) = paired(rows)
    assert found["change"] == pytest.approx(0.02) and found["error"] == pytest.approx(0, abs=1e-12)
    assert math.isclose(found["trained"], 0.15)


@pytest.mark.parametrize("transfer, members, adaptive, worst, verdict", [
    (0.04, 0.70, 0.70, 0.05, "Gradients are masked"),
    (0.05, 0.05, 0.05, 0.05, "More robust under the attacks tried."),
    (0.02, 0.02, 0.02, 0.01, "No change"),
    (0.04, 0.70, 0.70, -0.05, "Less robust"),
    (0.04, 0.70, 0.05, -0.05, "members' loss alone would have shown +0.700"),
])
def test_a_gain_that_only_a_weak_attack_leaves_is_not_called_robust(transfer: float, members: float, adaptive: float, worst: float,
                                                                    verdict: str) -> None:
    changes = {"PGD transfer": transfer, "PGD members": members, "PGD adaptive": adaptive, "PGD worst": worst}
    told = _verdict({name: {"change": change, "error": 0.01, "seeds": 5} for name, change in changes.items()})
    assert verdict in told and ("masking" in told or "masked" in told) == (members > 0.1)


# --- the whole ----------------------------------------------------------------------------------------------------------------
def test_quick_study_runs_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    assert main(["study", "robustness", "--quick", "--out", str(folder)]) == 0
    assert {"robustness.csv", "gains.csv", "accuracy.png", "accuracy.svg", "gains.png", "README.md"} <= {f.name for f in folder.iterdir()}
    page = (folder / "README.md").read_text()
    assert "constant predictor" in page and "clip only" in page and "FAILS" not in page and "nan" not in page
    before = {f.name: f.read_bytes() for f in folder.glob("*.*")}
    assert len(list((folder / "cells").iterdir())) == 2
    run = Run(folder, quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "measure", None)  # a second run must not measure again
        robustness.study(run)
    assert {f.name: f.read_bytes() for f in folder.glob("*.*")} == before


def test_data_is_for_the_study_that_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "robustness", "--quick", "--out", str(tmp_path / "r"), "--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
