"""A training run watched against its symmetries: Q measured, Q predicted exactly from the gradients, orthogonality.

The gradient of every correct backward pass is orthogonal to every generator, so the watch is a test of the backward
pass as well: a wrong layer shows in the symmetries that move its parameters.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symdisc.conserved import ConservedQuantity
from symdisc.errors import BadInput, StateMismatch
from symdisc.torchside.sgd_law import Law, Tensors, moved_by, norm

if TYPE_CHECKING:
    from symdisc.catalog import Catalog

__all__ = ["Monitor", "Suspect"]

SETTINGS = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
SHOWN = 8  # entries of Q that a record keeps; norm and error are over all entries
COLUMNS = ("step", "symmetry", "parameters", "orthogonality", "share", "norm", "predicted_norm", "error")

ADAPTIVE = ("divides each entry by a history of its gradients, so no quadratic or linear Q survives exactly (one second moment "
            "shared over a symmetric block would keep them); only <grad, generator> = 0 does: monitor a run with torch.optim.SGD")
OTHER = "has no exact recursion here; only <grad, generator> = 0 survives any optimizer: monitor a run with torch.optim.SGD"


@dataclass(frozen=True)
class Suspect:
    """A symmetry that some gradient was not orthogonal to; ``blamed`` are its parameters that holding symmetries do not clear."""

    symmetry: str
    parameters: tuple[str, ...]
    blamed: tuple[str, ...]
    orthogonality: float
    step: int


class Monitor:
    """Watches every step of ``optimizer`` (torch.optim.SGD) for the symmetries of ``cat``; make it, then train as usual.

    ``records`` gets one entry per step and symmetry: the first entries of Q and of its prediction, and over all entries
    their norms and the relative ``error`` (against |Q|, or a thousandth of what Q is a difference of, where it cancels);
    ``orthogonality`` (the cosine between gradient and generator, over the parameters that the symmetry moves) and
    ``share`` (the same against the whole gradient). Predictions look at gradients and momentum buffers, never at the
    weights after the first step. ``every`` records only each n-th step; predictions still follow all. ``unwatched`` and
    ``unpredicted`` say why for what is left out. Penalties in the loss that are no function of the outputs break the
    symmetries; use ``weight_decay``.
    """

    def __init__(self, cat: Catalog, model: nn.Module, optimizer: torch.optim.Optimizer, every: int = 1) -> None:
        if type(optimizer) is not torch.optim.SGD:
            name = type(optimizer).__name__
            known = name.lower().startswith(("ada", "nadam", "radam", "rmsprop", "sparseadam"))
            raise BadInput(f"{name} {ADAPTIVE if known else OTHER}")
        if every < 1:
            raise BadInput(f"every must be at least 1, got {every}")
        self.cat, self.model, self.optimizer, self.every = cat, model, optimizer, every
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
        conserved = cat.conserved
        names = Counter(q.name for q in conserved)
        labels = [q.name if names[q.name] == 1 else f"{q.name} [{' '.join(moved_by(q))}]" for q in conserved]
        watched = [self._watch(q, label) for q, label in zip(conserved, labels, strict=True)]
        self.laws: list[Law] = [law for law in watched if law is not None]
        self._handles = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)]

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _watch(self, q: ConservedQuantity, label: str) -> Law | None:
        moved = moved_by(q)
        still = [n for n in moved if n not in self.parameters or id(self.parameters[n]) not in self._groups
                 or not self.parameters[n].requires_grad]
        if not moved or still:
            self.unwatched[label] = f"{still[0]} is not trained by this optimizer" if still else "it acts by a flow only"
            return None
        law = Law(q, q.form in ("moment", "linear") and not any(t.potential for t in q.terms), label)
        if not law.predicts:
            self.unpredicted[label] = q.reason or f"Q of form {q.form} is not of second degree"
        return law

    def _owners(self) -> dict[int, dict[str, Any]]:
        """The group of each parameter; loading a checkpoint makes new groups, so it is asked at every step."""
        return {id(p): group for group in self.optimizer.param_groups for p in group["params"]}

    # --- reading the run ----------------------------------------------------------------------------------------------
    def _state(self) -> dict[str, Tensor]:
        buffers = {self.cat.aliases.get(n, n): b.detach() for n, b in self.model.named_buffers()}
        return buffers | {n: p.detach() for n, p in self.parameters.items()}

    def _gradients(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        found = {}
        for n in names:
            p = self.parameters[n]
            g = torch.zeros_like(p) if p.grad is None else p.grad.detach()
            g = g.to_dense() if g.layout != torch.strided else g
            found[n] = -g if self._groups[id(p)]["maximize"] else g
        return found

    def _common(self, law: Law) -> tuple[dict[str, Any] | None, dict[str, Tensor] | None]:
        """Settings and momentum buffers of the parameters of a law; no settings where these differ."""
        parameters = [self.parameters[n] for n in law.moved]
        settings = [{k: self._groups[id(p)][k] for k in SETTINGS} for p in parameters]
        found = [self.optimizer.state[p].get("momentum_buffer") if p in self.optimizer.state else None for p in parameters]
        has = [b is not None for b in found]
        skipped = [p.grad is None for p in parameters]
        alike = all(s == settings[0] for s in settings) and (all(has) or not any(has)) and not any(skipped)
        buffers = {n: b for n, b in zip(law.moved, found, strict=True) if b is not None} if all(has) else None
        return (settings[0] if alike else None), buffers

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if any(a is not None for a in (*args[1:], kwargs.get("closure"))):
            raise BadInput("a Monitor reads gradients before the step: call loss.backward() and then optimizer.step() without closure")
        if self.model.training != self.cat.training and any(map(_modal, self.model.modules())):
            mode = "train" if self.model.training else "eval"
            raise BadInput(f"batch norm and dropout depend on the mode: make the catalog with the model in {mode} mode, as trained")
        self._groups = self._owners()
        state, recording = self._state(), self.step % self.every == 0
        whole = float(norm([p.grad for p in self.parameters.values() if p.grad is not None])) if recording else 0.0
        self._seen: list[tuple[float, float]] = []
        for law in self.laws:
            g = self._gradients(law.moved)
            if recording:
                cosine, pull = law.orthogonality(g, state)
                self._seen.append((cosine, pull / whole if whole else 0.0))
            if not law.predicts:
                continue
            settings, buffers = self._common(law)
            if settings is None:
                law.forms = {}
                self.unpredicted[law.label] = "its parameters differ in settings, or some had no gradient, at some step"
                continue
            if settings["momentum"] == 0:
                buffers = None
                law.forms.pop("tv", None)
            if not law.forms or (buffers is not None and "tv" not in law.forms):
                law.start(state, buffers)
            law.advance(g, buffers, state, settings)

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.step % self.every == 0:
            state = self._state()
            for law, (cosine, share) in zip(self.laws, self._seen, strict=True):
                self.records.append(self._record(law, state, cosine, share))
        self.step += 1

    def _record(self, law: Law, state: Tensors, cosine: float, share: float) -> dict[str, Any]:
        row: dict[str, Any] = {"step": self.step, "symmetry": law.label, "parameters": list(law.moved),
                               "orthogonality": cosine, "share": share, "q": None, "norm": None,
                               "predicted": None, "predicted_norm": None, "error": None}
        if law.predicts:
            q = torch.as_tensor(law.quantity.evaluate(state)).double()
            row |= {"q": q.reshape(-1)[:SHOWN].tolist(), "norm": float(q.norm())}
            if law.forms:
                p = law.predicted().reshape(q.shape)
                row |= {"predicted": p.reshape(-1)[:SHOWN].tolist(), "predicted_norm": float(p.norm()),
                        "error": float((p - q).norm()) / max(float(q.norm()), 1e-3 * law.size(state))}
        return row

    # --- what it says -------------------------------------------------------------------------------------------------
    def suspects(self, threshold: float | None = None) -> list[Suspect]:
        """Symmetries that a gradient was not orthogonal to, worst first: the backward pass of their layers is wrong.

        ``threshold`` bounds the cosine (default: square root of the precision of the weights). A pull below 100 roundings
        of the whole gradient is noise: some gradients vanish identically, and their cosine is arbitrary.
        """
        eps = max((torch.finfo(p.dtype).eps for p in self.parameters.values()), default=0.0)
        bound = eps**0.5 if threshold is None else threshold
        worst: dict[tuple[str, tuple[str, ...]], tuple[float, int]] = {}
        clean: set[str] = set()
        for r in self.records:
            key = (r["symmetry"], tuple(r["parameters"]))
            bad = not (r["orthogonality"] <= bound or r["share"] <= 100 * eps)  # a NaN is bad
            if bad and not worst.get(key, (0.0, 0))[0] >= r["orthogonality"]:
                worst[key] = (r["orthogonality"], r["step"])
        for law in self.laws:
            # a wrong factor on one parameter cannot be seen by a symmetry that moves it alone
            if len(law.moved) > 1 and (law.label, law.moved) not in worst:
                clean |= set(law.moved)
        found = [Suspect(name, moved, tuple(n for n in moved if n not in clean) or moved, size, step)
                 for (name, moved), (size, step) in worst.items()]
        return sorted(found, key=lambda s: -s.orthogonality)

    def to_json(self) -> str:
        """All records, what is not watched and not predicted, as one JSON document."""
        text = json.dumps({"steps": self.step, "records": self.records, "unwatched": self.unwatched,
                           "unpredicted": self.unpredicted})
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

    def state_dict(self) -> dict[str, Any]:
        """Steps, records and predicted forms; save it beside the optimizer's, whose buffers it goes with."""
        return {"step": self.step, "records": [dict(r) for r in self.records],
                "unpredicted": dict(self.unpredicted), "names": [law.label for law in self.laws],
                "forms": [{k: t.clone() for k, t in law.forms.items()} for law in self.laws],
                "quadratic": [law.quadratic.clone() for law in self.laws]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, after model and optimizer were loaded."""
        if list(saved["names"]) != [law.label for law in self.laws]:
            raise StateMismatch("the saved monitor watched other symmetries; is it of this model and catalog?")
        self.step, self.records = saved["step"], [dict(r) for r in saved["records"]]
        self.unpredicted = dict(saved["unpredicted"])
        for law, forms, quadratic in zip(self.laws, saved["forms"], saved["quadratic"], strict=True):
            device = self.parameters[law.moved[0]].device
            law.forms = {k: t.clone().to(device) for k, t in forms.items()}
            law.quadratic = quadratic.clone().to(device)


def _modal(module: nn.Module) -> bool:
    """Whether a module computes something else in training."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return True
    rate = getattr(module, "p", None) if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", None)
    return isinstance(rate, float) and rate > 0
