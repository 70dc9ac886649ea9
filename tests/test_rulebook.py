"""Rules: read and refused; every formula agrees with its torch operator (the oracle)."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from symdisc.errors import RuleError
from symdisc.rulebook import FILES, Rule, read, rulebook

BOOK = rulebook()
SDPA = F.scaled_dot_product_attention


def rotary(x: Tensor) -> Tensor:
    """The oracle of rotary embeddings for [token, half, pair], written with complex numbers."""
    tokens, _, pairs = x.shape
    angle = torch.arange(tokens, dtype=x.dtype)[:, None] / 3.0 ** torch.arange(pairs, dtype=x.dtype)
    turned = torch.complex(x[:, 0], x[:, 1]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True) * x.shape[-1] ** 0.5


# What torch says, with the constants that the rows carry. Inputs in the order of the rule, then its parameters.
ORACLE: dict[str, Callable[..., Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25]).double()),
    "rrelu": F.rrelu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 20),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "square": torch.square,
    "relu_squared": lambda x: F.relu(x) ** 2,
    "rbf": lambda x: torch.exp(torch.distributions.Normal(0.0, 1.0).log_prob(x)),
    "pow": lambda x: torch.pow(x, 3),
    "snake": lambda x: x + torch.sin(x) ** 2,
    **{
        n: getattr(torch, n)
        for n in (
            "sin",
            "cos",
            "tan",
            "sinh",
            "cosh",
            "asinh",
            "atan",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log1p",
            "sqrt",
            "rsqrt",
            "reciprocal",
            "abs",
            "neg",
            "erf",
            "sign",
            "maximum",
            "minimum",
        )
    },
    "mul": torch.mul,
    "glu": lambda g, u: F.glu(torch.cat([u, g], -1)),
    "swiglu": lambda g, u: F.silu(g) * u,
    "geglu": lambda g, u: F.gelu(g) * u,
    "reglu": lambda g, u: F.relu(g) * u,
    "tanh_gate": lambda g, u: torch.tanh(g) * u,
    "div": torch.div,
    "add": torch.add,
    "sub": torch.sub,
    "linear": F.linear,
    "bilinear": F.bilinear,
    "conv1d": lambda x, w, b: F.conv1d(x[None], w, b)[0],
    "depthwise_conv1d": lambda x, w, b: F.conv1d(x[None], w[:, None], b, groups=len(x))[0],
    "gain": lambda x, g, b: g * x + b,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "softmin": lambda x: F.softmin(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape),
    "rms_norm": lambda x: F.rms_norm(x, x.shape, eps=1e-5),
    "unit_norm": lambda x: F.normalize(x, dim=-1),
    "center": lambda x: x - x.mean(),
    "radial": lambda x: x * torch.exp(-(x.norm() ** 2)),
    "squash": lambda x: x.norm() ** 2 / (1 + x.norm() ** 2) * x / x.norm(),
    "logsumexp": lambda x: x.logsumexp(-1)[None],
    "attention": SDPA,
    "linear_attention": lambda q, k, v: (q @ k.T) @ v,
    "attention_rotary": lambda q, k, v: SDPA(rotary(q), rotary(k), v, scale=1.0),
    "attention_qk_norm": lambda q, k, v: SDPA(unit(q), unit(k), v, scale=1.0),
    "mean_pool": lambda x: x.mean(-1, keepdim=True),
    "max_pool": lambda x: F.adaptive_max_pool1d(x[None], 1)[0],
    "node_product": lambda x, z: (x @ z)[None],
}
POSITIVE = {"log", "log1p", "sqrt", "rsqrt"}  # operators with a half-line for domain


def test_every_rule_has_an_oracle() -> None:
    assert set(ORACLE) == set(BOOK.names)


@pytest.mark.parametrize("rule", [r for r in BOOK if r.elementwise], ids=lambda r: r.name)
def test_elementwise_formula_is_the_operator(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    inputs = [np.abs(v) if rule.name in POSITIVE else v for v in 4 * rng.standard_normal((len(rule.variables), 200))]
    f = sp.lambdify([sp.Symbol(v, real=True) for v in rule.variables], rule.expression(), ["scipy", "numpy"])
    with np.errstate(all="ignore"):
        said = np.broadcast_to(f(*inputs), 200)
    is_ = ORACLE[rule.name](*(torch.tensor(v) for v in inputs)).numpy()
    assert np.allclose(said, is_, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", [r for r in BOOK if not r.elementwise], ids=lambda r: r.name)
def test_indexed_formula_is_the_operator(rule: Rule) -> None:
    rng, size = np.random.default_rng(1), 4
    axes = {a for _, names in (*rule.inputs, *rule.params) for a in names} | rule.indexed.indices
    sizes = {a: rule.size_of(a, size) for a in axes} | ({"o": 3} if rule.params else {})
    arrays = {n: rng.standard_normal([sizes[a] for a in names]) for n, names in (*rule.inputs, *rule.params)}
    tables = {n: {at: sp.Float(v[at]) for at in itertools.product(*map(range, v.shape))} for n, v in arrays.items()}
    entries = rule.indexed.expand(sizes, tables, dict(rule.symbols))
    said = np.array([float(v) for _, v in sorted(entries.items())])
    is_ = ORACLE[rule.name](*(torch.tensor(v) for v in arrays.values())).numpy()
    assert np.allclose(said, is_.reshape(-1), rtol=1e-9, atol=1e-9)


def test_every_elementwise_activation_of_torch_has_a_rule() -> None:
    other = {"GLU", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "MultiheadAttention"}  # these mix entries
    listed = set(torch.nn.modules.activation.__all__) - other
    assert {n for n in listed if BOOK.get(n) is None} == set()
    assert all(BOOK.get(n).elementwise for n in listed)  # type: ignore[union-attr]


def test_torch_names_exist() -> None:
    for rule in BOOK:
        for name in rule.torch:
            _, packet, overload = name.split(".")
            assert hasattr(getattr(torch.ops.aten, packet), overload), name


def test_a_wrong_formula_is_caught_by_the_oracle(tmp_path: Path) -> None:
    rule = next(iter(read([_file(tmp_path, 'name = "relu"\ntorch = []\nformula = "max(x, 0.001)"\ncites = []')])))
    f = sp.lambdify(sp.Symbol("x", real=True), rule.expression(), "numpy")
    assert not np.allclose(f(np.linspace(-1, 1, 9)), F.relu(torch.linspace(-1, 1, 9)).numpy(), atol=1e-7)


def _file(folder: Path, *rows: str) -> Path:
    path = folder / "odd.toml"
    path.write_text("".join(f"[[operator]]\n{row}\n" for row in rows), encoding="utf-8")
    return path


GOOD = 'name = "a"\ntorch = ["aten.a.default"]\nformula = "x**2"\ncites = []'
REFUSED = {
    "unknown key": ([GOOD + "\ngroup = 'gl'"], ("row 1 (a)", "key group", "unknown")),
    "missing key": (['name = "a"\ntorch = []\nformula = "x"'], ("key cites", "missing")),
    "duplicate torch name": ([GOOD, GOOD.replace('"a"', '"b"')], ("row 2 (b)", "aten.a.default", "row 1 (a)")),
    "duplicate name": ([GOOD, GOOD.replace("aten.a", "aten.b")], ("row 2 (a)", "'a' already")),
    "undeclared symbol": (
        ['name = "n"\ntorch = []\ninputs = {x = ["i"]}\nformula = "y[i] = x[i]*w"\ncites = []'],
        ("key formula", "'w' is not declared"),
    ),
    "undeclared input": (
        ['name = "n"\ntorch = []\ninputs = {x = []}\nformula = "x*w"\ncites = []'],
        ("'w' is not declared",),
    ),
    "unused symbol": ([GOOD + "\nsymbols = {alpha = '1'}"], ("'alpha' is declared but not used",)),
    "code": (
        ['name = "a"\ntorch = []\nformula = "__import__(\'os\')"\ncites = []'],
        ("key formula", "unknown function"),
    ),
    "wrong type": (['name = "a"\ntorch = "aten.a"\nformula = "x"\ncites = []'], ("key torch", "must be a list")),
    "wrong size": ([GOOD + '\nsizes = {d = "n"}'], ("key sizes", "d is")),
    "wrong constant": (
        ['name = "a"\ntorch = []\nformula = "a*x"\ncites = []\nsymbols = {a = "1/0"}'],
        ("key symbols", "zero"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_is_not_read(case: str, tmp_path: Path) -> None:
    rows, words = REFUSED[case]
    with pytest.raises(RuleError) as caught:
        read([_file(tmp_path, *rows)])
    assert "odd.toml" in str(caught.value) and all(w in str(caught.value) for w in words)


def test_refuses_other_tables_and_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    for text in ("[[flow]]\nname = 'x'\n", "not toml"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RuleError, match=r"odd\.toml"):
            read([path])
    with pytest.raises(RuleError, match="cannot be read"):
        read([tmp_path / "absent.toml"])


def test_a_missing_folder_names_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    import symdisc.rulebook as module

    monkeypatch.setattr(module, "FILES", ("absent.toml",))
    with pytest.raises(RuleError, match=r"neither in .*rules nor in .*rules"):
        module._folder()


def test_rules_are_read_lazily_and_without_torch() -> None:
    code = (
        "import sys, symdisc.rulebook as r; assert r.rulebook.cache_info().currsize == 0; r.rulebook(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


def test_files_stay_short_and_name_no_group() -> None:
    folder = Path(__file__).parents[1] / "rules"
    for name in FILES:
        text = (folder / name).read_text(encoding="utf-8")
        lines = text.replace('"aten.group_norm.default"', "").splitlines()  # torch's own word for parts of the channels
        assert len(lines) < 200
        assert not any(word in line for line in lines for word in ("group", "gl(", "so(", "symmetr"))
