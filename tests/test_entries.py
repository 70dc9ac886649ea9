"""Entries: polynomials are accepted on evidence alone, factors of a family are read in symbolic sizes, false families are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from torch import Tensor, nn

from symdisc.architectures import ARCHITECTURES
from symdisc.architectures.base import Architecture
from symdisc.entries import checked, training
from symdisc.entries.build import derive, structure_at
from symdisc.entries.checked import certificates
from symdisc.entries.design import design
from symdisc.entries.factors import Key, Places, Range, Shape, collect, ends, symbolic
from symdisc.entries.notation import poly
from symdisc.entries.polynomials import evaluate, interpolate, together
from symdisc.entries.shown import floors
from symdisc.entries.slots import Slots
from symdisc.entry import At, Entry, Poly
from symdisc.errors import BadInput
from symdisc.families.naming import describe_affine
from symdisc.moves import Index, Move
from symdisc.symmetry import Discrete, Symmetry
from symdisc.torchside.family import generic, shapes, structure

CENTRE = {"L": 2, "h": 2, "k": 3, "d": 7}
STAR = [CENTRE, *({**CENTRE, s: n + step} for s, n in CENTRE.items() for step in (1, 2)),
        *({"L": 2 + a, "h": 2 + b, "k": 3 + c, "d": 7 + e} for a, b, c, e in
          ((1, 1, 3, 1), (2, 1, 0, 2), (0, 2, 2, 3), (3, 2, 1, 0), (2, 3, 2, 2), (1, 0, 2, 1), (2, 1, 1, 3), (0, 1, 1, 2)))]


# --- polynomials ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["L*h*k**2", "d*(d - 1)/2", "2*L - 1", "L*h", "7", "(h*k - 1)*L"])
def test_a_polynomial_is_found_from_its_values(text: str) -> None:
    wanted = sp.sympify(text, locals={s: sp.Symbol(s, integer=True, positive=True) for s in CENTRE})
    fit = interpolate(STAR, [evaluate(wanted, p) for p in STAR])
    assert fit.polynomial is not None and sp.expand(fit.polynomial - wanted) == 0
    assert fit.held_out >= len(STAR) // 2


@pytest.mark.parametrize("f", [
    lambda p: min(p["d"], p["h"] * p["k"]), lambda p: max(p["k"], p["L"] + 2), lambda p: p["d"] % 2, lambda p: 2 ** p["h"] + p["d"],
    lambda p: p["L"] * p["h"] + (p == STAR[-3])], ids=["min", "max", "parity", "power", "one point off by one"])
def test_what_is_no_polynomial_is_refused(f: Callable[[Mapping[str, int]], int]) -> None:
    assert interpolate(STAR, [f(p) for p in STAR]).polynomial is None


@pytest.mark.parametrize("apart", [("h", "k"), ("L", "h", "k")])
def test_sizes_that_never_change_together_give_no_polynomial(apart: tuple[str, ...]) -> None:
    """Where h and k are never away from the centre at once, h k is as good as 3 h + 2 k - 6."""
    points = [p for p in STAR if not all(p[s] != CENTRE[s] for s in apart)]
    product = [p["L"] * p["h"] * p["k"] for p in points]
    assert interpolate(points, product).polynomial is None
    assert interpolate(points, [p["d"] * p["L"] for p in points]).polynomial is not None, "these two change together"


def test_a_wide_family_changes_its_sizes_together() -> None:
    """GPT-NeoX: the stream h (m + u) stays below two other widths at every point, and all three sizes change."""
    first, *others = design(ARCHITECTURES["gpt-neox"], 2).points
    seen = set().union(*(together(first, p) for p in others))
    assert {frozenset("hmu"), frozenset("Lhm"), frozenset("Lhu"), frozenset("hmf")} <= seen
    stream = interpolate((first, *others), [p["h"] * (p["m"] + p["u"]) for p in (first, *others)]).polynomial
    assert stream is not None and evaluate(stream, {"h": 5, "m": 8, "u": 3}) == 55


def test_a_value_that_is_no_integer_is_an_error() -> None:
    with pytest.raises(ValueError, match="at"):
        evaluate(sp.Symbol("d", integer=True, positive=True) / 2, {"d": 3})


# --- names and groups -----------------------------------------------------------------------------------------------------
def test_numbers_count_layers_only_where_the_sizes_change_them() -> None:
    slots = Slots.of([[f"blocks.{n}.feed.{k}.weight" for n in range(layers) for k in (0, 2)] for layers in (2, 3)], ("i",))
    assert slots.pattern("blocks.1.feed.2.weight") == "blocks.#.feed.2.weight" and slots.letters[0] == "j"
    names, base = slots.relative(("blocks.1", "blocks.1.feed.0.weight", "blocks.2.feed.0.weight", "head"))
    assert names == ("blocks.j", "blocks.j.feed.0.weight", "blocks.j+1.feed.0.weight", "head") and base == (1,)
    assert Slots.fixed(names[2], {"j": 1}) == "blocks.2.feed.0.weight"
    cells = Slots.of([[f"cell.bias_hh_l{n}" for n in range(layers)] for layers in (1, 2)])
    names, base = cells.relative(("cell.bias_hh_l1", "cell.weight_ih_l2", "model_l"))
    assert names == ("cell.bias_hh_l[i]", "cell.weight_ih_l2", "model_l") and base == (1,)
    assert Slots.fixed(names[0], {"i": 1}) == "cell.bias_hh_l1" and cells.pattern("cell.bias_hh_l7") == "cell.bias_hh_l[#]"


@pytest.mark.parametrize("latex, shape", [
    (r"\mathrm{GL}(2)^{4}", Shape(r"\mathrm{GL}(@)", (2,), 4)), (r"\mathbb{R}_{>0}^{12}", Shape(r"\mathbb{R}_{>0}", (), 12)),
    (r"\mathrm{GL}(1,\mathbb{C})^{3}", Shape(r"\mathrm{GL}(@,\mathbb{C})", (1,), 3)), (r"S_{5}", Shape("S_{@}", (5,), 1)),
    (r"\mathbb{R}", Shape(r"\mathbb{R}", (), 1)), (r"(\mathbb{Z}_2)^{6}", Shape(r"\mathbb{Z}_@", (2,), 6))])
def test_integers_of_a_group(latex: str, shape: Shape) -> None:
    assert Shape.of(latex) == shape


def test_layers_that_are_no_row_have_no_range() -> None:
    points = [{"L": n} for n in (2, 3, 4, 5)]
    layers = sp.Symbol("L", integer=True, positive=True)
    assert ends(points, [list(range(0, 2 * p["L"], 2)) for p in points]) == Range(sp.Integer(0), 2 * layers - 2, 2)
    assert ends(points, [[0, 1, 3]] * 4) == Range(None, None)


# --- families -------------------------------------------------------------------------------------------------------------
class Wide(nn.Module):
    """n - f - c perceptron; with ``cut`` the second half of more than ``cut`` hidden units is a tanh."""

    def __init__(self, n: int, f: int, c: int, cut: int = 10**6) -> None:
        super().__init__()
        self.up, self.down, self.cut = nn.Linear(n, f), nn.Linear(f, c), cut

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        first, rest = h[..., : self.cut], h[..., self.cut :]
        return self.down(torch.cat([torch.relu(first), torch.tanh(rest)], -1))


def _family(cut: int = 10**6, symbols: str = "nf") -> Architecture:
    def build(s: Mapping[str, int]) -> tuple[nn.Module, tuple[Any, ...]]:
        n = s.get("n", 3)
        return Wide(n, s["f"], 2, cut).eval(), (torch.randn(3, n),)

    meaning = {"n": "inputs", "f": "hidden units"}
    sizes = tuple({s: z[s] for s in symbols} for z in ({"n": 3, "f": 4}, {"n": 4, "f": 3}, {"n": 3, "f": 5}))
    return Architecture("wide", "Wide", {s: meaning[s] for s in symbols}, build, sizes, ("big", {"n": 50, "f": 30}))


def test_a_family_is_read_in_symbols_and_certified() -> None:
    derived = derive(_family())
    n, f = (sp.Symbol(s, integer=True, positive=True) for s in "nf")
    assert derived.dimension == f and sp.expand(derived.parameters - (n * f + f + 2 * f + 2)) == 0
    assert [(x.base, x.integers, x.copies) for x in derived.factors] == [(r"\mathbb{R}_{>0}", (), f), ("S_{@}", (f,), 1)]
    assert [(x.polynomial, x.orbit, x.fibre) for x in certificates(_family(), derived.dimension)] == [(4,) * 3, (3,) * 3, (5,) * 3]


def test_laws_are_counted_at_the_least_member_at_any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = certificates(_family(), None)
    assert [c.laws for c in found] == [f"{f}, all in closed form" for f in (4, 3, 5)]
    monkeypatch.setattr("symdisc.entries.checked.COUNTED", 0)
    least = min(c.parameters for c in found)
    assert [bool(c.laws) for c in certificates(_family(), None)] == [c.parameters == least for c in found]


def test_where_a_count_would_take_too_long_the_entry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    family = dataclasses.replace(_family(), miniatures=({"n": 3, "f": 4},))
    counted = certificates(family, None)[0].laws
    monkeypatch.setattr(checked, "WORK", 10)
    assert certificates(family, None)[0].laws.endswith("parameters take too long") and not counted.startswith("not counted")


def test_a_family_that_changes_with_its_size_has_no_polynomial() -> None:
    """min(f, 5) relu units: the false twin of the family above is refused, with sizes at which it shows."""
    derived = derive(_family(5, "f"))
    assert derived.dimension is None
    assert any("no polynomial explains it" in x.trouble for x in derived.factors)


def test_more_sizes_are_tried_only_where_they_may_settle_something() -> None:
    """A permutation of 5 or of 15 units differs in one member for good; relu units up to a bound may be a polynomial of higher degree."""
    seen = {f.key.family: f for f in derive(_family(5, "f")).factors}
    assert seen["scale"].trouble and seen["scale"].unsettled
    points = [{"n": n} for n in range(2, 9)]
    both = Places([Discrete("p", f"S_{k}", "permutation", "", ("w",), 1, (k,), (), f"S_{{{k}}}", "proved") for k in (5, 15)], [(0,), (1,)])
    found = symbolic(points, [{Key("p", "permutation", ("w",)): both}] * len(points))[0]
    assert "differ between layers" in found.trouble and not found.unsettled


def _blocks_of(g: int, a: int) -> Any:
    """What a catalog of g groups of a experts holds: the groups are exchanged, and the experts of each group."""
    def exchange(first: int, count: int, size: int) -> Discrete:
        move = Move("permute", "w", 0, Index.of(first + np.arange(count * size).reshape(1, count, size)))
        return Discrete("permutation of blocks", f"S_{count}", "permutation", "", ("w",), 1, (count,), (move,), f"S_{{{count}}}", "proved")

    found = (exchange(0, g, a), *(exchange(k * a, a, 1) for k in range(g)))
    return SimpleNamespace(symmetries=(), discrete=found, parameters={"w": (g * a, 3)}, buffers={})


def test_groups_and_the_members_of_a_group_are_factors_of_their_own() -> None:
    points = [{"g": g, "a": a} for g, a in ((2, 2), (3, 2), (2, 3), (4, 2), (2, 4), (3, 3), (4, 4), (3, 4), (4, 3))]
    g, a = (sp.Symbol(s, integer=True, positive=True) for s in "ga")
    found = symbolic(points, [collect(_blocks_of(**p), Slots()) for p in points])
    assert {(f.key.part, f.integers, f.copies, f.trouble) for f in found} == {(False, (g,), sp.Integer(1), ""), (True, (a,), g, "")}


def test_points_keep_the_order_of_widths_of_the_published_model() -> None:
    plan = design(_family())
    assert all(p["n"] > p["f"] > 2 for p in plan.points) and plan.broken == ()


def test_points_keep_the_order_on_which_miniatures_agree_where_no_model_is_published() -> None:
    """n > f in the first two: at 3 inputs and more hidden units the hidden space would have blind directions."""
    wide = dataclasses.replace(_family(), published=None)
    sizes = tuple({"n": n, "f": 3} for n in (4, 5, 6))
    assert all(p["n"] > p["f"] for p in design(dataclasses.replace(wide, miniatures=sizes)).points)
    assert any(p["n"] <= p["f"] for p in design(dataclasses.replace(wide, miniatures=({"n": 3, "f": 4}, *sizes))).points)


def test_shapes_take_no_memory_unless_a_module_reads_its_buffers() -> None:
    class Large(nn.Module):
        def __init__(self, n: int, reads: bool) -> None:
            super().__init__()
            self.register_buffer("start", torch.full((1,), 3.0))
            self.experts = nn.Parameter(torch.empty(n, n, int(self.start.item()) if reads else 3))

    assert shapes(lambda s: (Large(s["n"], False), ()), {"n": 10**6}) == {"experts": (10**6, 10**6, 3)}
    assert shapes(lambda s: (Large(s["n"], True), ()), {"n": 2}) == {"experts": (2, 2, 3)}


def test_members_that_shrink_to_the_same_graph_are_run_once() -> None:
    tried: dict[str, frozenset[tuple[str, str]]] = {}
    one, two = ({"n": 9, "f": 20}, {"n": 10, "f": 30})
    assert [structure_at(_family(), p, tried).group_dimension for p in (one, two)] == [20, 30] and len(tried) == 1
    alone = structure_at(_family(), one)
    refused = structure_at(_family(), two, {k: frozenset((s.site, s.name) for s in alone.symmetries) for k in tried})
    assert refused.group_dimension == 0 and any(b.breaker == "check" for b in refused.broken), "what the run refused is not claimed"
    assert structure_at(_family(15), two, tried).group_dimension == 15 and len(tried) == 2, "half of the units are a tanh: another graph"


class Patched(nn.Module):
    """A vector of d entries that only c p^2 rows read: the shape of a diffusion transformer's last layers."""

    def __init__(self, d: int, c: int, p: int) -> None:
        super().__init__()
        self.into, self.up, self.out = nn.Linear(3, d), nn.Linear(d, d), nn.Linear(d, c * p * p, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(x)) + self.up(torch.tanh(self.into(x))))


