"""The page, tables and figures of the robustness study: paired differences, and sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from symdisc.studies.base import Run

__all__ = ["paired", "report"]

Row = dict[str, Any]
ORIGINAL, DECISION = "trained network", "vote"
COLOURS = ("#000000", "#0072b2", "#56b4e9", "#999999", "#d55e00", "#009e73")  # told apart in every common colour blindness
LEVEL = 0.01  # two-sided, of Student's t: with 5 seeds two standard errors are passed by chance once in nine


def report(run: Run, rows: Sequence[Row], settings: Mapping[str, str]) -> None:
    """Write robustness.csv, gains.csv, two figures and the page, and record the checks; ``settings`` say what was done, by network."""
    networks = list(dict.fromkeys(r["network"] for r in rows))
    gains = [g for n in networks for g in paired([r for r in rows if r["network"] == n])]
    run.table("robustness", rows)
    run.table("gains", gains)
    run.figure("accuracy", _accuracy_figure(rows, networks))
    run.figure("gains", _gains_figure(gains, networks))
    _checks(run, rows, networks)
    parts = [_head(run)]
    for network in networks:
        mine = [r for r in rows if r["network"] == network]
        parts.append(_section(network, settings[network], mine, [g for g in gains if g["network"] == network]))
    run.page("\n\n".join([*parts, "## Checks of the study itself", run.checks_markdown()]))


# --- numbers --------------------------------------------------------------------------------------------------------------
def paired(rows: Sequence[Row], decision: str = DECISION) -> list[Row]:
    """Per defence, attack and radius: the trained network's accuracy and the change, mean and standard error over paired seeds."""
    table = {(r["defence"], r["attack"], r["radius"], r["seed"]): r[decision] for r in rows if decision in r}
    seeds = sorted({key[3] for key in table})
    out = []
    for defence, attack, radius in dict.fromkeys(key[:3] for key in table):
        if defence in (ORIGINAL, "constant"):
            continue
        base = [table[ORIGINAL, attack, radius, s] for s in seeds]
        change = [table[defence, attack, radius, s] - b for s, b in zip(seeds, base, strict=True)]
        out.append({"network": rows[0]["network"], "defence": defence, "attack": attack, "radius": radius,
                    "trained": float(np.mean(base)), "change": float(np.mean(change)), "error": _standard_error(change),
                    "seeds": len(seeds)})
    return out


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _mean(rows: Sequence[Row], defence: str, attack: str, key: str, radius: float | None = None) -> float:
    return float(np.mean([r[key] for r in rows if r["defence"] == defence and r["attack"] == attack
                          and (radius is None or r["radius"] == radius)]))


def _radii(rows: Sequence[Row]) -> list[float]:
    return sorted({r["radius"] for r in rows if r["radius"] > 0})


def _defences(rows: Sequence[Row]) -> list[str]:
    return [d for d in dict.fromkeys(r["defence"] for r in rows) if d not in (ORIGINAL, "constant")]


def _checks(run: Run, rows: Sequence[Row], networks: Sequence[str]) -> None:
    for network in networks:
        mine = [r for r in rows if r["network"] == network]
        clean = _mean(mine, ORIGINAL, "none", DECISION)
        falls = [clean] + [_mean(mine, ORIGINAL, "PGD worst", DECISION, r) for r in _radii(mine)]
        numbers = " > ".join(f"{v:.3f}" for v in falls)
        steady = all(a > b for a, b in pairwise(falls))
        run.check(f"{network}: attacks work, accuracy falls with the radius", steady, numbers)
        constant = _mean(mine, "constant", "none", DECISION)
        run.check(f"{network}: the trained network beats a constant predictor", clean > constant, f"{clean:.3f} against {constant:.3f}")


