"""Heavy: how good the decisions are on recorded answers of real models; needs the recordings.

    python benchmarks/decision_quality.py --data FOLDER [--splits 20] [--json]
    python benchmarks/decision_quality.py --fit FOLDER --test FOLDER [--json]

Everything is fitted on one part of the rows and applied unchanged to the other: random halves of
the rows of `--data`, or all rows of one folder and all of another, files being paired by what
stands before the first dot of their names. Figures are medians over the splits unless said
otherwise. `--only gain,cost,calibration,certificates,mixture,speed` chooses tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _pairs as pairs
import _tables
import decision_speed
import numpy as np
from _naive import lowest_threshold, single_signals

from cascade.confidence.calibrators import sigmoid
from cascade.confidence.fitting import fit_calibrator, fit_logistic
from cascade.confidence.metrics import Array, auroc, brier, ece, ece_noise_floor
from cascade.confidence.text import fit_text_encoder
from cascade.evaluation.metrics import nauc
from cascade.evaluation.recorded import Recorded, Rows, confidence_features
from cascade.evaluation.staged import Rule, Stage, StagedPolicy, choose_policy, replay_staged
from cascade.evaluation.study import best_policy, fit_stage, shapes
from cascade.policies.certify import Refusal, certify

TABLES = ("gain", "cost", "calibration", "certificates", "mixture", "speed")
LABELS = (50, 100, 300, 1000)
CERTIFIED = ("Yi-34B", "Mistral-7B-v0.1", "Llama-2-13b-hf", "gpt-3.5-turbo/pot1")
RULES = {"point": 0.0, "guarded": 1.0}
DELTA = 0.1
LABELS_PER_FEATURE = 20

Figures = dict[str, float]


@dataclass
class Part:
    """One pair on one split."""

    pair: pairs.Pair
    recorded: Recorded
    text: Array
    fit: Rows
    test: Rows
    seed: int
    small: Array = field(init=False)
    large: Array = field(init=False)

    def __post_init__(self) -> None:
        self.small, self.large = self.recorded.small_correct, self.recorded.large_correct


def gain_figures(part: Part) -> Figures:
    """nAUC of the raw signal, of the gain head, and of heads that ask other cheap models too."""
    r, fit, test = part.recorded, part.fit, part.test

    def on_test(score: Array) -> float:
        return float(nauc(score[test], part.small[test], part.large[test]))

    found = {"raw": on_test(-part.pair.raw_score(r, fit))}
    free = {k: s for k, (s, cost, _) in single_signals(r).items() if not cost.any()}
    best = max(free, key=lambda k: float(nauc(free[k][fit], part.small[fit], part.large[fit])))
    found["best free"] = on_test(free[best])
    few = np.random.default_rng(1000 + part.seed).choice(fit, min(300, len(fit)), replace=False)
    helpers = r.helpers(fit, 3)
    for rows, label in ((fit, ""), (few, " 300")):
        for name, count in (("router", 0), ("gain", 0), ("gain+1", 1), ("gain+3", 3)):
            level: Any = "prompt" if name == "router" else "panel" if count else "draft"
            if count and not helpers:
                found[name + label] = found["gain" + label]
                continue
            stage = fit_stage(r, part.text, rows, level, helpers[:count])
            gain = stage.gain(r, part.text)
            found[name + label] = on_test(gain)
            if name + label == "gain":
                won = (part.large > part.small).astype(np.float64)
                found["auroc of gain"] = auroc(gain[test], won[test])
    return found


def measured(accepted: Any, cost: Array, part: Part) -> Figures:
    """Cost relative to the large model alone, quality minus the large model's."""
    change = np.where(accepted, (part.small - part.large)[part.test], 0.0)
    relative = cost.sum() / part.recorded.large_cost[part.test].sum()
    return {"cost": float(relative), "change": float(change.mean())}