def _patched(published: Mapping[str, int]) -> Architecture:
    def build(s: Mapping[str, int]) -> tuple[nn.Module, tuple[Tensor]]:
        return Patched(s["d"], s["c"], s["p"]).eval(), (torch.randn(4, 3),)

    small = ({"d": 4, "c": 2, "p": 1}, {"d": 5, "c": 2, "p": 1}, {"d": 5, "c": 3, "p": 2})
    return Architecture("patched", "Patched", {"d": "width", "c": "channels", "p": "side"}, build, small, ("the real one", published))


def test_a_width_above_a_product_of_sizes_is_held_at_every_point() -> None:
    """All sizes of the box occur though most of its points would have more readers than the vector is wide."""
    plan = design(_patched({"d": 100, "c": 2, "p": 4}), 2)
    assert all(p["d"] > p["c"] * p["p"] ** 2 for p in plan.points) and plan.broken == ()
    assert all(len({p[s] for p in plan.points}) == 4 for s in ("c", "p"))


def _never_read(sides: tuple[int, int]) -> Symmetry:
    move = Move("blind", "up.weight", 0, Index.of(np.arange(sides[0])[None, None, :]))
    return describe_affine("direction that is never read", "outer", sides[0] * sides[1], sides, (move,), ("up.weight",), ["up"], "", "")


