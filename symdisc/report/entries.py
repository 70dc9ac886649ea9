"""The index of all entries: one headline row each."""

from __future__ import annotations

from collections.abc import Sequence

from symdisc.entry import Entry
from symdisc.report import unicode
from symdisc.report.blocks import code, plain
from symdisc.report.content import number
from symdisc.report.entry import share

__all__ = ["HEAD", "index", "row"]

HEAD = ("entry", "dimension of the group", "published model", "parameters", "dimension there", "share", "conserved there", "certificate")


def row(entry: Entry) -> tuple[str, ...]:
    """What the index tells of one entry, in the order of HEAD; formulas as unicode."""
    dimension = code(unicode.from_latex(entry.dimension.latex)) if entry.dimension is not None else "no polynomial found"
    p = entry.published
    model = ("none", "", "", "", "") if p is None else (
        plain(p.name), number(p.parameters), "unknown" if p.dimension is None else number(p.dimension), share(p),
        "see its page" if p.laws is None else number(p.laws))
    complete = sum(c.fibre is not None and c.orbit == c.fibre for c in entry.certificates)
    unnamed = max((c.unnamed for c in entry.certificates), default=0)
    alike = max((c.group - c.orbit for c in entry.certificates if c.orbit is not None), default=0)
    certificate = f"{complete} of {len(entry.certificates)} complete" + (f", up to {unnamed} dimensions without a name" if unnamed else "")
    certificate += f", up to {alike} of the group act alike" if alike > 0 else ""
    return (f"[{plain(entry.title)}]({entry.name}/catalog.md)", dimension, *model, certificate)


def index(entries: Sequence[Entry]) -> str:
    """The page that lists all entries, in the given order."""
    cells = [HEAD, tuple("---" for _ in HEAD), *map(row, entries)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "∣") if cell.startswith("`") else cell for cell in line) + " |" for line in cells)
    return f"""# Catalog

Made by `symdisc catalog build`; `symdisc catalog build --check` compares. In each folder `record.json` is the truth, `catalog.md` and
`catalog.tex` are set from it alone, and `graph.json` is the operator graph at small sizes. The dimension is that of the continuous
symmetry group of the parameters, as a polynomial in the sizes that each page explains; it is read off many small members of
the family, held to agree at sizes that were not used, and certified at miniatures against D - rank J, the dimension of all
continuous symmetry. Conserved are numbers that gradient flow keeps, in closed form. [operators.md](operators.md) and
[coverage.md](coverage.md) are made by `symdisc derive --all` and `symdisc coverage`.

{table}
"""
