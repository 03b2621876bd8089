"""Do the 95 % intervals of audited savings and losses hold? Every answer of the rows is known.

    python benchmarks/audit_coverage.py --data FOLDER [--runs 200] [--json]

A draft is accepted where another cheap model gives the same answer. Each run draws other audits;
the truth is in the rows. `peer` prices an avoided large call with the draft's token counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.evaluation.audit import WORDY, Array, account, quality_of, wilson
from cascade.evaluation.render import Figure, Table, table_text, to_json
from cascade.evaluation.report import NUMBERS, RUNS

RATES = (0.01, 0.05, 0.1, 0.5, 0.95)


@dataclass(frozen=True)
class Pair:
    """Models of a set and the dollars per 1M tokens of the large one, in and out."""

    set_name: str
    small: str
    helper: str
    large: str
    price: tuple[float, float]


WIZARD, MIXTRAL = "WizardLM/WizardLM-13B-V1.2", "Mixtral-8x7B-Instruct-v0.1"
PAIRS = (
    Pair("routerbench_arc", "mistralai/mistral-7b-chat", WIZARD, "gpt-4-1106-preview", (10, 30)),
    Pair("gsm8k_multi", "abel-7b", MIXTRAL, "gpt-4-1106-preview", (10, 30)),
    Pair("gsm8k_multi", "abel-7b", MIXTRAL, "gpt-4-0613/greedy-cot1", (30, 60)),
)


@dataclass(frozen=True)
class World:
    """A pair's rows: as runs without audits, of which the answers, costs and losses are known."""

    runs: Any
    spent: Array
    large: Array
    loss: Array
    peer: Array


def world(rows: list[dict[str, Any]], pair: Pair) -> World:
    """The columns of a pair; lengths are predicted from the escalated rows."""
    small, helper, large = (
        [row["models"][name] for row in rows] for name in (pair.small, pair.helper, pair.large)
    )
    accepted = np.array([_answer(a) == _answer(b) for a, b in zip(small, helper, strict=True)])
    prompt, written = _column(large, "input_tokens"), _column(large, "output_tokens")
    draft = _column(small, "output_tokens")
    design = np.column_stack([np.ones(len(rows)), prompt, draft])
    slopes = np.linalg.lstsq(design[~accepted], written[~accepted], rcond=None)[0]

    def dollars(tokens: Array) -> Array:
        return (prompt * pair.price[0] + tokens * pair.price[1]) / 1e6

    cost = _column(large, "cost_usd")
    runs: Any = np.recarray(len(rows), RUNS)
    for name in NUMBERS:
        runs[name] = np.nan
    runs.outcome = np.where(accepted, "accepted", "escalated")
    runs.measured = np.where(accepted, 0.0, cost)
    runs.predicted = np.where(accepted, dollars(np.maximum(1, design @ slopes)), np.nan)
    runs.low, runs.high = dollars(0 * draft), dollars(WORDY * draft)
    return World(
        runs=runs,
        spent=_column(small, "cost_usd") + _column(helper, "cost_usd"),
        large=cost,
        loss=_column(large, "correct") - _column(small, "correct"),
        peer=dollars(draft),
    )


def _answer(outcome: dict[str, Any]) -> str:
    return str(outcome.get("pred") or outcome.get("output") or "").strip()[:6]


def _column(outcomes: list[dict[str, Any]], name: str) -> Array:
    return np.array([float(outcome.get(name) or 0) for outcome in outcomes])


def measure(w: World, rate: float, runs: int) -> dict[str, float]:
    """How often the intervals held over so many draws of audits, and how wide they were."""
    accepted, bill = w.runs.outcome == "accepted", float(w.large.sum())
    escalated = float(w.large[~accepted].sum())
    w.runs.rate = np.where(accepted, rate, np.nan)
    names = ("saving", "loss", "error rate")
    held, audits = dict.fromkeys(names, 0), 0
    widths: dict[str, list[float]] = {name: [] for name in names}
    lost = float(w.loss[accepted].sum()) / len(w.large)
    wrong = float(np.maximum(w.loss[accepted], 0.0).mean())
    for seed in range(runs):
        seen = accepted & (np.random.default_rng(seed).random(len(accepted)) < rate)
        w.runs.large, w.runs.loss = np.where(seen, (w.large, w.loss), np.nan)
        spent = float(w.spent.sum()) + escalated + float(w.large[seen].sum())
        quality = quality_of(w.runs)
        assert quality is not None
        figures = (account(w.runs, spent).saving, quality.loss, quality.error_rate)
        audits += quality.checked
        for name, found, truth in zip(names, figures, (bill - spent, lost, wrong), strict=True):
            _, low, high = found.numbers
            held[name] += low - 1e-9 <= truth <= high + 1e-9
            widths[name].append((high - low) / 2 / (bill if name == "saving" else 1.0))
    true_saving = bill - float(w.spent.sum()) - escalated
    return {
        "rate": rate,
        "audits": audits / runs,
        **{f"{name} covered": held[name] / runs for name in names},
        **{f"{name} ±": float(np.median(widths[name])) for name in names},
        "peer": float((w.peer - w.large)[accepted].sum()) / true_saving,
    }


def table(results: list[dict[str, Any]], runs: int) -> Table:
    """The results for people."""
    rows = []
    for r in results:
        drawn = Figure(r["rate"], "share"), Figure(r["audits"], "count")
        cells: list[Figure | str] = [r["pair"], *drawn]
        for name in ("saving", "loss", "error rate"):
            held = r[f"{name} covered"]
            cells += [Figure(held, "share", *wilson(held, runs)), Figure(r[f"{name} ±"], "share")]
        rows.append((*cells, Figure(r["peer"], "points")))
    heads = ("rows", "rate", "audits", "saving covered", "±", "loss covered", "±", "errors covered")
    return Table("Coverage of 95 % intervals", (*heads, "±", "peer, points"), tuple(rows))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for pair in PAIRS:
        paths = sorted(arguments.data.glob(f"{pair.set_name}.*.jsonl.gz"))
        if not paths:
            print(f"no rows of {pair.set_name}: left out", file=sys.stderr)
        wanted, rows = {pair.small, pair.helper, pair.large}, []
        for path in paths:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                rows += [row for row in map(json.loads, lines) if wanted <= set(row["models"])]
        if rows:
            w, name = world(rows, pair), f"{pair.set_name}, {pair.large.partition('/')[0]}"
            results += [{"pair": name, **measure(w, rate, arguments.runs)} for rate in RATES]
    if arguments.json:
        print(to_json({"benchmark": "audit_coverage", "runs": arguments.runs, "rows": results}))
    elif results:
        print(table_text(table(results, arguments.runs)))


if __name__ == "__main__":
    main()
