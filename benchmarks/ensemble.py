"""What an ensemble of shared weights costs: passes of K copies against passes of the one network, in turns, in one run.

    python -m benchmarks.ensemble [--copies 100] [--rounds 15] [--json]

Network: the published shape for 3 x 32 x 32 images (convolution to 32 channels, pooling, dense to 16, dense to 10). Printed are
medians and their ratio. Exit code 1 when K = 100 copies cost 5 passes of the network or more. What a copy adds is h^2 + h m products
(g behind V, U in front of m classes), so the claim is one about networks with more below the pair than that; for a perceptron 64-16-10 the
copies are nearly the whole work, and the second line says what they cost there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from symdisc.studies.robustness import perceptron, published
from symdisc.torchside.ensemble import build

LIMIT, BATCH = 5.0, 64


def measure(copies: int, rounds: int, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, float]:
    """Median seconds of a forward pass of the network and of the ensemble, their ratio, and the memory."""
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    x = torch.rand(BATCH, *shape) - 0.5
    ensemble = build(model, x, copies, 0.5)
    one, all_ = [], []
    with torch.no_grad():
        for _ in range(rounds + 2):  # two to warm up
            one.append(_seconds(lambda: model(x)))
            all_.append(_seconds(lambda: ensemble.mean(x)))
    a, b = statistics.median(one[2:]), statistics.median(all_[2:])
    memory = ensemble.memory
    return {"network_s": a, "ensemble_s": b, "passes": b / a, "memory_share": memory.share, "pairs_bytes": memory.pairs,
            "shared_bytes": memory.shared}


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()  # of this process only: other jobs on the machine do not count
    work()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.copies, options.rounds, lambda: published(3, 32, 32), (3, 32, 32))
    small = measure(options.copies, options.rounds, perceptron, (1, 8, 8))
    if options.json:
        print(json.dumps({**found, "perceptron": small}, indent=1))
    else:
        for name, row, limit in (("published conv net", found, f" (limit {LIMIT:g})"), ("perceptron 64-16-10", small, "")):
            print(f"{name}: {1e3 * row['network_s']:.2f} ms, {options.copies} copies {1e3 * row['ensemble_s']:.2f} ms: "
                  f"{row['passes']:.2f} passes{limit}; memory {row['memory_share']:.2%} of separate networks")
    return int(options.copies <= 100 and found["passes"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
