"""Equivariance of operators: which affine changes of the inputs an operator turns into affine changes of its output."""

import sys
from types import ModuleType
from typing import Any

from symdisc.equivariance.record import Discrete, Equivariance, Family, Pair
from symdisc.equivariance.solve import equivariance

__all__ = ["Discrete", "Equivariance", "Family", "Pair", "equivariance"]


class _Door(ModuleType):
    """This package when called: ``symdisc.equivariance(...)``.

    Importing a subpackage binds it to its name in the package above, over the function that the front door gives
    there; so the subpackage answers the call itself.
    """

    def __call__(self, *args: Any, **values: Any) -> Equivariance:
        return equivariance(*args, **values)


sys.modules[__name__].__class__ = _Door
