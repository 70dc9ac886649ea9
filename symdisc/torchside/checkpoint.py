"""Checkpoints on disk: read without running anybody's code, fit names to a catalog, transform, write beside and rename."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from symdisc.errors import BadInput, StateMismatch

if TYPE_CHECKING:
    from symdisc.catalog import Catalog
    from symdisc.symmetry import Discrete, Element, Symmetry

__all__ = ["Checkpoint", "Fit", "beside", "check_target", "fit_names", "read_checkpoint", "transform", "write_checkpoint"]

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
INDEX = "model.safetensors.index.json"

# Above this size (bytes of the file) weights are transformed in their own dtype; below, in float64 and rounded once.
FLOAT64_LIMIT = 4 << 30


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by their names on disk, with the file's metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


# --- reading ----------------------------------------------------------------------------------------------------------------
def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """A .safetensors file, a folder of them (with an index), or a pickle that torch.load reads with weights_only=True.

    Raises BadInput, in one line, for anything else, and for NaN or infinite values.
    """
    file = Path(path)
    if file.is_dir():
        found = _read_folder(file)
    elif not file.exists():
        raise BadInput(f"no such file: {file}")
    elif file.suffix in PICKLES:
        found = _read_pickle(file)
    else:
        found = _read_safetensors(file)
    for name, tensor in found.tensors.items():
        if tensor.is_floating_point() and not _finite(tensor):
            raise BadInput(f"{file}: {name} holds NaN or infinite values; a symmetry cannot be applied to a broken checkpoint")
    return found


def _finite(tensor: Tensor) -> bool:
    try:
        return bool(torch.isfinite(tensor).all())
    except (RuntimeError, NotImplementedError):  # 8-bit floats lack the operator
        return bool(torch.isfinite(tensor.float()).all())


def _read_safetensors(file: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}
            return Checkpoint(file, tensors, dict(handle.metadata() or {}))
    except SafetensorError as error:
        raise BadInput(f"{file} is not a safetensors file, or it is damaged: {_first_line(error)}" + _looks_like(file)) from error
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {file}: {getattr(error, 'strerror', None) or _first_line(error)}") from error


def _looks_like(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            head = handle.read(4)
    except OSError:
        return ""
    if head[:2] == b"\x80\x02" or head == b"PK\x03\x04":
        return " (it looks like a pickle: name it .pt to have it read by torch.load with weights_only=True)"
    return " (an empty file)" if not head else ""


def _read_folder(folder: Path) -> Checkpoint:
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")
    index = folder / INDEX
    if not index.is_file():
        raise BadInput(f"{folder} holds neither model.safetensors nor {INDEX}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{index} is not an index of safetensors files") from error
    strays = [n for n in names if not isinstance(n, str) or Path(n).name != n]
    if strays:
        raise BadInput(f"{index} points outside its folder: {strays[0]!r}")
    shards = [_read_safetensors(folder / n) if (folder / n).is_file() else _no_shard(index, n) for n in names]
    merged = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    return Checkpoint(folder, merged, shards[0].metadata if shards else {})


def _no_shard(index: Path, name: str) -> Checkpoint:
    raise BadInput(f"{index} names {name}, which is not in the folder")


def _read_pickle(file: Path) -> Checkpoint:
    """Only what ``weights_only=True`` accepts: tensors and plain containers, no code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on unusual pickles before it refuses them
            data: Any = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise BadInput(f"{file} is refused: torch.load(weights_only=True) does not read it, so it is damaged or would run code; "
                       "save the state_dict as safetensors") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(v, Tensor) for v in data.values()):
        raise BadInput(f"{file} holds no state_dict (a mapping of names to tensors)")
    return Checkpoint(file, {str(k): v.detach() for k, v in data.items()})


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# --- names ------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fit:
    """How names on disk correspond to names of the model: disk name -> model name; ``kept`` are written back untouched."""

    names: dict[str, str]
    kept: tuple[str, ...] = ()
    prefix: str = ""

    def notes(self) -> list[str]:
        out = []
        if self.prefix:
            side = "on disk" if self.prefix[0] == "+" else "in the model"
            out.append(f"names {side} carry the prefix {self.prefix[1:]!r}; the file keeps its own names")
        if self.kept:
            out.append(f"{len(self.kept)} tensors that the model does not use are kept as they are, first {self.kept[0]}")
        return out


def fit_names(cat: Catalog, checkpoint: Checkpoint, ignorable: Sequence[str] = ()) -> Fit:
    """Match a checkpoint with a catalog: equal names, or equal up to one prefix for which everything fits.

    ``ignorable``: patterns of names that the model is known not to need. Raises StateMismatch naming what is missing, left
    over, of a wrong shape or not floating point.
    """
    shapes = {n: tuple(t.shape) for n, t in checkpoint.tensors.items()}
    known = {**cat.parameters, **cat.buffers}
    known.update({alias: known[c] for alias, c in cat.aliases.items() if c in known})
    prefix = _prefix(cat, set(shapes), known)
    names: dict[str, str] = {}
    kept, strange = [], []
    for disk in shapes:
        model = _renamed(disk, prefix)
        if model in known:
            names[disk] = model
        elif any(re.search(p, disk) for p in ignorable) or not checkpoint.tensors[disk].is_floating_point():
            kept.append(disk)
        else:
            strange.append(disk)
    _refuse_missing(cat, checkpoint, names, strange)
    for disk, model in names.items():
        if shapes[disk] != known[model]:
            raise StateMismatch(f"{disk} has shape {list(shapes[disk])} in {checkpoint.path}, but the model has {list(known[model])}")
    if strange:
        raise StateMismatch(f"{checkpoint.path} holds {_some(strange)} that the model lacks: is --model the right one? "
                            "(a model without the head of its checkpoint is another function)")
    return Fit(names, tuple(kept), prefix)


