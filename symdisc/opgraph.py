"""The operator graph as traced: plain data, JSON in and out, no torch.

A value is known by its name. Each value plays a *role*: it depends on parameters (``theta``), on the inputs (``data``), on
both (an *activation*), or on neither (a constant). Only values that depend on a parameter can carry a symmetry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["Literal", "Op", "OpGraph", "Ref", "refs"]

# operators whose result does not depend on the values of their tensor argument, only on its shape
SHAPE_ONLY = frozenset(
    f"aten.{n}" for n in ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
                          "new_empty", "sym_size", "rand_like", "randn_like", "bernoulli")
)


@dataclass(frozen=True)
class Ref:
    """A reference to a value of the graph inside an operator's arguments."""

    name: str


@dataclass(frozen=True)
class Literal:
    """An argument that JSON has no word for: a dtype, device, layout or memory format, kept as text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Op:
    """One operator call: ``name = target(*args, **kwargs)``.

    ``shape`` and ``dtype`` describe the result; a result that is a tuple has ``shape=None`` and is taken apart by
    ``getitem``. ``module`` is the path of the module that issued the call.
    """

    name: str
    target: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    module: str = ""

    @cached_property
    def packet(self) -> str:
        """The operator without its overload: ``aten.add.Tensor`` -> ``aten.add``."""
        parts = self.target.split(".")
        return ".".join(parts[:2]) if len(parts) > 2 else self.target

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values read, in order of appearance, repeats kept."""
        return tuple(refs(self.args)) + tuple(refs([v for _, v in self.kwargs]))


def refs(arg: Any) -> Iterator[str]:
    """Names referred to anywhere inside an argument."""
    if isinstance(arg, Ref):
        yield arg.name
    elif isinstance(arg, (tuple, list)):
        for item in arg:
            yield from refs(item)


@dataclass(frozen=True)
class OpGraph:
    """A traced model.

    ``parameters`` and ``buffers`` map value names to canonical state_dict names; ``aliases`` maps every further
    state_dict name of a tied tensor to its canonical one; ``constants`` are lifted tensors; ``inputs`` the user's inputs.
    ``shapes`` holds the shape of every placeholder, ``outputs`` the floating-point results and, named in ``decisions``, those values
    that whole numbers and truth values among the results are decided by; the model does not return these.
    """

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    parameters: dict[str, str]
    buffers: dict[str, str]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    training: bool = False
    decisions: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}

    @cached_property
    def roles(self) -> dict[str, frozenset[str]]:
        """For each value the subset of {"theta", "data"} that it depends on."""
        roles: dict[str, frozenset[str]] = {n: frozenset({"data"}) for n in self.inputs}
        roles.update({n: frozenset({"theta"}) for n in self.parameters})
        roles.update({n: frozenset() for n in (*self.buffers, *self.constants)})
        for op in self.ops:
            if op.packet in SHAPE_ONLY:
                roles[op.name] = frozenset({"data"}) if "rand" in op.packet or "bernoulli" in op.packet else frozenset()
            else:
                roles[op.name] = frozenset().union(*(roles.get(n, frozenset()) for n in op.inputs))
        return roles

    def is_activation(self, name: str) -> bool:
        """Depends on parameters and on the inputs."""
        return len(self.roles[name]) == 2

    def varies(self, name: str) -> bool:
        """Depends on a parameter: can change when parameters change."""
        return "theta" in self.roles[name]

    @cached_property
    def users(self) -> dict[str, tuple[Op, ...]]:
        """The operators that read a value, more of it than its shape."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs if op.packet not in SHAPE_ONLY else ()):
                found.setdefault(name, []).append(op)
        return {k: tuple(v) for k, v in found.items()}

    @cached_property
    def live(self) -> frozenset[str]:
        """Values that reach an output."""
        seen: set[str] = set(self.outputs)
        for op in reversed(self.ops):
            if op.name in seen:
                seen.update(op.inputs)
        return frozenset(seen)

    @property
    def unused(self) -> tuple[str, ...]:
        """Canonical names of parameters that reach no output."""
        used = {self.parameters[v] for v in self.parameters if v in self.live}
        return tuple(sorted(set(self.parameters.values()) - used))

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.shapes[name] if name in self.shapes else self.by_name[name].shape

    # --- JSON -----------------------------------------------------------------------------------------------------
    def to_json(self) -> str:
        return json.dumps(
            {
                "ops": [[o.name, o.target, _encode(o.args), {k: _encode(v) for k, v in o.kwargs},
                         o.shape, o.dtype, o.module] for o in self.ops],
                "inputs": self.inputs, "parameters": self.parameters, "buffers": self.buffers,
                "constants": self.constants, "outputs": self.outputs, "shapes": self.shapes, "dtypes": self.dtypes,
                "aliases": self.aliases, "training": self.training, **({"decisions": self.decisions} if self.decisions else {}),
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> OpGraph:
        d = json.loads(text)
        ops = tuple(
            Op(n, t, _decode(a), tuple((k, _decode(v)) for k, v in sorted(kw.items())),
               None if s is None else tuple(s), dt, m)
            for n, t, a, kw, s, dt, m in d["ops"]
        )
        return cls(ops, tuple(d["inputs"]), d["parameters"], d["buffers"], tuple(d["constants"]), tuple(d["outputs"]),
                   {k: tuple(v) for k, v in d["shapes"].items()}, d["dtypes"], d["aliases"], d["training"],
                   tuple(d.get("decisions", ())))


def _encode(arg: Any) -> Any:
    if isinstance(arg, Ref):
        return {"ref": arg.name}
    if isinstance(arg, Literal):
        return {"literal": [arg.kind, arg.text]}
    if isinstance(arg, (tuple, list)):
        return [_encode(a) for a in arg]
    if isinstance(arg, float) and (arg != arg or arg in (float("inf"), float("-inf"))):
        return {"literal": ["float", repr(arg)]}
    return arg


def _decode(arg: Any) -> Any:
    if isinstance(arg, dict):
        if "ref" in arg:
            return Ref(arg["ref"])
        kind, text = arg["literal"]
        return float(text) if kind == "float" else Literal(kind, text)
    if isinstance(arg, list):
        return tuple(_decode(a) for a in arg)
    return arg
