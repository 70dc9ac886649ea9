"""Records of the survey as rows: for the terminal, for the catalogue (markdown and JSON), and the totals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

__all__ = ["HEAD", "failures", "row", "speed", "to_json", "to_markdown", "totals"]

Record = dict[str, Any]
HEAD = ("architecture", "D", "captured", "operators without a rule", "symmetries", "found", "fibre", "function kept", "seconds")
KEPT = ("name", "group", "D", "captured", "unknown", "refused", "symmetries", "discrete", "proved", "found", "linear", "fibre", "complete",
        "kept", "change", "gap", "rank_D", "rank_of", "surplus", "reason", "notes")  # seconds of single rows stay in their records
LEGEND = (
    "D counts parameters; where a second number stands beside it, the rank was taken of the captured graph at small sizes, with so many. "
    "*Symmetries*: continuous + discrete factors; *found*: the dimension of the orbit by factors with a closed form (with the linear "
    "symmetries that have no name, where they were solved for); *fibre*: D − rank J at generic weights, of the module itself unless a "
    "second D is given; *function kept*: the change of the outputs under a random element, in float64, all parameters and buffers "
    "randomised. Experts that a router chooses are exported densely; what is said of them holds where the choice does not change.")
COMMAND = "symdisc coverage --write catalog"


def row(record: Record) -> tuple[str, ...]:
    """The cells of one record under ``HEAD``; a dash for what was not reached."""
    def cell(key: str) -> str:
        return "–" if record.get(key) is None else str(record[key])

    kept = {True: f"yes, {record.get('change')}", False: f"NO: {record.get('change')}"}.get(record.get("kept"), "–")  # type: ignore[arg-type]
    symmetries = "–" if record.get("symmetries") is None else f"{record['symmetries']} + {record['discrete']}"
    small = record.get("rank_D")
    size = cell("D") if small in (None, record.get("D")) else f"{cell('D')} ({small})"
    return (record["name"], size, "yes" if record["captured"] else "no", ", ".join(record.get("unknown", ())) or "none", symmetries,
            cell("found"), cell("fibre"), kept, cell("seconds"))


def why(record: Record) -> str:
    """The named reason of what is not complete, and the parameters that carry the surplus; empty when nothing is missing."""
    if record.get("complete"):
        return ""
    parts = [record["reason"]] if record.get("reason") else []
    if record.get("fibre") is not None:
        missing = record["fibre"] - record["found"]
        parts.append(f"{missing} directions without a name" if missing > 0 else f"{-missing} more found than there are")
    if record.get("unknown"):
        parts.append("no rule for " + ", ".join(record["unknown"]))
    if record.get("surplus"):
        parts.append("carried by " + _few(record["surplus"]))
    parts += [n for n in record.get("notes", ()) if not n.startswith("orbit dimension taken")]
    return "; ".join(parts)


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def speed(records: Iterable[Record]) -> float | None:
    """Median over the records of (seconds of discover after capture) / (seconds of capture, which is torch.export)."""
    stages = [r["stages"] for r in records if r.get("stages", {}).get("export")]
    return median(sum(t for k, t in s.items() if k != "export") / s["export"] for s in stages) if stages else None


def totals(records: Iterable[Record]) -> dict[str, int]:
    """Architectures, captured, function kept, certificates complete."""
    rows = list(records)
    return {"architectures": len(rows), "captured": sum(r["captured"] for r in rows), "kept": sum(r.get("kept") is True for r in rows),
            "changed": sum(r.get("kept") is False for r in rows), "complete": sum(r.get("complete") is True for r in rows)}


def failures(records: Iterable[Record]) -> list[Record]:
    """Records of which a claim is false: the function changed, or more was found than there is."""
    return [r for r in records if r.get("kept") is False or (r.get("fibre") is not None and r["found"] > r["fibre"])]


def to_json(records: Sequence[Record], versions: dict[str, str]) -> str:
    rows = [{k: r[k] for k in KEPT if k in r} for r in records]
    return json.dumps({"command": COMMAND, "versions": versions, "totals": totals(records), "architectures": rows},
                      indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def to_markdown(records: Sequence[Record], versions: dict[str, str]) -> str:
    """One table per library, then the reasons of what is not complete."""
    t = totals(records)
    lines = ["# Survey of architectures", "", f"Made by `{COMMAND}` with " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", "",
             f"{t['architectures']} architectures: {t['captured']} captured, function kept on {t['kept']}, "
             f"certificate complete for {t['complete']}.", "",
             LEGEND, ""]
    ratio = speed(records)
    if ratio is not None:
        lines += [f"Median over the architectures of the seconds of discover to those of torch.export: {ratio:.1f}.", ""]
    for group in dict.fromkeys(r["group"] for r in records):
        lines += [f"## {group}", "", "| " + " | ".join(HEAD[:-1]) + " |", "|" + "---|" * (len(HEAD) - 1)]
        lines += ["| " + " | ".join(row(r)[:-1]) + " |" for r in records if r["group"] == group] + [""]
    missing = [r for r in records if why(r)]
    lines += ["## What is missing, and why", ""] + [f"- `{r['name']}`: {why(r)}" for r in missing]
    return "\n".join(lines) + "\n"
