"""Heavy: cascades of whole agents on recorded runs of real ones; needs the recordings.

    python benchmarks/agents.py --data FOLDER [--json]
    python benchmarks/agents.py --fit FOLDER --test FOLDER [--json]

With `--data` each row is judged by what was fitted without it; with `--fit` and `--test` all rows
of one folder fit, and all of the other are judged; files are paired by what stands before the first
dot of their names. Costs are relative to the large agent alone. The first table is of tasks that
nothing checks: what is recommended within a point. The second is of tasks whose first submission is
checked. In `alfworld` the world shows whether the goal is reached; it is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError
from cascade.evaluation import Transcript, read_transcripts
from cascade.evaluation.features import Pair
from cascade.evaluation.trajectories import check_runs
from cascade.evaluation.verdict import evaluate

LLAMA_70B = "Meta-Llama-3-70B-Instruct"
CASES = (
    ("bfcl_calls", "gpt-4o-mini", "claude-3.5-sonnet", "≤ .33"),
    ("bfcl_calls", "claude-3-haiku", "claude-3.5-sonnet", "≤ .45"),
    ("bfcl_calls", "gpt-3.5-turbo-FC", "gpt-4-0125", "≤ .35"),
    ("bfcl_calls", "Llama-3-8B", "gpt-4-0125", "≤ .52"),
    ("mint_agents", LLAMA_70B, "gpt-4-0613", "≤ .60"),
    ("mint_agents", "gpt-3.5-turbo-0613", "gpt-4-0613", "off"),
    ("mint_agents", "Meta-Llama-3-8B-Instruct", LLAMA_70B, "off"),
    ("mint_agents", "CodeActAgent-Mistral-7b-v0.1", LLAMA_70B, "off"),
    ("gptoss_tools", "gpt-oss-20b", "gpt-oss-120b", "off"),
)
"""Set, small agent, large agent, and the cost that is to be reached within a point."""

CHECKED = ("mint_agents", "gptoss_tools")
SHARES = (0.02, 0.05)
"""Of the successes that an early stop may lose."""


def rows_of(folder: Path, name: str) -> list[Transcript]:
    """The rows of a set, without tasks whose success is visible in the run."""
    paths = [path for path in sorted(folder.glob("*.jsonl*")) if path.name.split(".")[0] == name]
    rows = [row for path in paths for row in read_transcripts(path)]
    return [row for row in rows if (row.model_extra or {}).get("task") != "alfworld"]


def pairs(fit: Path, test: Path | None) -> Iterator[tuple[tuple[str, ...], Pair, Pair | None]]:
    """Each case with its rows, and with other rows for the figures where there are some."""
    known: dict[str, Any] = {}
    for case in CASES:
        name, small, large, _ = case
        if name not in known:
            known[name] = rows_of(fit, name), None if test is None else rows_of(test, name)
        rows, others = known[name]
        try:
            fitting = Pair(rows, small, large)
            yield case, fitting, None if others is None else Pair(others, small, large)
        except ConfigurationError as error:
            print(f"{name}, {small}: left out, {error}", file=sys.stderr)


def unchecked(pair: Pair, test: Pair | None) -> dict[str, Any]:
    """What is recommended where nothing shows whether the task was solved."""
    found = evaluate(pair, test=test)
    point = found.recommended
    return {"verdict": found.verdict, "shape": found.shape, "helper": found.helper,
            "cost": point.cost, "points": tuple(0.0 - 100 * each for each in point.loss),
            "small": found.alone[0].quality.value, "large": found.alone[1].quality.value,
            "sentence": found.sentence}  # fmt: skip


def checked(pair: Pair, test: Pair | None) -> dict[str, Any]:
    """What a check is worth, with early stops that may lose so many of the successes."""
    found = {share: check_runs(pair, test=test, share=share) for share in SHARES}
    first = found[SHARES[0]]
    stops = {
        f"stop {share:.0%}": {"cost": one.figures["cost"].value,
                              "solved": one.figures["solved"].value,
                              "stopped": one.stopped, "lost": one.lost, "worth": one.worth}
        for share, one in found.items()
    }  # fmt: skip
    return {**first.figures, "sentence": found[SHARES[-1]].sentence, **stops}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "fit", "test"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if bool(given.fit) != bool(given.test) or bool(given.data) == bool(given.fit):
        parser.error("give --data FOLDER, or both --fit FOLDER and --test FOLDER")
    result: dict[str, dict[str, Any]] = {"unchecked": {}, "checked": {}}
    for case, pair, test in pairs(given.data or given.fit, given.test):
        name, small, large, target = case
        rows = len(pair if test is None else test)
        try:
            row = {"rows": rows, "to reach": target, **unchecked(pair, test)}
            result["unchecked"][f"{name} {small} > {large}"] = row
            if name in CHECKED:
                row = {"rows": rows, **checked(pair, test)}
                result["checked"][f"{name} {small} > {large}"] = row
        except ConfigurationError as error:  # too few rows
            print(f"{name}, {small}: left out, {error}", file=sys.stderr)
    if given.json:
        print(json.dumps({"benchmark": "agents", **result}))
        return
    show(result)


def show(result: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"{'nothing checks the task':58}{'rows':>5}  cost (95 %)         success, points")
    for name, row in result["unchecked"].items():
        cost, low, high = row["cost"]
        gained, most, least = row["points"]
        said = f"{cost:.3f} ({low:.2f}–{high:.2f})", f"{gained:+.1f} ({least:+.1f} to {most:+.1f})"
        how = f"{row['verdict']}: {row['shape']} {row['helper'] or ''}"
        print(f"{name[:57]:58}{row['rows']:5}  {said[0]:20}{said[1]:24}{row['to reach']:7}{how}")
    heads = "".join(f"{f'stop, {share:.0%} lost':>20}" for share in SHARES)
    print(f"\n{'a check sees the first submission':58}{'large':>6}{'solved':>8}{'cost':>7}{heads}")
    for name, row in result["checked"].items():
        large, solved, cost = (row[k][0] for k in ("large_solved", "whole_solved", "whole_cost"))
        stops = [row[f"stop {share:.0%}"] for share in SHARES]
        shown = "".join(f"{stop['cost']:9.3f} at {stop['solved']:6.1%}  " for stop in stops)
        print(f"{name[:57]:58}{large:6.1%}{solved:8.1%}{cost:7.3f}{shown}")
        print(f"    {row['sentence']}")


if __name__ == "__main__":
    main()
