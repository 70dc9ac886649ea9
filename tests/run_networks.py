"""Hold the engine against the oracle on the registered networks, or on grown ones.

    OMP_NUM_THREADS=1 python tests/run_networks.py                 # all registered networks
    OMP_NUM_THREADS=1 python tests/run_networks.py 'attn_*' -q     # these; print only what is wrong
    OMP_NUM_THREADS=1 python tests/run_networks.py --grown 0 100   # grown networks 0..99, measured on the spot

A line tells: D, fibre by the oracle, orbit found, change of the function under a random element (continuous, then
with the discrete factors), how far the weights moved (relative), error of the inverse, seconds, verdict. Verdicts:
`ok`, `FALSE` (function changed, or more found than there is), `missed n`, `still` (nothing moved), `error`.
"""

from __future__ import annotations

import collections
import fnmatch
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from brute import InputMaker, Undetermined, generic_fibre, keeps_function, randomise
from grower import grow
from networks import NETWORKS, ready, references
from torch import Tensor, nn

import symdisc

TOLERANCE = 1e-8  # of the function, relative to its variation, in float64
SECONDS = 120  # a network may take this long
SCALE = 0.3  # of the sampled element


@dataclass(frozen=True)
class Line:
    """One network's result."""

    name: str
    size: int
    fibre: int
    found: int | None = None
    change: float = float("nan")
    change_discrete: float = float("nan")
    moved: float = float("nan")
    inverse: float = float("nan")
    seconds: float = 0.0
    note: str = ""
    tangent_only: bool = False

    @property
    def verdict(self) -> str:
        if self.found is None:
            return "error"
        if not max(self.change, self.change_discrete, self.inverse) < TOLERANCE or self.found > self.fibre:
            return "FALSE"
        if self.found < self.fibre and not self.tangent_only:
            return f"missed {self.fibre - self.found}"
        return "still" if self.found and not self.moved > 1e-3 else "ok"

    def __str__(self) -> str:
        numbers = f"{self.change:8.0e} {self.change_discrete:8.0e} {self.moved:8.0e} {self.inverse:8.0e}"
        head = f"{self.name:28s} {self.size:5d} {self.fibre:5d} {self.found if self.found is not None else '-':>5}"
        return f"{head} {numbers} {self.seconds:6.1f}  {self.verdict}  {self.note}"


def distance(a: dict[str, Tensor], b: dict[str, Tensor], names: list[str]) -> float:
    """Relative distance of two states over `names`."""
    top = sum(float((a[n] - b[n]).square().sum()) for n in names)
    return (top / max(sum(float(b[n].square().sum()) for n in names), 1e-300)) ** 0.5


def measure(line: Line, model: nn.Module, maker: InputMaker) -> Line:
    """Run the engine and fill in the line; errors of the engine become its note."""
    start = time.time()
    try:
        catalog = symdisc.discover(model, maker(0))
        state = {k: v.clone() for k, v in model.state_dict().items()}
        names = [n for n, _ in model.named_parameters()]
        inputs = [maker(500 + i) for i in range(6)]
        plain = catalog.sample(seed=1, scale=SCALE, discrete=False)
        full = catalog.sample(seed=2, scale=SCALE)
        one, two = catalog.apply(state, plain), catalog.apply(state, full)
        back = catalog.apply(two, catalog.inverse(full))
        return replace(
            line,
            found=catalog.orbit_dimension,
            change=keeps_function(model, one, inputs),
            change_discrete=keeps_function(model, two, inputs),
            moved=distance(one, state, names),
            inverse=distance(back, state, names),
            seconds=time.time() - start,
            note="" if catalog.orbit_dimension is not None else "no orbit dimension; " + "; ".join(catalog.notes)[:150],
        )
    except Exception as exc:
        return replace(line, seconds=time.time() - start, note=f"{type(exc).__name__}: {exc}"[:200].replace("\n", " "))


def registered(patterns: list[str]) -> Iterator[tuple[Line, nn.Module, InputMaker]]:
    """The registry at its recorded parameters."""
    rows = references()
    for name in NETWORKS:
        if any(fnmatch.fnmatch(name, p) for p in patterns or ["*"]):
            model, maker, row = ready(name)
            yield Line(name, row["D"], row["fibre"], tangent_only=rows[name].get("tangent_only", False)), model, maker


def grown(first: int, last: int) -> Iterator[tuple[Line, nn.Module, InputMaker]]:
    """Grown networks, their fibre measured now; undecidable ones are told and left out."""
    for seed in range(first, last):
        model, maker = grow(seed)
        try:
            found = generic_fibre(model, maker, range(3))
        except Undetermined:
            print(f"grown {seed}: the oracle cannot decide")
            continue
        yield Line(f"grown {seed}", found.parameters, found.dimension), randomise(model, found.seed), maker


def too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main(arguments: list[str]) -> int:
    """See the module's docstring; exit code 1 if any verdict is not ok."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, too_long)
    quiet = "-q" in arguments
    if "--grown" in arguments:
        at = arguments.index("--grown")
        cases = grown(int(arguments[at + 1]), int(arguments[at + 2]))
    else:
        cases = registered([a for a in arguments if not a.startswith("-")])
    tally: collections.Counter[str] = collections.Counter()
    for line, model, maker in cases:
        signal.alarm(SECONDS)
        line = measure(line, model, maker)
        signal.alarm(0)
        tally[line.verdict.split()[0]] += 1
        if not quiet or line.verdict != "ok":
            print(line, flush=True)
    print(dict(tally))
    return int(set(tally) - {"ok"} != set())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
