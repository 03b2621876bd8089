"""Heavy: a plan over a whole batch against a threshold per request, at the same dollars.

    python benchmarks/knapsack.py --data FOLDER [--splits 20] [--labels 300] [--shift] [--json]

Recorded answers of real models, random halves: one is the batch, and of the other one `--labels`
rows are known beforehand, on which the calibrator is fitted, the large model's costs are learned,
and thresholds are set. Drafts are paid for by all; the money is a share of what asking the large
model everything costs. Whoever decides knows what a row's escalation is expected to cost; what it
really costs is known, and taken from the money, once it is asked. With `--shift` the labels come
from the half with the shorter prompts, and the batch is the half with the longer ones.

Rules:

    threshold   confidence below τ, in the order of arrival, until the money is out; τ set on the
                known rows so that they cost the money on average
    per dollar  the same by gain per expected dollar, which knows what each row costs
    adaptive    `DollarBudgetPolicy`: a threshold that follows the spending
    oracle      a threshold set on the batch itself and its real costs, so that the money is just
                enough; of equal confidences the first ones
    by gain     all drafts first, the most doubtful ones first, until the money is out
    plan        all drafts first, by gain per expected dollar: `cascade batch --plan`

Figures: percentage points of accuracy that the plan is better by (95 % paired bootstrap over the
rows, each row's difference being averaged over the splits in which it is in the batch), and the
share of the money that was spent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import _pairs as pairs
import numpy as np
from numpy.typing import NDArray

from cascade.confidence.fitting import fit_calibrator
from cascade.confidence.metrics import Array
from cascade.evaluation.recorded import Recorded, Rows, confidence_features
from cascade.jobs.plan import most_gain, ranked
from cascade.policies import DollarBudgetPolicy, Situation
from cascade.state import Assessment

SHARES = (0.1, 0.25, 0.5, 0.75)
RULES = ("threshold", "per dollar", "adaptive", "oracle", "by gain", "plan")
RESAMPLES = 2000
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """What is known of a batch before anything is asked, and what becomes of it, (n,) each.

    Attributes:
        confidence: calibrated P(the draft is right).
        gain: p_L − p_S with the p_L of the known rows.
        expected: dollars that escalating is expected to cost.
        cost: what it really costs.
        small, large: who is right.
        known_gain, known_expected, known_cost: the same of the known rows, for thresholds.
        p_large: share of right answers of the large model on the known rows.
        arrival: the order in which requests come.
    """

    confidence: Array
    gain: Array
    expected: Array
    cost: Array
    small: Array
    large: Array
    known_gain: Array
    known_expected: Array
    known_cost: Array
    p_large: float
    arrival: Rows

    def __len__(self) -> int:
        return len(self.gain)


def make_batch(r: Recorded, pair: pairs.Pair, known: Rows, rows: Rows, seed: int) -> Batch:
    """Fit on the known rows, and look at the others."""
    x = confidence_features(r, (), pair.raw_score(r, known))
    calibrator = fit_calibrator(x[known], r.small_correct[known])
    p_large = float(r.large_correct[known].mean())
    confidence = calibrator.predict(x)
    expected = expected_costs(r, known)
    return Batch(
        confidence[rows],
        p_large - confidence[rows],
        expected[rows],
        r.large_cost[rows],
        r.small_correct[rows],
        r.large_correct[rows],
        p_large - confidence[known],
        expected[known],
        r.large_cost[known],
        p_large,
        np.random.default_rng(4000 + seed).permutation(len(rows)),
    )


def expected_costs(r: Recorded, known: Rows) -> Array:
    """Of asking the large model: log-linear in the lengths of prompt and draft, with the smear."""
    length = np.log([1.0 + len(prompt) for prompt in r.prompts])
    tokens = [outcome.output_tokens for outcome in r.outcomes(r.small)]
    drafts = np.log([1.0 + (count or 0) for count in tokens])
    x = np.column_stack([np.ones(len(r)), length, drafts])
    y = np.log(r.large_cost)
    weights, *_ = np.linalg.lstsq(x[known], y[known], rcond=None)
    fitted = x @ weights
    return np.asarray(np.exp(fitted) * np.exp(y[known] - fitted[known]).mean())


def spend(order: Iterable[int], batch: Batch, money: float) -> Mask:
    """Ask in this order what is expected to fit, and pay what it costs."""
    asked = np.zeros(len(batch), dtype=bool)
    for at in order:
        if batch.expected[at] <= money:
            asked[at] = True
            money -= batch.cost[at]
    return asked


def threshold_for(score: Array, cost: Array, each: float) -> float:
    """The lowest score from which on escalating costs so much per row on average."""
    order = np.argsort(-score, kind="stable")
    within = np.flatnonzero(np.cumsum(cost[order]) / len(score) <= each)
    return float("inf") if not len(within) else float(score[order[within[-1]]])


def escalated(rule: str, batch: Batch, money: float) -> Mask:
    """Which rows of the batch a rule asks the large model."""
    worth, each = batch.gain > 0, money / len(batch)
    if rule == "threshold":
        cut = threshold_for(batch.known_gain, batch.known_cost, each)
        return spend([i for i in batch.arrival if worth[i] and batch.gain[i] >= cut], batch, money)
    if rule == "per dollar":
        rate = batch.gain / batch.expected
        cut = threshold_for(batch.known_gain / batch.known_expected, batch.known_cost, each)
        return spend([i for i in batch.arrival if worth[i] and rate[i] >= cut], batch, money)
    if rule == "adaptive":
        return adaptive(batch, money)
    if rule == "oracle":
        order = np.lexsort((batch.arrival, -batch.gain))
        within = np.cumsum(np.where(worth, batch.cost, 0.0)[order]) <= money
        asked = np.zeros(len(batch), dtype=bool)
        asked[order] = within
        return np.asarray(asked & worth)
    costs = np.ones(len(batch)) if rule == "by gain" else batch.expected
    return spend(plan(batch.gain, costs), batch, money)


def adaptive(batch: Batch, money: float) -> Mask:
    """The policy that runs online, begun at the shadow price of the known rows."""
    each = money / len(batch)
    price = threshold_for(batch.known_gain / batch.known_expected, batch.known_cost, each)
    start = max(0.0, price) if np.isfinite(price) else 1e9
    policy = DollarBudgetPolicy(each, shadow_price=start, p_large=batch.p_large)
    asked, left = np.zeros(len(batch), dtype=bool), money
    for at in batch.arrival:
        seen = Assessment(confidence=float(batch.confidence[at]), calibrated=True)
        usd = Decimal(repr(float(batch.expected[at])))
        decision = policy.decide(Situation(seen, escalation_cost_usd=usd))
        takes = decision.action == "escalate" and batch.expected[at] <= left
        asked[at] = takes
        left -= batch.cost[at] if takes else 0.0
        policy = policy.after(float(batch.cost[at]) if takes else 0.0)
    return asked


def plan(gains: Array, costs: Array) -> list[int]:
    """The order of `cascade batch --plan`."""
    return ranked(gains.tolist(), [Decimal(repr(cost)) for cost in costs.tolist()])


def slack(batch: Batch, money: float) -> float:
    """By how much of the relaxed optimum the plan's expected gain falls short of it."""
    costs = [Decimal(repr(cost)) for cost in batch.expected.tolist()]
    gains, order = batch.gain.tolist(), plan(batch.gain, batch.expected)
    best = most_gain(order, gains, costs, Decimal(repr(money)))
    taken, left = 0.0, money
    for at in order:
        if batch.expected[at] <= left:
            taken, left = taken + gains[at], left - batch.expected[at]
    return 0.0 if best <= 0 else (best - taken) / best


