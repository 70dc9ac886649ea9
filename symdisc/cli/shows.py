"""Commands that show and keep: latex, catalog show, catalog build, demo."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import chain
from multiprocessing import active_children, get_context
from pathlib import Path
from types import FrameType

import typer

from symdisc.cli.opened import catalog_of
from symdisc.cli.terminal import document, errors, folder, out, progress, write_text
from symdisc.entry import Entry
from symdisc.errors import BadInput, SymdiscError

__all__ = ["register"]

PATIENCE = 5.0  # seconds for a worker to put away what it has
JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    app.command("latex")(latex)
    group = typer.Typer(help="Catalogs kept in files.", rich_markup_mode=None)
    group.command("show")(show)
    group.command("build")(build)
    app.add_typer(group, name="catalog")
    app.command("demo")(demo)


def latex(source: str = typer.Argument(..., metavar="CATALOG|SOURCE", help="A catalog.json, or a model."),
          target: Path | None = typer.Option(None, "--out", metavar="FILE.tex", help="Write there instead of to the terminal."),
          fragment: bool = typer.Option(False, "--fragment", help="Without preamble: text to include in a document of yours."),
          mode: str = typer.Option("asis", "--mode", help="Mode of the model: asis, eval or train."), as_json: bool = JSON) -> None:
    """Typeset a catalog: a LaTeX document that compiles as it is."""
    text = catalog_of(source, mode, as_json or target is None).to_latex(fragment)
    if target is not None:
        write_text(target, text)
    if as_json:
        document({"latex": text, "out": None if target is None else str(target)})
    elif target is None:
        print(text, end="")
    else:
        out().print(f"wrote {target}", markup=False)


def show(file: Path = typer.Argument(..., metavar="FILE", help="A catalog.json, or the record.json of an entry."),
         as_json: bool = JSON) -> None:
    """Print a catalog that was written by discover --out, or an entry of the catalog of architectures."""
    from symdisc.catalog import load

    entry = _entry(file)
    if entry is not None:
        from symdisc.report.entry import markdown

        return document(json.loads(entry.to_json())) if as_json else print(markdown(entry), end="")
    cat = load(file)
    if as_json:
        document(cat.to_dict())
    else:
        from symdisc.report import terminal

        out().print(terminal.table(cat))


def _entry(file: Path) -> Entry | None:
    """The entry in a file, None where it holds something else."""
    try:
        return Entry.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, BadInput):
        return None


def build(names: list[str] = typer.Argument(None, metavar="[NAME]...", help="Architectures; all of them by default."),
          where: Path = typer.Option(Path("catalog"), "--out", metavar="DIR", help="Folder of the entries."),
          check: bool = typer.Option(False, "--check", help="Write nothing; fail if an entry is not what would be written."),
          again: bool = typer.Option(False, "--again", help="Derive also entries whose sources have not changed."),
          jobs: int = typer.Option(1, "--jobs", min=1, help="Processes at a time."), as_json: bool = JSON) -> None:
    """Derive the catalog entries of architectures in symbolic sizes: DIR/NAME/record.json with its pages, and DIR/README.md."""
    from symdisc import build_catalog

    known = build_catalog.names()
    wanted = sorted(set(names or known))
    for name in wanted:
        if name not in known:
            raise BadInput(f"the catalog has no {name!r}: it has {', '.join(known)}")
    digests = {name: build_catalog.digest(name) for name in wanted}
    kept = {} if check or again else {n: t for n in wanted if (t := build_catalog.fresh(where, n, digests[n])) is not None}
    different: list[Path] = []
    records: dict[str, str] = {}
    failed: list[str] = []
    for name, texts in chain(kept.items(), _derived([n for n in wanted if n not in kept], jobs, as_json)):  # each is kept as it is made
        if isinstance(texts, SymdiscError):
            failed.append(f"{name}: {texts}")
            continue
        records[name] = texts["record.json"]
        different += _keep(where, name, texts, check, as_json)
        if not check:
            build_catalog.write([where / name / build_catalog.DIGEST], {build_catalog.DIGEST: digests[name]})
    different += _keep(where, "", {build_catalog.INDEX: build_catalog.build_index(where, records)}, check, as_json)
    if as_json:
        document({"architectures": wanted, "differ" if check else "wrote": [str(p) for p in different], "failed": failed})
    for line in failed:
        errors().print(f"error: {line}", markup=False, soft_wrap=True)
    if failed or (check and different):
        raise typer.Exit(1)


def _derived(names: list[str], jobs: int, quiet: bool) -> Iterator[tuple[str, dict[str, str] | SymdiscError]]:
    """(name, texts) as they are made, in this process or in ``jobs`` others; an entry that cannot be made does not stop the others."""
    from symdisc import build_catalog

    if jobs == 1 or len(names) < 2:
        for name in names:
            with progress(f"building {name}", quiet):
                try:
                    texts: dict[str, str] | SymdiscError = build_catalog.build_record(name)
                except SymdiscError as error:
                    texts = error
            yield name, texts
        return
    # a worker makes many entries: what it has loaded and proved serves the next ones. It is not replaced after some of them, for the pool
    # of Python 3.11 then waits for ever (python/cpython issue 115634)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _answer_to_the_parent) as pool:
        running = {pool.submit(_built, name): name for name in build_catalog.longest_first(names)}  # so that none is left over at the end
        try:
            for done in as_completed(running):
                failure = done.exception()
                yield running[done], failure if isinstance(failure, SymdiscError) else done.result()
        except BaseException:  # interrupted: nothing is waited for
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            for child in active_children():
                child.join(PATIENCE)
                child.kill()
            raise


_ending: list[int] = []  # in a worker that was asked to end


def _answer_to_the_parent() -> None:
    """A worker that dies of Ctrl-C by itself would leave the pool waiting; one that is ended at once would leave semaphores behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    _ending.append(number)
    raise SystemExit(number)


def _built(name: str) -> dict[str, str]:
    from symdisc import build_catalog

    if _ending:  # entries that wait in the queue
        raise SystemExit(_ending[0])
    return build_catalog.build_record(name)


def _keep(where: Path, name: str, texts: dict[str, str], check: bool, quiet: bool) -> list[Path]:
    """Write the files that are not what they should be, or only tell which; the list of them."""
    from symdisc import build_catalog

    files = build_catalog.changed(where, name, texts)
    if not check:
        build_catalog.write(files, texts)
    if not quiet:
        verdict = f"{'differs' if check else 'wrote'}: {', '.join(map(str, files))}" if files else "as recorded"
        out().print(f"{name or 'index'}  {verdict}", markup=False, soft_wrap=True)
    return files


def demo(where: Path = typer.Option(Path("out/demo"), "--out", metavar="DIR", help="Folder for the files of the demo."),
         as_json: bool = JSON) -> None:
    """Real trained networks: symmetries found, weights changed, functions kept."""
    from symdisc.demo import run

    results = run(folder(where), quiet=as_json)
    if as_json:
        document({"models": [r.to_dict() for r in results]})
    if not all(r.passed for r in results):
        raise typer.Exit(1)