def cost_figures(part: Part) -> dict[str, Any]:
    """Realised cost and quality of ours and of the best single signal, chosen on `fit`."""
    r = part.recorded
    found: dict[str, Any] = {}
    tried = shapes(r, part.text, part.fit)
    for label, caution in RULES.items():
        rule = Rule(caution=caution)
        chosen = {name: shape.choose(r, part.fit, rule) for name, shape in tried.items()}
        for name, shape in tried.items():
            found[f"{label} {name}"] = measured(*shape.replay(chosen[name], r, part.test), part)
        best = best_policy(chosen)
        off = best.policy.off
        found[label] = {
            **found[f"{label} {best.shape}"],
            "shape": "off" if off else best.shape,
            "estimate": best.policy.cost,
        }
        found[f"{label} single"] = single_signal_figures(part, rule)
        without_verdict = Rule(caution=caution, margin=0.0, ceiling=np.inf)
        found[f"{label} single, no verdict"] = single_signal_figures(part, without_verdict)
    return found


def single_signal_figures(part: Part, rule: Rule) -> dict[str, Any]:
    """A threshold on each raw signal; the one that is cheapest on the fitting part."""
    r, fit, test = part.recorded, part.fit, part.test
    tried: list[tuple[StagedPolicy, str, Stage]] = []
    for name, (score, extra, before) in single_signals(r, r.helpers(fit, 99)).items():
        free = np.zeros(len(r))
        stage = Stage(score, free, r.small_cost) if before else None
        stage = stage or Stage(score, extra + r.small_cost, free)
        outcome = part.small[fit], part.large[fit], r.large_cost[fit]
        tried.append((choose_policy([stage.take(fit)], *outcome, rule), name, stage))
    policy, name, stage = min(tried, key=lambda item: item[0].cost)
    accepted, cost = replay_staged(policy, [stage.take(test)], r.large_cost[test])
    return {**measured(accepted, cost, part), "shape": "off" if policy.off else name}


def calibration_figures(part: Part) -> Figures:
    """ECE and Brier of calibrated and raw confidence; the floor is ECE's noise on these rows."""
    r, fit, correct = part.recorded, part.fit, part.small[part.test]
    raw = part.pair.raw_score(r, fit)
    x = confidence_features(r, r.helpers(fit, 3), raw)
    raw = raw[part.test]
    found = {"raw ece": ece(raw, correct), "raw brier": brier(raw, correct)}
    order = np.random.default_rng(2000 + part.seed).permutation(fit)
    for n in (*LABELS, len(fit)):
        rows, label = order[:n], "all" if n == len(fit) else str(n)
        p = fit_calibrator(x[rows], part.small[rows]).predict(x[part.test])
        found[f"ece {label}"] = ece(p, correct)
        found[f"brier {label}"] = brier(p, correct)
        found[f"auroc {label}"] = auroc(p, correct)
        if n == 300:
            found["floor"] = ece_noise_floor(p, draws=20)
    return found


