"""Does teleportation pay? Four optimisers with and without it, the loss kept exactly, rates chosen for both sides, time counted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from symdisc.studies.base import Run
from symdisc.studies.teleport_page import figure, needed, page
from symdisc.studies.teleport_problems import PROBLEMS, Problem
from symdisc.studies.teleport_published import CASES, measure, order
from symdisc.studies.teleport_training import RULES, chosen, train

__all__ = ["ARMS", "compare", "study", "summary"]

ARMS = ("plain", "same", "own")  # no teleport; teleports at the rate chosen without; teleports at the rate chosen with them
SEEDS, TUNING = 10, 8  # three for choosing rates were too few: the choice then followed the draw
ZERO = 1e-12  # losses below are equal: what is left is rounding
KEPT = 1e-9


def compare(problem: Problem, optimiser: str, seeds: list[int], tuning: list[int]) -> dict[str, Any]:
    """Rates chosen on ``tuning`` for both sides, then all arms on each of ``seeds`` in turn, so that a busy machine slows all alike."""
    rates = {"plain": chosen(problem, optimiser, (), tuning), "own": chosen(problem, optimiser, problem.jumps, tuning)}
    runs: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            rate = rates["own" if arm == "own" else "plain"]["rate"]
            if arm == "own" and rate == rates["plain"]["rate"]:
                runs["own"].append(runs["same"][-1])  # the same run
                continue
            runs[arm].append(train(problem, problem.make(seed), optimiser, rate, () if arm == "plain" else problem.jumps))
    return {"rates": rates, "runs": runs}


def summary(problem: Problem, optimiser: str, found: dict[str, Any], arm: str) -> dict[str, Any]:
    """One row: last losses, seeds that end better and worse, that reach the plain run's last loss in fewer steps and in less time."""
    plain, other = found["runs"]["plain"], found["runs"][arm]
    ends = np.array([[max(r["losses"][-1], ZERO) for r in runs] for runs in (plain, other)])
    better, worse = int((ends[1] < 0.99 * ends[0]).sum()), int((ends[1] > 1.01 * ends[0]).sum())
    steps, seconds = np.array([_reached(a, b, problem.every) for a, b in zip(plain, other, strict=True)]).transpose(2, 1, 0)
    per_step = float(np.median([r["seconds"][-1] for r in plain])) / problem.steps
    walk = float(np.median([w["seconds"] for r in other for w in r["walks"]] or [0.0]))
    sooner, faster = int((steps[1] < steps[0]).sum()), int((seconds[1] < seconds[0]).sum())
    hits = [[r["accuracy"] for r in runs if r["accuracy"] is not None] for runs in (plain, other)]
    rate = found["rates"]["own" if arm == "own" else "plain"]
    return {"problem": problem.name, "optimiser": optimiser, "arm": arm, "seeds": len(plain), "rate_plain": found["rates"]["plain"]["rate"],
            "rate": rate["rate"], "rate_at_end": rate["at_end"], "loss_plain": float(np.median(ends[0])), "loss": float(np.median(ends[1])),
            "better": better, "worse": worse, "sooner": sooner, "faster": faster, "step_seconds": per_step, "teleport_seconds": walk,
            "teleport_in_steps": walk / per_step, "accuracy_plain": float(np.mean(hits[0])) if hits[0] else None,
            "accuracy": float(np.mean(hits[1])) if hits[1] else None, "verdict": _verdict(len(plain), better, worse, faster)}


def _reached(plain: dict[str, Any], other: dict[str, Any], every: int) -> list[list[float]]:
    """[[steps, seconds] of the plain run, ... of the other] until the plain run's last loss is reached; infinite where never."""
    target = max(plain["losses"][-1], ZERO)
    marks = []
    for run in (plain, other):
        hit = np.nonzero(np.array(run["losses"]) <= target)[0]
        marks.append([float(hit[0] * every), run["seconds"][hit[0]]] if len(hit) else [float("inf"), float("inf")])
    return marks


def _verdict(seeds: int, better: int, worse: int, faster: int) -> str:
    clear = needed(seeds)
    if better >= clear:
        return "pays" if faster >= clear else "lower loss, not less time"
    return "hurts" if worse >= clear else "mixed"


