"""Pages of a catalog entry: headline, factors with their derivation in four steps, certificates, training, operators, sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import sympy as sp

from symdisc.entry import At, Checked, Entry, Factor, Law, Node, Poly
from symdisc.formula import parse
from symdisc.report import blocks
from symdisc.report.blocks import Block, Code, Heading, Items, Math, Paragraph, Piece, Table, Text
from symdisc.report.content import number
from symdisc.report.latex import PREAMBLE
from symdisc.symmetry import WITHIN

__all__ = ["group", "latex", "markdown", "page", "share"]

FLOWS = {"gradient_flow": "gradient flow", "weight_decay": "weight decay", "momentum": "momentum", "adamw": "AdamW"}
FATE = {"conserved": "kept", "decays": "decays", "driven": "driven", "none": "lost", "undecided": "undecided"}


def markdown(entry: Entry) -> str:
    """catalog.md: the page with formulas in unicode."""
    return blocks.markdown(page(entry))


def latex(entry: Entry) -> str:
    """catalog.tex: a document for a stock LaTeX."""
    head = f"% made by: symdisc catalog build {entry.name}\n{PREAMBLE}\\begin{{document}}\n\n"
    return head + blocks.tex(page(entry)) + "\n\\end{document}\n"


def page(entry: Entry) -> tuple[Block, ...]:
    """The entry as blocks, in the order in which it is read."""
    continuous = [f for f in entry.factors if not f.discrete]
    discrete = [f for f in entry.factors if f.discrete]
    made: list[Block] = [Heading(1, entry.title), Paragraph((Text("Symmetries of the parameters, in symbolic sizes. Made by"),
                         Code(f"symdisc catalog build {entry.name}"), Text("from record.json.")))]
    made += [_headline(entry, continuous, discrete), Heading(2, "Notation"), _notation(entry)]
    made += [Heading(2, "Continuous factors"), *_factors(continuous)]
    made += [Heading(2, "Discrete factors"), *_factors(discrete)] if discrete else []
    made += [Heading(2, "How each factor acts")]
    for k, f in enumerate(entry.factors, 1):
        made += _derivation(k, f)
    made += [Heading(2, "Training"), *_training(continuous)]
    made += [Heading(2, "Operators on the path"), *_operators(entry.nodes)]
    made += [Heading(2, "Certificates"), *_certificates(entry)]
    made += [Heading(2, "Assumptions"), *_assumptions(entry)]
    made += [Heading(2, "Sources"), _sources(entry)]
    if entry.notes:
        made += [Heading(2, "Notes"), Items(tuple((Text(n),) for n in entry.notes))]
    return tuple(made)


# --- head -----------------------------------------------------------------------------------------------------------------
def group(factors: Sequence[Factor]) -> str:
    """The product of the groups in LaTeX: additive groups and scalings one power each, equal others with their number.

    Factors without a closed form are left out.
    """
    flat: dict[str, list[sp.Expr]] = {r"\mathbb{R}_{>0}": [], r"\mathbb{R}": []}
    others: dict[str, int] = {}
    for f in factors:
        if not f.counted or f.trouble:
            continue
        base = next((b for b in flat if f.group == b or f.group.startswith(b + "^")), None)
        if base is not None and f.dimension is not None:
            flat[base].append(parse(f.dimension.text))
        else:
            others[f.group] = others.get(f.group, 0) + 1
    parts = [g if n == 1 else rf"({g})^{{{n}}}" for g, n in others.items()]
    for base, terms in flat.items():
        if terms:
            power = sp.expand(sp.Add(*terms))
            parts.append(base if power == 1 else rf"{base}^{{{sp.latex(power)}}}")
    return r" \times ".join(parts) or r"\{1\}"


def share(at: At) -> str:
    """The redundant part of a published model's parameters."""
    return "unknown" if at.dimension is None else f"{100 * at.dimension / at.parameters:.3g} %"


def _headline(entry: Entry, continuous: Sequence[Factor], discrete: Sequence[Factor]) -> Table:
    rows: list[tuple[str, tuple[Piece, ...]]] = [
        ("Parameters D", _math(entry.parameters)),
        ("Dimension of the group", (*_math(entry.dimension), Text(f"(read at {entry.points} sizes)"))),
        ("Identity component", (Math(group(continuous)),)),
        ("Discrete part", (Math(group(discrete)),) if discrete else (Text("none found"),)),
        ("Together", (Text("permutations, signs and exchanges act on the identity component by conjugation: semidirect product"),)),
    ]
    if entry.published is not None:
        p = entry.published
        value = "unknown" if p.dimension is None else number(p.dimension)
        rows.append((p.name, (Text(f"{value} of {number(p.parameters)} parameters are redundant ({share(p)})" + _direct(p)),)))
    if entry.laws is not None:
        held = entry.published.laws if entry.published is not None else None
        told = Text("numbers in closed form, as many as were counted at the miniatures"
                    + ("" if held is None or entry.published is None else f"; {number(held)} in {entry.published.name}"))
        rows.append(("Conserved by gradient flow", (*_math(entry.laws), told)))
    unnamed = max((c.unnamed for c in entry.certificates), default=0)
    if unnamed:
        said = f"up to {unnamed} further dimensions at the miniatures, in no family and not in the polynomial (see Certificates)"
        rows.append(("Without a name", (Text(said),)))
    complete = [c for c in entry.certificates if _complete(c)]
    rows.append(("Certificate", (Text(f"found = fibre at {len(complete)} of {len(entry.certificates)} miniatures"),)))
    return Table((), tuple(((Text(a),), b) for a, b in rows), (0.2, 0.76))