def _renamed(disk: str, prefix: str) -> str | None:
    """``prefix`` "+p." stands for names that carry p. on disk only, "-p." for names that carry it in the model only."""
    if prefix.startswith("+"):
        return disk[len(prefix) - 1:] if disk.startswith(prefix[1:]) else None
    return prefix[1:] + disk


def _prefix(cat: Catalog, disk: set[str], known: Mapping[str, tuple[int, ...]]) -> str:
    """The one prefix under which every parameter of the model is found on disk, or none."""
    needed = list(cat.parameters)
    if not needed or any(n in disk for n in needed):
        return ""
    found = set()
    for name in disk:
        if name.endswith("." + needed[0]):
            found.add("+" + name[: -len(needed[0])])
        if needed[0].endswith("." + name):
            found.add("-" + needed[0][: -len(name)])
    full = [p for p in sorted(found) if all(
        (p[1:] + n if p[0] == "+" else n.removeprefix(p[1:])) in disk or n in cat.aliases.values() for n in needed)]
    return full[0] if len(full) == 1 else ""


def _refuse_missing(cat: Catalog, checkpoint: Checkpoint, names: Mapping[str, str], strange: Sequence[str]) -> None:
    present = {cat.aliases.get(m, m) for m in names.values()}
    missing = [n for n in cat.parameters if n not in present]
    moved = {p for s in _factors(cat) for p in s.parameters}
    missing += [n for n in cat.buffers if n in moved and n not in present]
    if not missing:
        return
    hint = ""
    tails = [d for d in strange if d.split(".")[-2:] == missing[0].split(".")[-2:]]
    if len(missing) == len(cat.parameters) and strange:
        hint = f"; the names differ altogether, the file has {strange[0]}"
    elif tails:
        hint = f"; the file has {tails[0]}, so a prefix may differ for this part only"
    raise StateMismatch(f"{checkpoint.path} lacks {_some(missing)} that the model has{hint}; is --model the right one?")


def _factors(cat: Catalog) -> list[Symmetry | Discrete]:
    return [*cat.symmetries, *cat.discrete]


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({listed})"


# --- transforming -----------------------------------------------------------------------------------------------------------
def transform(cat: Catalog, checkpoint: Checkpoint, fit: Fit, g: Element) -> Checkpoint:
    """The checkpoint with ``g`` applied: same names, dtypes and metadata; kept tensors untouched.

    Computed in float64 (files above 4 GiB: in the weight's dtype) and rounded once. Raises StateMismatch when ties differ.
    """
    moved = {p for s in _factors(cat) for p in s.parameters}
    size = sum(t.numel() * t.element_size() for t in checkpoint.tensors.values())
    state: dict[str, Tensor] = {}
    for disk, model in fit.names.items():
        tensor = checkpoint.tensors[disk]
        canonical = cat.aliases.get(model, model)
        if canonical in moved:
            _movable(checkpoint, disk, tensor)
            _same_as_tied(cat, checkpoint, fit, disk, canonical)
            tensor = tensor.double() if size <= FLOAT64_LIMIT else tensor
        state[model] = tensor
    new = cat.apply(state, g)
    out = {}
    for disk, tensor in checkpoint.tensors.items():
        result = new[fit.names[disk]].to(tensor.dtype) if disk in fit.names else tensor.clone()
        if result.is_floating_point() and not _finite(result):
            raise StateMismatch(f"{disk} would leave the range of {str(tensor.dtype).removeprefix('torch.')}: use a smaller --scale")
        out[disk] = result.contiguous()
    return Checkpoint(checkpoint.path, out, checkpoint.metadata)


def _movable(checkpoint: Checkpoint, disk: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise StateMismatch(f"{disk} in {checkpoint.path} is stored as {kind}: "
                            f"quantised weights have no continuous symmetry, dequantise first")


def _same_as_tied(cat: Catalog, checkpoint: Checkpoint, fit: Fit, disk: str, canonical: str) -> None:
    for other, model in fit.names.items():
        tied = other != disk and cat.aliases.get(model, model) == canonical
        if tied and not torch.equal(checkpoint.tensors[other], checkpoint.tensors[disk]):
            raise StateMismatch(f"{disk} and {other} are one tensor in the model (tied), but differ in {checkpoint.path}")


# --- writing ----------------------------------------------------------------------------------------------------------------
@contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed to it at the end; nothing is left when writing fails or is interrupted."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        mask = os.umask(0)  # writers make private files; what is handed over has the rights of any new file
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)
        os.replace(part, target)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise BadInput when weights cannot be written there, before long work has been done in vain."""
    target = Path(path)
    if target.suffix != ".safetensors":
        raise BadInput(f"{target}: weights are written as safetensors; name the file {target.stem}.safetensors")
    if target.is_dir():
        raise BadInput(f"{target} is a folder; name the file to write")
    if not target.parent.is_dir():
        raise BadInput(f"no such folder: {target.parent} (make it first, then write {target.name} there)")


def write_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write a .safetensors file with the checkpoint's metadata: beside first, then renamed.

    Raises BadInput when the name does not end in .safetensors or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_target(path)
    with beside(path) as part:
        try:
            save_file(checkpoint.tensors, str(part), metadata=checkpoint.metadata or None)
        except SafetensorError as error:
            raise BadInput(f"cannot write {path}: {_first_line(error)}") from error
