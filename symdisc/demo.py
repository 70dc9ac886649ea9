"""``symdisc demo``: real trained networks, their symmetries, new weights, the same functions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.certificate import Certificate
    from symdisc.torchside.demo_models import Case, Moved

__all__ = ["FLOAT32", "FLOAT64", "Result", "run"]

FLOAT64, FLOAT32 = 1e-10, 1e-4  # what the measured function may change, relative to its variation over the data


@dataclass(frozen=True)
class Result:
    """One network of the demo: how far its weights moved and how far its function did."""

    name: str
    parameters: int
    dimension: int
    weights_changed: float
    change64: float
    change32: float
    before: str
    after: str
    certificate: str
    complete: bool
    files: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return (self.change64 < FLOAT64 and self.change32 < FLOAT32 and self.weights_changed > 0.1 and self.before == self.after
                and self.complete)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "files": list(self.files), "passed": self.passed}


def run(where: Path, quiet: bool = False) -> list[Result]:
    """Work through all networks of the demo and write their files below ``where``; prints unless ``quiet``."""
    console = Console(quiet=quiet, width=None if Console().is_terminal else 130, highlight=False)
    start = time.perf_counter()
    where.mkdir(parents=True, exist_ok=True)
    results = []
    for name, case in _cases(where, console):
        results.append(_one(name, case, where / name, console))
    console.rule("what was done")
    console.print(_summary(results))
    for r in results:
        console.print(f"{r.name}: {r.before}" + (" before and after" if r.before == r.after else f" before, {r.after} after"), markup=False)
        console.print(f"  certificate: {r.certificate}", markup=False, style="dim")
    console.print(f"\n{time.perf_counter() - start:.0f} s. Files: {where}/<model>/ with weights (moved.safetensors), catalog.json, "
                  "catalog.tex, catalog.md, figure.png and figure.svg", markup=False)
    digits = f"{where}/digits-mlp"
    console.print(f"Next:  symdisc verify {digits}/weights.safetensors {digits}/moved.safetensors --model zoo:digits-mlp"
                  "\n       symdisc discover your_file.py:factory --out out/mine", markup=False, soft_wrap=True)
    return results


def _cases(where: Path, console: Console) -> Iterator[tuple[str, Case]]:
    from symdisc.torchside import demo_models
    from symdisc.zoo import digits_conv, digits_mlp

    for name, about, make, image in (
            ("digits-mlp", "ReLU perceptron, trained now on scikit-learn's digits", digits_mlp, False),
            ("digits-conv", "convolutions with BatchNorm, trained now on scikit-learn's digits", digits_conv, True)):
        (where / name).mkdir(exist_ok=True)
        console.rule(f"{name}: {about}")
        yield name, demo_models.digits_case(name, about, make, image, where / name)
    console.rule("all-MiniLM-L6-v2: pretrained sentence encoder, its real weights")
    (where / "all-MiniLM-L6-v2").mkdir(exist_ok=True)
    yield "all-MiniLM-L6-v2", demo_models.encoder_case()


def _one(name: str, case: Case, folder: Path, console: Console) -> Result:
    from symdisc.report import terminal
    from symdisc.session import discover
    from symdisc.torchside.demo_models import moved

    with console.status(f"{name}: discovering"):
        cat = discover(case.source.model, case.source.example)
    with console.status(f"{name}: certifying"):
        certificate, text = _certificate(name, cat)
    cat = cat.replace(certificate=certificate)
    console.print(terminal.table(cat))
    with console.status(f"{name}: transforming the weights"):
        m = moved(case, cat, cat.sample(0, case.scale), folder / "moved.safetensors")
    _tell(m, case, console)
    files = _write(cat, folder)
    return Result(name, cat.parameter_count, cat.group_dimension, m.weights_changed, m.change64, m.change32, m.before, m.after, text,
                  certificate.complete, (str(folder / "moved.safetensors"), *map(str, files)))


def _certificate(name: str, cat: Catalog) -> tuple[Certificate, str]:
    """For the encoder on a miniature of the same architecture; for the small networks at their own size.

    At particular weights a ReLU network can have more symmetry than its group, where units never switch; such surplus is told,
    and the group is certified at generic weights of the same architecture.
    """
    from symdisc.session import certify, discover
    from symdisc.zoo import build

    surplus = ""
    if name.startswith("digits"):
        how, c = "at the trained weights", certify(cat)
        if c.found < c.fibre:
            surplus = f"; at the trained weights {c.fibre - c.found} more, as ReLU networks have where units never switch"
            how, c = "at generic weights of the same architecture", certify(discover(*build(name)))
    else:
        c = certify(cat)
        how = c.note.replace("made on", "on", 1)
    values = {**c.to_dict(), "note": how + surplus}
    verdict = "nothing is missing" if c.complete else "INCOMPLETE"
    return type(c).from_dict(values), f"found {c.found} of {c.fibre} dimensions {how}: {verdict}{surplus}"


def _tell(m: Moved, case: Case, console: Console) -> None:
    console.print(f"A random element (seed 0, scale {case.scale:g}): the weights in the file changed by {m.weights_changed:.2f} of their "
                  f"size,\nthe measured function by {m.change64:.1e} (float64) and {m.change32:.1e} (float32, file read back)\n",
                  markup=False)


def _write(cat: Catalog, folder: Path) -> list[Path]:
    from symdisc.report import figure

    paths = [folder / n for n in ("catalog.json", "catalog.tex", "catalog.md")]
    cat.save(paths[0])
    for path, text in zip(paths[1:], (cat.to_latex(), cat.to_markdown()), strict=True):
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    for suffix in (".png", ".svg"):
        figure.draw(cat, folder / f"figure{suffix}")
        paths.append(folder / f"figure{suffix}")
    return paths


def _summary(results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "parameters", "symmetry", "weights changed", "function, float64", "function, float32", ""):
        table.add_column(column, justify="left" if column in ("model", "") else "right")
    for r in results:
        table.add_row(r.name, f"{r.parameters:,}", f"{r.dimension:,}", f"{r.weights_changed:.2f}", f"{r.change64:.1e}", f"{r.change32:.1e}",
                      "ok" if r.passed else "FAILED")
    return table
