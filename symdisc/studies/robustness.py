"""Are ensembles along data-dependent orbits harder to attack? Transfer and adaptive attacks, controls, paired seeds.

Per network and seed one network is trained; every defence is built from it, so that differences are paired. The images are split
into training, building (what g and U are fitted to) and test images. Departures from the published notebooks, by number: (1) the
pixel range of the attack is that of the data; (2) each attack is applied once; (3) logits go to the loss, not probabilities; (4)
test images are neither trained on nor built from; (5) attacks also go through the ensemble itself (adaptive.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.studies.adaptive import ATTACKS, Plan, Tries, on_ensemble, on_network
from symdisc.studies.attacks import clip_only
from symdisc.studies.base import Run
from symdisc.studies.defences import DEFENCES, Setting
from symdisc.studies.images import Images, digits, patches, read_folder
from symdisc.studies.robustness_page import report
from symdisc.torchside.ensemble import Ensemble

__all__ = ["NETWORKS", "Network", "study", "train"]

ORIGINAL = "trained network"
WRONG_RANGE = (0.0, 1.0)  # to which the published notebooks clip images of [-0.5, 0.5]

@dataclass(frozen=True)
class Network:
    """A network, its images, how it is trained, and the radii of the attacks on it (in units of the pixel range)."""

    name: str
    images: Callable[[Run], Images]
    make: Callable[[], nn.Module]
    sizes: tuple[int, int, int]  # images to train on, to build from, to test on
    epochs: int
    rate: float
    radii: tuple[float, ...]
    pgd_steps: int
    copies: int
    seeds: int = 5

    @property
    def setting(self) -> str:
        """What was done, in a sentence of the page."""
        a, b, c = self.sizes
        return (f"{self.seeds} seeds; {a} images to train on ({self.epochs} epochs), {b} to build from, {c} to attack; "
                f"{self.copies} copies; {self.pgd_steps} steps of PGD.")


def published(channels: int, side: int, filters: int, width: int = 16, classes: int = 10) -> nn.Module:
    """The published shape: convolution, leaky ReLU 0.01, pooling, dense to 16, leaky ReLU 0.1 (the group layer), dense; logits out.

    Pooling comes before the leaky ReLU: the same function, as the activation is increasing, at a quarter of its cost.
    """
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.MaxPool2d(2), nn.LeakyReLU(0.01), nn.Flatten(),
                         nn.Linear(filters * (side // 2) ** 2, width), nn.LeakyReLU(0.1), nn.Linear(width, classes))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LeakyReLU(0.1), nn.Linear(16, 10))


# The attacked images, copies and (3x32x32) steps of PGD are few so that all of it ends within ten minutes on two cores.
NETWORKS = (
    Network("digits, perceptron", lambda run: digits(), perceptron, (900, 497, 300), 60, 3e-3, (0.05, 0.10, 0.15), 20, 50),
    Network("digits, conv net", lambda run: digits(), lambda: published(1, 8, 16), (900, 497, 300), 30, 3e-3,
            (0.05, 0.10, 0.15), 20, 50),
    Network("3x32x32, conv net", lambda run: patches(2300, run.seed), lambda: published(3, 32, 16), (1500, 500, 120), 8, 2e-3,
            (0.01, 0.02), 8, 30),
)


def study(run: Run) -> None:
    """Robustness of data-dependent ensembles, measured by transfer and adaptive attacks"""
    networks = [_on_files(run)] if run.data is not None else list(NETWORKS)
    if run.quick:
        networks = [_quick(n) for n in networks[:1]]
    rows: list[dict[str, Any]] = []
    total, done = sum(n.seeds for n in networks), 0
    for network in networks:
        images = network.images(run)
        for seed in range(run.seed, run.seed + network.seeds):
            run.progress(f"{network.name}, seed {seed}", done, total)
            rows += run.cached(_key(run, network, seed), lambda n=network, i=images, s=seed: measure(n, i, s))  # type: ignore[misc]
            done += 1
    report(run, rows, {n.name: n.setting for n in networks})


study.reads_data = True  # type: ignore[attr-defined]


def _on_files(run: Run) -> Network:
    """The published network on the user's own CIFAR-10 or MNIST files."""
    assert run.data is not None
    images = read_folder(run.data)
    channels, side = images.x.shape[1], images.x.shape[2]
    radii = (0.003, 0.006, 0.012) if channels == 3 else (0.05, 0.10, 0.15)
    return Network(f"{images.name}, conv net", lambda run: images, lambda: published(channels, side, 16), (4000, 500, 300), 5, 1e-3,
                   radii, 10, 50)