def study(run: Run) -> None:
    """Does teleportation pay? Four optimisers with and without it, the loss kept exactly, time counted."""
    problems = [_small(p) for p in PROBLEMS] if run.quick else list(PROBLEMS)
    optimisers = ("GD", "Adam") if run.quick else tuple(RULES)
    seeds = [run.seed + k for k in range(2 if run.quick else SEEDS)]
    tuning = [run.seed + 1000 + k for k in range(1 if run.quick else TUNING)]
    found: dict[tuple[str, str], Any] = {}
    tasks = [(p, o) for p in problems for o in optimisers]
    for done, (p, o) in enumerate(tasks):
        run.progress(f"{p.name}, {o}", done, len(tasks) + 1)
        settings = (f"chosen by divergence and median steps={p.steps} jumps={p.jumps} walk={p.walk} rates={p.rates[o]} "
                    f"seeds={seeds[0]}+{len(seeds)} tuning={len(tuning)}")
        found[p.name, o] = run.cached(f"{p.name} {o} {settings}", partial(compare, p, o, seeds, tuning))
    run.progress("the published action", len(tasks), len(tasks) + 1)
    published = run.cached(f"published {CASES} seeds={seeds[0]}+{len(seeds)}",
                           lambda: [measure(o, s) for o in CASES for s in seeds])
    orders = run.cached(f"order seed={run.seed}", lambda: order(run.seed))
    rows = [summary(p, o, found[p.name, o], arm) for p, o in tasks for arm in ARMS[1:]]
    walks = [{"problem": p.name, "optimiser": o, "arm": arm, "seed": seeds[k], **w} for p, o in tasks for arm in ARMS[1:]
             for k, r in enumerate(found[p.name, o]["runs"][arm]) for w in r["walks"]]
    run.table("summary", rows)
    run.table("teleports", walks)
    run.table("curves", [{"problem": p.name, "optimiser": o, "arm": arm, "step": k * p.every, "median_loss": loss}
                         for p, o in tasks for arm in ARMS for k, loss in enumerate(_median(found[p.name, o]["runs"][arm]))])
    run.table("published", published)
    run.table("order", orders)
    _checks(run, walks, published, orders)
    run.figure("teleport", figure(problems, optimisers, found))
    run.page(page(run, problems, rows, walks, published, orders))


def _small(p: Problem) -> Problem:
    """Two rates, a third of the steps."""
    steps = p.steps if p.steps < 100 else p.steps // 3 // p.every * p.every
    return replace(p, rates={o: r[1:3] for o, r in p.rates.items()}, steps=steps, jumps=tuple(j for j in p.jumps if j < steps)[:2])


def _median(runs: list[Any]) -> list[float]:
    return [float(x) for x in np.median([r["losses"] for r in runs], axis=0)]


def _checks(run: Run, walks: list[dict[str, Any]], published: list[dict[str, Any]], orders: list[dict[str, float]]) -> None:
    worst = max(w["change"] for w in walks)
    run.check(f"every exact teleport keeps the loss within {KEPT:g} of it", worst <= KEPT, f"{len(walks)} teleports, at most {worst:.1e}")
    moved = [w for w in walks if w["steps"]]
    run.check("the squared gradient rises in every walk that finds a way up", all(w["end"] > w["start"] for w in moved),
              f"{len(moved)} of {len(walks)}, by a median factor of {np.median([w['end'] / w['start'] for w in moved]):.2g}")
    least = min(abs(p["change"]) for p in published)
    run.check("the published first-order action changes the loss by more than 10 % and is refused by the same assertion",
              least > 0.1 and all(p["refused"] for p in published), f"{len(published)} runs, at least {least:.0%}")
    first, last = (orders[1][k] / orders[0][k] for k in ("first_pair", "last_pair"))
    run.check("its change is of first order on the first pair and of second on the last; the exact action's is rounding",
              5 < first < 20 and 50 < last < 200 and max(r["exact"] for r in orders) < 1e-10,
              f"ten times T: {first:.1f} and {last:.0f} times the change; exact at most {max(r['exact'] for r in orders):.0e}")
