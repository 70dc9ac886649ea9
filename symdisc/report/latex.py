"""The catalog as a complete document for a stock LaTeX: amsmath, amssymb, array, booktabs, longtable, geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symdisc.report import typeset
from symdisc.report.content import Fact, Loss, Report, Row, build, number

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["render"]

# Parameters of whole layers stand in one formula: lines are set ragged and may be stretched rather than run over.
LINES = r"""\setlength{\parindent}{0pt}
\setlength{\parskip}{3pt plus 1pt}
\setlength{\emergencystretch}{4em}
\setlength{\tabcolsep}{4pt}
\setlength{\LTleft}{0pt}
\setlength{\LTpre}{2pt}
\setlength{\LTpost}{2pt}
\hbadness=10000
\relpenalty=100
\binoppenalty=200
"""

PREAMBLE = (r"""\documentclass[10pt,a4paper]{article}
\usepackage[utf8]{inputenc}
\usepackage{amsmath,amssymb}
\usepackage{array,booktabs,longtable}
\usepackage[margin=22mm]{geometry}
""" + LINES + r"""\newcolumntype{L}[1]{>{\raggedright\arraybackslash}p{#1}}
\newcommand{\term}[1]{\textbf{#1}\quad}
""")

# What a fragment needs beside packages: defined where the including document has not done so, changed inside a group only.
FRAGMENT = (r"""% include with \input; needs \usepackage{amsmath,amssymb,array,booktabs,longtable}
\begingroup
\makeatletter
\@ifundefined{NC@find@L}{\newcolumntype{L}[1]{>{\raggedright\arraybackslash}p{#1}}}{}
\makeatother
\providecommand{\term}[1]{\textbf{#1}\quad}
""" + LINES)


def render(cat: Catalog, fragment: bool = False) -> str:
    """One document: totals, table, each symmetry, discrete part, what is broken, certificate, notes.

    ``fragment`` leaves out preamble and document environment: text to include in a document that loads the packages.
    """
    report = build(cat)
    blocks = [
        FRAGMENT if fragment else PREAMBLE + r"\begin{document}",
        rf"\section*{{Symmetries of {typeset.escape(report.architecture)}}}",
        _facts(report.facts),
        r"\section*{Continuous symmetries}",
        _table(report.rows),
    ]
    blocks += [_section(k, row) for k, row in enumerate(report.rows, 1)]
    if report.discrete:
        blocks += [r"\section*{Discrete symmetries}", _table(report.discrete)]
        blocks += [_section(k, row) for k, row in enumerate(report.discrete, len(report.rows) + 1)]
    blocks += [*_end(report), r"\par\endgroup" if fragment else r"\end{document}"]
    return "\n\n".join(blocks) + "\n"


def _end(report: Report) -> list[str]:
    blocks = []
    if report.losses:
        blocks += [r"\section*{Not symmetries}", _losses(report.losses)]
    if report.certificate:
        blocks += [r"\section*{Certificate}", _facts(report.certificate)]
    if report.notes:
        items = "\n".join(rf"\item {typeset.escape(note)}" for note in report.notes)
        blocks += [r"\section*{Notes}", rf"\begin{{itemize}}{chr(10)}{items}{chr(10)}\end{{itemize}}"]
    return blocks


def _facts(facts: tuple[Fact, ...]) -> str:
    lines = []
    for fact in facts:
        value = typeset.escape(fact.text)
        if fact.latex:
            value = f"{' '.join(typeset.from_latex(fact.latex))}, {value}"
        lines.append(rf"{typeset.escape(fact.label)} & {value} \\")
    return "\n".join(
        [
            r"\begin{tabular}{@{}>{\bfseries}lL{0.64\textwidth}@{}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _table(rows: tuple[Row, ...]) -> str:
    if not rows:
        return "None found."
    head = r"group & where & dim & formula & status \\"
    lines = [
        r"\begin{longtable}{@{}L{0.13\textwidth}L{0.25\textwidth}rL{0.41\textwidth}l@{}}",
        r"\toprule",
        head,
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        head,
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for row in rows:
        where = rf"{_where(row)}\newline {typeset.escape(row.name)}"
        cells = [
            " ".join(typeset.from_latex(row.group)),
            rf"\footnotesize {where}",
            _dimension(row),
            rf"\footnotesize {_formula(row)}",
            rf"\footnotesize {typeset.escape(row.status)}",
        ]
        lines.append(" & ".join(cells) + r" \\[3pt]")
    return "\n".join([*lines, r"\end{longtable}"])


def _where(row: Row) -> str:
    name = typeset.name(row.where) if "." in row.where or " " not in row.where else typeset.escape(row.where)
    return name + (rf" $\times {row.count}$ layers" if row.count > 1 else "")


def _dimension(row: Row) -> str:
    if row.order != 1:
        return "finite" if row.order else "discrete"
    return typeset.escape(number(row.dimension) if row.counted else f"({number(row.dimension)})")


def _formula(row: Row) -> str:
    lines = []
    for latex, names in row.summary():
        formula = " ".join(typeset.from_latex(latex)) if latex else ""
        lines.append(f"{formula} {typeset.name(names) if latex and names else typeset.escape(names)}".strip())
    return r"\newline ".join(lines)


def _section(k: int, row: Row) -> str:
    legend = f" ({typeset.escape(row.legend)})" if row.legend else ""
    lines = [
        rf"\subsection*{{{k}. {typeset.escape(row.name)}}}",
        rf"\term{{Where}}{_where(row)}{legend}",
        rf"\term{{Group}}{_math(row.group)}, element {_math(row.element)}",
    ]
    if row.order == 1:
        each = f" ({number(row.each)} each)" if row.count > 1 else ""
        lines.append(rf"\term{{Dimension}}{typeset.escape(number(row.dimension) + each + row.uncounted)}")
    if row.condition:
        lines.append(rf"\term{{Condition solved}}{_math(row.condition)}")
    lines.append(rf"\term{{Status}}{typeset.escape(row.status)}")
    lines += [rf"\term{{Assumes}}{typeset.escape(a)}" for a in row.assumptions]
    lines += [rf"\term{{Note}}{typeset.escape(row.note)}"] if row.note else []
    lines.append(_actions(row))
    if row.quantities:
        formulas = [line for q in row.quantities for line in typeset.from_latex(q)]
        lines.append(r"{\raggedright\term{Conserved by gradient flow}" + r"\newline ".join(formulas) + r"\par}")
    return "\n\n".join(lines)


def _actions(row: Row) -> str:
    if not row.actions:
        told = _math(row.formula) if row.formula else "numeric, see the catalog"
        return rf"{{\raggedright\term{{Action}}{told}\par}}"
    lines = [r"\term{Action}", "", r"\begin{longtable}{@{}L{0.48\textwidth}L{0.47\textwidth}@{}}"]
    for a in row.actions:
        times = rf" $\times {a.count}$" if a.count > 1 else ""
        letters = f" with {_math(a.letters)}" if a.letters else ""
        lines.append(rf"\footnotesize {typeset.name(a.parameter)}{times} & \footnotesize {_math(a.latex)}{letters} \\")
    return "\n".join([*lines, r"\end{longtable}"])


def _losses(losses: tuple[Loss, ...]) -> str:
    lines = [
        r"\begin{longtable}{@{}L{0.22\textwidth}L{0.26\textwidth}L{0.16\textwidth}L{0.28\textwidth}@{}}",
        r"\toprule",
        r"what & where & broken by & why \\",
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for b in losses:
        where = typeset.name(b.where) + (rf" $\times {b.count}$" if b.count > 1 else "")
        cells = (typeset.escape(b.family), where, typeset.name(b.breaker), typeset.escape(b.reason))
        lines.append(" & ".join(rf"\footnotesize {c}" for c in cells) + r" \\")
    return "\n".join([*lines, r"\end{longtable}"])


def _math(latex: str) -> str:
    return r"\newline ".join(typeset.from_latex(latex))