# --- the page -------------------------------------------------------------------------------------------------------------
def _head(run: Run) -> str:
    return f"""# Robustness of ensembles along data-dependent orbits

Copies U pi(g, Z)^-1 sigma(g (V x + b)) of one trained network vote; nothing is trained again. Each seed has its own training and its
own split; changes are against the trained network of the same seed (paired), mean ± standard error over seeds.

- *transfer*: made on the trained network. Through the ensemble: *members* raises the mean of the members' losses, *mean* the loss of
  their mean probability, *joint* the network's loss plus the members'. An image is right under *adaptive* when it survives these
  three from random starts, under *from transferred* when it survives them started at the transferred images, under *worst* when it
  survives all seven tries. The trained network faces seven as well, on its own loss (six random starts, one start at a result).
- A change is called one when it passes the {LEVEL:.0%} level of Student's t over the seeds, and else none is established.
- Accuracy under *worst* is an upper limit of robustness; an adaptive gain that transferred images undo is gradient masking.
- *exact on h samples* is the published construction, *fitted to 4h samples* its least-squares form, both with g = exp(T), T normal of
  variance 1/h. *permutation control* is no symmetry. *chosen* ensembles maximise a stated objective (symdisc/studies/defences.py):
  diversity under noise with the off-batch error of a copy held to a budget; *smooth* also lowers the Lipschitz bound |U||gV|.
- Pixels lie in [-0.5, 0.5] and attacks stay there. *clip only* is no attack: it is what clipping to [0, 1] does by itself.

Made by `symdisc study robustness{' --quick' if run.quick else ''} --seed {run.seed}`.

![accuracy](accuracy.png)

![gains](gains.png)"""


def _section(network: str, setting: str, rows: Sequence[Row], gains: Sequence[Row]) -> str:
    constant = _mean(rows, "constant", "none", DECISION)
    lines = [f"## {network}", "", setting, "", *_findings(rows, gains), "", f"A constant predictor gets {constant:.3f}.", "",
             _table(rows, gains), "", "| ensemble | diversity | accuracy of one copy |", "|---|---|---|"]
    for d in _defences(rows):
        lines.append(f"| {d} | {_mean(rows, d, 'diversity', 'value'):.4f} | {_mean(rows, d, 'single copy', 'value'):.3f} |")
    return "\n".join(lines)


def _table(rows: Sequence[Row], gains: Sequence[Row]) -> str:
    names = _defences(rows)
    lines = ["| attack | radius | trained | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for attack, radius in dict.fromkeys((g["attack"], g["radius"]) for g in gains):
        cells = {g["defence"]: g for g in gains if (g["attack"], g["radius"]) == (attack, radius)}
        base = next(iter(cells.values()))["trained"]
        shown = " | ".join(f"{cells[n]['change']:+.3f} ± {cells[n]['error']:.3f}" for n in names)
        lines.append(f"| {attack} | {radius or '–'} | {base:.3f} | {shown} |")
    return "\n".join(lines)


def _findings(rows: Sequence[Row], gains: Sequence[Row]) -> list[str]:
    """A sentence per defence, at every radius of PGD at which the trained network still beats a constant: none is picked."""
    constant = _mean(rows, "constant", "none", DECISION)
    radii = [r for r in _radii(rows) if _mean(rows, ORIGINAL, "PGD worst", DECISION, r) > constant]
    if not radii:
        return [f"- At every radius PGD brings the trained network below a constant predictor ({constant:.3f}): gains there mean nothing."]
    lines = []
    for radius in radii:
        left = _mean(rows, ORIGINAL, "PGD worst", DECISION, radius)
        lines += [f"PGD of radius {radius}, under which the trained network keeps {left:.3f}:", ""]
        for d in _defences(rows):
            mine = {g["attack"]: g for g in gains if g["defence"] == d and g["radius"] in (0.0, radius)}
            lines.append(f"- {d}: clean {_signed(mine['none'])}, transfer {_signed(mine['PGD transfer'])}, adaptive "
                         f"{_signed(mine['PGD adaptive'])}, worst of all {_signed(mine['PGD worst'])}. {_verdict(mine)}")
        lines.append("")
    count = len(radii) * len(_defences(rows))
    return [*lines, f"These are {count} verdicts at the {LEVEL:.0%} level: about {count * LEVEL:.2g} would pass it by chance."]


def _signed(g: Row) -> str:
    return f"{g['change']:+.3f} ± {g['error']:.3f}"


def _limit(g: Row) -> float:
    """How many standard errors a change of no effect passes with probability LEVEL."""
    return float(student.ppf(1 - LEVEL / 2, max(g["seeds"] - 1, 1)))


def _clear(g: Row) -> bool:
    return bool(abs(g["change"]) > _limit(g) * g["error"])


def _verdict(mine: dict[str, Row]) -> str:
    """Less, more or no change; never *more* where the attack on the ensemble itself is the weaker one, as then none has been strong."""
    worst, adaptive, transfer, members = (mine[f"PGD {name}"] for name in ("worst", "adaptive", "transfer", "members"))
    told = ("" if not _exceeds(members, worst) else f" The members' loss alone would have shown {members['change']:+.3f}: that is gradient "
            "masking, which the other attacks undo.")
    if _clear(worst) and worst["change"] < 0:
        return f"**Less robust**.{told}"
    if _exceeds(adaptive, transfer):
        surplus = adaptive["change"] - transfer["change"]
        return (f"**Gradients are masked**: transferred images defeat it more often than its own attack does (by {surplus:.3f}), so what "
                "is left under the worst of all is an upper limit, not robustness.")
    return f"{'More robust under the attacks tried.' if _clear(worst) else 'No change of robustness is established.'}{told}"


def _exceeds(a: Row, b: Row) -> bool:
    """Whether the gain ``a`` is clearly the larger one."""
    return bool(a["change"] - b["change"] > _limit(a) * (a["error"] ** 2 + b["error"] ** 2) ** 0.5)


# --- figures --------------------------------------------------------------------------------------------------------------
def _accuracy_figure(rows: Sequence[Row], networks: Sequence[str]) -> Figure:
    figure = Figure(figsize=(4.6 * len(networks) + 0.4, 4.6), layout="constrained")
    for axis, network in zip(np.atleast_1d(figure.subplots(1, len(networks))), networks, strict=True):
        _accuracy_panel(axis, [r for r in rows if r["network"] == network], network)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * len(networks)), frameon=False)
    return figure


