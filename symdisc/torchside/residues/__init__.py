"""A captured network on residues: the exact fields of its losses, for counts of conservation laws."""

from symdisc.torchside.residues.problem import problem_of

__all__ = ["problem_of"]
