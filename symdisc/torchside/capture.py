"""A torch model to an operator graph: non-strict ``torch.export``, then functionalised, with mixed operators taken apart.

Layers that do the same are traced once, and operators that do the same are taken apart once.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import config as fx_config

from symdisc.errors import BadInput, CaptureError
from symdisc.opgraph import Literal, Op, OpGraph, Ref
from symdisc.torchside.called import State
from symdisc.torchside.complexes import written_out
from symdisc.torchside.copied import fill
from symdisc.torchside.decisions import Decider, with_decisions
from symdisc.torchside.decompose import TABLE
from symdisc.torchside.experts import declare_experts
from symdisc.torchside.exportable import substituted
from symdisc.torchside.recurring import Recurring
from symdisc.torchside.spliced import decomposed

__all__ = ["Capture", "capture", "tie_groups"]


@dataclass(frozen=True)
class Capture:
    """The operator graph of a model together with the tensors it was traced with.

    ``tensors`` maps value names (parameters, buffers, lifted constants) to tensors, ``example`` the user's inputs; ``unsaved``
    are buffers that no state_dict holds: a symmetry cannot move them. ``deciders`` are inner values that what moves the weights may
    not bring to another decision (`torchside.steady`).
    """

    graph: OpGraph
    tensors: dict[str, torch.Tensor]
    example: tuple[torch.Tensor, ...]
    unsaved: frozenset[str] = frozenset()
    deciders: tuple[Decider, ...] = ()

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """Canonical state_dict name -> tensor, each tied tensor once, in order of registration."""
        return {self.graph.parameters[v]: self.tensors[v] for v in self.graph.parameters
                if self.graph.parameters[v] not in self.graph.aliases}

    @property
    def size(self) -> int:
        """D: entries of all parameters, tied tensors once."""
        return sum(t.numel() for t in self.parameters.values())

    @property
    def fingerprint(self) -> str:
        """Equal for captures of equal graphs, with equal tensors and inputs (none of them on the meta device)."""
        total = hashlib.sha256(self.graph.to_json().encode())
        for t in (*self.tensors.values(), *self.example):
            total.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
        return total.hexdigest()


def tie_groups(model: nn.Module) -> dict[str, str]:
    """Every state_dict name of a parameter or buffer -> the first registered name of the same tensor."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for source in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in source:
            names[name] = first.setdefault(id(tensor), name)
    return names


