"""Small networks of every kind, to hold the engine against the oracle.

    from networks import NETWORKS
    for name, entry in NETWORKS.items():
        model, maker, note = entry()          # torch's own initial values; maker(seed) -> tuple of inputs (float64)
        entry.predicted                       # fibre dimension by theory, or None

    model, inputs, reference = ready("mlp_relu")   # float64, at the recorded generic parameters
    reference["fibre"]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from . import (  # noqa: F401  (importing fills the registry)
    attentions,
    convs,
    decoders,
    hunted,
    mlps,
    recurrents,
    strangers,
    streams,
    structured,
    transformers,
    traps,
)
from .base import NETWORKS, InputMaker, Network

REFERENCE = Path(__file__).resolve().parents[1] / "reference" / "fibres.json"

__all__ = ["NETWORKS", "REFERENCE", "Network", "ready", "references"]


def references() -> dict[str, dict[str, Any]]:
    """The recorded fibre dimensions, by network name."""
    return json.loads(REFERENCE.read_text())["networks"]


def ready(name: str) -> tuple[nn.Module, InputMaker, dict[str, Any]]:
    """(model, input maker, reference) with the model in float64 at the parameters the reference was taken at."""
    from brute import randomise

    model, maker, _ = NETWORKS[name]()
    reference = references()[name]
    return randomise(model, reference["seed"]), maker, reference