def certificate_figures(
    pair: pairs.Pair, r: Recorded, alpha: float, n: int, resamples: int
) -> Figures:
    """Resamples of n labels, all rows being the truth: violations and coverage.

    Beside them a threshold tuned naively on all n labels, and the oracle's.
    """
    x = confidence_features(r, (), pair.raw_score(r, np.arange(len(r))))
    correct, out = r.small_correct, []
    for i in range(resamples):
        rows = np.random.default_rng(3000 + i).integers(0, len(r), n)
        p = ranking(x, correct, rows[: n // 2])
        prove = rows[n // 2 :]
        got = certify(p[prove], correct[prove], max_harm=alpha, delta=DELTA)
        cut = np.inf if isinstance(got, Refusal) else got.threshold
        naive = ranking(x, correct, rows)
        tuned = lowest_threshold(naive[rows], correct[rows], alpha)
        out.append(
            {
                "violation": float(np.mean((p >= cut) & (correct < 0.5)) > alpha),
                "coverage": float(np.mean(p >= cut)),
                "oracle": float(np.mean(p >= lowest_threshold(p, correct, alpha))),
                "refused": float(isinstance(got, Refusal)),
                "naive violation": float(np.mean((naive >= tuned) & (correct < 0.5)) > alpha),
                "naive coverage": float(np.mean(naive >= tuned)),
            }
        )
    return {key: float(np.mean([one[key] for one in out])) for key in out[0]}


def ranking(x: Array, correct: Array, rows: Rows) -> Array:
    """Confidence by the plain logistic: a certificate holds for any ranking; this one is quick."""
    labels = correct[rows]
    rarer = int(min((labels > 0.5).sum(), (labels <= 0.5).sum()))
    if not rarer:
        return sigmoid(x[:, 0])
    columns = tuple(range(max(1, min(x.shape[1], rarer // LABELS_PER_FEATURE))))
    return fit_logistic(x[rows], labels, columns).predict(x)


def mixture_figures(r: Recorded) -> list[Figures]:
    """The published vote thresholds on all rows."""
    found = []
    for tau in (0.5, 0.6, 0.65, 0.7, 0.8):
        accepted = r.raw_score() >= tau
        cost = (r.small_cost + np.where(accepted, 0.0, r.large_cost)).mean()
        right = np.where(accepted, r.small_correct, r.large_correct).mean()
        relative = float(cost / r.large_cost.mean())
        large = float(r.large_correct.mean())
        found.append({"tau": tau, "accuracy": float(right), "cost": relative, "large": large})
    return found


WORK = {"gain": gain_figures, "cost": cost_figures, "calibration": calibration_figures}


def sets(arguments: argparse.Namespace) -> Iterator[tuple[pairs.OneSet, list[pairs.Split]]]:
    """Each set with its splits; what is not there is named and left out."""
    first = pairs.set_files(arguments.data or arguments.fit)
    second = pairs.set_files(arguments.test) if arguments.test else {}
    for name in dict.fromkeys(pair.set_name for pair in pairs.PAIRS):
        if name not in first or (arguments.test and name not in second):
            print(f"no rows of {name}: left out", file=sys.stderr)
            continue
        rows = pairs.read_rows(name, first[name])
        cut = len(rows)
        rows += pairs.read_rows(name, second.get(name, []))
        splits = list(pairs.random_splits(cut, arguments.splits))
        if arguments.test:
            splits = [pairs.Split(np.arange(cut), np.arange(cut, len(rows)), 0)]
        yield pairs.load_set(name, rows), splits


def run(arguments: argparse.Namespace, only: set[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for one, splits in sets(arguments):
        began = time.perf_counter()
        for split in splits if only & WORK.keys() else []:
            text = np.zeros((len(one.rows), 0))
            if only & {"gain", "cost"}:
                prompts = [row.prompt for row in one.rows]
                text = fit_text_encoder([prompts[i] for i in split.fit]).transform(prompts)
            for pair, recorded in one.pairs:
                fit, test = one.positions(pair, split.fit), one.positions(pair, split.test)
                part = Part(pair, recorded, text[one.places[pair.name]], fit, test, split.seed)
                for table in WORK.keys() & only:
                    figures: Any = WORK[table](part)
                    result.setdefault(table, {}).setdefault(pair.name, []).append(figures)
        # Certificates and votes fit nothing beforehand: with --test they see its rows alone.
        population = pairs.load_set(one.name, [one.rows[i] for i in splits[0].test])
        for pair, recorded in (population if arguments.test else one).pairs:
            if "certificates" in only and pair.small in CERTIFIED:
                for alpha, n in ((a, n) for a in (0.05, 0.1) for n in (100, 300, 1000)):
                    row = certificate_figures(pair, recorded, alpha, n, arguments.resamples)
                    label = f"{pair.name} α={alpha} n={n}"
                    result.setdefault("certificates", {})[label] = row
            if "mixture" in only and pair.small == pairs.MIXTURE:
                result.setdefault("mixture", {})[pair.name] = mixture_figures(recorded)
        print(f"{one.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "fit", "test"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=200, help="per certificate")
    parser.add_argument("--only", default=",".join(TABLES), help="tables, with commas between")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    only = set(arguments.only.split(","))
    if only - set(TABLES):
        parser.error(f"--only {arguments.only}: tables are {', '.join(TABLES)}")
    if bool(arguments.fit) != bool(arguments.test) or (arguments.data and arguments.fit):
        parser.error("give --data FOLDER, or both --fit FOLDER and --test FOLDER")
    folders = [f for f in (arguments.data, arguments.fit, arguments.test) if f]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing or not folders:
        what = f"there is no folder {', '.join(missing)}" if missing else "no folder was given"
        print(
            f"{what}: the tables on recorded answers are left out. Give --data a folder of "
            "transcripts (docs/evaluation.md says which).",
            file=sys.stderr,
        )
    result = {} if missing or not folders else run(arguments, only)
    if "speed" in only:
        result["speed"] = decision_speed.measure()
    if arguments.json:
        print(json.dumps({"benchmark": "decision_quality", **result}))
    else:
        _tables.show(result)


if __name__ == "__main__":
    main()
