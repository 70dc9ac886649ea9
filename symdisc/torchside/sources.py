"""SOURCE texts to models: ``package.module:factory``, ``file.py:factory``, a Hugging Face config, ``zoo:NAME``."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from symdisc.errors import BadInput

__all__ = ["KINDS", "Source", "open_source"]

KINDS = "package.module:factory, file.py:factory, a Hugging Face config file or folder, or zoo:NAME"

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Source:
    """A model with inputs to run it on.

    ``folder`` is where its weights lie, if they do; ``notes`` say what was decided on the way (random weights, meta device).
    """

    name: str
    model: nn.Module
    example: tuple[Any, ...]
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def meta(self) -> bool:
        """The model holds no numbers."""
        return any(p.is_meta for p in self.model.parameters())

    def in_mode(self, training: bool | None) -> Source:
        """The same model in train or eval mode (None: as the factory left it)."""
        return self if training is None else replace(self, model=self.model.train(training))

    def try_run(self) -> None:
        """Raise BadInput when the model cannot be run on its own example inputs."""
        with _blamed_on(f"{self.name} fails on its own example inputs"), torch.no_grad():
            self.model(*self.example)


def open_source(text: str, *, values: bool | None = None, seed: int = 0) -> Source:
    """The model that ``text`` names, made under ``seed``.

    ``values``: whether the weights must have numbers; None lets a large Hugging Face config stay on the meta device.
    Raises BadInput, in one line, for everything that is not a source.
    """
    head, colon, name = text.rpartition(":")
    if not text.strip():
        raise BadInput(f"the source is empty: give {KINDS}")
    if colon and head == "zoo":
        model, example = import_module("symdisc.zoo").build(name, seed)
        return Source(text, model, example)
    if colon and head.endswith(".py"):
        return _from_factory(text, _load_file(Path(head)), name, seed)
    path = Path(text)
    if path.is_dir() or (path.is_file() and path.suffix == ".json"):
        from symdisc.torchside.configs import open_config

        model, example, folder, notes = open_config(path, values, seed)
        return Source(text, model, example, folder, notes)
    if path.is_file():
        raise BadInput(_not_a_model(path))
    if colon and DOTTED.fullmatch(head) and "/" not in name:
        return _from_factory(text, _load_module(head), name, seed)
    if "/" in text or path.suffix in {".json", ".py", ".safetensors"}:
        raise BadInput(f"no such file or folder: {text} (a source is {KINDS})")
    raise BadInput(f"unknown source {text!r}: give {KINDS}")


def _not_a_model(path: Path) -> str:
    if path.suffix == ".py":
        return f"{path} needs the name of its factory: write {path}:factory"
    if path.suffix in {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}:
        return f"{path} holds weights, not a model: name the model with --model, as {KINDS}"
    return f"{path} is not a model: a source is {KINDS}"


# --- factories --------------------------------------------------------------------------------------------------------------
@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Siblings of the user's file, and packages of the current folder, can be imported meanwhile."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"symdisc_source_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look their module up
    with _first_on_path(str(path.resolve().parent)), _blamed_on(f"{path} cannot be imported"):
        spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    with _first_on_path(os.getcwd()), _blamed_on(f"module {name} cannot be imported"):
        return import_module(name)


@contextmanager
def _blamed_on(what: str) -> Iterator[None]:
    """Whatever the user's code raises becomes one line that says where it happened."""
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except BaseException as error:  # user code may also call sys.exit
        raise BadInput(f"{what}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _from_factory(text: str, module: ModuleType, name: str, seed: int) -> Source:
    found = getattr(module, name, None) if name.isidentifier() else None
    where = Path(module.__file__).name if module.__file__ else module.__name__
    if found is None:
        raise BadInput(f"{where} has no {name!r}" + _others(module))
    if isinstance(found, nn.Module):
        made: Any = found
    elif callable(found):
        with torch.random.fork_rng(devices=[]), _blamed_on(f"{where}:{name} failed"):
            torch.manual_seed(seed)
            _takes_nothing(found, f"{where}:{name}")
            made = found()
            example = _example(module, made, where) if isinstance(made, nn.Module) else None
            return _checked(text, made, example, where, name)
    else:
        raise BadInput(f"{where}:{name} is a {type(found).__name__}; a factory is a function that returns a model")
    return _checked(text, made, _example(module, made, where), where, name)


def _others(module: ModuleType) -> str:
    names = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and n[0] != "_"]
    return f"; its functions are {', '.join(names[:6])}" if names else ""


def _takes_nothing(found: Any, where: str) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    needed = [p.name for p in signature.parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        raise BadInput(f"{where} needs arguments ({', '.join(needed)}); a factory is called without any: wrap it in a function")


def _example(module: ModuleType, made: nn.Module, where: str) -> Any:
    """``example_inputs`` of the file, else that of the model."""
    found = getattr(module, "example_inputs", getattr(made, "example_inputs", None))
    if callable(found):
        with _blamed_on(f"{where}:example_inputs failed"):
            return found()
    return found


def _checked(text: str, made: Any, example: Any, where: str, name: str) -> Source:
    """Sort (model, inputs) from model alone, and look at the values."""
    if isinstance(made, (tuple, list)) and len(made) == 2:
        made, example = made
    if not isinstance(made, nn.Module):
        raise BadInput(f"{where}:{name} returned a {type(made).__name__}; it must return a torch.nn.Module, or (model, example_inputs)")
    if example is None:
        raise BadInput(f"{where}:{name} gives a model but no inputs: return (model, example_inputs), or define "
                       "example_inputs() beside it or in the model")
    inputs = (example,) if isinstance(example, Tensor) else example
    if not isinstance(inputs, (tuple, list)) or not any(isinstance(x, Tensor) for x in inputs):
        raise BadInput(f"the example inputs of {where}:{name} are a {type(example).__name__}; give a tensor or a tuple of tensors")
    for label, tensor in made.state_dict().items():
        if isinstance(tensor, Tensor) and not tensor.is_meta and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"the model of {where}:{name} holds NaN or infinite values in {label}; symmetries need finite weights")
    return Source(text, made, tuple(inputs))
