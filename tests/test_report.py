"""Reports: formulas read off the moves are what the kernels do, and every form is well made."""

from __future__ import annotations

import html.parser
import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from networks import ready
from rich.console import Console
from torch import Tensor, nn

import symdisc
from symdisc import archgraph
from symdisc.catalog import Catalog
from symdisc.certificate import Certificate
from symdisc.errors import BadInput
from symdisc.moves import Index, Move
from symdisc.report import content, figure, latex, markdown, terminal, unicode
from symdisc.report import html as html_report
from symdisc.report.picture import picture
from symdisc.report.tex import Accent, Atom, Fence, Frac, Matrix, Root, Script, Seq, parse
from symdisc.symmetry import Broken, Discrete, Symmetry

NASTY = "block_1.a%b&c#d{e}^f~g\\h<i>|j$k`β中.weight"
FORMS: dict[str, Callable[[Catalog], str]] = {
    "latex": latex.render,
    "markdown": markdown.render,
    "html": html_report.render,
}


class Block(nn.Module):
    """x + down(relu(up(norm(x))))."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, d + 1), nn.Linear(d + 1, d)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Tower(nn.Module):
    """Six like blocks between two maps."""

    def __init__(self, d: int = 4, blocks: int = 6) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, d), nn.Linear(d, 3)
        self.blocks = nn.ModuleList([Block(d) for _ in range(blocks)])
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))


@pytest.fixture(scope="module")
def tower() -> Catalog:
    torch.manual_seed(0)
    return symdisc.discover(Tower().double(), (torch.randn(3, 5, dtype=torch.float64),), solve=False)


def discovered(name: str, solve: bool) -> Catalog:
    model, maker, _ = ready(name)
    return symdisc.discover(model, maker(0), solve=solve)


@pytest.fixture(scope="module")
def small() -> dict[str, Catalog]:
    """Real catalogs with symmetries of every kind; the complete system is solved for the smallest only."""
    solved = {
        "torch_encoder_pre": False,
        "resnet_eval": False,
        "llama_plain": False,
        "masked_relu": True,
        "mlp_relu": True,
    }
    return {name: discovered(name, solve) for name, solve in solved.items()}


@pytest.fixture(scope="module")
def odd(tower: Catalog) -> Catalog:
    """Everything that a name or a note can do to a writer, a remainder without a name, a certificate, a huge group."""
    move = Move("matmul", NASTY, 0, Index.of(np.arange(3)[None, None, :]))
    gl = Symmetry(
        "change & basis_",
        "GL(3)",
        "gl",
        NASTY.removesuffix(".weight"),
        (NASTY,),
        9,
        "proved",
        (1, 3, 3),
        (move,),
        assumptions=("100% of <a_b>",),
        note="{note} \\ ~^",
    )
    flow = Symmetry(
        "remainder without a name",
        "R^4 locally",
        "flow",
        "network",
        (NASTY,),
        4,
        "witnessed",
        (12,),
        formula=r"\dot\theta = P_{T(\theta)}\,v",
    )
    units = Discrete(
        "permutation of units",
        "S_3000",
        "permutation",
        "a_b",
        (NASTY,),
        math.factorial(3000),
        (3000,),
        (Move("permute", NASTY, 0, Index.of(np.arange(3)[None, :, None])),),
        "S_{3000}",
    )
    return Catalog(
        "Net_<1>%",
        (gl, flow),
        (units,),
        (Broken("a_b", "R_{>0}^3", "aten.<x>", "50% & more_"),),
        {NASTY: (3, 4)},
        {},
        {},
        13,
        certificate=Certificate(13, 14, 1e9, 12, note="seed_0 & more"),
        notes=("a|b_c * 100%",),
    )


def unknown(tree: object) -> list[str]:
    """Commands in a tree that our printers do not know."""
    if isinstance(tree, Atom):
        return [tree.tex] if tree.kind == "unknown" else []
    children = {
        Seq: lambda t: t.items,
        Script: lambda t: (t.base, t.sub, t.sup),
        Frac: lambda t: (t.top, t.bottom),
        Root: lambda t: (t.body,),
        Accent: lambda t: (t.body,),
        Fence: lambda t: (t.body,),
        Matrix: lambda t: [c for row in t.rows for c in row],
    }.get(type(tree), lambda t: ())  # type: ignore[no-any-return]
    return [u for child in children(tree) for u in unknown(child)]  # type: ignore[no-untyped-call]


def test_every_formula_of_real_catalogs_is_understood(small: dict[str, Catalog], tower: Catalog) -> None:
    for cat in (*small.values(), tower):
        report = content.build(cat)
        for row in (*report.rows, *report.discrete):
            texts = [row.group, row.element, row.condition, row.formula, *row.quantities]
            texts += [t for a in row.actions for t in (a.latex, a.letters)]
            assert [u for t in texts for u in unknown(parse(t))] == []
    assert unknown(parse(r"a \frobnicate b")) == [r"\frobnicate"]


# --- what is told -----------------------------------------------------------------------------------------------------
def test_rows_hold_the_whole_dimension(small: dict[str, Catalog], tower: Catalog, odd: Catalog) -> None:
    for cat in (*small.values(), tower, odd):
        report = content.build(cat, quantities=False)
        assert sum(r.dimension for r in report.rows if r.counted) == cat.group_dimension
        assert sum(r.count for r in report.rows) == len(cat.symmetries)
        assert math.prod(r.order**r.count for r in report.discrete) == math.prod(d.order for d in cat.discrete)


def test_blocks_are_one_row(tower: Catalog) -> None:
    report = content.build(tower, quantities=False)
    (relu,) = [
        r
        for r in report.rows
        if any("up.weight" in a.parameter for a in r.actions)
        and "down" in str(r.actions)
        and r.where.startswith("blocks.")
        and "scal" in r.name
    ]
    assert (relu.where, relu.count, relu.each, relu.dimension) == ("blocks.[0…5]", 6, 5, 30)
    assert len(report.rows) < len(tower.symmetries) / 2


def test_totals(odd: Catalog, small: dict[str, Catalog]) -> None:
    facts = {f.label: f for f in content.build(odd).facts}
    assert facts["Parameters D"].text == "12"
    assert facts["Discrete group"].text == "order ≈ 4.1·10⁹¹³⁰"
    assert facts["Completeness"].text == "not complete: found 13, fibre dimension 14"
    assert facts["Redundant share"].text == "108.33 % of D"  # an impossible record is not made to look possible
    cat = small["mlp_relu"]
    facts = {f.label: f for f in content.build(cat).facts}
    assert facts["Orbit dimension"].text == str(cat.orbit_dimension)
    complete = cat.replace(certificate=Certificate(5, 5, 1e8, 10, miniature=True))
    facts = {f.label: f for f in content.build(complete).facts}
    assert facts["Completeness"].text == "complete on a miniature: found 5 = fibre dimension 5"


def test_each_quantity_is_told_with_its_symmetry(small: dict[str, Catalog]) -> None:
    cat = small["llama_plain"]
    report = content.build(cat)
    assert sum(r.conserved for r in report.rows) == sum(q.dimension for q in cat.conserved)
    glu = next(r for r in report.rows if "feed" in r.where)
    assert "down.weight" in unicode.from_latex(glu.quantities[0]) and "blocks" not in glu.quantities[0]


def test_remainder_is_numeric_and_witnessed(odd: Catalog) -> None:
    row = content.build(odd).rows[1]
    assert (row.name, row.status, row.dimension) == ("remainder without a name (numeric)", "witnessed", 4)
    for render in FORMS.values():
        assert "remainder without a name (numeric)" in render(odd)


def test_losses_merge_and_keep_their_range() -> None:
    broken = tuple(
        Broken(f"h.{k}", "S_3", "check", f"outputs change by {v}; not claimed")
        for k, v in enumerate(("2.0e+00", "5.8e-01"))
    )
    (loss,) = content.build(Catalog("N", (), (), broken, {"w": (2,)}, {}, {}, None)).losses
    assert (loss.count, loss.where) == (2, "h.[0, 1]")
    assert loss.reason == "outputs change by 5.8e-01 to 2.0e+00; not claimed"


# --- the forms --------------------------------------------------------------------------------------------------------
def faults(document: str) -> list[str]:
    """What a LaTeX run would stop at: braces, environments, dollars, bare special signs, signs outside ASCII."""
    found, body = [], document[document.index(r"\begin{document}") :]
    plain = re.sub(r"\\[\\{}$&%#_^~]", "", body)
    depth = 0
    for c in plain:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            break
    found += ["braces"] if depth else []
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", body):
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            found.append(f"end of {name}")
    found += [f"{name} is open" for name in stack]
    found += [f"dollar in {line}" for line in plain.split("\n") if line.count("$") % 2]
    text = re.sub(r"\$[^$]*\$", "", plain)
    found += [f"{c} in text" for c in "_^#%" if c in text]
    found += [f"{c!r} is not ASCII" for c in sorted(set(body)) if not c.isascii()]
    found += [f"double script {m}" for m in re.findall(r"\}\^\{[^{}]*\}\^|\}_\{[^{}]*\}_", plain)]
    return found


def test_latex_is_sound(small: dict[str, Catalog], tower: Catalog, odd: Catalog) -> None:
    for cat in (*small.values(), tower, odd):
        text = latex.render(cat)
        assert faults(text) == []
        assert text.startswith(r"\documentclass") and text.endswith("\\end{document}\n")
        packages = set(",".join(re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", text)).split(","))
        assert packages <= {"inputenc", "amsmath", "amssymb", "array", "booktabs", "longtable", "geometry"}


@pytest.mark.parametrize(
    "bad, fault",
    [
        ("a_b", "_ in text"),
        ("{", "braces"),
        (r"\begin{tabular}", "end of document"),
        (r"\end{tabular}", "end of tabular"),
        ("cost $5", "dollar"),
        ("β", "not ASCII"),
        (r"${x}^{a}^{b}$", "double script"),
        ("50% of", "% in text"),
    ],
)
def test_the_latex_check_refuses(bad: str, fault: str) -> None:
    assert any(fault in f for f in faults(rf"\begin{{document}} {bad} \end{{document}}"))


class Tags(html.parser.HTMLParser):
    """Open elements, and what is wrong."""

    VOID = frozenset({"meta", "br", "mspace"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.wrong += [f"{k}={v}" for k, v in attributes if k in ("src", "href") or k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")


def test_html_is_sound_and_alone(small: dict[str, Catalog], tower: Catalog, odd: Catalog) -> None:
    for cat in (*small.values(), tower, odd):
        text = html_report.render(cat)
        tags = Tags()
        tags.feed(text)
        assert (tags.wrong, tags.open) == ([], [])
        assert "math" in tags.seen and "script" not in tags.seen and "i" not in tags.seen
        assert "http" not in text
    assert "Net_&lt;1&gt;%" in html_report.render(odd)


def test_markdown_tables_are_even(small: dict[str, Catalog], tower: Catalog, odd: Catalog) -> None:
    for cat in (*small.values(), tower, odd):
        for table in re.findall(r"(?:^\|.*\n)+", markdown.render(cat), flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("form", FORMS)
def test_reports_tell_everything(form: str, small: dict[str, Catalog]) -> None:
    cat = small["torch_encoder_pre"].replace(
        notes=("a word of caution",), broken=(Broken("x", "S_3", "aten.sort", "no rule"),)
    )
    text = FORMS[form](cat)
    for row in content.build(cat).rows:
        assert row.name in text
    for word in (
        "a word of caution",
        "Not symmetries",
        "no rule",
        "proved",
        "Condition solved",
        "Conserved by",
        "Assumes",
    ):
        assert word in text
    assert FORMS[form](cat) == text


@pytest.mark.parametrize("form", FORMS)
def test_a_catalog_read_from_a_file_gives_the_same_report(form: str, tower: Catalog) -> None:
    assert FORMS[form](Catalog.from_json(tower.to_json())) == FORMS[form](tower)


def test_terminal(tower: Catalog) -> None:
    console = Console(width=110, force_terminal=False)
    with console.capture() as captured:
        console.print(terminal.table(tower))
    text = captured.get()
    assert "× 6 layers" in text and "θ D_c⁻¹" in text
    assert re.search(rf"Group dimension\s+{tower.group_dimension}\b", text)
    assert max(map(len, text.splitlines())) <= 110


# --- the figure -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figure_is_reproducible(suffix: str, tower: Catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b"):
        figure.draw(tower, tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second and len(first) > 5000
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_figure_refuses(tower: Catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=r"\.png, \.svg or \.pdf"):
        figure.draw(tower, tmp_path / "a.gif")
    with pytest.raises(BadInput, match="read from a file"):
        figure.draw(Catalog.from_json(tower.to_json()), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_like_blocks_are_folded(tower: Catalog) -> None:
    assert tower.graph is not None
    shown = picture(archgraph.build(tower.graph), tower)
    assert [(v.label, v.count) for v in shown.vertices] == [
        ("x", 1),
        ("layer_norm", 6),
        ("relu", 6),
        ("layer_norm", 1),
        ("output", 1),
    ]
    assert [(e.tail, e.head) for e in shown.edges if e.back] == [(2, 1)]
    assert shown.ranks == (0, 1, 2, 3, 4)


def test_edges_carry_their_own_parameters_only(small: dict[str, Catalog]) -> None:
    """The segment into a residual stream reads all earlier writers; an edge from one of them carries its own."""
    cat = small["torch_encoder_pre"]
    assert cat.graph is not None
    shown = picture(archgraph.build(cat.graph), cat)
    carried: Mapping[tuple[str, str], str] = {
        (shown.vertices[e.tail].label, shown.vertices[e.head].place): e.strands[0].modules for e in shown.edges
    }
    assert carried[("scaled_dot_product_attention", "layers.0.norm2")] == "out_proj"
    assert carried[("x", "layers.0.norm2")] == "enter"