@pytest.mark.parametrize("wrong, wanted", [(0, "d*(d - c*p**2)"), (1, None)])
def test_matrices_that_leave_out_a_product_have_a_polynomial_side_by_side(wrong: int, wanted: str | None) -> None:
    """d - c p^2 times d, of total degree 4 in three sizes, from a few points; not if one point has one direction more."""
    points = design(_patched({"d": 100, "c": 2, "p": 4}), 2).points
    sides = [(p["d"], p["d"] - p["c"] * p["p"] ** 2 + wrong * (k == 5)) for k, p in enumerate(points)]
    members = [collect(SimpleNamespace(symmetries=(_never_read(s),), discrete=()), Slots()) for s in sides]  # type: ignore[arg-type]
    (factor,) = symbolic(points, members)
    names = {n: sp.Symbol(n, integer=True, positive=True) for n in "dcp"}
    assert factor.dimension == (None if wanted is None else sp.expand(sp.sympify(wanted, locals=names)))
    assert bool(factor.trouble) == (wanted is None)


def test_members_without_values_and_with() -> None:
    architecture = _family()
    captured, name = structure(architecture.build, {"n": 3, "f": 4})
    assert name == "Wide" and all(t.is_meta for t in captured.parameters.values())
    assert shapes(architecture.build, {"n": 3, "f": 4})["up.weight"] == (4, 3)
    one, two = (generic(architecture.build, {"n": 3, "f": 4}, seed)[0] for seed in (0, 1))
    assert one.up.weight.dtype == torch.float64 and not torch.equal(one.up.weight, two.up.weight)
    assert not nn.Linear(2, 2).weight.is_meta, "registration of parameters is as before"