def _direct(p: At) -> str:
    if p.direct is None:
        return f"; {p.direct_note}" if p.direct_note else ""
    return "; the traced model gives the same" if p.direct == p.dimension else f"; the traced model gives {number(p.direct)}"


def _math(p: Poly | None) -> tuple[Piece, ...]:
    return (Text("no polynomial found"),) if p is None else (Math(p.latex),)


def _complete(c: Checked) -> bool:
    return c.fibre is not None and c.orbit == c.fibre


def _verdict(c: Checked) -> str:
    return "complete" if _complete(c) else f"{abs((c.fibre or 0) - (c.orbit or 0))} not accounted for"


def _notation(entry: Entry) -> Table:
    sizes = dict(entry.published.sizes) if entry.published else {}
    rows = [((Math(_symbol(s)),), (Text(meaning),), (Text(number(sizes[s]) if s in sizes else ""),))
            for s, meaning in entry.symbols.items()]
    if any(r"\epsilon" in a.latex for f in entry.factors for a in f.actions):
        rows.append(((Math(r"\epsilon"),), (Text("eps of the norm"),), (Text(""),)))
    return Table(("symbol", "meaning", entry.published.name if entry.published else "published"), tuple(rows), (0.12, 0.55, 0.27))


def _symbol(name: str) -> str:
    head, tail = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")):]
    return f"{head}_{{{tail}}}" if tail and head else name if len(name) == 1 else rf"\mathrm{{{name}}}"


# --- factors --------------------------------------------------------------------------------------------------------------
def _factors(factors: Sequence[Factor]) -> list[Block]:
    if not factors:
        return [Paragraph((Text("None."),))]
    rows = []
    for f in factors:
        size: tuple[Piece, ...] = (Text("finite"),) if f.discrete else _math(f.dimension)
        if not f.counted:
            size = (*size, Text("(within others)" if f.note.startswith(WITHIN) else "(moves buffers only)"))
        rows.append(((Math(f.group),), (Text(f.name),), _where(f), size, (Text(f.status),)))
    return [Table(("group", "what", "where", "dimension", "status"), tuple(rows), (0.2, 0.2, 0.27, 0.16, 0.09))]


def _where(f: Factor) -> tuple[Piece, ...]:
    place: tuple[Piece, ...] = (Code(f.where),) if f.where != "whole network" else (Text(f.where),)
    return (*place, Text(", "), Math(f.legend)) if f.legend else place


def _derivation(k: int, f: Factor) -> Iterator[Block]:
    """Condition, solution, action, conserved quantity."""
    yield Heading(3, f"{k}. {f.name}")
    lines: list[tuple[Piece, ...]] = [(Text("Where:"), *_where(f))]
    if f.condition:
        lines.append((Text("Condition:"), Math(f.condition)))
    size = (Text("of dimension"), *_math(f.dimension)) if f.dimension is not None else ()
    element = (Text(", elements"), Math(f.element)) if f.element else ()
    lines.append((Text("Solution:"), Math(f.group), *size, *element))
    lines += [(Text(f"Assumes: {a}"),) for a in f.assumptions]
    lines += [(Text(f"Note: {f.note}"),)] if f.note else []
    lines += [(Text(f"No closed form: {f.trouble}"),)] if f.trouble else []
    conserved = [law for law in f.laws if law.flow == "gradient_flow"]
    lines += [(Text("Gradient flow:"), Math(law.latex)) for law in conserved]
    yield Items(tuple(lines))
    if f.actions:
        rows = [((Code(a.parameter),), (Math(a.latex), *((Text("with"), Math(a.letters)) if a.letters else ()))) for a in f.actions]
        yield Table(("parameter", "action"), tuple(rows), (0.45, 0.5))


# --- training -------------------------------------------------------------------------------------------------------------
def _training(factors: Sequence[Factor]) -> list[Block]:
    trained = [(k, f) for k, f in enumerate(factors, 1) if f.laws]
    if not trained:
        return [Paragraph((Text("No continuous factor that moves trained parameters."),))]
    rows = []
    for k, f in trained:
        by_flow: dict[str, list[Law]] = {}
        for law in f.laws:
            by_flow.setdefault(law.flow, []).append(law)
        rows.append(((Text(f"{k}. {f.name}"),), *(_fate(by_flow.get(flow, [])) for flow in FLOWS)))
    made: list[Block] = [
        Paragraph((Text("What each flow of rules/optimizer.toml makes of the quantities, and how many numbers they are:"),)),
        Table(("factor", *FLOWS.values()), tuple(rows), (0.26, 0.16, 0.16, 0.2, 0.16))]
    told: dict[tuple[str, str], list[int]] = {}
    for k, f in trained:
        for law in f.laws:
            if law.flow != "gradient_flow" or law.status == "none":
                told.setdefault((law.flow, law.latex), []).append(k)
    lines = tuple((Text(f"{FLOWS[flow]} ({', '.join(map(str, dict.fromkeys(who)))}):"), Math(latex)) for (flow, latex), who in told.items())
    if lines:
        made += [Paragraph((Text("The laws and reasons behind the table, with the numbers of the factors:"),)), Items(lines)]
    return made