def _quick(n: Network) -> Network:
    train_size = min(n.sizes[0], 900)
    return Network(n.name, n.images, n.make, (train_size, 200, 100), min(n.epochs, 20), n.rate, n.radii[1:2], 5, 10, 2)


def _key(run: Run, n: Network, seed: int) -> str:
    sizes = "-".join(map(str, n.sizes))
    where = "" if run.data is None else f" {run.data.resolve()}"
    return (f"{n.name}{where} sizes {sizes} epochs {n.epochs} rate {n.rate} radii {'-'.join(map(str, n.radii))} pgd {n.pgd_steps} "
            f"copies {n.copies} images {run.seed} seed {seed}")


# --- one network, one seed ------------------------------------------------------------------------------------------------
def measure(network: Network, images: Images, seed: int) -> list[dict[str, Any]]:
    """Accuracy of every defence under every attack: a row per (defence, attack, radius)."""
    training, building, test = images.split(seed, *network.sizes)
    model = train(network.make, training, network.epochs, network.rate, seed)
    setting = Setting(model, building, network.copies, seed)
    common = {"network": network.name, "seed": seed}
    constant = float(torch.bincount(test.y, minlength=10).max() / len(test))
    rows = [{**common, "defence": "constant", "attack": "none", "radius": 0.0, "vote": constant, "mean": constant}]
    plans = [Plan(test, radius, network.pgd_steps, seed) for radius in network.radii]
    transferred = {plan.radius: on_network(plan, model) for plan in plans}
    rows += [{**common, **row} for row in _rows(ORIGINAL, _Single(model), test, transferred)]
    for name, make in DEFENCES.items():
        ensemble = make(setting)
        tries = {plan.radius: on_ensemble(plan, ensemble, model, transferred[plan.radius]) for plan in plans}
        rows += [{**common, **row} for row in _rows(name, ensemble, test, tries)]
        rows.append({**common, "defence": name, "attack": "diversity", "radius": 0.0, "value": ensemble.diversity(test.x)})
        rows.append({**common, "defence": name, "attack": "single copy", "radius": 0.0, "value": _single(ensemble, test)})
    return rows


class _Single(nn.Module):
    """The trained network with the two ways of deciding that an ensemble has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        named = self.model(x).argmax(-1)
        return named, named


def _rows(name: str, model: _Single | Ensemble, test: Images, tries: Mapping[float, Tries]) -> Iterator[dict[str, Any]]:
    """Accuracies by vote and by mean: under an attack of several tries an image counts as right when it survives all of them."""
    def right(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack(model.decide(x)) == test.y

    def row(attack: str, radius: float, good: Tensor) -> dict[str, Any]:
        return {"defence": name, "attack": attack, "radius": radius, "vote": _share(good[0]), "mean": _share(good[1])}

    yield row("none", 0.0, right(test.x))
    yield row("clip only", 0.0, right(clip_only(test.x, *WRONG_RANGE)))
    for radius, attacked in tries.items():
        survived = {attempt: right(x) for attempt, x in attacked.items()}
        for attack, attempts in ATTACKS.items():
            yield row(attack, radius, torch.stack([survived[a] for a in attempts]).all(0))


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _single(ensemble: Ensemble, test: Images) -> float:
    """Mean accuracy of one copy."""
    with torch.no_grad():
        return float((ensemble.logits(test.x).argmax(-1) == test.y).double().mean())


def train(make: Callable[[], nn.Module], images: Images, epochs: int, rate: float, seed: int) -> nn.Module:
    """``make``'s network trained by Adam on cross-entropy of logits, batches of 64; frozen, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images.x[batch]), images.y[batch]).backward()
                optimizer.step()
    return model.eval().requires_grad_(False)
