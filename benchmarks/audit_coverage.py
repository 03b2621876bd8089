"""Heavy: do the 95 % intervals of audited savings hold? Needs recordings with every answer known.

    python benchmarks/audit_coverage.py --data FOLDER [--runs 200] [--json]

A draft is accepted where another cheap model gives the same answer. Each run draws other audits;
the truth is in the rows. `peer` prices an avoided large call with the draft's token counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from cascade.confidence.metrics import Array
from cascade.evaluation import Outcome, Transcript, read_transcripts
from cascade.evaluation.audit.estimates import Baselines, Estimate, quality_loss, saving
from cascade.evaluation.audit.intervals import Sample
from cascade.evaluation.shares import wilson
from cascade.ledger.baseline import WORDY
from cascade.ledger.lengths import Lengths, fit_baseline
from cascade.ledger.prices import Price
from cascade.state import Usage

RATES = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Pair:
    """Models of a set and the dollars per 1M tokens of the large one."""

    set_name: str
    small: str
    helper: str
    large: str
    price: Price


WIZARD, MIXTRAL = "WizardLM/WizardLM-13B-V1.2", "Mixtral-8x7B-Instruct-v0.1"
TURBO = Price(input=10, output=30)
PAIRS = (
    Pair("routerbench_arc", "mistralai/mistral-7b-chat", WIZARD, "gpt-4-1106-preview", TURBO),
    Pair("gsm8k_multi", "abel-7b", MIXTRAL, "gpt-4-1106-preview", TURBO),
    Pair("gsm8k_multi", "abel-7b", MIXTRAL, "gpt-4-0613/greedy-cot1", Price(input=30, output=60)),
)


@dataclass(frozen=True)
class Columns:
    """A pair's rows as columns, all of them, and which drafts are accepted."""

    accepted: np.ndarray[tuple[int], np.dtype[np.bool_]]
    spent: Array
    large: Array
    loss: Array
    peer: Array
    baselines: Baselines


def answer(outcome: Outcome) -> str:
    return (outcome.pred or outcome.output or "").strip()[:6]


def columns(rows: list[Transcript], pair: Pair) -> Columns:
    trios = [tuple(row.models[m] for m in (pair.small, pair.helper, pair.large)) for row in rows]
    accepted = np.array([answer(small) == answer(helper) for small, helper, _ in trios])
    prompt = np.array([large.input_tokens or 0 for _, _, large in trios], dtype=float)
    draft = np.array([small.output_tokens or 0 for small, _, _ in trios], dtype=float)
    written = np.array([large.output_tokens or 0 for _, _, large in trios], dtype=float)
    cost = np.array([large.cost_usd for _, _, large in trios], dtype=float)

    def price(tokens: Array) -> Array:
        each = zip(prompt.tolist(), tokens.tolist(), strict=True)
        used = [Usage(input_tokens=int(i), output_tokens=round(o)) for i, o in each]
        return np.array([float(pair.price.cost(one) or Decimal(0)) for one in used])

    hard = ~accepted
    chosen = [column[hard].tolist() for column in (prompt, draft, written)]
    escalated = Lengths(chosen[0], chosen[1], chosen[2], [1.0] * int(hard.sum()))
    model = fit_baseline(Lengths([], [], [], []), escalated)
    lengths = np.array([model.tokens(int(p), int(d)) for p, d in zip(prompt, draft, strict=True)])
    predicted = price(lengths)
    return Columns(
        accepted=accepted,
        spent=np.array([(s.cost_usd or 0) + (h.cost_usd or 0) for s, h, _ in trios]),
        large=cost,
        loss=np.array([large.correct - small.correct for small, _, large in trios]),
        peer=price(draft),
        baselines=Baselines(
            predicted[accepted],
            price(0 * draft)[accepted],
            price(WORDY * draft)[accepted],
            spread=float(np.std((cost - predicted)[hard])),
        ),
    )


def one_run(c: Columns, rate: float, seed: int) -> tuple[Estimate, float, Estimate, float]:
    """(saving, its truth, loss, its truth) of one draw of audits."""
    n = int(c.accepted.sum())
    audited = np.random.default_rng(seed).random(n) < rate
    sample = Sample(np.full(n, rate), audited)
    cost, loss = c.large[c.accepted], c.loss[c.accepted]
    escalated = float(c.large[~c.accepted].sum())
    spent = float(c.spent.sum()) + escalated + float(cost[audited].sum())
    found = saving(
        cost[audited], sample, c.baselines, escalated_usd=escalated, spent_usd=spent
    ).saving
    lost = quality_loss(loss[audited], sample, requests=len(c.large))
    return found, float(c.large.sum()) - spent, lost, float(loss.sum()) / len(c.large)


def measure(c: Columns, rate: float, runs: int) -> dict[str, float]:
    drawn = [one_run(c, rate, seed) for seed in range(runs)]
    bill = float(c.large.sum())
    truth = bill - float(c.spent.sum() + c.large[~c.accepted].sum())
    figures: dict[str, float] = {"audits": float(np.mean([run[0].audits for run in drawn]))}
    for name, place, scale in (("saving", 0, bill), ("loss", 2, 1.0)):
        pairs: list[tuple[Estimate, float]] = [(run[place], run[place + 1]) for run in drawn]  # type: ignore[misc]
        inside = np.mean([e.low - 1e-9 <= t <= e.high + 1e-9 for e, t in pairs])
        half = float(np.median([(e.high - e.low) / 2 for e, _ in pairs])) / scale
        bias = float(np.mean([e.value - t for e, t in pairs])) / scale
        figures |= {
            f"{name} coverage": float(inside),
            f"{name} coverage low": wilson(float(inside), runs)[0],
            f"{name} half width": half,
            f"{name} bias": bias,
        }
    peer = float((c.peer - c.large)[c.accepted].sum())
    return {**figures, "true saving share": truth / bill, "peer bias": peer / truth}


def show(result: list[dict[str, Any]]) -> None:
    heads = ("rows", "audit rate", "audits", "saving covered", "± of the bill", "loss covered")
    print("| " + " | ".join((*heads, "± points", "peer's saving is off by")) + " |")
    print("|" + "---|" * (len(heads) + 2))
    for r in result:
        cells = [r["pair"], f"{r['rate']:.0%}", f"{r['audits']:.0f}"]
        for name in ("saving", "loss"):
            covered, low = r[f"{name} coverage"], r[f"{name} coverage low"]
            cells += [f"{covered:.1%} (≥ {low:.1%})", f"{r[f'{name} half width'] * 100:.2f}"]
        print("| " + " | ".join([*cells, f"{r['peer bias']:+.1%}"]) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: list[dict[str, Any]] = []
    for pair in PAIRS:
        found = sorted(arguments.data.glob(f"{pair.set_name}.*")) if arguments.data else []
        if not found:
            print(f"no rows of {pair.set_name}: left out; give --data FOLDER", file=sys.stderr)
            continue
        wanted = (pair.small, pair.helper, pair.large)
        rows = [row for path in found for row in read_transcripts(path, models=wanted)]
        c = columns([row for row in rows if set(wanted) <= set(row.models)], pair)
        name = f"{pair.set_name}, {pair.large.partition('/')[0]}"
        result += [{"pair": name, "rate": r, **measure(c, r, arguments.runs)} for r in RATES]
    if arguments.json:
        print(json.dumps({"benchmark": "audit_coverage", "runs": arguments.runs, "rows": result}))
    elif result:
        show(result)


if __name__ == "__main__":
    main()