def capture(model: nn.Module, example: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Capture:
    """Trace ``model(*example, **kwargs)`` in the mode (eval or train) that it is in.

    Raises CaptureError when torch.export cannot follow the model; the reason is in the message.
    """
    flat = [t for t in torch.utils._pytree.tree_leaves((tuple(example), kwargs or {})) if isinstance(t, torch.Tensor)]
    check_inputs(flat)
    canonical = tie_groups(model)
    tensors_by_name = {**dict(model.named_parameters(remove_duplicate=False)),
                       **dict(model.named_buffers(remove_duplicate=False))}
    nodes, program = _export(model, tuple(example), kwargs or {})
    signature = program.graph_signature
    parameters = {v: canonical.get(n, n) for v, n in signature.inputs_to_parameters.items()}
    buffers = {v: canonical.get(n, n) for v, n in signature.inputs_to_buffers.items()}
    lifted = {**signature.inputs_to_lifted_tensor_constants}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    ops: list[Op] = []
    outputs: tuple[torch.fx.Node, ...] = ()
    for node in nodes.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                shapes[node.name], dtypes[node.name] = tuple(value.shape), _dtype(value.dtype)
        elif node.op == "call_function":
            ops.append(_op(node))
        elif node.op == "output":
            outputs = tuple(dict.fromkeys(_flat(node.args)))
    real = tuple(n.name for n in outputs if _is_float(n))
    if not real:
        raise BadInput(f"{type(model).__name__} gives no floating-point tensor back; return what its integers or numbers are computed from")
    tensors = {v: tensors_by_name.get(n, program.state_dict.get(n)) for v, n in
               {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items()}
    for v, n in signature.inputs_to_buffers.items():
        if tensors.get(v) is None:
            tensors[v] = program.constants[n]
    for v, n in lifted.items():
        tensors[v] = program.constants[n]
    _check_layouts(tensors, {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **lifted})
    inputs = tuple(n for n in signature.user_inputs if isinstance(n, str) and n in shapes)
    aliases = {n: c for n, c in canonical.items() if n != c}
    graph = OpGraph(written_out(ops, shapes, dtypes), inputs, parameters, buffers, tuple(lifted), real,
                    shapes, dtypes, aliases, model.training)
    saved = {canonical.get(n, n) for n in model.state_dict()}
    graph = with_decisions(graph, [n.name for n in outputs if n.name not in real])
    return Capture(graph, {k: v.detach() for k, v in tensors.items() if v is not None}, tuple(flat),
                   frozenset(buffers.values()) - saved)


def refuse_unready(model: torch.nn.Module) -> None:
    """Raises BadInput for parameters without shapes and for wrappers whose state_dict is not that of the model within."""
    unready = [n for n, p in model.named_parameters() if torch.nn.parameter.is_lazy(p)]
    if unready:
        raise BadInput(f"{unready[0]} has no shape yet; run the model once on an example before it is looked at")
    made = [n for n, p in model.named_parameters() if p.is_inference()]
    if made:
        raise BadInput(f"{made[0]} was made in inference mode and has no derivatives; build or load the model outside of it")
    if isinstance(model, torch.nn.DataParallel):
        raise BadInput("the model is wrapped for several devices; give the model within, model.module")


def plain_inputs(inputs: Any) -> Any:
    """Tensors made in inference mode as others, which derivatives may be taken at."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.clone() if t.is_inference() else t, inputs)


def check_inputs(tensors: Sequence[torch.Tensor]) -> None:
    """Raises BadInput for example inputs that hold no entries, NaN or infinite values."""
    for k, t in enumerate(tensors):
        if not t.numel():
            raise BadInput(f"example input {k} has no entries (shape {list(t.shape)}); give at least one example")
        if not t.is_meta and (t.is_floating_point() or t.is_complex()) and not bool(torch.isfinite(t).all()):
            raise BadInput(f"example input {k} holds NaN or infinite values; give finite ones")


def _check_layouts(tensors: Mapping[str, Any], names: Mapping[str, str]) -> None:
    sparse = [names[v] for v, t in tensors.items() if isinstance(t, torch.Tensor) and t.layout != torch.strided]
    if sparse:
        raise CaptureError(f"{sparse[0]} is sparse, and no derivative is taken through sparse tensors; store it as {sparse[0]}.to_dense()")


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.fx.Graph, torch.export.ExportedProgram]:
    noise = io.StringIO()  # a guard failure prints the partial graph
    declare_experts(model)
    try:
        with (substituted(model, args, kwargs), _without_cache(model), torch.no_grad(), warnings.catch_warnings(),
              contextlib.redirect_stderr(noise), _quiet(), _uncollected(),
              _unlocated()):
            warnings.simplefilter("ignore")
            program, copies = _program(model, args, kwargs)
            return decomposed(program, TABLE, copies)
    except CaptureError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CaptureError(
            f"torch.export cannot trace {type(model).__name__}: {reason} "
            "(check that the example inputs fit the model, and replace data-dependent control flow)"
        ) from error


def _program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.export.ExportedProgram, dict[Any, Any]]:
    """The model as it is traced, with layers that do the same traced once where that is safe; which nodes are copies of which."""
    state, recurring = State(model.modules()), Recurring(model)
    try:
        with recurring:
            program = torch.export.export(model, args, kwargs, strict=False)
        return program, fill(program, recurring)
    except Exception:
        if not recurring.looked:  # then nothing was done in another way
            raise
    state.restore()  # a module that was left in the middle may keep what it had half done
    return torch.export.export(model, args, kwargs, strict=False), {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs the traceback of an operator that does not fit; what is to be said is in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Decoders of Hugging Face return keys and values for the next token unless their config says no: torch.export refuses them."""
    found: list[Any] = [getattr(m, "config", None) for m in model.modules()]
    configs = {id(c): c for c in found if getattr(c, "use_cache", False) is True}
    for config in configs.values():
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs.values():
            config.use_cache = True


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Tracing allocates many small objects that stay, and looking through them for cycles costs a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _unlocated() -> Iterator[None]:
    """Nobody asks which line of a model a node comes from, and to find out costs a third of what a copied layer does."""
    before = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx_config.do_not_emit_stack_traces = before


def _op(node: torch.fx.Node) -> Op:
    value = node.meta.get("val")
    shape, dtype = (_sizes(node, value), _dtype(value.dtype)) if isinstance(value, torch.Tensor) else (None, "")
    target = "getitem" if node.target is operator.getitem else str(node.target)
    if _changes_nothing(node, shape):
        return Op(node.name, "aten.alias.default", (_arg(node.args[0]),), (), shape, dtype, _module(node))
    return Op(node.name, target, tuple(_arg(a) for a in node.args),
              tuple((k, _arg(v)) for k, v in sorted(node.kwargs.items())), shape, dtype, _module(node))


def _sizes(node: torch.fx.Node, value: torch.Tensor) -> tuple[int, ...]:
    sizes: list[Any] = list(value.shape)
    if any(isinstance(s, torch.SymInt) and not s.node.has_hint() for s in sizes):
        raise CaptureError(f"the shape of what {node.target} gives depends on the data; give the model a result of fixed shape "
                           "(masked values in place of selected ones)")
    return tuple(int(s) for s in value.shape)


def _changes_nothing(node: torch.fx.Node, shape: tuple[int, ...] | None) -> bool:
    """Padding by nothing, and interpolation to the size that is there."""
    packet = str(node.target).split(".")[1] if str(node.target).count(".") > 1 else ""
    if packet in ("pad", "constant_pad_nd"):
        return not any(torch.utils._pytree.tree_leaves(node.args[1]))
    if not packet.startswith("upsample_"):
        return False
    source: Any = node.args[0]
    scales = torch.utils._pytree.tree_leaves([a for a in node.args[2:] if not isinstance(a, bool)])
    return tuple(source.meta["val"].shape) == shape and all(s in (None, 1, 1.0) for s in scales)


def _module(node: torch.fx.Node) -> str:
    """The path of the module that issued the call."""
    stack = node.meta.get("nn_module_stack") or {}
    path: str = list(stack.values())[-1][0] if stack else ""
    return path.replace("L['self'].", "").replace("L['self']", "")


def _arg(a: Any) -> Any:
    if isinstance(a, torch.fx.Node):
        return Ref(a.name)
    if isinstance(a, (list, tuple)):
        return tuple(_arg(x) for x in a)
    if isinstance(a, torch.dtype):
        return Literal("dtype", _dtype(a))
    if isinstance(a, torch.device):
        return Literal("device", str(a))
    if isinstance(a, (torch.layout, torch.memory_format)):
        return Literal("layout" if isinstance(a, torch.layout) else "memory_format", str(a).removeprefix("torch."))
    if isinstance(a, torch.SymInt):
        return int(a)
    if a is None or isinstance(a, (bool, int, float, str)):
        return a
    return Literal("other", repr(a))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _flat(arg: Any) -> list[torch.fx.Node]:
    return [a for a in torch.utils._pytree.tree_leaves(arg) if isinstance(a, torch.fx.Node)]


def _is_float(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())