@dataclass
class Sums:
    """Per row of the set: differences to the plan, summed over the splits; and shares spent."""

    differences: dict[str, Array]
    seen: Array
    accuracy: list[float]
    spent: dict[str, list[float]]
    slack: list[float]

    @classmethod
    def of(cls, n: int) -> Sums:
        """Nothing yet."""
        rules = {rule: np.zeros(n) for rule in RULES}
        return cls(rules, np.zeros(n), [], {rule: [] for rule in RULES}, [])

    def add(self, batch: Batch, rows: Rows, share: float) -> None:
        """One split."""
        money = share * float(batch.cost.sum())
        right, spent = {}, {}
        for rule in RULES:
            asked = escalated(rule, batch, money)
            right[rule] = np.where(asked, batch.large, batch.small)
            spent[rule] = float(batch.cost[asked].sum()) / money
        for rule in RULES:
            self.differences[rule][rows] += right["plan"] - right[rule]
            self.spent[rule].append(spent[rule])
        self.seen[rows] += 1
        self.accuracy.append(float(right["plan"].mean()))
        self.slack.append(slack(batch, money))

    def figures(self) -> dict[str, Any]:
        """Means, and the intervals of the differences, in percentage points."""
        rows = np.flatnonzero(self.seen)
        draws = np.random.default_rng(5000).integers(0, len(rows), (RESAMPLES, len(rows)))
        found: dict[str, Any] = {
            "plan": 100 * float(np.mean(self.accuracy)),
            "slack": float(np.max(self.slack)),
        }
        for rule in RULES:
            found[f"spent {rule}"] = float(np.mean(self.spent[rule]))
            if rule != "plan":
                each = 100 * self.differences[rule][rows] / self.seen[rows]
                means = np.array([each[draw].mean() for draw in draws])
                low, high = np.quantile(means, (0.025, 0.975))
                found[f"over {rule}"] = [float(each.mean()), float(low), float(high)]
        return found


