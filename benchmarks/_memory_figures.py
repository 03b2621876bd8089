"""Prints the figures of `memory_stream`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

from scipy.stats import t as student

Rows = list[dict[str, Any]]


def show(rows: Rows) -> None:
    """Per stream and arm: over time, at the end, and the difference, by seed; where some seeds were
    asked more, first what all were asked, and then those."""
    if not rows:
        print("no rows")
        return
    real = sum(row["real_calls"] for row in rows)
    loads = sorted(row["load"] for row in rows)
    print(
        f"threshold {rows[0]['threshold']:.4f}; {sum(r['n'] for r in rows)} requests, "
        f"{real} real calls; load {loads[0]:.0f} to {loads[-1]:.0f}"
    )
    for name in dict.fromkeys(row["stream"] for row in rows):
        whole = _whole_seeds([row for row in rows if row["stream"] == name])
        blocks = Counter(row["seed"] for row in whole if row["memory"])
        for least in sorted(set(blocks.values())):
            seeds = {seed for seed, n in blocks.items() if n >= least}
            first = sorted({row["from"] for row in whole})[:least]
            _section(name, [r for r in whole if r["seed"] in seeds and r["from"] in first])


def _section(name: str, rows: Rows) -> None:
    n = sum(row["n"] for row in rows if row["memory"]) // len({row["seed"] for row in rows})
    print(f"\n{name}: the first {n} requests of {len({row['seed'] for row in rows})} seeds")
    for remembers in (False, True):
        _over_time([row for row in rows if row["memory"] == remembers], remembers)
    _compare(rows)
    _by_kind(rows)


def _whole_seeds(rows: Rows) -> Rows:
    """What both arms have of a seed."""
    both: Rows = []
    for seed in sorted({row["seed"] for row in rows}):
        arms = [{r["from"] for r in rows if r["seed"] == seed and r["memory"] == m} for m in (0, 1)]
        shared = arms[0] & arms[1]
        both += [row for row in rows if row["seed"] == seed and row["from"] in shared]
    return both


def _over_time(rows: Rows, remembers: bool) -> None:
    print("  with a memory" if remembers else "  without")
    for what in ("escalated", "right", "micro-dollars"):
        at = sorted({row["from"] for row in rows})
        line = [_mean([row for row in rows if row["from"] == start], what) for start in at]
        print(f"    {what:14}" + "".join(f"{value:8.2f}" for value in line))


def _mean(rows: Rows, what: str) -> float:
    n = sum(row["n"] for row in rows)
    if what == "micro-dollars":
        return float(1e6 * sum(sum(row["usd"].values()) for row in rows) / n)
    return float(sum(row["counts"].get(what, 0) for row in rows) / n)


def _compare(rows: Rows) -> None:
    last = max(row["from"] for row in rows)
    for what in ("escalated", "right", "micro-dollars"):
        for part, least in (("all", 0), ("last 100", last)):
            chosen = [row for row in rows if row["from"] >= least]
            seeds = sorted({row["seed"] for row in chosen})
            sides = [
                [_mean([r for r in chosen if r["seed"] == s and r["memory"] == m], what)]
                for s in seeds
                for m in (False, True)
            ]
            off = [side[0] for side in sides[::2]]
            on = [side[0] for side in sides[1::2]]
            change = interval([b - a for a, b in zip(off, on, strict=True)])
            print(
                f"  {what:14}{part:10}without {statistics.fmean(off):8.3f}   with "
                f"{statistics.fmean(on):8.3f}   change {change}"
            )
            if what == "micro-dollars":
                shares = interval([100 * (b / a - 1) for a, b in zip(off, on, strict=True)])
                print(f"  {'':14}{part:10}in percent{'':30}{shares}")


def interval(values: list[float]) -> str:
    """The mean with Student's 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.3f} (one seed)"
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(student.ppf(0.975, len(values) - 1)) * error
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def _by_kind(rows: Rows) -> None:
    kinds = sorted({k.removeprefix("asked ") for r in rows for k in r["counts"] if "asked" in k})
    for kind in kinds:
        cells = []
        for remembers in (False, True):
            arm = [row["counts"] for row in rows if row["memory"] == remembers]
            n = sum(c.get(f"asked {kind}", 0) for c in arm)
            cells += [sum(c.get(f"{w} {kind}", 0) for c in arm) / n for w in ("escalated", "right")]
        print(
            f"  {kind:12} escalated {cells[0]:.2f} -> {cells[2]:.2f}   "
            f"right {cells[1]:.2f} -> {cells[3]:.2f}"
        )
    live = sorted({name for row in rows for name in row.get("live", ())})
    shares = [row["counts"].get("repeated", 0) / row["n"] for row in rows]
    print(f"  the very same question had come before in {statistics.fmean(shares):.2f}")
    print("  live at some time: " + ("; ".join(live) or "nothing"))
