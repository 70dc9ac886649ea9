"""Numerical studies: experiments that print their predictions beside their measurements. One row of STUDIES each.

A study is a module with a function ``study(run: Run) -> None`` whose docstring's first line is its title. To add one, write the module
and its row here; nothing else needs to change.
"""

from __future__ import annotations

from importlib import import_module

from symdisc.errors import BadInput
from symdisc.studies.base import Check, Run, Study

__all__ = ["STUDIES", "Check", "Run", "Study", "load_study"]

# name on the command line -> "module:function" below symdisc.studies, imported when asked for: they load torch
STUDIES: dict[str, str] = {
    "q-distribution": "q_distribution:study",
    "q-dynamics": "q_dynamics:study",
    "q-convergence": "q_convergence:study",
    "q-sharpness": "q_sharpness:study",
    "robustness": "robustness:study",
    "teleport": "teleport:study",
}


def load_study(name: str) -> Study:
    """Import the study called ``name``; raises BadInput, listing the names, when there is none."""
    if name not in STUDIES:
        raise BadInput(f"no study is called {name!r}; there are {', '.join(STUDIES)}")
    module, function = STUDIES[name].split(":")
    run = getattr(import_module(f"symdisc.studies.{module}"), function)
    return Study(name, (run.__doc__ or name).strip().splitlines()[0].rstrip("."), run, getattr(run, "reads_data", False))
