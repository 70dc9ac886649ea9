"""What a module does, written down call by call, and whether another one does the same.

A record lists every operator that is called, with its constants and with where its tensors come from: given to the module, a parameter
or buffer of its own, made by an earlier call, or from elsewhere. Two modules with equal records compute the same function of what they
are given and of what is their own. To compare, the second one runs on tensors without numbers, and each of its calls is answered from
the record of the first.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Answering", "Differs", "Layout", "Name", "Recording", "State", "Unsaid", "empty", "layout_of", "said_of"]

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
HOLDERS = (list, set, dict, OrderedDict)
Name = tuple[Any, ...]  # ("given", k), ("own", name), ("made", n), ("other", id)
Layout = tuple[Any, ...]


class Differs(BaseException):
    """A call that is not in the record. No Exception, for a module's own handlers are to let it through."""


class Unsaid(Exception):
    """What no record can hold."""


@dataclass(frozen=True)
class Call:
    """An operator with its arguments as they are said, what came back, whether as a list, and the layouts of the tensors made."""

    said: tuple[Any, ...]
    back: Any
    several: type | None
    made: dict[Name, Layout]


def layout_of(t: Tensor) -> Layout:
    return tuple(t.shape), t.stride(), t.storage_offset(), t.dtype, t.device, t.requires_grad


def empty(layout: Layout, device: Any = None) -> Tensor:
    shape, stride, offset, dtype, there, _ = layout
    if not offset:
        return torch.empty_strided(shape, stride, dtype=dtype, device=device or there)
    size = offset + 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return torch.empty(size, dtype=dtype, device=device or there).as_strided(shape, stride, offset)


def said_of(a: Any) -> Any:
    """A constant, with 1, 1.0 and True, and 0.0 and -0.0, told apart. Raises Unsaid where it is none."""
    if not isinstance(a, PLAIN):
        raise Unsaid(f"an argument of type {type(a).__name__}")
    return (float, repr(a)) if isinstance(a, float) else (type(a), a)


def _memory(t: Tensor) -> int:
    place: int = t.untyped_storage()._cdata
    return place


