"""Layers that do the same are traced once: the graph is the one without that, and what cannot be copied is traced."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symdisc.errors import CaptureError
from symdisc.torchside import capture as capturing
from symdisc.torchside import recurring, spliced
from symdisc.torchside.capture import Capture, capture


class Block(nn.Module):
    """A residual block with a number of its own; ``twist`` is what the one under test does besides."""

    def __init__(self, number: int = 0, twist: Callable[[Block, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        self.norm, self.number, self.twist, self.calls, self.last = nn.LayerNorm(4), number, twist, 0, None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(self.norm(x))
        return x if self.twist is None else self.twist(self, x)


class Deep(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def deep(twist: Callable[[Block, Tensor], Tensor] | None = None, layers: int = 5) -> Deep:
    return Deep([Block(k, twist) for k in range(layers)]).eval()


def both(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> tuple[Capture, Capture, list[str]]:
    """The capture without copies, the capture with them, and the paths of the modules that were copied."""
    example = torch.randn(2, 4)
    copied: list[str] = []

    def filled(program: Any, found: recurring.Recurring) -> Any:
        copies = fill(program, found)
        copied.extend(path for path, _ in found.copies)
        return copies

    fill = capturing.fill
    with monkeypatch.context() as patch:
        patch.setattr(recurring, "FEWEST", 10**9)
        plain = capture(make(), (example,))
    with monkeypatch.context() as patch:
        patch.setattr(capturing, "fill", filled)
        patch.setattr(spliced, "_kept", {})  # what the first capture found out about calls
        return plain, capture(make(), (example,)), copied


def alternating(block: Block, x: Tensor) -> Tensor:
    return x if block.number % 2 else x.tanh()


def numbered(block: Block, x: Tensor) -> Tensor:
    return x * (block.number + 1)


def counting(block: Block, x: Tensor) -> Tensor:
    block.calls += 1
    return x * block.calls


def keeping(block: Block, x: Tensor) -> Tensor:
    block.last = x
    return x.tanh()


def writing_within(block: Block, x: Tensor) -> Tensor:
    return (x + 1).relu_()


def constant(block: Block, x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 2.0, 3.0, 4.0])


def catching(block: Block, x: Tensor) -> Tensor:
    """The odd ones differ, and mend whatever is raised within."""
    try:
        return x.tanh() if block.number % 2 else x.sigmoid()
    except Exception:
        return x.cos()


def dropped(block: Block, x: Tensor) -> Tensor:
    return torch.dropout(x, 0.5, block.number == 3)


LATER = [f"blocks.{k}" for k in range(1, 5)]
MODELS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "alike": (deep, LATER),
    "alternating": (lambda: deep(alternating), ["blocks.2", "blocks.3", "blocks.4"]),
    "numbered": (lambda: deep(numbered), []),
    "one differs": (lambda: deep(dropped), ["blocks.1", "blocks.2", "blocks.4"]),
    "counting": (lambda: deep(counting), LATER),
    "keeping": (lambda: deep(keeping), []),
    "writing within": (lambda: deep(writing_within), LATER),
    "constants": (lambda: deep(constant), []),
    "catching": (lambda: deep(catching), ["blocks.2", "blocks.3", "blocks.4"]),
    "nested": (lambda: Deep([nn.Sequential(*(Block() for _ in range(3))) for _ in range(3)]).eval(), ["blocks.1", "blocks.2"]),
    "stages": (lambda: Deep([nn.Sequential(*(Block(twist=t) for _ in range(3)))
                             for t in (None, numbered)]).eval(), ["blocks.0.1", "blocks.0.2", "blocks.1.1", "blocks.1.2"]),
    "training": (lambda: Deep([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Tanh()) for _ in range(4)]).train(),
                 ["blocks.1", "blocks.2", "blocks.3"]),
    "statistics": (lambda: Deep([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()) for _ in range(4)]).train(), []),
    "few": (lambda: deep(layers=2), []),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_is_the_one_of_the_model_traced_as_a_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = MODELS[name]
    plain, found, copied = both(make, monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json()
    assert list(found.tensors) == list(plain.tensors)
    assert copied == expected


def test_a_copy_has_the_parameters_of_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found, copied = both(deep, monkeypatch)
    read = {v for op in found.graph.ops if op.module.startswith("blocks.3") for v in map(str, op.args)}
    assert "blocks.3" in copied
    assert {n for n in found.parameters if n.startswith("blocks.3.")} <= {found.graph.parameters[v] for v in found.graph.parameters}
    assert any("blocks_3_" in v for v in read) and not any("blocks_0_" in v for v in read)


class Listed(Deep):
    """Blocks that write down what they are given in a list that they are given."""

    def forward(self, x: Tensor) -> Any:
        seen: list[Tensor] = [x]
        for block in self.blocks:
            x = block(x, seen)
        return self.head(x + sum(seen))


class Appending(Block):
    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:  # type: ignore[override]
        seen.append(x)
        return super().forward(x)


def test_a_list_that_is_written_into_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found, copied = both(lambda: Listed([Appending() for _ in range(4)]).eval(), monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and copied == []


class Hidden(Deep):
    """Every layer's result is a result of the model, the input as well."""

    def forward(self, x: Tensor) -> Any:
        found = [x]
        for block in self.blocks:
            found.append(block(found[-1]))
        return tuple(found)


