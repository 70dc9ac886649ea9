"""The survey: every architecture of the list built small, and the whole pipeline run on it in a process of its own."""

from symdisc.coverage.builders import GROUPS, Built, build, names

__all__ = ["GROUPS", "Built", "build", "names"]
