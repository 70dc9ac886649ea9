"""Legal models of unusual make: each gets an answer or an error of one line, and what cuts derivatives off hides nothing."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symdisc
from symdisc.errors import BadInput, CaptureError


class Of(nn.Module):
    """A function of named layers, parameters and buffers, and of the inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *x: Tensor) -> Any:
        return self.function(self, *x)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(normal(*shape))


def two_layers(between: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Of(lambda m, x: m.b(between(m.a(x)).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 2))


@torch.no_grad()
def untrained(x: Tensor) -> Tensor:
    return x.relu()


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


X, PAIRS = normal(4, 3), torch.complex64
ANSWERS = {
    "no parameters": (nn.Identity(), (X,), 0),
    "one number": (Of(lambda m, x: m.a * x, a=weight()), (X,), 0),
    "one number that nothing reads": (Of(lambda m, x: x + 1, a=weight()), (X,), 1),
    "a number among the outputs": (Of(lambda m, x: (m.a(x), 3.0), a=nn.Linear(3, 2)), (X,), 0),
    "complex buffer": (Of(lambda m, x: (x.to(PAIRS) @ m.c).abs() @ m.w, c=normal(3, 4, dtype=PAIRS), w=weight(4, 2)), (X,), 0),
    "complex from pairs": (Of(lambda m, x: torch.view_as_real(x.to(PAIRS) @ torch.view_as_complex(m.w)), w=weight(3, 2, 2)), (X,), 0),
    "no inputs": (Of(lambda m: m.a.tanh() @ m.b, a=weight(2, 3), b=weight(3, 2)), (), 8),
    "a derivative cut off": (two_layers(Tensor.detach), (X,), 4),
    "a part without gradients": (two_layers(untrained), (X,), 4),
    "as usual": (two_layers(lambda x: x), (X,), 4),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_unusual_model_has_an_answer(name: str) -> None:
    model, inputs, dimension = ANSWERS[name]
    catalog = symdisc.discover(model, inputs)
    g = catalog.sample(seed=1, scale=0.3)
    assert catalog.orbit_dimension == dimension, [s.name for s in catalog.symmetries]
    assert catalog.verify(model, g).passed and not catalog.notes
    certificate = symdisc.certify(catalog)
    assert certificate.found == certificate.fibre == dimension


REFUSED = {
    "integers only": (Of(lambda m, x: m.a(x).argmax(-1), a=nn.Linear(3, 2)), (X,), BadInput, "no floating-point tensor"),
    "nothing given back": (Of(lambda m, x: None, a=nn.Linear(3, 2)), (X,), BadInput, "no floating-point tensor"),
    "rows chosen by the data": (Of(lambda m, x: m.a(x)[x[:, 0] > 0], a=nn.Linear(3, 2)), (X,), CaptureError, "depends on the data"),
    "sparse buffer": (Of(lambda m, x: m.s @ m.a(x), s=torch.eye(4).to_sparse(), a=nn.Linear(3, 2)), (X,), CaptureError, "s is sparse"),
    "no shapes yet": (nn.Sequential(nn.LazyLinear(4), nn.ReLU()), (X,), BadInput, "0.weight has no shape yet"),
    "wrapped": (nn.DataParallel(nn.Linear(3, 2)), (X,), BadInput, "model.module"),
    "complex parameters": (Of(lambda m, x: (x + 0j) @ m.w, w=nn.Parameter(normal(3, 2, dtype=PAIRS))), (X,), BadInput, "w is complex"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_answer_is_refused_in_one_line(name: str) -> None:
    model, inputs, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said) as error:
        symdisc.discover(model, inputs)
    assert "\n" not in str(error.value)


def test_a_model_that_writes_on_its_inputs_is_verified_all_the_same() -> None:
    writes = Of(lambda m, x: m.b(m.a(x.mul_(2.0)).relu()), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    catalog = symdisc.discover(writes, (X.clone(),))
    assert catalog.verify(writes, catalog.sample(seed=1, scale=0.3)).passed


@pytest.mark.parametrize("act, train, group, dimension", [
    (nn.ReLU(), True, "scale", 4), (nn.Identity(), True, "scale", 4), (nn.Tanh(), True, "", 0),
    (nn.ReLU(), False, "scale", 4), (nn.Identity(), False, "gl", 18),
])
def test_units_dropped_at_random_keep_their_scales_only(act: nn.Module, train: bool, group: str, dimension: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Dropout(0.5), nn.Linear(4, 2)).train(train)
    catalog = symdisc.discover(model, (X,))
    assert catalog.orbit_dimension == dimension == symdisc.certify(catalog).fibre
    assert not group or catalog.symmetries[0].family == group
    witness = catalog.verify(model, catalog.sample(seed=1, scale=0.3))
    assert witness.passed and (witness.weights_changed > 0.01 or not group)


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"scale_grad_by_freq": True}, {"sparse": True}], ids=str)
def test_what_an_embedding_keeps_from_training_is_read_all_the_same(options: dict[str, Any]) -> None:
    """The padding row gets no gradient, so autograd takes it for a row that nothing reads."""
    torch.manual_seed(0)
    model = Of(lambda m, t: m.b(nn.functional.gelu(m.a(t).sum(1))), a=nn.Embedding(5, 3, **options), b=nn.Linear(3, 2)).double()
    with torch.no_grad():
        model.a.weight.normal_()
    catalog = symdisc.discover(model, (torch.randint(0, 5, (8, 3)),))
    certificate = symdisc.certify(catalog)
    assert catalog.orbit_dimension == certificate.found == certificate.fibre == 0 and not catalog.notes


def test_a_path_from_float32_weights_keeps_a_float64_function() -> None:
    """The end of a path is not rounded to the dtype it was followed for, and its inverse leads back in both."""
    def turned(m: Of, x: Tensor) -> Tensor:
        re, im = (x[:, :2] @ m.r - x[:, 2:] @ m.i), (x[:, :2] @ m.i + x[:, 2:] @ m.r)
        size = (re * re + im * im + 0.1).sqrt()
        return torch.cat((re, im), -1) * ((size + m.c).tanh() / size).repeat(1, 2) @ m.b

    model = Of(turned, r=weight(2, 3), i=nn.Parameter(normal(3, 2).T.contiguous()), c=weight(3), b=weight(6, 2))
    catalog = symdisc.discover(model, (normal(4, 4),))
    assert [(s.family, s.dimension) for s in catalog.symmetries] == [("flow", 3)]  # a phase for each unit
    g, x = catalog.sample(seed=1, scale=0.3), normal(8, 4, dtype=torch.float64)
    narrow = dict(model.state_dict())
    wide = {n: t.double() for n, t in narrow.items()}
    before, after = (torch.func.functional_call(copy.deepcopy(model).double(), s, (x,)) for s in (wide, catalog.apply(wide, g)))
    assert (after - before).abs().max() < 1e-13
    for state in (wide, narrow):
        there = catalog.apply(state, g)
        back = catalog.apply(there, catalog.inverse(g))
        assert not torch.equal(there["r"], state["r"]) and all(torch.equal(back[n], t) for n, t in state.items())


def test_no_path_is_followed_where_two_runs_differ() -> None:
    noisy = Of(lambda m, x: (x @ m.a @ m.b @ m.a.mT).square() + torch.rand_like(x), a=weight(3, 2), b=weight(2, 2))
    catalog = symdisc.discover(noisy, (X,))
    start = time.perf_counter()
    assert catalog.verify(noisy, catalog.sample(seed=1, scale=0.3)).passed
    assert time.perf_counter() - start < 60.0  # following it takes minutes
