"""A monitor inside the Hugging Face Trainer and inside Lightning, without importing either.

Both call hooks by name, so these classes are no subclasses: they have the hooks that matter, and answer all others of the
framework with nothing. The monitor itself hangs on the optimizer's step; the callbacks only make it, save it, resume it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from symdisc.errors import StateMismatch
from symdisc.torchside.monitor import Monitor

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["FILE", "LightningMonitor", "TrainerMonitor"]

FILE = "symdisc_monitor.pt"


class _Watching:
    """What both have: settings, and ``monitor`` from the start of training on."""

    def __init__(self, cat: Catalog, every: int = 50, full: bool = False) -> None:
        self.cat, self.every, self.full = cat, every, full
        self.monitor: Monitor | None = None
        self._saved: Mapping[str, Any] | None = None

    def _begin(self, model: nn.Module, optimizer: Any) -> None:
        if self.monitor is not None:
            self.monitor.close()
        self.monitor = Monitor(self.cat, _inside(model, self.cat), _bare(optimizer), self.every, self.full)
        if self._saved is not None:
            self.monitor.load_state_dict(self._saved)
            self._saved = None

    def _end(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Every hook of the framework that is not defined here does nothing."""
        if name.startswith("on_") or name in ("setup", "teardown"):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class TrainerMonitor(_Watching):
    """``Trainer(..., callbacks=[TrainerMonitor(cat)])``: watches the run, and goes on where a checkpoint left it.

    With every checkpoint of the Trainer the monitor's state is written beside, as ``symdisc_monitor.pt``.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **rest: Any) -> None:
        file = _folder(args, state) / FILE
        if state.global_step > 0 and file.is_file():
            self._saved = torch.load(file, weights_only=True)
        self._begin(model, optimizer)

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        folder = _folder(args, state)
        if self.monitor is not None and state.is_world_process_zero:
            folder.mkdir(parents=True, exist_ok=True)
            beside = folder / f".{FILE}.part"
            torch.save(self.monitor.state_dict(), beside)
            beside.replace(folder / FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._end()


class LightningMonitor(_Watching):
    """``Trainer(callbacks=[LightningMonitor(cat)])`` of Lightning; its state is part of Lightning's checkpoints.

    The catalog may be that of the LightningModule or of a network inside it. One optimizer is watched, the first. Gradients
    are read where the optimizer gets them, after accumulation and clipping.
    """

    state_key = _legacy_state_key = "symdisc.LightningMonitor"

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._begin(module, trainer.optimizers[0])

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._end()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._saved = saved or None


def _folder(args: Any, state: Any) -> Path:
    """Where the Trainer keeps the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _inside(model: nn.Module, cat: Catalog) -> nn.Module:
    """The module whose parameters the catalog names: the model, or what a wrapper holds. Raises StateMismatch."""
    for module in model.modules():
        named = {cat.aliases.get(n, n): tuple(p.shape) for n, p in module.named_parameters(remove_duplicate=False)}
        if all(named.get(n) == tuple(shape) for n, shape in cat.parameters.items()):
            return module
    raise StateMismatch(f"no module of {type(model).__name__} has the parameters of the catalog of {cat.architecture}")


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside the wrappers of accelerate and Lightning."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
