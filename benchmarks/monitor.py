"""What watching a run costs: the time a monitor takes within steps of 10 M-parameter transformers.

    python -m benchmarks.monitor [--rounds 4] [--threads 2] [--model NAME] [--optimizer NAME] [--json]

The monitor works in two hooks of the optimizer's step. Hooks of the benchmark's own stand around them, so that its time is
measured where it is spent, in real steps with real gradients and cold caches: two steps of the same model differ by
more than a monitor costs. Printed are the medians of a step without the monitor's time, of the monitor's time where a step is followed,
and where it is recorded as well, and the ratio

    1 + (followed (every - 1) + recorded) / (step every)

of a run in which one step of ``every`` is recorded, by the clock and by processor time (other jobs disturb it less, so it
decides: exit code 1 when a ratio is not below 1.05). Times shown are of the processor.
"""

from __future__ import annotations

import argparse
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
SAMPLE = 6  # followed steps between two records


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


class Clocks:
    """Seconds by the clock and of the processor, since the last reading."""

    def __init__(self) -> None:
        self.last = self.spent = (0.0, 0.0)

    def start(self, *_: object) -> None:
        self.last = time.perf_counter(), time.process_time()

    def stop(self, *_: object) -> None:
        """Adds to what was spent."""
        now = time.perf_counter(), time.process_time()
        self.spent = self.spent[0] + now[0] - self.last[0], self.spent[1] + now[1] - self.last[1]

    def take(self) -> tuple[float, float]:
        """What was spent, which begins anew."""
        spent, self.spent = self.spent, (0.0, 0.0)
        return spent


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:
    """One step of next-token training."""
    optimizer.zero_grad()
    logits = model(ids)
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()


def watched(cat: symdisc.Catalog, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[symdisc.Monitor, Clocks]:
    """A monitor between two readings of the clocks, before and after the step."""
    clocks = Clocks()
    optimizer.register_step_pre_hook(clocks.start)
    optimizer.register_step_post_hook(clocks.start)
    monitor = symdisc.Monitor(cat, model, optimizer)
    optimizer.register_step_pre_hook(clocks.stop)
    optimizer.register_step_post_hook(clocks.stop)
    return monitor, clocks


def measure(name: str, settings: str, rounds: int) -> dict[str, float | str | int]:
    """Medians over ``rounds`` of followed steps and a recorded one."""
    torch.manual_seed(0)
    model = MODELS[name]().train()
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    cat = symdisc.discover(model, (ids[:1],))
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS[settings])  # type: ignore[arg-type]
    monitor, own = watched(cat, model, optimizer)
    whole = Clocks()
    step(model, optimizer, ids)  # the first one makes buffers, and takes the forms from the weights
    own.take()
    steps, following, recording = [], [], []
    for _ in range(rounds):
        for k in range(SAMPLE + 1):
            if k == SAMPLE:
                monitor.step = monitor.every  # the next step is recorded
            whole.start()
            step(model, optimizer, ids)
            whole.stop()
            inside, outside = own.take(), whole.take()
            (recording if k == SAMPLE else following).append(inside)
            steps.append((outside[0] - inside[0], outside[1] - inside[1]))
    row: dict[str, float | str | int] = {
        "model": name, "optimizer": settings, "parameters": cat.parameter_count, "symmetries": len(monitor.laws),
        "predicted": sum(law.predicts for law in monitor.laws), "every": monitor.every}
    for k, kind in enumerate(("clock", "processor")):
        s, f, r = (statistics.median(t[k] for t in times) for times in (steps, following, recording))
        row |= {f"step_{kind}": s, f"following_{kind}": f, f"recording_{kind}": r,
                f"ratio_{kind}": 1 + (f * (monitor.every - 1) + r) / (s * monitor.every)}
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
    print(f"{'model':15}{'optimizer':17}{'laws':>10}{'step':>9}{'followed':>10}{'recorded':>10}{'by clock':>10}{'by processor':>14}")
    for r in rows:
        whole, followed, recorded = (1e3 * float(r[f"{kind}_processor"]) for kind in ("step", "following", "recording"))
        late = "" if float(r["ratio_processor"]) < LIMIT else f"  not below {LIMIT}"
        laws = f"{r['predicted']} of {r['symmetries']}"
        print(f"{r['model']:15}{r['optimizer']:17}{laws:>10}{whole:>7.0f}ms{followed:>8.1f}ms{recorded:>8.1f}ms"
              f"{r['ratio_clock']:>10.3f}{r['ratio_processor']:>14.3f}{late}")


if __name__ == "__main__":
    main()
