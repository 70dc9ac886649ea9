"""Commands on models: discover, apply, verify, certify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from symdisc.cli.datadep import data_dependent
from symdisc.cli.opened import catalog_of, discovered, opened, write_catalog
from symdisc.cli.terminal import document, out, progress, remarks, timing_lines
from symdisc.errors import BadInput

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.certificate import Certificate
    from symdisc.torchside.witness import Witness

__all__ = ["register"]

SOURCE = typer.Argument(..., metavar="SOURCE", help="module:factory, file.py:factory, Hugging Face config file or folder, zoo:NAME")
JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")
MODE = typer.Option("asis", "--mode", help="Mode of the model: asis (as the factory left it), eval or train.")
MODEL = typer.Option(..., "--model", metavar="SOURCE", help="The model that the weights belong to.")
SEED = typer.Option(0, "--seed", min=0, help="Seed of the group element.")
SCALE = typer.Option(0.1, "--scale", min=0.0, help="Size of the continuous part: condition numbers are at most exp(2 scale).")
DISCRETE = typer.Option(True, "--discrete/--no-discrete", help="With permutations and sign flips, or the continuous part only.")


def register(app: typer.Typer) -> None:
    for command in (discover, apply, verify, certify):
        app.command(command.__name__)(command)
    app.command("data-dependent")(data_dependent)


def discover(source: str = SOURCE,
             where: Path | None = typer.Option(None, "--out", metavar="DIR", help="Write catalog and figure into this folder."),
             as_json: bool = JSON,
             timings: bool = typer.Option(False, "--timings", help="Print the seconds of each stage."),
             why_not: bool = typer.Option(False, "--why-not", help="Also tell what each space does not admit, and which edit would."),
             with_certificate: bool = typer.Option(False, "--certify", help="Also check that nothing is missing."),
             mode: str = MODE) -> None:
    """Find the symmetries of a model and print its catalog."""
    cat = discovered(opened(source, mode, as_json), as_json)
    if with_certificate:
        cat = cat.replace(certificate=_certified(cat, as_json))
    files = write_catalog(cat, where) if where is not None else []
    if as_json:
        more = {"timings": cat.timings} if timings else {}
        document({**cat.to_dict(), **more, **({"why_not": [b.to_dict() for b in cat.why_not]} if why_not else {})})
    else:
        from symdisc.report import terminal

        out().print(terminal.table(cat))
        if why_not:
            out().print(terminal.refusals(cat.why_not))
        for file in files:
            out().print(f"wrote {file}", markup=False)
    if timings and not as_json:
        timing_lines(cat.timings)
    if cat.certificate is not None and not cat.certificate.complete:
        raise typer.Exit(1)


def apply(checkpoint: Path = typer.Argument(..., metavar="IN.safetensors", help="Weights: a safetensors file or folder."),
          target: Path = typer.Option(..., "--out", metavar="OUT.safetensors", help="The file to write."),
          model: str = MODEL, seed: int = SEED, scale: float = SCALE, discrete: bool = DISCRETE, mode: str = MODE,
          check: bool = typer.Option(True, "--check/--no-check", help="Run the model before and after; write only if unchanged."),
          as_json: bool = JSON) -> None:
    """Write new weights that compute the same function: a random element of the symmetry group, seeded."""
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare

    files.check_target(target)
    before = files.read_checkpoint(checkpoint)
    source = opened(model, mode, as_json, values=True if check else None)
    cat = discovered(source, as_json)
    fit = files.fit_names(cat, before, compare.ignorable(source.model))
    remarks([*fit.notes(), *_unused(cat)], as_json)
    with progress("transforming", as_json):
        after = files.transform(cat, before, fit, cat.sample(seed, scale, discrete))
    witness = None
    if check:
        with progress("checking the function", as_json):
            witness = compare.compare(cat, source, before, after, fit)
    if witness is None or witness.passed:
        with progress(f"writing {target}", as_json):
            files.write_checkpoint(after, target)
    if as_json:
        document({"in": str(checkpoint), "out": str(target), "model": model, "seed": seed, "scale": scale, "notes": fit.notes(),
                  "written": witness is None or witness.passed, "witness": None if witness is None else witness.to_dict()})
    elif witness is not None:
        _tell(witness)
    if witness is not None and not witness.passed:
        if not as_json:
            out().print(f"not written: rounding or a fault changed the function; try a smaller --scale than {scale:g}", markup=False)
        raise typer.Exit(1)
    if not as_json:
        out().print(f"wrote {target}", markup=False)


def _unused(cat: Catalog) -> list[str]:
    """Entries that only the example inputs leave unused would be changed for all inputs: say so."""
    free = [s for s in cat.symmetries if "unused" in s.name]
    names = ", ".join(dict.fromkeys(p for s in free for p in s.parameters))
    return [f"entries of {names} are changed freely: the example inputs do not use them; give longer inputs if others will"] if free else []


def verify(files: list[str] = typer.Argument(None, metavar="[IN OUT | SOURCE]", help="Two files of weights, or a model alone."),
           model: str | None = typer.Option(None, "--model", metavar="SOURCE", help="The model that the two files belong to."),
           seed: int = SEED, scale: float = SCALE, discrete: bool = DISCRETE, mode: str = MODE, as_json: bool = JSON) -> None:
    """Check that two files of weights compute the same function, or that a random group element keeps a model's."""
    given = list(files or [])
    if len(given) == 2 and model is not None:
        witness = _verify_files(Path(given[0]), Path(given[1]), model, mode, as_json)
    elif len(given) + (model is not None) == 1:
        source = opened(given[0] if given else str(model), mode, as_json, values=True)
        cat = discovered(source, as_json)
        with progress("checking the function", as_json):
            witness = cat.verify(source.model, cat.sample(seed, scale, discrete))
    else:
        raise BadInput("verify takes IN and OUT with --model SOURCE, or one SOURCE with --seed")
    if as_json:
        document(witness.to_dict())
    else:
        _tell(witness)
    if not witness.passed:
        raise typer.Exit(1)


