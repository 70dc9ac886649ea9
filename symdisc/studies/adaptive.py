"""All attacks of the robustness study on one network or one ensemble: several losses, several starts, the worst over all.

Through an ensemble an attacker may raise the mean of its members' losses (*members*: the expectation, over all members without
sampling), the loss of their mean probability (*mean*), or the trained network's loss plus the members' (*joint*: what deceives both).
A weak attack looks like a strong defence (Carlini et al., arXiv:1902.06705), so each loss is tried from a random start and from the
images that already deceive the trained network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symdisc.studies.attacks import Loss, fgsm, pgd
from symdisc.studies.images import Images
from symdisc.torchside.ensemble import Ensemble

__all__ = ["ATTACKS", "Plan", "Tries", "ensemble_losses", "network_loss", "on_ensemble", "on_network"]

LOSSES = ("members", "mean", "joint")

# row of the tables -> the tries that an image must survive to count as right
ATTACKS: dict[str, tuple[str, ...]] = {
    "FGSM transfer": ("FGSM transfer",),
    "FGSM adaptive": tuple(f"FGSM {loss}" for loss in LOSSES),
    "PGD transfer": ("PGD transfer",),
    **{f"PGD {loss}": (f"PGD {loss}",) for loss in LOSSES},
    "PGD adaptive": tuple(f"PGD {loss}" for loss in LOSSES),
    "PGD from transferred": tuple(f"PGD {loss} from transferred" for loss in LOSSES),
}
ATTACKS["FGSM worst"] = ATTACKS["FGSM transfer"] + ATTACKS["FGSM adaptive"]
ATTACKS["PGD worst"] = ATTACKS["PGD transfer"] + ATTACKS["PGD adaptive"] + ATTACKS["PGD from transferred"]

Tries = dict[str, Tensor]  # attacked images by try


@dataclass(frozen=True)
class Plan:
    """The images to attack, the radius, how many steps PGD takes, the seed of its random starts."""

    test: Images
    radius: float
    steps: int
    seed: int

    def fgsm(self, loss: Loss) -> Tensor:
        return fgsm(loss, self.test.x, self.radius)

    def pgd(self, loss: Loss, number: int = 0, start: Tensor | None = None) -> Tensor:
        """``number`` tells random starts apart."""
        return pgd(loss, self.test.x, self.radius, self.steps, self.seed + 1000 * number, start=start)


def network_loss(model: nn.Module, y: Tensor) -> Loss:
    """Cross-entropy of each image [n]."""
    return lambda x: nn.functional.cross_entropy(model(x), y, reduction="none")


def ensemble_losses(ensemble: Ensemble, model: nn.Module, y: Tensor) -> dict[str, Loss]:
    """The three losses of this module, [n] each; their gradients pass through all members."""
    def own(x: Tensor) -> Tensor:
        """Each member's log-probability of the true class, [K, n]; classes are not last, where they take ten times as long."""
        logits = ensemble.logits(x).transpose(1, 2).contiguous()
        return logits.log_softmax(1).gather(1, y.expand(len(logits), 1, -1))[:, 0]

    alone = network_loss(model, y)
    count = torch.tensor(float(len(ensemble)))
    return {"members": lambda x: -own(x).mean(0), "mean": lambda x: count.log() - own(x).logsumexp(0),
            "joint": lambda x: alone(x) - own(x).mean(0)}


def on_network(plan: Plan, model: nn.Module) -> Tries:
    """As many tries as an ensemble faces, all on the network's own loss: from random starts, and going on where the first ended."""
    loss = network_loss(model, plan.test.y)
    once, first = plan.fgsm(loss), plan.pgd(loss)
    tries = {"FGSM transfer": once, "PGD transfer": first, **{f"FGSM {name}": once for name in LOSSES}}
    for k, name in enumerate(LOSSES, 1):
        tries[f"PGD {name}"] = plan.pgd(loss, k)
        tries[f"PGD {name} from transferred"] = plan.pgd(loss, start=first) if k == 1 else plan.pgd(loss, len(LOSSES) + k)
    return tries


def on_ensemble(plan: Plan, ensemble: Ensemble, model: nn.Module, transferred: Mapping[str, Tensor]) -> Tries:
    """All tries on an ensemble; ``transferred`` are those on the trained network, of the same plan."""
    tries = {name: transferred[name] for name in ("FGSM transfer", "PGD transfer")}
    for k, (name, loss) in enumerate(ensemble_losses(ensemble, model, plan.test.y).items(), 1):
        tries[f"FGSM {name}"] = plan.fgsm(loss)
        tries[f"PGD {name}"] = plan.pgd(loss, k)
        tries[f"PGD {name} from transferred"] = plan.pgd(loss, start=tries["PGD transfer"])
    return tries
