"""Layers that do the same are traced once: the first of them is, and each later one is put in as a copy of what it was traced to.

``torch.export`` takes about a millisecond for each operator, which is most of what a deep network costs. So while a model is traced,
what a module with like siblings does is recorded. The siblings then run on tensors without numbers, and what they do is compared with
the record. Where it is equal, one operator stands in for the module, and afterwards the first one's operators on the module's own
parameters are put in its place: the program is the one that ``torch.export`` gives, and each module has run once. A module that does
something else, or what no record can hold, is traced.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import PreDispatchTorchFunctionMode
from torch.fx.node import has_side_effect
from torch.utils import _python_dispatch as dispatch
from torch.utils import _pytree as pytree

from symdisc.torchside.called import Answering, Call, Differs, Layout, Recording, State, Unsaid, empty, layout_of, said_of

__all__ = ["COPY", "ENTER", "LEAVE", "MARK", "First", "Recurring", "Unfit"]

FEWEST = 3  # siblings from which it pays
SMALLEST = 4  # modules within one, itself counted
KINDS = 4  # after as many that differ, siblings are traced without a look
ENTER, LEAVE = 0, 1

_library = torch.library.Library("symdisc", "DEF")
_library.define("mark(Tensor[] tensors, int number, int end) -> ()")
_library.define("copy_of(Tensor[] tensors, int number, int place) -> Tensor[]")
MARK, COPY = torch.ops.symdisc.mark.default, torch.ops.symdisc.copy_of.default
has_side_effect(MARK)


class Unfit(Exception):
    """The model must be traced as a whole."""


@dataclass
class First:
    """A module that was traced, and what it did: ``leaves`` are its results as they are said, ``values`` those that are constants,
    ``results`` the layouts of those that it made, and ``others`` the tensors from elsewhere that it reads."""

    path: str
    header: tuple[Any, ...]
    calls: list[Call]
    spec: Any
    leaves: list[Any]
    values: list[Any]
    results: dict[Any, Layout]
    others: list[Tensor]


@dataclass
class Siblings:
    """Modules of one container and one kind: those that were traced, by number, and whether the others are traced without a look."""

    firsts: dict[int, First] = field(default_factory=dict)
    left: bool = False


@dataclass
class Visit:
    """A module with what it is called with."""

    place: Place
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Any]
    spec: Any
    given: list[Tensor]
    own: dict[str, Tensor]
    header: tuple[Any, ...]

    @property
    def read(self) -> list[Tensor]:
        """What the module may read; what stands for a parameter is no parameter where the model wrote into it before."""
        return [*self.given, *self.own.values()]

    def run(self) -> Any:
        return self.forward(*self.args, **self.kwargs)

    def unchanged(self) -> bool:
        """Whether the lists that were handed in still hold the same."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        return spec == self.spec and all(a is b for a, b in zip(leaves, self.leaves, strict=True))


