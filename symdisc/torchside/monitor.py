"""A training run watched against its symmetries: Q measured, Q predicted exactly from the gradients, orthogonality.

The gradient of every correct backward pass is orthogonal to every generator, so the watch is a test of the backward
pass as well: a wrong layer shows in the symmetries that move its parameters.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.conserved import ConservedQuantity
from symdisc.errors import BadInput, StateMismatch
from symdisc.torchside.alignment import pull
from symdisc.torchside.pieces import Law, Tensors, law_of, moved_by, norm
from symdisc.torchside.sgd_law import Ledger, Motion, Seen, motion_of

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Monitor", "Suspect"]

SETTINGS = ("lr", "weight_decay", "momentum", "dampening", "nesterov")
NOISE = 100  # roundings of the whole gradient: a pull along a generator that is smaller is none
SHOWN = 8  # entries of Q that a record keeps; norm and error are over all entries
COLUMNS = ("step", "symmetry", "parameters", "orthogonality", "share", "norm", "predicted_norm", "error")

ADAPTIVE = ("divides each entry by a history of its gradients, so no quadratic or linear Q survives exactly (one second moment "
            "shared over a symmetric block would keep them); only <grad, generator> = 0 does, and Q is measured, not predicted")
OTHER = "has no exact recursion here: only <grad, generator> = 0 survives any optimizer, and Q is measured, not predicted"


@dataclass(frozen=True)
class Suspect:
    """A symmetry that some gradient was not orthogonal to; ``blamed`` are its parameters that holding symmetries do not clear."""

    symmetry: str
    parameters: tuple[str, ...]
    blamed: tuple[str, ...]
    orthogonality: float
    step: int


class Monitor:
    """Watches the steps of ``optimizer`` for the symmetries of ``cat``; make it, then train as usual.

    ``records`` gets one entry per symmetry at every ``every``-th step (steps 0, 50, 100, ... by default): the first entries
    of Q and of its prediction, and over all entries their norms and the relative ``error`` (against |Q|, or a thousandth of
    what Q is a difference of, where it cancels); ``orthogonality`` (the cosine between gradient and generator, over the
    parameters that the symmetry moves) and ``share`` (the same against the whole gradient). Predictions follow every
    single step, whatever ``every`` is; they look at gradients and momentum buffers, never at the weights after the first
    step (but for parameters whose settings differ from those of their partners: these are measured, and the prediction
    takes the pull on the first parameter from the symmetry).

    Translations, up to 32 charges per unit, and matrices with blocks up to 16 are followed entry by entry. Of more charges
    per unit (ReLU units, gains, rotary planes) 32 neighbours are followed; wider matrices are seen through eight fixed
    random vectors u, as u^T Q u, which obeys the law that Q obeys; ``sketched`` says which. Orthogonality is asked of whole
    symmetries, but for blocks wider than 128, where it is that of one random column of the moment. With ``full=True`` all
    of Q and of the moment is followed, at the price of a matrix product per parameter and step.

    Under torch.optim.SGD (any schedule, decay, momentum, Nesterov, dampening, parameter groups, missing gradients)
    predictions are exact. Under other optimizers Q is only measured, and ``unpredicted`` says so; ``unwatched`` says why
    for symmetries that are left out. Penalties in the loss that are no function of the outputs break the symmetries; use
    ``weight_decay``. Raises BadInput for LBFGS, which has no single gradient per step, and StateMismatch when the model is another one.
    """

    def __init__(self, cat: Catalog, model: nn.Module, optimizer: torch.optim.Optimizer, every: int = 50,
                 full: bool = False) -> None:
        if every < 1:
            raise BadInput(f"every must be at least 1, got {every}")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise BadInput("LBFGS asks for gradients at several points of one step, and a Monitor reads one: use another optimizer")
        self.cat, self.model, self.optimizer, self.every, self.full = cat, model, optimizer, every, full
        self.step = 0
        self.records: list[dict[str, Any]] = []
        self.unwatched: dict[str, str] = {}
        self.unpredicted: dict[str, str] = {}
        named = {cat.aliases.get(n, n): p for n, p in model.named_parameters(remove_duplicate=False)}
        for n, shape in cat.parameters.items():
            if n not in named or tuple(named[n].shape) != tuple(shape):
                raise StateMismatch(f"the model has no parameter {n} of shape {list(shape)}; is it the model of the catalog?")
        self.parameters = named
        self._groups = self._owners()
        charges = cat.charges  # also where the model cuts gradients: it may do so by mistake
        names = Counter(q.name for q in charges)
        labels = [q.name if names[q.name] == 1 else f"{q.name} [{' '.join(moved_by(q))}]" for q in charges]
        watched = [self._watch(q, label) for q, label in zip(charges, labels, strict=True)]
        self.laws: list[Law] = [law for law in watched if law is not None]
        self.exact = type(optimizer) is torch.optim.SGD
        if not self.exact:
            self.unpredicted = {law.label: f"{type(optimizer).__name__} {_why(optimizer)}" for law in self.laws}
        self._followed = [law for law in self.laws if law.predicts and self.exact]
        self._names = tuple(dict.fromkeys(n for law in self._followed for n in law.moved))
        self.ledger = Ledger(self._followed)
        self._handles = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)]

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @property
    def sketched(self) -> dict[str, str]:
        """What is followed of Q, for symmetries where it is not all of it."""
        return {law.label: law.sketched for law in self.laws if law.sketched}

    def _watch(self, q: ConservedQuantity, label: str) -> Law | None:
        moved = moved_by(q)
        still = [n for n in moved if n not in self.parameters or id(self.parameters[n]) not in self._groups
                 or not self.parameters[n].requires_grad]
        if not moved or still:
            self.unwatched[label] = f"{still[0]} is not trained by this optimizer" if still else "it acts by a flow only"
            return None
        law = law_of(q, label, self.full)
        if not law.predicts:
            self.unpredicted[label] = q.reason or f"Q of form {q.form} is not of second degree"
        return law

    def _owners(self) -> dict[int, dict[str, Any]]:
        """The group of each parameter; loading a checkpoint makes new groups, so it is asked at every step."""
        return {id(p): group for group in self.optimizer.param_groups for p in group["params"]}

    # --- reading the run ----------------------------------------------------------------------------------------------
    def _state(self) -> dict[str, Tensor]:
        buffers = {self.cat.aliases.get(n, n): b.detach() for n, b in self.model.named_buffers()} if self.cat.buffers else {}
        return buffers | {n: p.detach() for n, p in self.parameters.items()}

    def _gradient(self, name: str) -> Tensor:
        p = self.parameters[name]
        if p.grad is None:
            return torch.zeros_like(p)
        g = p.grad.detach()
        g = g.to_dense() if g.layout != torch.strided else g
        return -g if self._groups[id(p)].get("maximize") else g

    def _seen(self, gradients: Tensors) -> Seen:
        """Gradients, buffers and motions of all parameters that some prediction needs."""
        motions = {}
        made: dict[tuple[int, bool, bool], Motion] = {}
        for n in self._names:
            p = self.parameters[n]
            group = self._groups[id(p)]
            key = (id(group), self._buffer(n) is not None, p.grad is not None)
            if key not in made:
                made[key] = motion_of({k: group[k] for k in SETTINGS}, *key[1:])
            motions[n] = made[key]
        return Seen(gradients, self._buffers(), motions, any(buffer for _, buffer, _ in made))

    def _buffer(self, name: str) -> Tensor | None:
        p = self.parameters[name]
        return self.optimizer.state[p].get("momentum_buffer") if p in self.optimizer.state else None

    def _buffers(self) -> dict[str, Tensor]:
        """Momentum buffers by name, zeros where there are none."""
        found = {}
        for n in self._names:
            p, v = self.parameters[n], self._buffer(n)
            found[n] = torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape) if v is None else v
        return found

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Gradients are there before the step, or once its closure has run."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._read()
            return None

        def then_read() -> Any:
            loss = closure()
            self._read()
            return loss

        placed = (args[0], then_read, *args[2:]) if len(args) > 1 else args
        return placed, {k: then_read if k == "closure" else v for k, v in kwargs.items()}

    @torch.no_grad()
    def _read(self) -> None:
        if self.model.training != self.cat.training and any(map(_modal, self.model.modules())):
            mode = "train" if self.model.training else "eval"
            raise BadInput(f"batch norm and dropout depend on the mode: make the catalog with the model in {mode} mode, as trained")
        self._groups = self._owners()
        recording = self.step % self.every == 0
        if not recording and not self._followed:
            return
        state = self._state()
        names = [n for n in self.parameters if id(self.parameters[n]) in self._groups] if recording else self._names
        gradients = {n: self._gradient(n) for n in names}
        if recording:
            self._aligned = self._alignment(gradients, state)
        if self._followed:
            seen = self._seen(gradients)
            if self.ledger.forms is None:
                self.ledger.start(state, seen.buffers)
            self.ledger.before(seen, state)

    def _alignment(self, gradients: Tensors, state: Tensors) -> list[tuple[float, float]]:
        """For each law the cosine over its parameters, and the same against the whole gradient."""
        lengths = dict(zip(gradients, _lengths(list(gradients.values())), strict=True))
        whole = math.hypot(*lengths.values())
        found = []
        for law in self.laws:
            seen = pull(law.quantity, {n: gradients[n] for n in law.moved}, state, self.full)
            own = math.hypot(*(lengths[n] for n in law.moved))
            found.append((seen / own if own else 0.0, seen / whole if whole else 0.0))
        return found

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        recording = self.step % self.every == 0
        state = self._state() if recording or self._followed else {}
        if self._followed:
            self.ledger.after(self._buffers(), state)
        if recording:
            predictions = {id(law): p for law, p in zip(self._followed, self.ledger.predicted() if self._followed else (), strict=True)}
            for law, (cosine, share) in zip(self.laws, self._aligned, strict=True):
                row = {"step": self.step, "symmetry": law.label, "parameters": list(law.moved), "orthogonality": cosine, "share": share}
                self.records.append(row | _measured(law, state, predictions.get(id(law))))
        self.step += 1

    # --- what it says -------------------------------------------------------------------------------------------------
    def suspects(self, threshold: float | None = None) -> list[Suspect]:
        """Symmetries that a gradient was not orthogonal to, worst first: the backward pass of their layers is wrong.

        ``threshold`` bounds the cosine (default: square root of the precision of the weights). A pull below 100 roundings
        of the whole gradient is noise: some gradients vanish identically, and their cosine is arbitrary.
        """
        eps = self._rounding()
        bound = eps**0.5 if threshold is None else threshold
        worst: dict[tuple[str, tuple[str, ...]], tuple[float, int]] = {}
        clean: set[str] = set()
        for r in self.records:
            key = (r["symmetry"], tuple(r["parameters"]))
            bad = not (r["orthogonality"] <= bound or r["share"] <= NOISE * eps)  # a NaN is bad
            if bad and not worst.get(key, (0.0, 0))[0] >= r["orthogonality"]:
                worst[key] = (r["orthogonality"], r["step"])
        for law in self.laws:
            # a wrong factor on one parameter cannot be seen by a symmetry that moves it alone
            if len(law.moved) > 1 and (law.label, law.moved) not in worst:
                clean |= set(law.moved)
        found = [Suspect(name, moved, tuple(n for n in moved if n not in clean) or moved, size, step)
                 for (name, moved), (size, step) in worst.items()]
        return sorted(found, key=lambda s: -s.orthogonality)

    def _rounding(self) -> float:
        """The coarsest precision of the weights."""
        return max((torch.finfo(p.dtype).eps for p in self.parameters.values()), default=0.0)

    def to_json(self) -> str:
        """All records, what is not watched and not predicted, as one JSON document."""
        text = json.dumps({"steps": self.step, "records": self.records, "unwatched": self.unwatched,
                           "sketched": self.sketched, "unpredicted": self.unpredicted})
        # JSON knows neither NaN nor infinity
        return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1) + "\n"

    def to_csv(self) -> str:
        """One line per record, without the entries of Q."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for r in self.records:
            writer.writerow([" ".join(r[c]) if c == "parameters" else r[c] for c in COLUMNS])
        return text.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run: .json or .csv (as ``to_json`` and ``to_csv``), or a figure as .png, .svg or .pdf."""
        target = Path(path)
        text = {".json": self.to_json, ".csv": self.to_csv}.get(target.suffix.lower())
        if text is None:
            from symdisc.report.training import draw_run

            draw_run(self.records, target, f"{self.cat.architecture}, {type(self.optimizer).__name__}, {self.step} steps",
                     NOISE * self._rounding())
            return
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            beside.write_text(text(), encoding="utf-8")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Steps, records and predicted forms; save it beside the optimizer's, whose buffers it goes with."""
        return {"step": self.step, "records": [dict(r) for r in self.records],
                "unpredicted": dict(self.unpredicted), "names": [law.label for law in self.laws],
                "sketched": self.sketched, "ledger": self.ledger.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, after model and optimizer were loaded.

        Raises StateMismatch when the other monitor watched other symmetries, or other entries of them.
        """
        if list(saved["names"]) != [law.label for law in self.laws]:
            raise StateMismatch("the saved monitor watched other symmetries; is it of this model and catalog?")
        if dict(saved["sketched"]) != self.sketched:
            raise StateMismatch("the saved monitor was made with another setting of full; use the same")
        self.step, self.records = saved["step"], [dict(r) for r in saved["records"]]
        self.unpredicted = dict(saved["unpredicted"])
        home = next((p.device for p in self.parameters.values()), torch.device("cpu"))
        self.ledger.load_state_dict(saved["ledger"], home)


def _measured(law: Law, state: Tensors, predicted: Tensor | None) -> dict[str, Any]:
    """Q (or what the random vectors see of it) beside its prediction."""
    row: dict[str, Any] = {"q": None, "norm": None, "predicted": None, "predicted_norm": None, "error": None}
    if not law.predicts:
        return row
    q = law.value(state).cpu()
    row |= {"q": q[:SHOWN].tolist(), "norm": float(q.norm())}
    if predicted is None:
        return row
    p = predicted.cpu()
    length = max(float(norm([state[n] for n in law.moved])), 1e-3)
    scale = length**2 / 2 if any(piece.bilinear for piece in law.pieces) else length
    return row | {"predicted": p[:SHOWN].tolist(), "predicted_norm": float(p.norm()),
                  "error": float((p - q).norm()) / max(row["norm"], 1e-3 * scale)}


def _lengths(tensors: list[Tensor]) -> list[float]:
    return torch.stack([torch.linalg.vector_norm(t).double().cpu() for t in tensors]).tolist() if tensors else []


def _why(optimizer: torch.optim.Optimizer) -> str:
    known = type(optimizer).__name__.lower().startswith(("ada", "nadam", "radam", "rmsprop", "sparseadam"))
    return ADAPTIVE if known else OTHER


def _modal(module: nn.Module) -> bool:
    """Whether a module computes something else in training."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return True
    rate = getattr(module, "p", None) if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", None)
    return isinstance(rate, float) and rate > 0