def _accuracy_panel(axis: Axes, rows: Sequence[Row], title: str) -> None:
    radii = _radii(rows)
    for colour, name in zip(COLOURS, [ORIGINAL, *_defences(rows)], strict=True):
        clean = _mean(rows, name, "none", DECISION)
        worst = [clean] + [_mean(rows, name, "PGD worst", DECISION, r) for r in radii]
        adaptive = [clean] + [_mean(rows, name, "PGD adaptive", DECISION, r) for r in radii]
        first = name == ORIGINAL  # many lines coincide: the one that all are compared with stays on top, thin
        axis.plot([0, *radii], worst, color=colour, marker="o", ms=2 if first else 4, lw=0.9 if first else 1.8, label=name,
                  zorder=5 if first else 2)
        axis.plot([0, *radii], adaptive, color=colour, ls="--", lw=1)
    axis.axhline(_mean(rows, "constant", "none", DECISION), color="black", ls=":", lw=1, label="constant predictor")
    axis.plot([], [], color="black", ls="--", lw=1, label="adaptive attack alone")
    axis.set(title=title, xlabel="radius of PGD (pixel range is 1)", ylabel="accuracy of the vote", ylim=(0, 1), xticks=[0, *radii])


def _gains_figure(gains: Sequence[Row], networks: Sequence[str]) -> Figure:
    figure = Figure(figsize=(4.6 * len(networks) + 1.6, 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(networks), sharey=True))
    for axis, network in zip(axes, networks, strict=True):
        _gains_panel(axis, [g for g in gains if g["network"] == network], network)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _gains_panel(axis: Axes, gains: Sequence[Row], title: str) -> None:
    names = list(dict.fromkeys(g["defence"] for g in gains))
    radius = _middle(gains)
    for k, (attack, colour, mark) in enumerate((("transfer", "#0072b2", "s"), ("adaptive", "#d55e00", "^"), ("worst", "#000000", "o"))):
        chosen = [g for n in names for g in gains if (g["defence"], g["attack"], g["radius"]) == (n, f"PGD {attack}", radius)]
        axis.errorbar([g["change"] for g in chosen], [i + 0.22 * (k - 1) for i in range(len(names))], xerr=[g["error"] for g in chosen],
                      color=colour, marker=mark, ls="", ms=5, capsize=2, label=attack)
    axis.axvline(0, color="black", lw=0.8)
    axis.set(title=f"{title}, PGD {radius}", xlabel="change of accuracy, ± standard error", yticks=range(len(names)), yticklabels=names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _middle(gains: Sequence[Row]) -> float:
    """The middle radius: weaker attacks do little, and at stronger ones the trained network may be below a constant predictor."""
    radii = sorted({g["radius"] for g in gains if g["radius"] > 0})
    return radii[(len(radii) - 1) // 2]