@dataclass
class Place:
    """A module that may be met, with the modules within it, and where its parameters and buffers are."""

    path: str
    module: nn.Module
    within: list[nn.Module]
    stored: list[tuple[str, dict[str, Any], str]]

    def visit(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Visit | None:
        """What the module is asked; None where it cannot be written down."""
        if any(m._forward_hooks or m._forward_pre_hooks for m in self.within):
            return None  # they are to run once, which a module that is tried and then traced after all does not promise
        leaves, spec = pytree.tree_flatten((args, kwargs))
        given = list({id(a): a for a in leaves if isinstance(a, Tensor)}.values())
        if not given or not all(isinstance(t, FakeTensor) for t in given):
            return None
        own = {name: holder[key] for name, holder, key in self.stored}
        places = {id(t): k for k, t in enumerate(given)}
        try:
            header = (spec, [places[id(a)] if isinstance(a, Tensor) else said_of(a) for a in leaves], list(map(layout_of, given)),
                      list(map(layout_of, own.values())), torch.is_grad_enabled())
        except (Unsaid, RuntimeError, NotImplementedError):  # a sparse tensor has no layout
            return None
        return Visit(self, forward, args, kwargs, leaves, spec, given, own, header)


@dataclass
class Recurring:
    """``with Recurring(model) as recurring: program = export(...)``, and then ``copied.fill(program, recurring)``.

    ``firsts`` are the modules that were traced, by number, and ``copies`` (path, number of the first) of those that were not.
    """

    model: nn.Module
    looked: bool = False  # whether anything was done in another way than torch.export does it
    refused: bool = False  # whether that has failed, which a model may have caught
    firsts: dict[int, First] = field(default_factory=dict)
    copies: list[tuple[str, int]] = field(default_factory=list)
    _busy: bool = False
    _untraced: bool = False
    _called: Any = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Recurring:
        with self._stack:  # which puts all back where this is broken off
            self._plain: Any = nn.Module.__call__
            self._stack.callback(self._switch_back)
            for family in _families(self.model):
                siblings = Siblings()
                for path, module in family.items():
                    forward, was = module.forward, module.__dict__.get("forward")
                    stand_in = self._stand_in(_place(path, module), siblings, forward)
                    self._stack.callback(_restore, module, stand_in, was)
                    module.__dict__["forward"] = stand_in
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()
        for number in self.firsts:
            del _results[number]

    def _stand_in(self, place: Place, siblings: Siblings, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():  # which would be asked about each shape that is looked up
                visit = None if self._busy or siblings.left else place.visit(forward, args, kwargs)
            if visit is None:
                return forward(*args, **kwargs)
            self._busy = self.looked = True
            try:
                return self._visited(visit, siblings)
            except BaseException:
                self.refused = True
                raise
            finally:
                self._busy = False

        return run

    def _visited(self, visit: Visit, siblings: Siblings) -> Any:
        tried = []
        for number, first in siblings.firsts.items():
            if first.header == visit.header:
                seen = self._other_than(visit, first)
                if seen is None:
                    return self._copy(visit, number, first)
                tried.append(seen)
        return self._traced(visit, siblings, tried)

    def _copy(self, visit: Visit, number: int, first: First) -> Any:
        self.copies.append((visit.place.path, number))
        made = dict(zip(first.results, COPY([*visit.read, *first.others], number, len(self.copies) - 1), strict=True))
        made |= {("given", k): t for k, t in enumerate(visit.given)}
        return pytree.tree_unflatten([made.get(a, v) for a, v in zip(first.leaves, first.values, strict=True)], first.spec)

    def _other_than(self, visit: Visit, first: First) -> list[Any] | None:
        """None where the module does what the first one did; else its calls as far as that can be told. Raises Unfit where it has done
        more than to compute, for it is to run once."""
        state = State([visit.place.module, *visit.place.within])
        answering = Answering(visit.given, visit.own, first.calls)
        same = False
        try:
            with self._aside(), answering:
                leaves, spec = pytree.tree_flatten(visit.run())
            whole = not answering.differs and len(answering.seen) == len(first.calls)
            same = whole and spec == first.spec and [answering.said(a) for a in leaves] == first.leaves
        except (Differs, Exception):
            pass
        leaves = []
        if _held(answering.made):
            raise Unfit(f"{visit.place.path} keeps what it computes")
        if not visit.unchanged():
            raise Unfit(f"{visit.place.path} writes into a list that it is given")
        if same:
            return None
        state.restore()  # it will run again
        return answering.seen

    def _traced(self, visit: Visit, siblings: Siblings, tried: list[list[Any]]) -> Any:
        recording, number = Recording(visit.given, visit.own), next(_numbers)
        MARK(visit.read, number, ENTER)
        with recording:
            result = visit.run()
        leaves, spec = pytree.tree_flatten(result)
        results = recording.results(leaves)
        others = recording.others()
        MARK([*results.values(), *others], number, LEAVE)
        said, end = [c.said for c in recording.calls], -1 if recording.fault else None  # the call of a fault is not written down
        if any(said[:len(seen[:end])] != seen[:end] for seen in tried):
            raise Unfit(f"{visit.place.path} does not do the same twice")
        if recording.fault or not visit.unchanged():
            siblings.left = True
            return result
        with torch._C.DisableTorchFunction():
            layouts = {n: layout_of(t) for n, t in results.items()}
        first = First(visit.place.path, visit.header, recording.calls, spec, [recording.said(a) for a in leaves],
                      [None if isinstance(a, Tensor) else a for a in leaves], layouts, others)
        self.firsts[number] = siblings.firsts[number] = first
        _results[number] = list(first.results.values())
        siblings.left = len(siblings.firsts) > KINDS
        return result

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Untraced: torch.fx follows calls of modules, and would lose count where one is left by ``Differs``."""
        self._switch()
        self._untraced = True
        try:
            with dispatch._disable_current_modes(), _without(PreDispatchTorchFunctionMode):
                yield
        finally:
            self._untraced = False

    def _switch(self) -> None:
        """Has calls of modules go to torch.fx or past it. Done once for each tracer, for a change of nn.Module costs a millisecond."""
        traced, plain = nn.Module.__call__, self._plain
        if traced is plain or traced is self._called:
            return

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return (plain if self._untraced else traced)(module, *args, **kwargs)

        self._called = nn.Module.__call__ = called  # type: ignore[method-assign]

    def _switch_back(self) -> None:
        if nn.Module.__call__ is self._called:  # torch.fx has put back what it found
            nn.Module.__call__ = self._plain  # type: ignore[method-assign]


@contextlib.contextmanager
def _without(kind: type) -> Iterator[None]:
    """Takes the modes of a kind off the stack of those that torch functions go through: some modules ask whether there are any."""
    modes = [overrides._pop_mode() for _ in overrides._get_current_function_mode_stack()]
    left = [m for m in reversed(modes) if not isinstance(m, kind)]
    try:
        for mode in left:
            overrides._push_mode(mode)
        yield
    finally:
        for _ in left:
            overrides._pop_mode()
        for mode in reversed(modes):
            overrides._push_mode(mode)


def _held(tensors: list[weakref.ref[Tensor]]) -> bool:
    """Whether somebody still holds one, and not just a cycle of objects that is gone."""
    if any(t() is not None for t in tensors):
        gc.collect()
    return any(t() is not None for t in tensors)


_numbers = itertools.count()
_results: dict[int, list[Layout]] = {}  # of the firsts of models that are being traced


def _mark(tensors: list[Tensor], number: int, end: int) -> None:
    return None


def _copy_of(tensors: list[Tensor], number: int, place: int) -> list[Tensor]:
    return [empty(layout) for layout in _results[number]]


torch.library.impl(_library, "mark", "CompositeExplicitAutograd")(_mark)
torch.library.register_fake("symdisc::mark", _mark, lib=_library)
torch.library.register_fake("symdisc::copy_of", _copy_of, lib=_library)


def _restore(module: nn.Module, stand_in: Any, was: Any) -> None:
    """Gives a module its forward back, unless it has taken another one."""
    if module.__dict__.get("forward") is stand_in:
        if was is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = was


def _place(path: str, module: nn.Module) -> Place:
    stored = [(f"{at}.{key}" if at else key, holder, key) for at, m in module.named_modules() for holder in (m._parameters, m._buffers)
              for key, t in holder.items() if t is not None]
    return Place(path, module, [m for m in module.modules() if m is not module], stored)


def _families(model: nn.Module) -> list[dict[str, nn.Module]]:
    """Children of containers that have siblings of their kind, with parameters of the same shapes, by path."""
    if len(list(model.named_modules(remove_duplicate=False))) != len(list(model.modules())):
        return []
    shared = Counter(id(t) for source in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
                     for _, t in source)
    found: list[dict[str, nn.Module]] = []
    for path, parent in model.named_modules():
        alike: dict[Any, dict[str, nn.Module]] = {}
        if isinstance(parent, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
            for name, child in parent.named_children():
                tensors = [*child.named_parameters(), *child.named_buffers()]
                if len(list(child.modules())) >= SMALLEST and all(shared[id(t)] == 1 for _, t in tensors):
                    kind = (type(child), *((n, t.shape, t.dtype) for n, t in tensors))
                    alike.setdefault(kind, {})[f"{path}.{name}" if path else name] = child
        found += [family for family in alike.values() if len(family) >= FEWEST]
    return found
