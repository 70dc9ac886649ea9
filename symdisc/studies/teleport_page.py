"""The figure and the page of the teleport study."""

from __future__ import annotations

from collections import Counter
from math import ceil, comb
from typing import Any

import numpy as np

from symdisc.studies.base import Run
from symdisc.studies.plots import COLOURS, panels
from symdisc.studies.teleport_problems import Problem

__all__ = ["figure", "needed", "page"]

CLEAR = 0.9  # of the seeds must agree: 9 of 10 have probability 0.011 by chance (sign test, one side)

LEAST = 1e-16  # of a loss in the figure: what is below is rounding
DRAWN = {"plain": ("plain", COLOURS[0], "-"), "same": ("teleport, same rate", COLOURS[4], "--"),
         "own": ("teleport, own rate", COLOURS[1], "-")}


def figure(problems: list[Problem], optimisers: tuple[str, ...], found: dict[tuple[str, str], Any]):  # type: ignore[no-untyped-def]
    """Median loss over the seeds by step; teleports are marked below."""
    drawn, axes = panels(len(problems), len(optimisers), 2.9, 2.3)
    for i, p in enumerate(problems):
        for j, o in enumerate(optimisers):
            axis = axes[i, j]
            for arm, (label, colour, style) in DRAWN.items():
                losses = np.median([r["losses"] for r in found[p.name, o]["runs"][arm]], axis=0)
                losses = np.where(np.isfinite(losses), np.maximum(losses, LEAST), np.nan)
                axis.semilogy(np.arange(len(losses)) * p.every, losses, style, color=colour, label=label)
            axis.plot(p.jumps, [0.03] * len(p.jumps), "|", color="black", transform=axis.get_xaxis_transform(), markersize=6)
            axis.set_title(f"{p.name}, {o}", fontsize=9)
        axes[i, 0].set_ylabel("loss, median")
    for axis in axes[-1]:
        axis.set_xlabel("steps")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3, frameon=False)
    return drawn


def needed(seeds: int) -> int:
    """So many of them have to agree before anything is said."""
    return ceil(CLEAR * seeds)


def page(run: Run, problems: list[Problem], rows: list[dict[str, Any]], walks: list[dict[str, Any]], published: list[dict[str, Any]],
         orders: list[dict[str, float]]) -> str:
    """The Markdown page; every number in it comes from the tables."""
    seeds = rows[0]["seeds"]
    clear = needed(seeds)
    chance = sum(comb(seeds, k) for k in range(clear, seeds + 1)) / 2**seeds
    own = [r for r in rows if r["arm"] == "own"]
    return "\n".join([
        "# Does teleportation pay?", "",
        "Before chosen steps the weights walk along the orbit of their symmetry group to where the squared gradient is larger; the",
        "loss is the same at both ends and is compared at every step of the walk. Training then goes on; what an optimiser remembers",
        "is kept.", "",
        *(f"- **{p.name}**: {p.about}; trained for {p.steps} steps, teleports before {_few(p.jumps)}; a walk has at most "
          f"{p.walk[0]} steps of {p.walk[1]:g}." for p in problems), "",
        f"{seeds} seeds. Learning rates were chosen on other seeds, from the same list, for the plain run and for the run with",
        "teleports (`own`): fewest runs that diverge, then the least median loss. `same` takes the plain run's rate. Losses below",
        "1e-12 count as equal, and so do losses within 1 %.", "",
        "## What was found", "", _verdict(own), "", *_rows(rows), "",
        "*better/worse*: seeds that end at a lower/higher loss than the plain run. *sooner*: seeds that reach the plain run's last",
        "loss in fewer steps. *faster*: in less wall-clock time, teleports included. A verdict needs",
        f"{clear} of {seeds} seeds ({chance:.2g} by chance);",
        "*pays* needs lower loss and less time. One walk costs as many plain steps as the last column but one says: in the plane a",
        "step is a few flops in closed form and a walk goes through second derivatives, so the cost there is that of the tool.", "",
        *_remarks(rows), "![losses](teleport.png)", "", "Strokes at the foot of a panel stand where teleports were made.", "",
        "## The published action is not a symmetry", "", *_published(published, orders), "",
        f"## Checks\n\n{run.checks_markdown()}", "",
        f"Everything but the seconds is the same at every run with seed {run.seed}; {len(walks)} teleports are listed in teleports.csv."])


