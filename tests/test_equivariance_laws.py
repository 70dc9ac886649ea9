"""Laws of equivariance: composing with affine maps, and inverting, turn the algebra into an isomorphic one."""

from __future__ import annotations

from typing import Any

import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from symdisc.equivariance import equivariance
from symdisc.formula import parse, variable

X = variable("x")
BASES = [
    "max(x, 0)",
    "tanh(x)",
    "exp(x)",
    "x**2",
    "abs(x)**1.5",
    "gelu(x)",
    "x*abs(x)",
    "sin(x)",
    "clamp(x, 0, 6)",
    "1/x",
    "log(x)",
]
rationals = st.fractions(min_value=-4, max_value=4, max_denominator=9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=st.sampled_from(BASES), a=rationals, b=rationals, c=rationals, d=rationals)
def test_affine_changes_of_a_function_keep_its_dimension(text: str, a: Any, b: Any, c: Any, d: Any) -> None:
    """a f(b x + c) + d has the algebra of f, conjugated, and as many discrete elements with no linear path."""
    assume(a != 0 and b != 0)
    a, b, c, d = (sp.Rational(v.numerator, v.denominator) for v in (a, b, c, d))
    before, after = equivariance(text), equivariance(a * parse(text).subs(X, b * X + c) + d)
    assert (after.dimension, after.status) == (before.dimension, "proved")
    assert len([e for e in after.discrete if e.kind != "linear path"]) == len(
        [e for e in before.discrete if e.kind != "linear path"]
    )


@pytest.mark.parametrize("text, inverse", [
    ("exp(x)", "log(x)"), ("sinh(x)", "asinh(x)"), ("tan(x)", "atan(x)"), ("x**3", "sign(x)*abs(x)**(1/3)"),
    ("x*abs(x)", "sign(x)*sqrt(abs(x))"), ("max(x, 0) + 0.1*min(x, 0)", "max(x, 0) + 10*min(x, 0)"), ("1/x", "1/x"),
    ("tanh(x)", "atanh(x)"), ("3*x - 2", "x/3 + 2/3"),
])  # fmt: skip
def test_an_inverse_has_the_algebra_turned_around(text: str, inverse: str) -> None:
    """(c, t; b, s) of f is (b, s; c, t) of its inverse."""
    forwards, backwards = equivariance(text), equivariance(inverse)
    turned = [[dict(p.entries).get(k, 0) for k in "bsct"] for p in backwards.pairs]
    straight = [[dict(p.entries).get(k, 0) for k in "ctbs"] for p in forwards.pairs]
    both = sp.Matrix([*turned, *straight]) if straight else sp.zeros(1, 4)
    assert forwards.dimension == backwards.dimension == both.rank()


# formulas with borders that have no closed form, too many of them, or values beyond any float
HARD = {
    "exp(exp(exp(x)))": 0, "exp(exp(exp(exp(x))))": 0, "where(sin(x) > 0, x, -x)": 0, "abs(x**5 - x - 1)": 0,
    "sign(x**5 - x - 1)": 1, "1/(x**5 - x - 1)": 0, "max(x*exp(x) - 1, sin(x))": 0, "x*sin(1/x)": 0,
    "x/abs(x)": 1, "abs(x)**pi": 1, "(x + 1)**64": 1, "exp(3*log(abs(x)))": 1, "asin(sin(x))": 0, "(1 + x)/(1 - x)": 1,
    "max(x, 0) + max(x - 1000, 0)": 0, "atan(1000*x)": 0, "x + 1e-12*x**3": 0, "tanh(x/2) - 2*sigmoid(x)": 3, "ReLU(x)**2": 1,
    "acosh(x)": 0, "log(1 + exp(x)) - log(1 + exp(-x))": 2, "gelu(gelu(x))": 0, "where(x > 50, x + 1, x)": 0,
}  # fmt: skip


@pytest.mark.parametrize("text", HARD)
def test_hard_formulas_are_proved(text: str) -> None:
    e = equivariance(text)
    assert (e.dimension, e.status) == (HARD[text], "proved")
