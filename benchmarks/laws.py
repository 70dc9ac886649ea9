"""How long the conservation laws of the hundred published shapes take to count, together and from a warm import.

    python -m benchmarks.laws [--json]

The published code took 2.5 hours on 64 threads. Exit code 1 where a count is wrong or not proved, or all of them take 15 seconds of
processor time or more (other jobs on the machine do not count).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from symdisc.laws import count_laws

LIMIT = 15.0
REFERENCE = Path(__file__).parents[1] / "tests" / "reference" / "law_counts.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = json.loads(REFERENCE.read_text())["shapes"]
    count_laws({"kind": "relu", "widths": [2, 2, 2]})  # what is imported on first use is there now
    began = time.perf_counter(), time.process_time()
    found = [count_laws({key: row[key] for key in ("kind", "widths", "bias")}) for row in rows]
    seconds = {"clock": time.perf_counter() - began[0], "processor": time.process_time() - began[1]}
    right = sum(c.laws == row["laws"] and c.complete for c, row in zip(found, rows, strict=True))
    if options.json:
        print(json.dumps({"shapes": len(rows), "right": right, **seconds}, indent=1))
    else:
        clock, processor = seconds.values()
        print(f"{right} of {len(rows)} right and proved; {clock:.1f} s by the clock, {processor:.1f} s of the processor")
    return int(right < len(rows) or seconds["processor"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
