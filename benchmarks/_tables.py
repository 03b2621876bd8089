"""Prints the tables of `decision_quality`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import beta

Runs = list[dict[str, Any]]
GAIN = (
    "raw",
    "best free",
    "router",
    "gain",
    "gain+1",
    "gain+3",
    "router 300",
    "gain 300",
    "gain+1 300",
    "gain+3 300",
    "auroc of gain",
)
CALIBRATION = (
    "raw ece",
    "ece 50",
    "ece 100",
    "ece 300",
    "ece 1000",
    "ece all",
    "floor",
    "raw brier",
    "brier 50",
    "brier 100",
    "brier 300",
    "brier all",
    "auroc 300",
)
CERTIFICATES = (
    "violation",
    "coverage",
    "oracle",
    "refused",
    "naive violation",
    "naive coverage",
)
ALONE = ("router", "cascade", "skip+cascade", "panel1", "panel3")
WORSE = 0.0005
"""Brier scores nearer than this are the same on as many rows."""


def show(result: dict[str, Any]) -> None:
    """All tables that are there."""
    printers: dict[str, Callable[[Any], None]] = {
        "gain": show_gain,
        "cost": show_cost,
        "calibration": show_calibration,
        "certificates": show_certificates,
        "mixture": show_mixture,
        "speed": show_speed,
    }
    for table, printer in printers.items():
        if table in result:
            printer(result[table])


def median(runs: Runs, *path: str) -> float:
    """Over the splits; NaN where no split has the figure."""
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key, np.nan) if isinstance(value, dict) else np.nan
        values.append(value)
    return float(np.nanmedian(values)) if not np.isnan(values).all() else float("nan")


def line(name: str, values: list[float], width: int = 13, names: int = 50) -> None:
    print(f"{name[:names]:{names}}" + "".join(f"{value:{width}.3f}" for value in values))


def head(title: str, keys: tuple[str, ...], width: int = 13, names: int = 50) -> None:
    print(f"\n{title}\n{'':{names}}" + "".join(f"{key[: width - 1]:>{width}}" for key in keys))


def show_gain(figures: dict[str, Runs]) -> None:
    head("nAUC, median over splits; +1, +3: other cheap models asked too", GAIN)
    for name, runs in figures.items():
        line(name, [median(runs, key) for key in GAIN])
    lub = [runs for name, runs in figures.items() if name.startswith("lub_mmlu")]
    if lub:
        means = [float(np.nanmean([median(runs, key) for runs in lub])) for key in GAIN]
        line("mean over the lub_mmlu pairs", means)


def show_cost(figures: dict[str, Runs]) -> None:
    for rule in ("point", "guarded"):
        print(
            f"\ncost within 1 point of the large model, rule: {rule}\n{'':50}"
            f"{'cost':>8}{'highest':>9}{'quality':>9}{'< −1 pt':>9}{'single':>9}"
            f"{'no verdict':>11}{'  shape':18}" + "".join(f"{name:>13}" for name in ALONE)
        )
        wins = wins_open = over = 0
        for name, runs in figures.items():
            ours = median(runs, rule, "cost")
            single = median(runs, f"{rule} single", "cost")
            free = median(runs, f"{rule} single, no verdict", "cost")
            change = np.array([run[rule]["change"] for run in runs])
            wins, wins_open = wins + (ours < single), wins_open + (ours < free)
            over += ours > 1.0
            (shape, times), *_ = Counter(run[rule]["shape"] for run in runs).most_common(1)
            alone = [median(runs, f"{rule} {key}", "cost") for key in ALONE]
            print(
                f"{name[:50]:50}{ours:8.3f}{max(run[rule]['cost'] for run in runs):9.3f}"
                f"{100 * change.mean():+9.2f}{np.mean(change < -0.01):9.2f}{single:9.3f}"
                f"{free:11.3f}  {f'{shape} {times}/{len(runs)}':16}"
                + "".join(f"{value:13.3f}" for value in alone)
            )
        print(
            f"lower than the best single signal on {wins} of {len(figures)} (on {wins_open} when "
            f"that one gets no verdict); above 1.00 on {over}"
        )
        routed = [
            name
            for name, runs in figures.items()
            if median(runs, f"{rule} router", "cost")
            < np.nanmin([1.0, *(median(runs, f"{rule} {key}", "cost") for key in ALONE[1:])])
        ]
        print(f"the prompt-only router alone is cheapest on: {', '.join(routed) or 'none'}")


def show_calibration(figures: dict[str, Runs]) -> None:
    head("calibration, median over splits", CALIBRATION)
    for name, runs in figures.items():
        line(name, [median(runs, key) for key in CALIBRATION])
    over = [
        float(np.nanmedian([median(runs, key) for runs in figures.values()])) for key in CALIBRATION
    ]
    line("median over the rows", over)
    for n in (100, 300):
        worse = {
            name: round(median(runs, f"brier {n}") - median(runs, "raw brier"), 4)
            for name, runs in figures.items()
            if median(runs, f"brier {n}") > median(runs, "raw brier") + WORSE
        }
        print(f"Brier worse than raw (by more than {WORSE}) with {n} labels: {worse or 'none'}")


def show_certificates(figures: dict[str, dict[str, float]], resamples: int = 200) -> None:
    head("certificates, δ = 0.10 (share of resamples)", CERTIFICATES, 17, 64)
    for name, row in figures.items():
        line(name, [row[key] for key in CERTIFICATES], 17, 64)
    worst = max(figures, key=lambda name: figures[name]["violation"])
    k = round(figures[worst]["violation"] * resamples)
    low, high = beta.ppf([0.025, 0.975], [k or 1e-9, k + 1], [resamples - k + 1, resamples - k])
    print(
        f"most violations: {worst}, {k / resamples:.3f} (95 % interval {low:.3f} to {high:.3f} "
        f"over {resamples} resamples); naive: median "
        f"{np.median([row['naive violation'] for row in figures.values()]):.3f}"
    )


def show_mixture(figures: dict[str, list[dict[str, float]]]) -> None:
    for name, rows in figures.items():
        print(f"\n{name}: the published votes, all rows")
        for row in rows:
            print("  " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))


def show_speed(figures: dict[str, float]) -> None:
    print("\nspeed, one core")
    for name, value in figures.items():
        print(f"  {name:<46} {value:14,.3f}")
