"""Equivariance: the tables of the design and of Godfrey et al., odd formulas, and false twins that must fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy as sp
import torch
from torch import nn

import symdisc
from symdisc.equivariance import Equivariance, equivariance
from symdisc.equivariance.scalar import _is_relation, pieces_of
from symdisc.equivariance.vector import _is_symmetry, operator
from symdisc.equivariance.zero import is_zero
from symdisc.errors import BadInput, FormulaError, Undecided
from symdisc.formula import parse, variable
from symdisc.rulebook import rulebook

X = variable("x")
REFERENCE = json.loads((Path(__file__).parent / "reference" / "godfrey.json").read_text(encoding="utf-8"))


def spanned(e: Equivariance) -> int:
    """What the names and the remainder add up to: the dimension, always."""
    return sum(f.dimension for f in e.families) + len(e.remainder)


# the table of the design: spec, size, constants, dimension, names of the families
TABLE: list[tuple[str, int, dict[str, Any], int, set[str]]] = [
    ("relu", 3, {}, 3, {"diag: scale -> scale of degree 1"}),
    ("leaky_relu", 3, {}, 3, {"diag: scale -> scale of degree 1"}),
    ("square", 3, {}, 3, {"diag: scale -> scale of degree 2"}),
    ("relu_squared", 3, {}, 3, {"diag: scale -> scale of degree 2"}),
    ("exp", 3, {}, 3, {"diag: translation -> scale of degree 1"}),
    *((name, 3, {}, 0, set()) for name in ("tanh", "sigmoid", "gelu", "silu", "softplus", "sin")),
    ("identity", 3, {}, 12, {"gl(3)", "translations"}),
    ("softmax", 4, {}, 9, {"kernel 1 l^T on x", "translation of x along 1", "output kernel a 1^T"}),
    (
        "layer_norm",
        4,
        {"eps": 0},
        13,
        {"so(1-perp) on x", "kernel 1 l^T on x", "translation of x along 1", "scale of x", "output kernel a 1^T"},
    ),
    (
        "layer_norm",
        4,
        {},
        12,
        {"so(1-perp) on x", "kernel 1 l^T on x", "translation of x along 1", "output kernel a 1^T"},
    ),
    ("rms_norm", 4, {"eps": 0}, 7, {"so(4) on x", "scale of x"}),
    ("rms_norm", 4, {}, 6, {"so(4) on x"}),
    ("radial", 4, {}, 6, {"so(4) on x"}),
    ("swiglu", 3, {}, 3, {"diag: scale of u -> scale of degree 1"}),
    ("reglu", 3, {}, 6, {"diag: scale of g -> scale of degree 1", "diag: scale of u -> scale of degree 1"}),
    ("mul", 3, {}, 6, {"diag: scale of g -> scale of degree 1", "diag: scale of u -> scale of degree 1"}),
    ("attention", 2, {}, 12, {"gl(2) on (q, k)", "gl(2) on v", "translations of k", "translations of v"}),
    ("attention_rotary", 4, {}, 10, {"complex numbers on (q, k)", "gl(2) on v", "translations of v"}),
    (
        "attention_qk_norm",
        3,
        {},
        11,
        {"scale of q", "scale of k", "so(3) on (q, k)", "gl(2) on v", "translations of v"},
    ),
]


@pytest.mark.parametrize("name, size, values, dimension, families", TABLE, ids=[f"{r[0]}-{r[1]}-{r[2]}" for r in TABLE])
def test_design_table(name: str, size: int, values: dict[str, Any], dimension: int, families: set[str]) -> None:
    e = equivariance(name, size, **values)
    assert e.dimension == dimension == spanned(e)
    assert {f.name for f in e.families} == families
    assert e.status == "proved" and e.remainder == ()


@pytest.mark.parametrize("row", REFERENCE["linear"], ids=lambda r: r["activation"])
def test_godfrey_linear(row: dict[str, Any]) -> None:
    e = equivariance(row["formula"])
    assert e.status == "proved" and e.dimension == row["per_unit"]
    if row["continuous"] == "diagonal":
        assert dict(e.pairs[0].entries) == {"c": 1, "b": sp.Rational(row["degree"])}
    signs = [d for d in e.discrete if d.kind == "sign"]
    assert [d.value("b") for d in signs] == ([] if row["sign"] is None else [row["sign"]])


@pytest.mark.parametrize("row", REFERENCE["affine"], ids=lambda r: f"{r['formula']} {r['c']} {r['t']}")
def test_godfrey_affine(row: dict[str, str]) -> None:
    wanted = {k: parse(v) for k, v in row.items() if k != "formula"}
    found = [d for d in equivariance(row["formula"]).discrete if all(d.value(k) == v for k, v in wanted.items())]
    assert len(found) == 1 and found[0].status == "proved"
    assert found[0].needs_linear_path == (wanted["l"] != 0)


# every elementwise activation of torch.nn: continuous dimension per unit, discrete kinds beside permutations
ACTIVATIONS: dict[str, tuple[int, set[str]]] = {
    "ReLU": (1, {"linear path"}),
    "LeakyReLU": (1, {"linear path"}),
    "PReLU": (1, {"linear path"}),
    "RReLU": (1, {"linear path"}),
    "ELU": (0, set()),
    "CELU": (0, set()),
    "SELU": (0, set()),
    "GELU": (0, {"linear path"}),
    "gelu_tanh": (0, {"linear path"}),
    "SiLU": (0, {"linear path"}),
    "Mish": (0, set()),
    "Softplus": (0, {"linear path"}),
    "Softsign": (0, {"sign"}),
    "Softshrink": (0, {"sign"}),
    "Hardshrink": (0, {"sign"}),
    "Tanhshrink": (0, {"sign"}),
    "Threshold": (0, set()),
    "Hardtanh": (0, {"sign"}),
    "ReLU6": (0, {"reflection"}),
    "Hardsigmoid": (0, {"reflection"}),
    "Hardswish": (0, {"linear path"}),
    "LogSigmoid": (0, {"linear path"}),
    "Sigmoid": (0, {"reflection"}),
    "Tanh": (0, {"sign"}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_torch_are_decided(name: str) -> None:
    e = equivariance(name)
    dimension, kinds = ACTIVATIONS[name]
    assert (e.dimension, {d.kind for d in e.discrete} - {"permutation"}) == (dimension, kinds)
    assert e.status == "proved" and all(d.status == "proved" for d in e.discrete)


def test_no_activation_of_torch_is_forgotten() -> None:
    other = {"GLU", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "MultiheadAttention"}
    assert set(torch.nn.modules.activation.__all__) - other <= set(ACTIVATIONS)


# formula -> the relations (c, t, b, s) of one unit
ODD: dict[str, list[tuple[Any, ...]]] = {
    "x*tanh(x)": [],
    "x**3 + x": [],
    "abs(x)**1.5": [(1, 0, "3/2", 0)],
    "Max(x, 0)**2": [(1, 0, 2, 0)],
    "exp(-x**2)": [],
    "log(1 + x**2)": [],
    "sin(x) + x": [],
    "sinh(x)": [],
    "cosh(x)": [],
    "x*abs(x)": [(1, 0, 2, 0)],
    "atan(x)": [],
    "1/x": [(1, 0, -1, 0)],
    "sqrt(x**2 + 1)": [],
    "sign(x)*sqrt(abs(x))": [(1, 0, "1/2", 0)],
    "x**2 + x": [(1, "1/2", 2, "1/2")],
    "x*exp(x)": [],
    "log(abs(x))": [(1, 0, 0, 1)],
    "log(x)": [(1, 0, 0, 1)],
    "sqrt(x)": [(1, 0, "1/2", 0)],
    "2**x": [(0, 1, "log(2)", 0)],
    "exp(2*x) + 3": [(0, 1, 2, -6)],
    "exp(pi*x)": [(0, 1, "pi", 0)],
    "(2*x + 1)**3": [(1, "1/2", 3, 0)],
    "max(2*x - 1, 0)**2": [(1, "-1/2", 2, 0)],
    "(x + pi)**2": [(1, "pi", 2, 0)],
    "exp(x) + exp(2*x)": [],
    "exp(abs(x))": [],
    "max(exp(x), 1)": [],
    "max(x, 0) + x/7": [(1, 0, 1, 0)],
    "sign(x)": [(1, 0, 0, 0)],
    "where(x > 1, x - 1, 0)": [(1, -1, 1, 0)],
    "where(x > 1, x, 0)": [],
    "where(x > 0, x**2, x)": [],
    "where(x > 0, 2*x**3, -x**3)": [(1, 0, 3, 0)],
    "x**4/4": [(1, 0, 4, 0)],
    "max(sin(x), 0)": [],
    "sign(sin(x))": [],
    "asin(x)": [],
    "tan(x)": [],
    "x**0.5 + x": [],
    "log(cosh(x))": [],
    "x + 0.001*x**2": [(1, 500, 2, 500)],
    "x": [(1, 0, 1, 0), (0, 1, 0, 1)],
    "2*x + 1": [(1, 0, 1, -1), (0, 1, 0, 2)],
    "max(x, 0) + min(x, 0)": [(1, 0, 1, 0), (0, 1, 0, 1)],
    "5": [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, -5)],
    "atan(1/x) + atan(x)": [(1, 0, 0, 0)],
    "(x**2 - 1)/(x - 1)": [(1, 0, 1, -1), (0, 1, 0, 1)],
    "exp(-abs(x - 2))": [],
    "abs(x - 2)": [(1, -2, 1, 0)],
}


@pytest.mark.parametrize("text", ODD)
def test_odd_formulas(text: str) -> None:
    e = equivariance(text)
    rows = [tuple(dict(p.entries).get(k, 0) for k in "ctbs") for p in e.pairs]
    assert rows == [tuple(parse(str(v)) for v in row) for row in ODD[text]]
    assert e.status == "proved" and e.dimension == len(rows) == spanned(e) and e.elementwise


@pytest.mark.parametrize(
    "text, dimension",
    [
        ("silu(g)*u", 1),
        ("relu(g)*u", 2),
        ("g*u", 2),
        ("x*y*z", 3),
        ("x/y", 2),
        ("max(x, y)", 2),
        ("x + y", 3),
        ("x + y**2", 2),
        ("exp(x + y)", 2),
        ("tanh(x)*tanh(y)", 0),
        ("relu(g)**2*u", 2),
        ("exp(g)*u", 2),
        ("x + tanh(y)", 1),
    ],
)
def test_several_inputs_per_unit(text: str, dimension: int) -> None:
    e = equivariance(text)
    assert (e.dimension, e.status) == (dimension, "proved") and spanned(e) == dimension


@pytest.mark.parametrize(
    "text",
    [
        "max(x[i], 0)",
        "x[i]**3",
        "exp(x[i])",
        "tanh(x[i])",
        "x[i]/(1 + exp(-x[i]))",
        "2*x[i] + 1",
        "abs(x[i])",
        "x[i]**2 + x[i]",
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_units_do_not_mix(text: str, size: int) -> None:
    """The count by the lemma equals the null space of the full matrices."""
    full = equivariance(f"y[i] = {text}", size)
    assert not full.elementwise and full.status == "proved"
    assert full.dimension == equivariance(text.replace("x[i]", "x"), size).dimension


@pytest.mark.parametrize("text, size", [("gelu(g[i])*u[i]", 2), ("relu(g[i])*u[i]", 2), ("x[i] + z[i]", 3)])
def test_gates_do_not_mix(text: str, size: int) -> None:
    assert equivariance(f"y[i] = {text}", size).dimension == equivariance(text.replace("[i]", ""), size).dimension


@pytest.mark.parametrize("name, sizes", [("softmax", (2, 3, 5)), ("rms_norm", (2, 3, 5)), ("center", (3, 4, 5))])
def test_other_sizes_follow_the_same_names(name: str, sizes: tuple[int, ...]) -> None:
    formula = {
        "softmax": lambda n: 2 * n + 1,
        "rms_norm": lambda n: n * (n - 1) // 2,
        "center": lambda n: (n - 1) ** 2 + 3 * n,
    }[name]
    for n in sizes:
        e = equivariance(name, n)
        assert (e.dimension, e.status, e.remainder) == (formula(n), "proved", ()) and spanned(e) == e.dimension


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: equivariance("__import__('os')"), FormulaError, "unknown function"),
        (lambda: equivariance("floor(x)"), FormulaError, "unknown function"),
        (lambda: equivariance("sofmax", 4), BadInput, "did you mean softmax"),
        (lambda: equivariance("softmax"), BadInput, "size=4"),
        (lambda: equivariance("softmax", 0), BadInput, "positive whole number"),
        (lambda: equivariance("softmax", 40), FormulaError, "smaller size"),
        (lambda: equivariance("layer_norm", 4, epsilon=0), BadInput, "no constant 'epsilon'"),
        (lambda: equivariance("tanh(x)", eps=0), BadInput, "'eps'"),
        (lambda: equivariance("linear", 3), BadInput, "has parameters"),
        (lambda: equivariance(3), BadInput, "int"),  # type: ignore[arg-type]
        (lambda: equivariance(lambda x: x.softmax(-1)), BadInput, "not elementwise"),
        (lambda: equivariance(nn.Dropout()), BadInput, "different results"),
        (lambda: equivariance(lambda x: "text"), BadInput, "one tensor"),
        (lambda: equivariance(lambda x: x.argsort().double(), 4), Undecided, "jumps"),
        (lambda: equivariance("sqrt(-1 - x**2)"), FormulaError, "real values"),
        (lambda: equivariance("sign(x)*y"), Undecided, "jumps"),
        (lambda: equivariance("y*x/abs(x)"), Undecided, "jumps"),
        (lambda: equivariance("y[i] = heaviside(x[i])", 2), Undecided, "jumps"),
        (lambda: equivariance("y[i] = x[i]*sum(j, sign(x[j]))", 3), Undecided, "jumps"),
    ],
)
def test_refusals_are_one_clear_line(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, twin",
    [
        ("max(x, 0)", (1, 0, "1001/1000", 0)),
        ("max(x, 0)", (1, "1/1000", 1, 0)),
        ("exp(x)", (0, 1, "999/1000", 0)),
        ("tanh(x)", (1, 0, 1, 0)),
        ("x**2", (1, 0, -2, 0)),
        ("abs(x)**1.5", (1, 0, 1, 0)),
        ("log(abs(x))", (1, 0, 0, -1)),
        ("x", (1, 0, 1, 1)),
    ],
)
def test_false_relations_are_refused(text: str, twin: tuple[Any, ...]) -> None:
    f = parse(text)
    assert not _is_relation([parse(str(v)) for v in twin], pieces_of(f, [X]), [X])


IDENTITIES = [
    "sin(x)**2 + cos(x)**2 - 1", "sqrt(x**2 + 1)**2 - x**2 - 1", "tanh(x) - 1 + 2/(exp(2*x) + 1)", "exp(x/2)**2 - exp(x)",
    "sqrt(x/(1 + x**2))*sqrt(x/(1 + x**2)) - x/(1 + x**2)", "2**x*2**x - 2**(2*x)", "sqrt(2)*sqrt(3) - sqrt(6)",
    "acos(x) + acos(-x) - pi",
    "(x**2 + 1)**1.5 - (x**2 + 1)*sqrt(x**2 + 1)", "sin(2*x) - 2*sin(x)*cos(x)",
]  # fmt: skip


@pytest.mark.parametrize("text", IDENTITIES)
def test_zero_is_shown_and_its_twin_refused(text: str) -> None:
    expr = parse(text)
    assert is_zero(expr, hard=False)
    assert not is_zero(expr + sp.Rational(1, 10**9)) and not is_zero(expr + X * sp.exp(-X) / 10**9)


def test_false_elements_on_feature_spaces_are_refused() -> None:
    rule = rulebook().get("rms_norm")
    assert rule is not None
    op = operator(rule.indexed, dict(rule.inputs), (), {"i": 3, "j": 3}, dict(rule.symbols))
    turn = {"M[0,1]": 1, "M[1,0]": -1, "N[0,1]": 1, "N[1,0]": -1}
    twins = [{**turn, "M[1,0]": -sp.Rational(999, 1000)}, {**turn, "N[0,1]": -1}, {**turn, "m[0]": 1}]
    rows = [[sp.sympify(d.get(op.layout.entry(i), 0)) for i in range(op.layout.unknowns)] for d in (turn, *twins)]
    assert [_is_symmetry(op, r) for r in rows] == [True, False, False, False]


@pytest.mark.parametrize(
    "text, near",
    [
        ("max(x, 0) + 1e-9*x**2", "max(x, 0)"),
        ("x + 1e-9*sin(x)", "x"),
        ("exp(x) + 1e-9*x", "exp(x)"),
        ("log(1 + exp(20*x))/20", "max(x, 0)"),
        ("abs(x)**1.5 + 1e-12*abs(x)", "abs(x)**1.5"),
    ],
)
def test_nearly_symmetric_formulas_are_not_symmetric(text: str, near: str) -> None:
    """Small terms that floats would lose: the proof is in balls of 330 bits."""
    assert equivariance(near).dimension > 0
    e = equivariance(text)
    assert (e.dimension, e.status) == (0, "proved")


def test_sympy_expressions_and_names_agree() -> None:
    z = sp.Symbol("z")
    for expr in (sp.Max(z, 0), sp.Piecewise((z, z > 0), (0, True)), z * sp.Heaviside(z), (z + sp.Abs(z)) / 2):
        assert equivariance(expr).pairs == equivariance("relu").pairs
    assert symdisc.equivariance("aten.relu.default") == equivariance("relu") == equivariance(" relu ")


@pytest.mark.parametrize(
    "spec, size", [("softmax", 4), ("gelu", None), ("x**2 + x", 3), ("silu(g)*u", None), ("sin", None), ("5", 2)]
)
def test_records_are_plain_data_and_latex(spec: str, size: int | None) -> None:
    e = equivariance(spec, size)
    assert json.loads(json.dumps(e.to_dict()))["dimension"] == e.dimension
    latex = e.latex()
    assert latex.startswith("\\begin{aligned}") and latex.count("{") == latex.count("}") and "_ " not in latex


def test_the_front_door_answers_more_than_once() -> None:
    for _ in range(3):
        assert symdisc.equivariance("relu(x)").dimension == 1
    from symdisc import equivariance as again

    assert again("tanh(x)", size=3).dimension == 0
