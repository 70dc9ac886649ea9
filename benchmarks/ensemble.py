"""What an ensemble of shared weights costs: passes of K copies against passes of the one network, in turns, in one run.

    python -m benchmarks.ensemble [--copies 100] [--rounds 40] [--large] [--json]

Networks: the published shape for 3 x 32 x 32 images (convolution to 32 channels, pooling, dense to 16, dense to 10), and the
digits perceptron 64-16-10; batches of 1 to 64, with --large of 256 too; for the mean probability, the vote, and the mean of the
logits. Printed are medians, their ratio, and the *floor*: the products of the copies at the speed of one large product, as passes of
the network. What a copy adds is h^2 + h m products per sample (g behind V, U in front of m classes): little beside a convolution, so
that 100 copies cost less than 5 passes at every batch (else exit code 1). Of the perceptron the copies are nearly the whole work, 35
times its products: up to 16 samples a pass is the time it takes to start operators, and whatever is asked costs less than 5 (else
exit code 1); from 64 on the vote and the mean probability take more, and at 256 the floor alone does. Crossed copies, in rows and
columns, share these products: of 64 samples the vote and the mean of the logits cost less than 5, too (else exit code 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn

from symdisc.studies.robustness import perceptron, published
from symdisc.torchside.ensemble import Ensemble, build

WARM = 3  # runs in a row, of which the last counts: what ran before has taken the caches
SIDE = 768  # of a product whose speed is that of the machine
LIMIT, BATCHES, LARGE, ASKED = 5.0, (1, 4, 16, 64), 256, ("mean", "vote", "mean_logits")
CONV, MLP, CROSSED = "published conv net", "perceptron 64-16-10", "perceptron 64-16-10, crossed"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    CONV: (lambda: published(3, 32, 32), (3, 32, 32), False), MLP: (perceptron, (1, 8, 8), False), CROSSED: (perceptron, (1, 8, 8), True)}


def measure(copies: int, rounds: int, batches: Sequence[int], make: Callable[[], nn.Module], shape: tuple[int, ...],
            crossed: bool) -> list[dict[str, float]]:
    """For each batch median seconds of a forward pass of the network and of the ensemble, their ratio, the floor, and the memory."""
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    x = torch.rand(batches[-1], *shape) - 0.5
    ensemble = build(model, x[: BATCHES[-1]], copies, 0.5, crossed=crossed)
    rows = []
    for n in batches:
        timed = _timed(model, ensemble, x[:n], rounds)
        floor = n * sum(t.numel() for t in ensemble.pairs().values()) * _seconds_per_product()
        rows.append({"batch": n, **timed, "floor_passes": floor / timed["network_s"], "memory_share": ensemble.memory.share})
    return rows


@cache
def _seconds_per_product() -> float:
    a = torch.rand(SIDE, SIDE)
    return statistics.median(_seconds(lambda: a @ a) for _ in range(30)) / SIDE**3


def _timed(model: nn.Module, ensemble: Ensemble, x: torch.Tensor, rounds: int) -> dict[str, float]:
    works: dict[str, Callable[[], object]] = {"network": lambda: model(x), **{n: partial(getattr(ensemble, n), x) for n in ASKED}}
    seconds: dict[str, list[float]] = {n: [] for n in works}
    with torch.no_grad():
        for _ in range(rounds + 3):  # to warm up
            for name, work in works.items():
                seconds[name].append([_seconds(work) for _ in range(WARM)][-1])
    typical = {n: statistics.median(s[3:]) for n, s in seconds.items()}
    return {**{f"{n}_s": s for n, s in typical.items()}, **{f"{n}_passes": typical[n] / typical["network"] for n in ASKED}}


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()  # of this process only: other jobs on the machine do not count
    work()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--large", action="store_true", help=f"batches of {LARGE}, too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    batches = (*BATCHES, LARGE) if options.large else BATCHES
    found = {name: measure(options.copies, options.rounds, batches, *network) for name, network in NETWORKS.items()}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, rows in found.items():
            print(f"{name}: {options.copies} copies in {rows[0]['memory_share']:.2%} of the memory of separate networks")
            for r in rows:
                told = ", ".join(f"{n.replace('_', ' of ')} {1e3 * r[f'{n}_s']:.3f} ms ({r[f'{n}_passes']:.1f} passes)" for n in ASKED)
                print(f"  batch {r['batch']:3}: network {1e3 * r['network_s']:7.3f} ms; {told}; floor {r['floor_passes']:.1f}")
    limited = [r[f"{n}_passes"] for r in found[CONV] for n in ASKED]
    limited += [r[f"{n}_passes"] for r in (*found[MLP][:3], *found[CROSSED][:3]) for n in ASKED]
    limited += [r[f"{n}_passes"] for r in found[CROSSED][3:4] for n in ASKED[1:]]
    return int(options.copies <= 100 and any(passes >= LIMIT for passes in limited))


if __name__ == "__main__":
    sys.exit(main())
