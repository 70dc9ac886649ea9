"""Inputs for a model that came without: inferred where they are determined, said in the evidence, refused where they are not."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from symdisc.errors import BadInput

__all__ = ["infer_inputs"]

SAMPLES = 2
GIVE = "give count_laws the catalog discover(model, example_inputs)"


def infer_inputs(model: Any) -> tuple[tuple[Any, ...], str]:
    """Example inputs of a torch module, and how they were found.

    A module with ``example_inputs()`` is asked. Else the model must take one tensor [samples, width], and exactly one width, among
    the sizes of its matrices, must run: then the input is determined, not guessed. Raises BadInput, saying what was tried.
    """
    own = getattr(model, "example_inputs", None)
    if callable(own):
        return tuple(own()), "inputs from the model's own example_inputs()"
    name = _only_input(model)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    if not matrices:
        raise BadInput(f"count_laws cannot infer the inputs of this model, which has no matrix to read a width from: {GIVE}")
    widths = list(dict.fromkeys(n for p in matrices for n in reversed(p.shape)))
    tried_on = copy.deepcopy(model)  # batch norm in training keeps what it sees
    fitting = [w for w in widths if _runs(tried_on, matrices[0].new_ones((SAMPLES, w)))]
    tried = ", ".join(map(str, widths))
    if not fitting:
        raise BadInput(f"count_laws cannot infer the inputs of this model: it takes no [samples, width] tensor of width {tried}; {GIVE}")
    if len(fitting) > 1:
        raise BadInput(f"count_laws cannot infer the inputs of this model: it takes [samples, width] tensors of the widths "
                       f"{', '.join(map(str, fitting))}; {GIVE}")
    only = "the only width" if len(widths) == 1 else f"the only width of {tried}"
    return (matrices[0].new_ones((SAMPLES, fitting[0])),), f"{name} taken as [{SAMPLES}, {fitting[0]}], {only} that the model takes"


def _only_input(model: Any) -> str:
    """The name of the single input of ``forward``."""
    given = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in given if p.default is p.empty]
    if len(needed) > 1:
        raise BadInput(f"count_laws cannot infer the inputs of this model, whose forward takes {', '.join(needed)}: {GIVE}")
    return needed[0] if needed else "x"


def _runs(model: Any, x: Any) -> bool:
    try:
        model(x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return True