def _verify_files(first: Path, second: Path, model: str, mode: str, quiet: bool) -> Witness:
    from symdisc.torchside import checkpoint as files
    from symdisc.torchside import compare

    before, after = files.read_checkpoint(first), files.read_checkpoint(second)
    source = opened(model, mode, quiet, values=True)
    with progress("checking the function", quiet):
        names = compare.names_of(source.model)
        skip = compare.ignorable(source.model)
        fit, other = files.fit_names(names, before, skip), files.fit_names(names, after, skip)
        if fit != other:
            raise BadInput(f"{first} and {second} do not hold the same tensors")
        return compare.compare(names, source, before, after, fit)


def certify(source: str = SOURCE, mode: str = MODE, as_json: bool = JSON) -> None:
    """Compare the found orbit dimension with the dimension of all symmetry, D - rank J."""
    cat = catalog_of(source, mode, as_json)
    certificate = _certified(cat, as_json)
    if as_json:
        document({"architecture": cat.architecture, **certificate.to_dict()})
    else:
        out().print(certificate_line(certificate), markup=False)
        if certificate.note:
            out().print(certificate.note, markup=False)
    if not certificate.complete:
        raise typer.Exit(1)


def certificate_line(c: Certificate) -> str:
    """One sentence: both numbers, the gap, on what they were taken."""
    where = f"a miniature with {c.D:,} parameters" if c.miniature else f"{c.D:,} parameters"
    how = "exact arithmetic" if c.exact else f"gap {c.gap:.1e}"
    return f"found {c.found}, fibre {c.fibre} on {where} ({how}): {c.verdict}"


def _certified(cat: Catalog, quiet: bool) -> Any:
    from symdisc.session import certify as certified

    with progress("certifying", quiet):
        return certified(cat)


def _tell(w: Witness) -> None:
    verdict = "the function is unchanged" if w.passed else "THE FUNCTION CHANGED"
    out().print(f"{verdict}: outputs differ by {w.max_relative_change:.1e} of their variation ({w.inputs_tried} inputs, weights in "
                f"{w.dtype}); weights changed by {w.weights_changed:.2g} of their size", markup=False)