def _few(jumps: tuple[int, ...]) -> str:
    if len(jumps) > 3:
        return f"steps {jumps[0]}, {jumps[1]}, ..., {jumps[-1]}"
    return f"step{'s' * (len(jumps) > 1)} {', '.join(map(str, jumps))}"


def _verdict(own: list[dict[str, Any]]) -> str:
    """One paragraph: the count of each verdict, and which cases."""
    count = Counter(r["verdict"] for r in own)
    lines = []
    for verdict in ("pays", "lower loss, not less time", "mixed", "hurts"):
        where = ", ".join(f"{r['problem']} {r['optimiser']}" for r in own if r["verdict"] == verdict)
        if count[verdict]:
            lines.append(f"- {count[verdict]} of {len(own)}: **{verdict}** ({where})")
    nets = [r for r in own if r["problem"] in ("regression", "digits")]
    total = {k: sum(r[k] for r in nets) for k in ("better", "worse", "faster", "seeds")}
    if nets:
        lines.append(f"- on the two networks together: {total['better']} of {total['seeds']} runs end better, {total['worse']} worse, "
                     f"{total['faster']} are faster")
    return "\n".join(lines)


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    table = ["| problem | optimiser | rates | plain → own, median loss | better/worse | sooner | faster | same rate: loss, better/worse | "
             "test accuracy | a walk in steps | verdict |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for same, own in zip(rows[::2], rows[1::2], strict=True):
        accuracy = "" if own["accuracy"] is None else f"{own['accuracy_plain'] or float('nan'):.1%} → {own['accuracy']:.1%}"
        table.append(f"| {own['problem']} | {own['optimiser']} | {own['rate_plain']:g}, {own['rate']:g} | {own['loss_plain']:.3g} → "
                     f"{own['loss']:.3g} | {own['better']}/{own['worse']} | {own['sooner']} | {own['faster']} | {same['loss']:.3g}, "
                     f"{same['better']}/{same['worse']} | {accuracy} | {own['teleport_in_steps']:.0f} | {own['verdict']} |")
    return table


def _remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Rates that stand at an end of their list are said to."""
    ends = [f"{r['problem']} {r['optimiser']} ({'plain' if r['arm'] == 'same' else 'teleport'}, {r['rate']:g})"
            for r in rows if r["rate_at_end"]]
    return [f"Rates at an end of the list that was tried, so perhaps not the best: {', '.join(ends)}.", ""] if ends else []


def _published(published: list[dict[str, Any]], orders: list[dict[str, float]]) -> list[str]:
    lines = ["The same regression, 5 steps, then the teleport of the public code at its own rates; loss right before and right after:", "",
             "| optimiser | seeds | loss falls by | loss rises in | squared gradient falls in | refused |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(p["optimiser"] for p in published):
        mine = [p for p in published if p["optimiser"] == name]
        down = [-p["change"] for p in mine if p["change"] < 0]
        rises, falls = len(mine) - len(down), sum(p["gradient_after"] < p["gradient_before"] for p in mine)
        fall = f"{min(down):.0%} to {max(down):.0%}" if down else "never"
        lines.append(f"| {name} | {len(mine)} | {fall} | {rises} of {len(mine)} | {falls} of {len(mine)} | "
                     f"{sum(p['refused'] for p in mine)} of {len(mine)} |")
    lines += ["", "| size of T | change, first pair | change, last pair | exact action, both |", "|---|---|---|---|"]
    lines += [f"| {r['size']:g} | {r['first_pair']:.1e} | {r['last_pair']:.1e} | {r['exact']:.0e} |" for r in orders]
    return [*lines, "",
            "A fall of the loss inside such a teleport is a step of another kind, and a comparison with it says nothing about symmetry.",
            "The error on the first pair is of first order: the next layer has already been changed when its input is still the old one."]
