"""The error kinds of symdisc: each message is one clear line that says what is wrong and what to do next."""

from __future__ import annotations

__all__ = [
    "BadInput",
    "CaptureError",
    "FormulaError",
    "NotExact",
    "NotProved",
    "RuleError",
    "StateMismatch",
    "SymdiscError",
    "Undecided",
    "UnknownOperator",
]


class SymdiscError(Exception):
    """Base of every error raised on purpose; the command line turns it into exit code 2."""


class BadInput(SymdiscError):
    """A file, source, weight or option handed in by the user cannot be used."""


class FormulaError(BadInput):
    """A formula contains something outside the grammar (see ``rules/README.md``)."""


class RuleError(SymdiscError):
    """A row in ``rules/`` is malformed; the message names file, row and key."""


class UnknownOperator(SymdiscError):
    """An operator without a rule where a rule is required."""


class CaptureError(SymdiscError):
    """torch.export could not trace the model."""


class StateMismatch(BadInput):
    """A state_dict does not fit the catalog: a name, a shape or a value is wrong."""


class Undecided(SymdiscError):
    """A rank or a null space has no clear gap, so no claim is made."""


class NotExact(BadInput):
    """The chosen batch allows no exact data-dependent action: too many samples, dependent ones, or a bad condition number."""


class NotProved(SymdiscError):
    """A claimed identity does not hold, or sympy could not prove it."""
