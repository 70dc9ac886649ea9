"""Commands without a model: derive, laws."""

from __future__ import annotations

import json
from typing import Any

import typer

from symdisc.cli.opened import discovered, opened
from symdisc.cli.terminal import document, out, progress
from symdisc.errors import BadInput

__all__ = ["parse_shape", "register"]

JSON = typer.Option(False, "--json", help="Print one JSON document and nothing else.")


def register(app: typer.Typer) -> None:
    app.command("derive")(derive)
    app.command("laws")(laws)


def derive(formula: str = typer.Argument("", metavar="FORMULA", help='An activation such as "x*tanh(x)", or the name of a rule.'),
           size: int | None = typer.Option(None, "--size", min=1, help="Feature size, for nodes that are not elementwise."),
           everything: bool = typer.Option(False, "--all", help="The matrix of all operators that have a rule, as Markdown."),
           as_json: bool = JSON) -> None:
    """Solve for the pairs (M, N) with f(Mx + m) = N f(x) + n of one nonlinear node."""
    from symdisc.equivariance import equivariance

    if everything == bool(formula):
        raise BadInput('derive takes one FORMULA, such as "x*tanh(x)" or softmax, or --all')
    if everything:
        _matrix(as_json)
        return
    with progress(f"solving {formula}", as_json):
        found = equivariance(formula) if size is None else equivariance(formula, size=size)
    if as_json:
        document({"formula": formula, "dimension": found.dimension, "families": [str(f) for f in found.families],
                  "discrete": [str(d) for d in found.discrete], "status": found.status, "latex": found.latex()})
        return
    console = out()
    console.print(formula, style="bold", markup=False)
    console.print(f"continuous dimension {found.dimension} ({found.status})", markup=False)
    for label, items in (("families", found.families), ("discrete", found.discrete)):
        listed = [f"{getattr(i, 'kind', None) or i}:  {_plain(i.latex)}" for i in items]
        for k, item in enumerate(listed or ["none"]):
            console.print(f"{label if k == 0 else '':<10}{item}", markup=False)


def _matrix(as_json: bool) -> None:
    from symdisc.report import operators

    with progress("solving every operator", as_json):
        text = operators.matrix()
    if as_json:
        document({"markdown": text})
    else:
        typer.echo(text, nl=False)


def _plain(latex: str) -> str:
    """Signs for the terminal; the LaTeX itself where it uses more than these can say."""
    from symdisc.report import unicode

    try:
        return unicode.from_latex(latex)
    except ValueError:
        return latex


def laws(shape: str = typer.Argument(..., metavar="SHAPE",
                                     help="linear:4-3-2, relu:3-4-2:bias, attention:width=4,key=2, JSON, or a SOURCE."),
         seed: int = typer.Option(0, "--seed", min=0, help="Seed of the random point."), as_json: bool = JSON) -> None:
    """Count the independent conservation laws of gradient flow, D - dim Lie."""
    from symdisc.laws import KINDS, count_laws

    parsed = parse_shape(shape, tuple(KINDS))
    subject: Any = discovered(opened(shape, "asis", as_json, values=True), as_json) if parsed is None else parsed
    with progress(f"counting the laws of {shape}", as_json):
        count = count_laws(subject, seed=seed)
    if as_json:
        document({"shape": shape, **count.to_dict()})
    else:
        out().print(f"independent conservation laws of gradient flow on {shape} ({count.parameters} parameters): {count.summary}",
                    markup=False, soft_wrap=True)
        if count.evidence.note:
            out().print(count.evidence.note, markup=False)


def parse_shape(text: str, kinds: tuple[str, ...]) -> dict[str, Any] | None:
    """The dictionary behind ``linear:4-3-2``, ``relu:3-4-2:bias``, ``attention:width=4,key=2`` or JSON; None for a source."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"the shape is not JSON: {error.msg} at character {error.pos}") from error
        return dict(found)
    kind, *parts = text.split(":")
    if kind not in kinds:
        return None
    shape: dict[str, Any] = {"kind": kind}
    for part in (p for piece in parts for p in piece.split(",") if p):
        key, equals, value = part.partition("=")
        if equals:
            shape[key.strip()] = _value(value.strip(), text)
        elif all(p.isdigit() for p in part.split("-")):
            shape["channels" if kind == "conv" else "widths"] = [int(p) for p in part.split("-")]
        else:
            shape[part] = True
    return shape


def _value(text: str, whole: str) -> Any:
    if "-" in text:
        pieces = text.split("-")
        if not all(p.isdigit() for p in pieces):
            raise BadInput(f"{text!r} in the shape {whole!r} is not a list of sizes such as 4-3-2")
        return [int(p) for p in pieces]
    if text.isdigit():
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)
