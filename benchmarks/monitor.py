"""What watching a run costs: step times of 10 M-parameter transformers with and without a monitor, from one run.

    python -m benchmarks.monitor [--rounds 4] [--threads 2] [--model NAME] [--optimizer NAME] [--json]

Two equal models take turns, one of them watched with default settings, so that both see the same machine. Printed are the
medians of a plain step, of a watched step that is followed, and of one that is recorded as well, and the ratio

    (followed (every - 1) + recorded) / (plain every)

of a run in which one step of ``every`` is recorded, by the clock and by processor time (other jobs disturb it less, so it
decides: exit code 1 when a ratio is not below 1.05). Times shown are of the processor.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import symdisc
from symdisc.zoo import Attention, Block, Decoder, RMSNorm, SwiGLU

WIDTH, HEAD, HEADS, LAYERS, VOCABULARY, BATCH, LENGTH = 320, 64, 5, 6, 4096, 8, 128
LIMIT = 1.05
SAMPLE = 6  # plain steps, and watched steps without a record, between two records


def gpt(activation: Callable[[], nn.Module] = nn.GELU) -> nn.Module:
    """LayerNorm, biases, learned positions, two-layer feed-forward; 10.1 M parameters."""
    blocks = [Block(Attention(WIDTH, HEADS, HEAD, HEADS, 0, True),
                    nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), activation(), nn.Linear(4 * WIDTH, WIDTH)),
                    lambda: nn.LayerNorm(WIDTH)) for _ in range(LAYERS)]
    return Decoder(VOCABULARY, WIDTH, blocks, nn.LayerNorm(WIDTH), positions=LENGTH)


def llama() -> nn.Module:
    """RMSNorm, rotary positions, SwiGLU, no biases; 10.1 M parameters."""
    blocks = [Block(Attention(WIDTH, HEADS, HEAD, HEADS, LENGTH, False), SwiGLU(WIDTH, 864), lambda: RMSNorm(WIDTH, 1e-6))
              for _ in range(LAYERS)]
    return Decoder(VOCABULARY, WIDTH, blocks, RMSNorm(WIDTH, 1e-6))


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt, GELU": gpt, "gpt, ReLU": lambda: gpt(nn.ReLU), "llama, SwiGLU": llama}
SETTINGS = {
    "SGD": {"lr": 0.01},
    "momentum, decay": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
    "Nesterov, decay": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor) -> tuple[float, float]:
    """One step of next-token training; seconds by the clock and of the processor."""
    start = time.perf_counter(), time.process_time()
    optimizer.zero_grad()
    logits = model(ids)
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(name: str, settings: str, rounds: int) -> dict[str, float | str | int]:
    """Medians over ``rounds`` alternations of plain, following and recording steps."""
    torch.manual_seed(0)
    model = MODELS[name]().train()
    twin = copy.deepcopy(model)
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    cat = symdisc.discover(model, (ids[:1],))
    optimizer, other = (torch.optim.SGD(m.parameters(), **SETTINGS[settings]) for m in (model, twin))  # type: ignore[arg-type]
    monitor = symdisc.Monitor(cat, model, optimizer)
    for pair in ((model, optimizer), (twin, other)):
        step(*pair, ids)  # the first one makes buffers, and takes the forms from the weights
    plain, following, recording = [], [], []
    for _ in range(rounds):
        for _ in range(SAMPLE):
            plain.append(step(twin, other, ids))
            following.append(step(model, optimizer, ids))
        monitor.step = monitor.every  # the next step is recorded
        recording.append(step(model, optimizer, ids))
    row: dict[str, float | str | int] = {
        "model": name, "optimizer": settings, "parameters": cat.parameter_count, "symmetries": len(monitor.laws),
        "predicted": sum(law.predicts for law in monitor.laws), "every": monitor.every}
    for k, kind in enumerate(("clock", "processor")):
        p, f, r = (statistics.median(t[k] for t in times) for times in (plain, following, recording))
        row |= {f"plain_{kind}": p, f"following_{kind}": f, f"recording_{kind}": r,
                f"ratio_{kind}": (f * (monitor.every - 1) + r) / (p * monitor.every)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of symdisc.Monitor")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", choices=MODELS, help="only this one")
    parser.add_argument("--optimizer", choices=SETTINGS, help="only this one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [measure(m, s, args.rounds) for m in MODELS for s in SETTINGS
            if args.model in (None, m) and args.optimizer in (None, s)]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        report(rows, args.threads)
    sys.exit(any(float(r["ratio_processor"]) >= LIMIT for r in rows))


def report(rows: list[dict[str, float | str | int]], threads: int) -> None:
    print(f"batch {BATCH} x {LENGTH} tokens, float32, {threads} threads, default settings (a record every {rows[0]['every']} steps)")
    print(f"{'model':15}{'optimizer':17}{'laws':>10}{'plain':>9}{'followed':>10}{'recorded':>10}{'by clock':>10}{'by processor':>14}")
    for r in rows:
        plain, followed, recorded = (1e3 * float(r[f"{kind}_processor"]) for kind in ("plain", "following", "recording"))
        late = "" if float(r["ratio_processor"]) < LIMIT else f"  not below {LIMIT}"
        laws = f"{r['predicted']} of {r['symmetries']}"
        print(f"{r['model']:15}{r['optimizer']:17}{laws:>10}{plain:>7.0f}ms{followed:>8.0f}ms{recorded:>8.0f}ms"
              f"{r['ratio_clock']:>10.3f}{r['ratio_processor']:>14.3f}{late}")



if __name__ == "__main__":
    main()
