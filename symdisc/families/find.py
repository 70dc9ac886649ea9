"""All named continuous symmetries of a folded graph."""

from __future__ import annotations

import numpy as np

from symdisc.families.batchnorm import split_buffers, unused
from symdisc.families.bottleneck import find_bottlenecks
from symdisc.families.classes import Classes
from symdisc.families.constant_queries import keys_of_constant_queries
from symdisc.families.dense import Space, find_spaces
from symdisc.families.differences import differences
from symdisc.families.duplicates import duplicate_biases
from symdisc.families.emit import emit_dense, emit_torus
from symdisc.families.groups import group_biases, group_constants, group_readers
from symdisc.families.identity_parts import identity_parts
from symdisc.families.invisible import Invisible
from symdisc.families.joint import joint_translations
from symdisc.families.leaning import leaning_readers
from symdisc.families.links import Links
from symdisc.families.lowrank import low_rank_trades, without_factors
from symdisc.families.narrow import narrow_readers
from symdisc.families.parallel import bias_trades, parallel_trades
from symdisc.families.preactivation import find_preactivated
from symdisc.families.recurring import recurring_shears
from symdisc.families.shear import find_shears
from symdisc.families.spectra import isospectral_gains, without_leaning
from symdisc.families.standardised import standardised_weights
from symdisc.families.tables import constants_of_scores, table_trades
from symdisc.families.tied import tied_tables
from symdisc.families.torus import solve_torus
from symdisc.families.translations import Translations
from symdisc.families.unread import unread_writers
from symdisc.opgraph import OpGraph
from symdisc.spaces import Facts
from symdisc.symmetry import Symmetry

__all__ = ["find_families"]


def find_families(graph: OpGraph, facts: Facts) -> tuple[list[Symmetry], Classes, list[Space]]:
    """Dense groups first, then the scalings they do not contain, then everything additive."""
    classes = Classes(graph, facts)
    classes.links = Links(classes)
    spaces = find_spaces(classes, classes.links)
    streams, behind = find_bottlenecks(classes, classes.links)
    before, turned, sheared = find_preactivated(classes, classes.links, streams)
    none = np.zeros(0, dtype=np.int64)
    matrices = [s for s in (*spaces, *streams, *before) if s.family in ("gl", "complex")]
    mixed = np.concatenate([s.classes for s in matrices] or [none])
    torus = solve_torus(classes, np.concatenate([s.classes[s.gain == 0] for s in matrices] or [none]))  # gains scale besides
    recurring = recurring_shears(classes)
    spectra = isospectral_gains(classes, {m.gain for s in recurring for m in s.moves}) + recurring
    shears = emit_dense(classes, find_shears(classes, classes.links)) + sheared
    found = emit_dense(classes, spaces) + behind + turned + shears + spectra
    found += split_buffers(classes, emit_torus(classes, torus))
    invisible = Invisible(classes)
    writers = invisible.writers()
    biases = group_biases(classes)
    along_one = {p: s.dimension for s in (*writers, *biases) for p in s.parameters}
    trades = table_trades(classes, along_one)
    search, scores, twins = Translations(classes), constants_of_scores(classes), duplicate_biases(classes)
    search.twins = frozenset(p for s in twins for p in s.parameters)
    found += trades + scores + search.find(along_one, {s.parameters[0] for s in (*trades, *scores, *biases)})
    found += leaning_readers(search, invisible, along_one) + tied_tables(search, invisible)
    found += twins
    found += writers + biases
    readers, parts = invisible.readers(along_one), group_readers(invisible, along_one)
    leaning = {**dict.fromkeys((s.parameters[0] for s in readers), 1), **{s.parameters[0]: s.shape[1] for s in parts}}
    found += readers + parts + parallel_trades(classes, along_one, leaning) + group_constants(classes, leaning)
    found += identity_parts(classes) + unused(classes) + standardised_weights(classes) + narrow_readers(invisible, mixed, shears)
    found = bias_trades(classes, found)
    found += joint_translations(classes, found, along_one)
    found += keys_of_constant_queries(classes, mixed, found)
    factors = low_rank_trades(classes)
    found += unread_writers(classes, mixed, found + factors)
    standing = without_leaning(without_factors(found, factors) + factors)
    standing += differences(standing)
    return [s for s in standing if s.dimension], classes, spaces  # rotations that fix 1 have none in two dimensions