def _fate(laws: Sequence[Law]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for law in laws:
        pieces += [Text("; ")] if pieces else []
        pieces.append(Text(FATE[law.status]))
        if law.status not in ("none", "undecided") and law.numbers is not None:
            pieces.append(Math(law.numbers.latex))
    return tuple(pieces)


# --- operators, certificates, assumptions, sources ------------------------------------------------------------------------
def _operators(nodes: Sequence[Node]) -> list[Block]:
    if not nodes:
        return [Paragraph((Text("None: the network is affine in its activations."),))]
    rows = []
    for n in nodes:
        solved: list[Piece] = []
        for name, formula in n.solutions:
            solved += [Text(f"{name}:"), Math(formula), Text(";")]
        formula_ = (Math(n.formula),) if n.formula else ()
        at = f", solved at size {n.size}" if n.size else ""
        status = Text(f"{n.status if n.solutions else ''}{at}")
        rows.append(((Code(n.operator),), formula_, tuple(solved[:-1]) or (Text(n.status),), (status,)))
    text = "Every operator that is not affine, with the pairs (M, N) that solve f(Mx + m) = N f(x) + n:"
    return [Paragraph((Text(text),)), Table(("operator", "formula", "solution", "status"), tuple(rows), (0.16, 0.26, 0.4, 0.11))]


def _sizes(sizes: Mapping[str, int]) -> Piece:
    return Text(", ".join(f"{k} = {v}" for k, v in sizes.items()))


def _certificates(entry: Entry) -> list[Block]:
    rows = []
    for c in entry.certificates:
        how = "exact" if c.exact else f"gap above {c.gap:.0e}"
        verdict = "rank not decided" if c.fibre is None else f"{_verdict(c)}, {how}"
        values = (c.parameters, c.polynomial, c.orbit, c.fibre)
        rows.append(((_sizes(c.sizes),), *((Text("-" if v is None else number(v)),) for v in values), (Text(verdict),)))
    made: list[Block] = [
        Paragraph((Text("Dimension of the named factors by the polynomial, orbit dimension found, and D - rank J, the dimension of all "
                        "continuous symmetry, at generic weights of miniatures:"),)),
        Table(("sizes", "D", "polynomial", "found", "fibre", "verdict"), tuple(rows), (0.36, 0.08, 0.11, 0.08, 0.08, 0.21))]
    more = [(_sizes(c.sizes), Text(f": {c.unnamed} found dimensions have no name ({c.note})")) for c in entry.certificates if c.unnamed]
    more += [(_sizes(c.sizes), Text(f": {c.group - c.orbit} dimensions of the group act alike on the weights")) for c in entry.certificates
             if c.orbit is not None and c.group > c.orbit]
    more += [(_sizes(c.sizes), Text(f": refused by the check: {r}")) for c in entry.certificates for r in c.refused]
    more += [(_sizes(c.sizes), Text(f": independent laws of gradient flow: {c.laws}")) for c in entry.certificates if c.laws]
    return [*made, *([Items(tuple(more))] if more else [])]


def _assumptions(entry: Entry) -> list[Block]:
    lines: list[tuple[Piece, ...]] = [(Text(a),) for a in entry.assumptions]
    lines += [(Text(f"not all sizes looked at keep {r}, as the published model does"),) for r in entry.region]
    for t in entry.twins:
        changes = [f"{word}: {', '.join(names)}".replace("#", "[…]") for word, names in (("gained", t.gained), ("lost", t.lost)) if names]
        told = "; ".join(changes)
        lines.append((Text(f"{t.change} (measured): dimension {t.before} becomes {t.after}" + (f"; {told}" if told else "")),))
    made: list[Block] = [Items(tuple(lines))] if lines else [Paragraph((Text("Generic weights only."),))]
    if entry.restored:
        rows = [((Code(site) if site else Text("whole network"),), (Text(family),), (Text(breaker),), (Text(remedy),))
                for site, family, breaker, remedy in entry.restored]
        made += [Paragraph((Text("Edits of the architecture that would restore a family:"),)),
                 Table(("where", "family", "broken by", "edit"), tuple(rows), (0.25, 0.25, 0.2, 0.24))]
    return made


def _sources(entry: Entry) -> Items:
    lines: list[tuple[Piece, ...]] = [(Text(f"{s.text}: {s.where}"),) for s in entry.sources]
    if not any(s.known for s in entry.sources):
        lines.append((Text("Statement of the complete group: new, we found no source."),))
    return Items(tuple(lines))
