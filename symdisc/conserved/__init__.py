"""What training conserves because of a symmetry: moment maps, broken laws, exact predictions."""

from symdisc.conserved.broken import BrokenLaw, broken_law
from symdisc.conserved.cuts import Cuts
from symdisc.conserved.derive import conserved_quantities
from symdisc.conserved.elementwise import ElementwiseLaw, elementwise_law
from symdisc.conserved.flow import Flow, load_flows
from symdisc.conserved.quantity import ConservedQuantity, Term

__all__ = [
    "BrokenLaw",
    "ConservedQuantity",
    "Cuts",
    "ElementwiseLaw",
    "Flow",
    "Term",
    "broken_law",
    "conserved_quantities",
    "elementwise_law",
    "load_flows",
]