# --- records --------------------------------------------------------------------------------------------------------------
def test_an_entry_is_read_back_equal_and_damage_is_refused() -> None:
    entry = Entry("a", "A", {"d": "width"}, Poly("d", "d"), None, 5, 2, (), (), At("big", {"d": 9}, 9, None, None), (), (),
                  (("x", "y", "z", "w"),), (), ("generic",), (), ("note",))
    text = entry.to_json()
    assert Entry.from_json(text) == entry and dataclasses.replace(entry, points=6) != entry
    record = json.loads(text)
    for key, value, said in (("schema", 1, "schema"), ("points", ..., "damaged"), ("more", 1, "damaged")):
        bad = {k: v for k, v in {**record, key: value}.items() if v is not ...}
        with pytest.raises(BadInput, match=said):
            Entry.from_json(json.dumps(bad))
    with pytest.raises(BadInput, match="not JSON"):
        Entry.from_json("catalog")


# --- published facts ------------------------------------------------------------------------------------------------------
HERE = Path(__file__).resolve().parent
REFERENCE = json.loads((HERE / "reference" / "dimensions.json").read_text(encoding="utf-8"))


def _kept(name: str) -> Entry:
    return Entry.from_json((HERE.parent / "catalog" / name / "record.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", REFERENCE["factors"], ids=lambda r: f"{r['entry']} {r['dimension']}")
def test_published_factors_are_in_the_catalog(row: dict[str, str]) -> None:
    entry = _kept(row["entry"])
    found = {(f.name, f.group): f.dimension for f in entry.factors}
    dimension = found[row["what"], row["group"]]
    assert dimension is not None and sp.expand(sp.sympify(dimension.text) - sp.sympify(row["dimension"])) == 0


@pytest.mark.parametrize("row", REFERENCE["none"], ids=lambda r: r["entry"])
def test_networks_with_no_continuous_symmetry(row: dict[str, str]) -> None:
    entry = _kept(row["entry"])
    assert entry.dimension == Poly("0", "0") and all(f.discrete for f in entry.factors)


@pytest.mark.parametrize("row", REFERENCE["discrete"], ids=lambda r: f"{r['entry']} {r['what']}")
def test_published_discrete_factors(row: dict[str, str]) -> None:
    assert (row["what"], row["group"]) in {(f.name, f.group) for f in _kept(row["entry"]).factors}


@pytest.mark.parametrize("row", REFERENCE["certificates"], ids=lambda r: r["entry"])
def test_dimensions_known_from_elsewhere(row: dict[str, Any]) -> None:
    dimension = _kept(row["entry"]).dimension
    assert dimension is not None and sp.sympify(dimension.text).subs(row["sizes"]) == row["dimension"]


def _blocks(sizes: list[int], numbers: Callable[[int], int]) -> object:
    """What the record says of a matrix group met with blocks of these sizes, two of them in each network."""
    factors = [Symmetry("change of basis", "GL", "gl", "", ("w",), 2 * n * n, "proved", (2, n, n), ()) for n in sizes]
    quantity = SimpleNamespace(part="all", count=lambda _, s: 2 * numbers(s.shape[1]))
    return training._of_matrices(quantity, [{"n": n} for n in sizes], [SimpleNamespace(found=(s,)) for s in factors])


def test_numbers_of_blocks_are_told_only_where_the_sizes_decide_them() -> None:
    """With blocks of 1 and 2, n - 1 and n (n - 1) / 2 are the same numbers."""
    assert _blocks([1, 2, 3, 4], lambda n: n * (n - 1) // 2) == poly(sp.expand(sp.Symbol("n") * (sp.Symbol("n") - 1)))
    assert _blocks([1, 2, 1, 2], lambda n: n * (n - 1) // 2) is None
    assert _blocks([1, 2, 3, 4], lambda n: n**3) is None


@pytest.mark.parametrize("formula, said", [(r"\gamma \mu / \sqrt{v + 0.05}", r"\gamma \mu / \sqrt{v + \epsilon}"),
                                           (r"c^{2}\, (\theta + 0.05) - 0.05", r"c^{2}\, (\theta + \epsilon) - \epsilon"),
                                           ("0.055 10.05 0.5", "0.055 10.05 0.5")])
def test_the_large_eps_of_members_is_not_told_as_that_of_the_architecture(formula: str, said: str) -> None:
    assert floors(formula) == said