class _Naming(TorchDispatchMode):
    """Names of tensors, by identity. Those that calls make are forgotten when they are gone, and are not held: torch copies a new
    tensor that somebody else holds, which would be one call more. The others are kept, so that no identity is given twice."""

    def __init__(self, given: Sequence[Tensor], own: dict[str, Tensor]) -> None:
        super().__init__()
        self.kept: list[Tensor] = [*given, *own.values()]
        self.made: list[weakref.ref[Tensor]] = []
        self.names: dict[int, Name] = {id(t): ("own", n) for n, t in own.items()} | {id(t): ("given", k) for k, t in enumerate(given)}

    def name(self, t: Tensor, name: Name) -> None:
        place = id(t)
        self.names[place] = name
        self.made.append(weakref.ref(t, lambda _: self.names.pop(place, None)))

    def said(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self.names.get(id(a)) or self.other(a)
        if isinstance(a, (list, tuple)):
            return tuple([self.said(x) for x in a])
        if isinstance(a, dict):
            return tuple([(k, self.said(a[k])) for k in sorted(a)])
        return said_of(a)

    def other(self, t: Tensor) -> Name:
        """The name of a tensor from elsewhere: such a one is the same where its identity is."""
        if not isinstance(t, FakeTensor):
            raise Unsaid("a constant made within the module")
        self.kept.append(t)
        self.names[id(t)] = name = ("other", id(t))
        return name


class Recording(_Naming):
    """Within the context each call is written down; ``fault`` says why that cannot be done."""

    def __init__(self, given: Sequence[Tensor], own: dict[str, Tensor]) -> None:
        super().__init__(given, own)
        self.calls: list[Call] = []
        self.fault = "a parameter of its own is given to it" if len(self.names) < len(given) + len(own) else ""
        self._outside = {_memory(t) for t in self.kept}

    def other(self, t: Tensor) -> Name:
        name = super().other(t)
        self._outside.add(_memory(t))
        return name

    def outside(self, t: Tensor) -> bool:
        """Whether the tensor is a view of something that is not made within."""
        return _memory(t) in self._outside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        said: tuple[Any, ...] = ()
        try:
            if not self.fault:
                said = func, self.said(args), self.said(kwargs)
                self._check(func, args)
        except Unsaid as fault:
            self.fault = str(fault)
        back = func(*args, **kwargs)
        if not self.fault:
            self._keep(said, back)
        return back

    def _check(self, func: Any, args: Any) -> None:
        if not isinstance(func, OpOverload):
            raise Unsaid(f"{func} takes functions")
        if func._schema.is_mutable:
            written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
            if written != [True, *[False] * (len(written) - 1)] or self.outside(args[0]):
                raise Unsaid(f"{func} writes into a tensor from outside, or into several")

    def _keep(self, said: tuple[Any, ...], back: Any) -> None:
        several = type(back) if isinstance(back, (list, tuple)) else None
        made: dict[Name, Layout] = {}
        try:
            for t in back if several else (back,):
                if isinstance(t, Tensor) and id(t) not in self.names:
                    name = ("made", len(self.calls), len(made))
                    made[name] = layout_of(t)
                    self.name(t, name)
            self.calls.append(Call(said, self.said(back), several, made))
        except (Unsaid, RuntimeError, NotImplementedError) as fault:  # of sparse tensors there is no layout
            self.fault = str(fault)

    def results(self, leaves: list[Any]) -> dict[Name, Tensor]:
        """Those of what came out that were made within, by name. A fault where a result cannot be made anew from its layout."""
        found: dict[Name, Tensor] = {}
        for a in leaves:
            name = self.names.get(id(a), ()) if isinstance(a, Tensor) else ("given",)
            if name[:1] == ("made",):
                found[name] = a
            elif name[:1] != ("given",) or not isinstance(a, (Tensor, *PLAIN)):
                self.fault = self.fault or "a result that is not made within"
        places = {_memory(t) for t in found.values()}
        known = any(getattr(t, "constant", None) is not None for t in found.values())
        if known or len(places) < len(found) or any(self.outside(t) or t.requires_grad for t in found.values()):
            self.fault = self.fault or "a result that is a view of something else, or a constant"
        return found

    def others(self) -> list[Tensor]:
        return [t for t in self.kept if self.names[id(t)][0] == "other"]


class Answering(_Naming):
    """Within the context calls are answered from a record; ``differs`` once one is another call."""

    def __init__(self, given: Sequence[Tensor], own: dict[str, Tensor], calls: list[Call]) -> None:
        super().__init__(given, own)
        self.calls, self.differs = calls, False
        self.seen: list[tuple[Any, ...]] = []
        self._mode: Any = given[0].fake_mode  # type: ignore[attr-defined]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.differs:
            raise Differs
        try:
            said: tuple[Any, ...] = (func, self.said(args), self.said(kwargs or {}))
        except Unsaid:
            said = (func,)
        k = len(self.seen)
        self.seen.append(said)
        if k >= len(self.calls) or said != self.calls[k].said:
            self.differs = True
            raise Differs
        call = self.calls[k]
        made = {name: FakeTensor(self._mode, empty(layout, "meta"), layout[4]) for name, layout in call.made.items()}
        for name, tensor in made.items():
            self.name(tensor, name)
        known = {self.names[id(t)]: t for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)} | made
        return self._answer(call.back, known) if call.several is None else call.several([self._answer(b, known) for b in call.back])

    def _answer(self, back: Any, known: dict[Name, Tensor]) -> Any:
        kind, value, *_ = back
        return known[back] if isinstance(kind, str) else float(value) if kind is float else value


class State:
    """What the attributes of modules are, and what their lists, sets and dictionaries hold."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._was = [(m.__dict__, dict(m.__dict__), [(v, v.copy()) for v in m.__dict__.values() if type(v) in HOLDERS]) for m in modules]

    def restore(self) -> None:
        for now, was, held in self._was:
            for holder, before in held:
                if holder != before or any(a is not b for a, b in zip(holder, before, strict=True)):
                    holder.clear()
                    holder.extend(before) if isinstance(holder, list) else holder.update(before)
            for name in [n for n in now if n not in was]:
                del now[name]
            now.update(was)
