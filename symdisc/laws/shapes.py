"""The named shapes: a dictionary such as {"kind": "relu", "widths": [3, 4, 2], "bias": True} to its CountProblem.

| kind | keys (defaults) | the map |
|---|---|---|
| linear, relu | widths, bias (False: on hidden layers only) | W_L a(... a(W_1 x + b_1)), widths from input to output |
| residual | width, hidden (a list, one per block), activation (relu), bias (False) | x + W_2 a(W_1 x + b), composed |
| conv | channels, kernel (integer or a list), activation (relu), bias (False) | convolutions, one output position |
| attention | width, key, value (= key), heads (1), kv_heads (= heads), rotary (False) | all W_Q W_K^T, W_V W_O |
| product | factors | x_1 x_2 ... x_D |
| nmf | rows, rank, columns, mirror (entropic) | U V^T; mirror "entropic" on both factors, "mixed" on U alone, "none" |
| icnn | widths (three), bias (False) | ReLU with mirror flow on the positive output layer, Euclidean on the rest |

Each takes "flow": "gradient" (default) or "momentum" (theta'' + tau theta' + P grad L = 0 on (t, theta, theta')). A
ReLU network is linear within an activation region and all paths count (arXiv:2307.00144), so a sample carries random
masks: the output is multilinear in them, hence all samples together span exactly the path products, which are never
enumerated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from symdisc.errors import BadInput
from symdisc.laws import maps
from symdisc.laws.closed import Law
from symdisc.laws.problem import CountProblem

__all__ = ["KINDS", "problem_of_shape"]

_REQUIRED = object()


@dataclass(frozen=True)
class Kind:
    """One row of the table above: the keys with their defaults and the builder, called with all of them."""

    keys: Mapping[str, Any]
    build: Callable[..., CountProblem]


KINDS: Mapping[str, Kind] = {
    "linear": Kind({"widths": _REQUIRED, "bias": False}, lambda **k: maps.layered(activation="linear", **k)),
    "relu": Kind({"widths": _REQUIRED, "bias": False}, lambda **k: maps.layered(activation="relu", **k)),
    "residual": Kind({"width": _REQUIRED, "hidden": _REQUIRED, "activation": "relu", "bias": False}, maps.residual),
    "conv": Kind({"channels": _REQUIRED, "kernel": _REQUIRED, "activation": "relu", "bias": False}, maps.conv),
    "attention": Kind(
        {"width": _REQUIRED, "key": _REQUIRED, "value": None, "heads": 1, "kv_heads": None, "rotary": False},
        maps.attention,
    ),
    "product": Kind({"factors": _REQUIRED}, maps.product),
    "nmf": Kind({"rows": _REQUIRED, "rank": _REQUIRED, "columns": _REQUIRED, "mirror": "entropic"}, maps.nmf),
    "icnn": Kind({"widths": _REQUIRED, "bias": False}, maps.icnn),
}


def problem_of_shape(shape: Mapping[str, Any]) -> CountProblem:
    """The CountProblem of a shape of the table above; raises BadInput naming the key that is wrong."""
    kind = shape.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInput(f"kind {kind!r} is not known: use one of {', '.join(KINDS)}")
    row = KINDS[kind]
    unknown = sorted(map(str, set(shape) - set(row.keys) - {"kind", "flow"}))
    missing = sorted(k for k, v in row.keys.items() if v is _REQUIRED and k not in shape)
    if unknown or missing:
        wrong = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise BadInput(f"shape of kind {kind!r} {wrong}; its keys are {', '.join(row.keys)}, flow")
    given = {key: shape.get(key, default) for key, default in row.keys.items()}
    checked = _checked(given)
    if kind == "icnn" and len(checked["widths"]) != 3:
        raise BadInput(f"widths is {checked['widths']}: kind 'icnn' has three, input, hidden and output")
    problem = row.build(**checked)
    flow = shape.get("flow", "gradient")
    if flow == "gradient":
        return problem
    if flow != "momentum":
        raise BadInput(f"flow is {flow!r}: use 'gradient' or 'momentum'")
    # Under a mirror metric no generator is compact, and with momentum nothing is known to survive.
    laws = () if problem.entropic else tuple(law for law in problem.laws if isinstance(law, Law))
    kept = tuple(k for law in laws if (k := law.under_momentum()) is not None)
    # The drift joins the fields of the loss, so a single field is single no more.
    return replace(problem, name=f"{problem.name}, momentum", flow=flow, laws=kept, generators=None)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Every value is of its kind and size; lists are copied, sizes that default to another one are filled in."""
    out = dict(given)
    for key in set(out) & {"widths", "hidden", "channels"}:
        out[key] = _sizes(key, out[key], 1 if key == "hidden" else 2)
    if "kernel" in out:
        out["kernel"] = _sizes("kernel", out["kernel"] if _is_list(out["kernel"]) else [out["kernel"]], 1)
    for key, other in (("value", "key"), ("kv_heads", "heads")):
        if key in out and out[key] is None:
            out[key] = out[other]
    for key in set(out) & {"width", "key", "value", "heads", "kv_heads", "factors", "rows", "rank", "columns"}:
        out[key] = _size(key, out[key])
    for key in set(out) & {"bias", "rotary"}:
        if not isinstance(out[key], bool):
            raise BadInput(f"{key} is {out[key]!r}: use true or false")
    for key, choices in (("activation", ("linear", "relu")), ("mirror", ("entropic", "mixed", "none"))):
        if key in out and out[key] not in choices:
            raise BadInput(f"{key} is {out[key]!r}: use one of {', '.join(choices)}")
    if out.get("rotary") and out["key"] % 2:
        raise BadInput(f"key is {out['key']}: rotary positions need an even size")
    if "heads" in out and out["heads"] % out["kv_heads"]:
        raise BadInput(f"heads is {out['heads']}, which kv_heads = {out['kv_heads']} does not divide")
    return out


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _sizes(key: str, value: object, least: int) -> list[int]:
    if not _is_list(value) or len(value) < least:  # type: ignore[arg-type]
        raise BadInput(f"{key} is {value!r}: give a list of at least {least} positive integers")
    return [_size(key, v) for v in value]  # type: ignore[attr-defined]


def _size(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BadInput(f"{key} has {value!r}: sizes are positive integers")
    return int(value)
