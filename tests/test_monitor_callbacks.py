"""The monitor inside the training loops of others, by the hooks that they call.

The Trainer's calls are made by its own CallbackHandler, in the order of its training loop (the Trainer itself needs
accelerate, which is no dependency). Lightning is played by a driver that calls the hooks it calls, closure included.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monitored import batches, catalog, errors, fresh, mlp
from torch import Tensor, nn
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

from symdisc.errors import StateMismatch
from symdisc.torchside.callbacks import FILE, LightningMonitor, TrainerMonitor

SETTINGS: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}


class Wrapped:
    """An optimizer inside another object, as accelerate has it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


class Around(nn.Module):
    """A model inside another one, as DistributedDataParallel or a LightningModule has it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def trainer_run(folder: Path, callback: TrainerMonitor, model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterator[Tensor],
                begun: int = 0, save_at: int = 0) -> None:
    """The hooks of Trainer.train around plain steps."""
    args = SimpleNamespace(output_dir=str(folder), logging_nan_inf_filter=False)
    state, control = TrainerState(global_step=begun, is_world_process_zero=True), TrainerControl()
    handler = CallbackHandler([callback], Around(model), None, Wrapped(optimizer), None)
    handler.on_init_end(args, state, control)
    handler.on_train_begin(args, state, control)
    handler.on_epoch_begin(args, state, control)
    for x in data:
        handler.on_step_begin(args, state, control)
        model(x).square().mean().backward()
        handler.on_pre_optimizer_step(args, state, control)
        optimizer.step()
        handler.on_optimizer_step(args, state, control)
        optimizer.zero_grad()
        state.global_step += 1
        handler.on_step_end(args, state, control)
        handler.on_log(args, state, control, {"loss": 0.0})
        if state.global_step == save_at:
            handler.on_save(args, state, control)
            torch.save([model.state_dict(), optimizer.state_dict()], folder / f"checkpoint-{save_at}" / "rest.pt")
    handler.on_epoch_end(args, state, control)
    handler.on_train_end(args, state, control)


def test_trainer_resumes_where_it_was(tmp_path: Path) -> None:
    model = fresh(mlp)
    through = TrainerMonitor(catalog(mlp), every=1)
    trainer_run(tmp_path, through, model, torch.optim.SGD(model.parameters(), **SETTINGS), batches(mlp, 15), save_at=6)
    assert through.monitor is not None and through.monitor.step == 15 and max(errors(through.monitor)) < 1e-12
    assert (tmp_path / "checkpoint-6" / FILE).is_file() and not list(tmp_path.rglob("*.part"))
    again = fresh(mlp)
    optimizer = torch.optim.SGD(again.parameters(), **SETTINGS)
    weights, moments = torch.load(tmp_path / "checkpoint-6" / "rest.pt", weights_only=True)
    again.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    resumed = TrainerMonitor(catalog(mlp), every=1)
    trainer_run(tmp_path, resumed, again, optimizer, batches(mlp, 9, skip=6), begun=6)
    assert resumed.monitor is not None and resumed.monitor.records == through.monitor.records


def lightning_run(callback: LightningMonitor, module: nn.Module, optimizer: torch.optim.Optimizer, data: Iterator[Tensor]) -> None:
    """The hooks of Lightning around automatic optimization: the closure zeroes, runs, clips; the step gets it by name."""
    trainer = SimpleNamespace(optimizers=[optimizer])
    callback.setup(trainer, module, stage="fit")
    callback.on_fit_start(trainer, module)
    callback.on_train_start(trainer, module)
    for k, x in enumerate(data):
        callback.on_train_batch_start(trainer, module, x, k)

        def closure(x: Tensor = x) -> Tensor:
            loss = module(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            callback.on_before_optimizer_step(trainer, module, optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 0.05)
            return loss

        optimizer.step(closure=closure)
        callback.on_train_batch_end(trainer, module, None, x, k)
    callback.on_train_end(trainer, module)
    callback.teardown(trainer, module, stage="fit")


def test_lightning_with_closure_clipping_and_checkpoint() -> None:
    module = Around(fresh(mlp))
    optimizer = torch.optim.SGD(module.parameters(), **SETTINGS)
    callback = LightningMonitor(catalog(mlp), every=1)
    assert callback.state_dict() == {} and isinstance(callback.state_key, str)
    lightning_run(callback, module, optimizer, batches(mlp, 8))
    assert callback.monitor is not None and callback.monitor.step == 8 and max(errors(callback.monitor)) < 1e-12
    resumed = LightningMonitor(catalog(mlp), every=1)
    resumed.load_state_dict(callback.state_dict())
    lightning_run(resumed, module, optimizer, batches(mlp, 4, skip=8))
    assert resumed.monitor is not None and resumed.monitor.step == 12
    assert max(errors(resumed.monitor)) < 1e-12 and len(resumed.monitor.records) == 12 * len(resumed.monitor.laws)


def test_what_does_not_fit_is_refused() -> None:
    callback = LightningMonitor(catalog(mlp))
    other = nn.Linear(2, 2)
    with pytest.raises(StateMismatch, match="no module of Linear"):
        callback.on_train_start(SimpleNamespace(optimizers=[torch.optim.SGD(other.parameters(), lr=0.1)]), other)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = callback.fly


def test_neither_framework_is_imported() -> None:
    code = ("import sys, symdisc.torchside.callbacks; "
            "sys.exit(bool({'transformers', 'lightning', 'pytorch_lightning', 'accelerate'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
