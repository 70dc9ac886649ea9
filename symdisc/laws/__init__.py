"""How many conservation laws does a flow have? Exact counts on residues; shapes are listed in ``laws.shapes``."""

from symdisc.laws.closed import Law, Term
from symdisc.laws.count import Evidence, LawCount, count_laws, problem_of
from symdisc.laws.problem import CountProblem
from symdisc.laws.shapes import KINDS

__all__ = ["KINDS", "CountProblem", "Evidence", "Law", "LawCount", "Term", "count_laws", "problem_of"]
