"""Formulas as they are set, the printed action against the kernels, and the merging of like layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from symdisc.moves import Index, Move, Through
from symdisc.report import mathml, typeset, unicode
from symdisc.report.action import steps
from symdisc.report.grouping import Place, merge, shorten, spans
from symdisc.report.tex import parse
from symdisc.symmetry import Symmetry
from symdisc.torchside.kernels import run_moves


# --- formulas ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source, expected",
    [
        (r"W \mapsto g W g^{-1}", "W ↦ g W g⁻¹"),
        (r"D_\gamma g^{-\top} D_\gamma^{-1}", "Dᵧ g⁻ᵀ Dᵧ⁻¹"),
        (r"\mathbb{R}_{>0}^{64}", "(ℝ>0)⁶⁴"),
        (r"\mathrm{GL}(8)^{12}", "GL(8)¹²"),
        (r"\sum_{k=1}^{12} \frac{x_k^2}{2}", "∑ₖ₌₁¹² xₖ²/2"),
        (r"\left(\frac{1}{2}\right) \texttt{a\_b.weight}", "½ a_b.weight"),
        (r"\left(\frac{1}{2}\right)^2", "(½)²"),
        (r"\frac{a+b}{c}", "(a + b)/c"),
        (r"a \\ -b", "a\n−b"),
        (r"x^12", "x¹ 2"),
        (r"\dot Q = 0", "Q̇ = 0"),
        (r"\begin{pmatrix} 1 & 0 \\ 0 & c \end{pmatrix}", "[1, 0; 0, c]"),
        (r"\rho = \text{a\_b: $\frac{1}{2}$}", "ρ = a_b: ½"),
    ],
)
def test_formulas_in_unicode(source: str, expected: str) -> None:
    assert unicode.from_latex(source) == expected


@pytest.mark.parametrize("source", [r"a{b", r"a}b", r"\left( a", r"\frac{1}", r"\texttt{a"])
def test_unbalanced_formulas_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"formula|expected"):
        parse(source)


def test_scripts_never_meet() -> None:
    """``x^a^b`` stops LaTeX; in normal form the inner one is in braces."""
    (line,) = typeset.from_latex(r"\texttt{w}_{(0)}^{(b)}^{\top}")
    assert line == r"${\texttt{w}_{(0)}^{(b )}}^{\top }$"


def test_names_in_formulas_are_escaped_once() -> None:
    (line,) = typeset.from_latex(r"\texttt{a\_b\%}")
    assert line == r"\texttt{a\_\allowbreak{}b\%}"  # outside the formula, where a name can break
    assert mathml.from_latex(r"\texttt{a<b}") == '<math><mrow><mtext class="tt">a&lt;b</mtext></mrow></math>'

# --- the action that is printed is the action that is run -------------------------------------------------------------
GAIN, SHIFT, OTHER = (
    np.array(v) for v in ([0.5, 2.0, -1.5], [0.3, -0.2, 0.7], [[0.2, 1.0, -0.4], [0.5, 0.1, 0.9], [1.2, -0.3, 0.6]])
)
THETA = np.array([[0.7, -1.1, 0.4], [0.2, 0.9, -0.6], [1.3, 0.1, 0.5]])
ELEMENT = np.array([[[1.2, 0.3, 0.1], [-0.2, 0.9, 0.4], [0.1, 0.5, 1.4]]])
SCALES = np.array([1.5, 0.7, 2.2])
ORDER = np.array([2, 0, 1])
LEAST = 0.5  # min |gamma|
D, D_, G = np.diag(GAIN), np.diag(1 / GAIN), ELEMENT[0]
P = np.eye(3)[ORDER]
WHOLE, EACH = Index.of(np.arange(3)[None, None, :]), Index.of(np.arange(3)[None, :, None])
T_IN, T_OUT = np.array([[0.4, -0.3, 0.8]]), np.array([[0.4], [-0.3], [0.8]])


def matmul(axis: int, rep: str, gain: bool = False, power: int = 1) -> Move:
    return Move("matmul", "w", axis, WHOLE, rep, gain="gamma" if gain else None, gain_power=power)


# (move, family, array, formula, the same written in numpy)
ACTIONS = [
    (matmul(0, "g"), "gl", ELEMENT, "g θ", G @ THETA),
    (matmul(0, "g^-T"), "gl", ELEMENT, "g⁻ᵀ θ", np.linalg.inv(G).T @ THETA),
    (matmul(1, "g"), "gl", ELEMENT, "θ gᵀ", THETA @ G.T),
    (matmul(1, "g^-T"), "gl", ELEMENT, "θ g⁻¹", THETA @ np.linalg.inv(G)),
    (matmul(0, "g", True, 1), "o", ELEMENT, "Dᵧ g Dᵧ⁻¹ θ", D @ G @ D_ @ THETA),
    (matmul(0, "g", True, -1), "o", ELEMENT, "Dᵧ⁻¹ g Dᵧ θ", D_ @ G @ D @ THETA),
    (matmul(1, "g^-T", True, -1), "o", ELEMENT, "θ Dᵧ g⁻¹ Dᵧ⁻¹", THETA @ D @ np.linalg.inv(G) @ D_),
    (matmul(1, "g^-T", True, 1), "o", ELEMENT, "θ Dᵧ⁻¹ g⁻¹ Dᵧ", THETA @ D_ @ np.linalg.inv(G) @ D),
    (Move("scale", "w", 0, EACH, power=2.0), "scale", SCALES, "D_c² θ", np.diag(SCALES**2) @ THETA),
    (Move("scale", "w", 1, EACH, power=-1.0), "scale", SCALES, "θ D_c⁻¹", THETA @ np.diag(1 / SCALES)),
    (Move("permute", "w", 0, EACH), "permutation", ORDER, "P θ", P @ THETA),
    (Move("permute", "w", 1, EACH), "permutation", ORDER, "θ Pᵀ", THETA @ P.T),
    (Move("outer", "w", 0, WHOLE), "outer", T_IN, "θ + 𝟏 aᵀ", THETA + np.ones((3, 1)) @ T_IN),
    (Move("outer", "w", 1, WHOLE, gain="gamma"), "outer", T_OUT, "θ + a (m/γ)ᵀ", THETA + T_OUT @ (LEAST / GAIN)[None]),
    (
        Move("centred", "w", 1, WHOLE, gain="gamma", extra=("beta",)),
        "translation",
        SHIFT,
        "θ − (θ t (1/γ)ᵀ)/(∑ (β + t)/γ)",
        THETA - np.outer(THETA @ SHIFT, 1 / GAIN) / ((SHIFT + SHIFT) / GAIN).sum(),
    ),
]
BIAS_ACTIONS = [
    (Move("scale", "b", -1, EACH), "scale", SCALES, "cᵤ θᵤ", SCALES * SHIFT),
    (
        Move("affine_scale", "b", -1, EACH, power=2.0, offset=1e-5),
        "scale",
        SCALES,
        "cᵤ² (θ + 10⁻⁵) − 10⁻⁵",
        SCALES**2 * (SHIFT + 1e-5) - 1e-5,
    ),
    (Move("recentre", "b", -1, EACH, extra=("beta",)), "scale", SCALES, "beta + cᵤ (θ − beta)", SHIFT),
    (
        Move("add", "b", 0, WHOLE, power=-1.0, through=(Through("dense", "m", 1, 0, WHOLE),)),
        "translation",
        SHIFT,
        "θ − m t",
        SHIFT - OTHER @ SHIFT,
    ),
    (
        Move("add", "b", 0, WHOLE, through=(Through("gain", "gamma", index=WHOLE), Through("dense", "m", 0, 1, WHOLE))),
        "translation",
        SHIFT,
        "θ + mᵀ diag(gamma) t",
        SHIFT + OTHER.T @ D @ SHIFT,
    ),
    (
        Move("outer_bias", "b", 0, WHOLE, gain="gamma", power=-1.0, extra=("beta",)),
        "outer",
        T_OUT,
        "θ − a ∑ m β/γ",
        SHIFT - T_OUT[:, 0] * (LEAST * SHIFT / GAIN).sum(),
    ),
]


@pytest.mark.parametrize(
    "move, family, array, formula, expected", ACTIONS + BIAS_ACTIONS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_printed_action_is_the_one_that_runs(
    move: Move, family: str, array: np.ndarray, formula: str, expected: np.ndarray
) -> None:
    state = {"w": THETA, "b": SHIFT, "gamma": GAIN, "beta": SHIFT, "m": OTHER}
    record = Symmetry("s", "G", family, "", (move.parameter,), 1, "proved", array.shape, (move,))
    (step,) = steps(record, {name: value.shape for name, value in state.items()})
    assert unicode.from_latex(step.latex) == f"θ ↦ {formula}"
    new = run_moves((move,), array, {name: torch.as_tensor(value) for name, value in state.items()})[move.parameter]
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-12)


def test_parts_of_a_parameter_are_named() -> None:
    rows = Move("matmul", "w", 1, Index.of(np.arange(4, 8).reshape(1, 2, 2)))
    apart = Move("scale", "w", 0, Index.of(np.array([0, 3, 4])[None, :, None]))
    record = Symmetry("s", "G", "gl", "", ("w",), 1, "proved", (2, 2, 2), (rows, apart))
    assert [s.part for s in steps(record, {"w": (9, 12)})] == ["[:, 4:8]", "[3 of 9]"]


# --- merging ----------------------------------------------------------------------------------------------------------
def test_like_layers_merge_with_offsets() -> None:
    groups = merge([Place((f"h.{k}.norm", f"h.{k}.norm.bias", f"h.{k + 1}.fc.bias")) for k in range(5)])
    assert [(g.names, g.count, g.legend) for g in groups] == [
        (("h.n.norm", "h.n.norm.bias", "h.n+1.fc.bias"), 5, "n = 0…4")
    ]
    assert groups[0].spread("h.n.norm") == "h.[0…4].norm"


def test_experts_inside_layers_merge_twice() -> None:
    groups = merge([Place((f"layer.{k}.experts.{e}.up",)) for k in range(3) for e in range(4)])
    assert [(g.count, g.spread(g.names[0])) for g in groups] == [(12, "layer.[0…2].experts.[0…3].up")]


@pytest.mark.parametrize(
    "places",
    [
        [Place(("h.0.w", "h.1.w")), Place(("h.1.w", "h.3.w"))],  # not shifted alike
        [Place(("h.0.w",), 3), Place(("h.1.w",), 4)],  # another group
        [Place(("h.0.w",)), Place(("g.1.w",))],  # another module
        [Place(("h.0.w",)), Place(("h.0.w",))],  # the same layer twice
        [Place(("h0.w",)), Place(("h1.w",))],  # a number that is part of a name
    ],
    ids=["shift", "group", "module", "twice", "name"],
)
def test_false_twins_stay_apart(places: list[Place]) -> None:
    assert [g.count for g in merge(places)] == [1, 1]


def test_words_for_numbers_and_names() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0…2, 5, 7, 8"
    assert shorten("h.n.attn.q.weight", "h.n.attn") == "q.weight"
    assert shorten("h.n.mlp.weight", "h.n.attn") == "…mlp.weight"
    assert shorten("head.weight", "h.n") == "head.weight"