def splits_of(
    r: Recorded, count: int, labels: int, *, shift: bool
) -> Iterable[tuple[Rows, Rows, int]]:
    """Known rows and the batch, for each seed."""
    for split in pairs.random_splits(len(r), count):
        fit, rows = split.fit, split.test
        if shift:
            length = np.array([len(prompt) for prompt in r.prompts])
            order = np.argsort(length, kind="stable")
            fit, rows = order[: len(r) // 2], order[len(r) // 2 :]
            draw = np.random.default_rng(6000 + split.seed)
            fit, rows = draw.permutation(fit), draw.choice(rows, 4 * len(rows) // 5, replace=False)
        yield fit[:labels], rows, split.seed


def measure(pair: pairs.Pair, r: Recorded, arguments: argparse.Namespace) -> dict[str, Any]:
    """All budgets of one pair."""
    sums = {share: Sums.of(len(r)) for share in SHARES}
    parts = splits_of(r, arguments.splits, arguments.labels, shift=arguments.shift)
    for known, rows, seed in parts:
        batch = make_batch(r, pair, known, rows, seed)
        for share in SHARES:
            sums[share].add(batch, rows, share)
    return {f"{share:.0%}": sums[share].figures() for share in SHARES}


def show(result: dict[str, Any]) -> None:
    """A line per pair and budget."""
    others = [rule for rule in RULES if rule != "plan"]
    titles = "".join(f"{'over ' + rule:>24}" for rule in others)
    print(f"{'pair':44}{'money':>6}{'plan':>7}{titles}  spent: threshold adaptive plan")
    for name, budgets in result.items():
        for share, f in budgets.items():
            over = ""
            for rule in others:
                mean, low, high = f[f"over {rule}"]
                over += f"{mean:+9.2f} [{low:+.2f}, {high:+.2f}]".rjust(24)
            spent = "  ".join(f"{f['spent ' + r]:.0%}" for r in ("threshold", "adaptive", "plan"))
            print(f"{name:44}{share:>6}{f['plan']:7.2f}{over}  {spent}")
    print("\nmean over the pairs (pairs whose interval is above 0 / below 0)")
    for share in next(iter(result.values()), {}):
        line = f"{share:>6}"
        for rule in others:
            each = [budgets[share][f"over {rule}"] for budgets in result.values()]
            above, below = sum(e[1] > 0 for e in each), sum(e[2] < 0 for e in each)
            mean = np.mean([e[0] for e in each])
            line += f"   {rule}: {mean:+.2f} ({above}/{below} of {len(each)})"
        print(line)
    most = max(f["slack"] for budgets in result.values() for f in budgets.values())
    print(f"expected gain below the relaxed optimum: at most {most:.3%} of it")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--shift", action="store_true", help="known: short prompts; batch: long")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.data is None or not arguments.data.is_dir():
        print(
            f"there is no folder {arguments.data}: nothing is measured. Give --data a folder of "
            "transcripts (docs/evaluation.md says which).",
            file=sys.stderr,
        )
        return
    files = pairs.set_files(arguments.data)
    for name in dict.fromkeys(pair.set_name for pair in pairs.PAIRS):
        if name not in files:
            print(f"no rows of {name}: left out", file=sys.stderr)
            continue
        began = time.perf_counter()
        one = pairs.load_set(name, pairs.read_rows(name, files[name]))
        for pair, recorded in one.pairs:
            result[pair.name] = measure(pair, recorded, arguments)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"benchmark": "knapsack", "shift": arguments.shift, "pairs": result}))
    else:
        show(result)


if __name__ == "__main__":
    main()
