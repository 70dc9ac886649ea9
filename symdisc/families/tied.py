"""A table that is embedded and read out again behind a centring norm: all its rows lean together along 1/gamma.

Every row of E moves by t = c / gamma. Read out behind gamma * x + beta with 1^T x = 0, every logit moves by the same c sum(beta/gamma),
which the bias of the logits takes away (nothing to take without beta); embedded, every token moves by t, which another table added to
the stream takes away (positions, token types).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from symdisc.families.invisible import Centred, Invisible
from symdisc.families.naming import describe_affine
from symdisc.families.translations import Translations
from symdisc.moves import Index, Move, Through, parameters_of
from symdisc.spaces import DenseUse
from symdisc.symmetry import Symmetry

__all__ = ["tied_tables"]


def tied_tables(search: Translations, invisible: Invisible) -> list[Symmetry]:
    """One dimension for each table that is tied in this way and nothing else."""
    found = []
    for parameter, uses in search.classes.uses.items():
        embedded = [u for u in uses if isinstance(u, DenseUse) and u.ins is None and u.outs is not None]
        readers = [u for u in uses if isinstance(u, DenseUse) and u.ins is not None and u.outs is not None]
        if len(embedded) == len(readers) == 1 and len(uses) == 2:
            symmetry = _symmetry(search, invisible, parameter, embedded[0], readers[0])
            found += [] if symmetry is None else [symmetry]
    return found


def _symmetry(search: Translations, invisible: Invisible, parameter: str, embedded: DenseUse, reader: DenseUse) -> Symmetry | None:
    source = invisible.centred_source(reader.source)
    if source is None or source.gain is None or reader.in_axis != embedded.out_axis or not invisible.aligned(reader, source.value):
        return None
    assert embedded.outs is not None
    vec = search.classes(embedded.outs)
    logits = [] if source.shift is None else _logits(search, reader, source)
    undone = search.undone(parameter, embedded.value, {int(c): k for k, c in enumerate(vec)}) if len(np.unique(vec)) == len(vec) else None
    if undone is None or logits is None:
        return None
    spread = Through("spread", source.gain, offset=source.offset)
    first = Move("add", parameter, embedded.out_axis, Index.of(np.arange(len(vec))[None, None, :]), through=(spread,))
    moves = (first, *(replace(m, through=(spread, *m.through)) for m in undone), *logits)
    return describe_affine("tied table leaning along 1/gamma", "translation", 1, (1,), moves, parameters_of(moves),
                           [embedded.module, reader.module], r"\mathbf{1}^\top \hat x = 0",
                           r"E \mapsto E + c \mathbf{1} (1/\gamma)^\top,\; b \mapsto b - c \textstyle\sum \beta/\gamma",
                           ("the norm's gain has no zero entry",))


def _logits(search: Translations, reader: DenseUse, source: Centred) -> list[Move] | None:
    """The bias added to the logits, by the same operator or by another, takes the same number from each."""
    assert reader.outs is not None and source.shift is not None
    own = search.classes.bias(reader)
    if own is not None and search.single(own.parameter):
        undone: list[Move] | None = [Move("add", own.parameter, 0, Index.of(np.arange(len(reader.outs))[:, None, None]), power=-1.0)]
    else:
        undone = search.undone(reader.parameter, reader.value, {int(c): 0 for c in search.classes(reader.outs)})
    total = Through("total", source.shift, offset=source.offset, gain=source.gain)
    return None if undone is None else [replace(m, through=(total, *m.through)) for m in undone]