def test_results_of_copies_are_results_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found, copied = both(lambda: Hidden([Block() for _ in range(4)]).eval(), monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and len(copied) == 3


class Given(nn.Module):
    """Gives back what it was given, beside what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        return {"made": self.block(x) * scale, "given": x, "mask": mask, "scale": scale}


class Dictionaries(Deep):
    def forward(self, x: Tensor) -> Any:
        for k, block in enumerate(self.blocks):
            found = block(x, scale=2.0 if k == 2 else 1.0)
            x = found["made"] + found["given"] * found["scale"]
        return self.head(x)


def test_results_are_put_together_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found, copied = both(lambda: Dictionaries([Given() for _ in range(4)]).eval(), monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and copied == ["blocks.1", "blocks.3"]


class Rescaled(Deep):
    """Writes into the parameters of its layers before they are called, and into a tensor that all of them read."""

    def forward(self, x: Tensor) -> Any:
        shift = torch.ones_like(x)
        for k, block in enumerate(self.blocks):
            block.inner[0].weight.mul_(0.5 if k else 2.0)  # type: ignore[index, union-attr]
            shift.add_(x)
            block.shift = [shift]
            x = block(x)
        return self.head(x)


def test_what_was_written_into_before_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> nn.Module:
        return Rescaled([Block(k, lambda block, x: x * block.shift[0]) for k in range(4)]).eval()  # type: ignore[index]

    plain, found, copied = both(make, monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and copied == ["blocks.1", "blocks.2", "blocks.3"]


class Writing(Deep):
    """Writes into what a layer gives, and into a view of it, after having read it."""

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
            before = x.sin()
            x.add_(1.0)
            x.view(4, 2).mul_(2.0)
            x = x + before
        return self.head(x)


@pytest.mark.parametrize("twist", [None, writing_within])
def test_what_is_written_into_a_result_is_read(twist: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found, copied = both(lambda: Writing([Block(k, twist) for k in range(4)]).eval(), monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and len(copied) == 3


def test_copies_write_into_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the network would have to be run again under the tracers of the decompositions."""
    found: list[bool] = []
    honest = spliced.spliced

    def spied(*given: Any) -> Any:
        graph = honest(*given)
        found.append(graph is not None)
        return graph

    monkeypatch.setattr(spliced, "spliced", spied)
    capture(deep(writing_within), (torch.randn(2, 4),))
    assert found == [True]


class Forgiving(Deep):
    """Goes another way where a layer raises anything."""

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            try:
                x = block(x)
            except Exception:
                x = x.cos()
        return self.head(x)


def test_a_refusal_that_the_model_catches_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found, copied = both(lambda: Forgiving([Block(k, keeping) for k in range(4)]).eval(), monkeypatch)
    assert found.graph.to_json() == plain.graph.to_json() and copied == []
    assert not any(op.target.startswith("aten.cos") for op in found.graph.ops)


def test_hooks_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the layer itself they are traced; a layer with hooks within is traced itself."""
    for within, expected in ((False, LATER), (True, [])):
        runs: list[str] = []

        def hooked(within: bool = within, runs: list[str] = runs) -> nn.Module:
            runs.clear()
            model = deep()
            for k, block in enumerate(model.blocks):
                (block.inner if within else block).register_forward_hook(  # type: ignore[union-attr]
                    lambda m, a, out, k=k: (runs.append(k), out * 2)[1])
            return model

        plain, found, copied = both(hooked, monkeypatch)
        assert found.graph.to_json() == plain.graph.to_json() and copied == expected
        assert runs == [0, 1, 2, 3, 4]


def test_each_module_runs_once() -> None:
    runs: list[int] = []
    capture(deep(lambda block, x: (runs.append(block.number), x.tanh())[1]), (torch.randn(2, 4),))
    assert runs == [0, 1, 2, 3, 4]


def failing(block: Block, x: Tensor) -> Tensor:
    if block.number == 3:
        raise RuntimeError("the fourth cannot")
    return x


def interrupted(block: Block, x: Tensor) -> Tensor:
    if block.number == 3:
        raise KeyboardInterrupt
    return x


@pytest.mark.parametrize(("twist", "error"), [(failing, CaptureError), (interrupted, KeyboardInterrupt)])
def test_the_model_is_as_before_whatever_is_raised(twist: Callable[[Block, Tensor], Tensor], error: type[BaseException]) -> None:
    model, call = deep(twist), nn.Module.__call__
    before = [dict(m.__dict__) for m in model.modules()]
    with pytest.raises(error):
        capture(model, (torch.randn(2, 4),))
    assert nn.Module.__call__ is call
    after = [m.__dict__ for m in model.modules()]
    assert [list(a) for a in after] == [list(b) for b in before]
    assert all(a[k] is b[k] for a, b in zip(after, before, strict=True) for k in b if k != "normalized_shape")  # torch.export copies it
    with torch.no_grad():
        model.blocks[3].number = 2  # type: ignore[assignment]
        assert model(torch.randn(2, 4)).shape == (2, 3)


def test_a_forward_of_the_instance_is_given_back() -> None:
    model = deep()
    forward = model.blocks[1].forward = lambda x: x * 2
    found = capture(model, (torch.randn(2, 4),))
    assert model.blocks[1].__dict__["forward"] is forward
    assert not any(op.module.startswith("blocks.1") and "layer_norm" in op.target for op in found.graph.ops)


def test_a_difference_in_what_depends_on_the_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that no module has cannot be set back, so that a layer tried and then traced would see it twice."""
    def make() -> nn.Module:
        counter = iter(range(1, 100))
        return deep(lambda block, x: x * next(counter))

    _, found, copied = both(make, monkeypatch)
    factors = [op.args[1] for op in found.graph.ops if op.target.startswith("aten.mul.Tensor") and not op.module.endswith("norm")]
    assert copied == [] and factors == sorted(factors) and [b - a for a, b in itertools.pairwise(factors)] == [1] * 4


def test_a_record_of_another_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is what keeps layers apart: without it the graph of numbered layers is wrong."""
    monkeypatch.setattr(recurring.Recurring, "_other_than", lambda *_: None)
    plain, found, copied = both(lambda: deep(numbered), monkeypatch)
    assert copied == LATER and found.graph.to_json() != plain.graph.to_json()
