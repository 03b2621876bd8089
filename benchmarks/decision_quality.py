"""Heavy: how good the decisions are on recorded answers of real models; needs the recordings.

    python benchmarks/decision_quality.py --data FOLDER [--splits 20] [--only TABLES] [--json]
    python benchmarks/decision_quality.py --fit FOLDER --test FOLDER [--json]

Everything is fitted on some labelled rows and applied unchanged to rows that nothing has seen:
random parts of the rows of `--data`, or all rows of one folder and all of another, files being
paired by what stands before the first dot of their names. Tables: cost, gain, certificates, tuned.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cascade.confidence.calibration import Array
from cascade.evaluation import Outcome, Transcript, read_transcripts
from cascade.evaluation import ladder as ladders
from cascade.evaluation.features import Pair, Rows, comparable
from cascade.evaluation.ladder import climb, fit_head, fit_shapes
from cascade.evaluation.verdict import Options, cheapest, cross_fit, play_on, ranking
from cascade.policies import Refusal, certify

GPT4, SC3, MIXTURE = "gpt-4-1106-preview", "gpt-4/cot1-sc3", "mixture-of-thought"
VOTES_PER_PROMPT = int((20 - 8 * 0.75) / 2)
MIXTURES = {
    "mot_date_gpt35": ("gpt-3.5-turbo/cot1", "gpt-3.5-turbo/pot1"),
    "mot_date_llama2": ("llama-2-13b/cot2", "llama-2-13b/pot2"),
}
LABELS = (100, 200, 400, 0)
"""Labels that fit; 0 for half of the rows."""
MOST_SEEN = 2000
"""Rows that judge a split; more take time and hardly change a figure."""
CERTIFIED = ("Yi-34B", "Mistral-7B-v0.1", "Llama-2-13b-hf", "gpt-4o-mini")
DELTA = 0.1
OPTIONS = Options()

Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A pair of a set. `plain` is the raw signal that a fixed threshold is set on, the best known
    one: `raw`, `short` questions, or `agree:MODEL`."""

    set_name: str
    small: str
    large: str
    plain: str = "raw"

    @property
    def name(self) -> str:
        return f"{self.set_name} {self.small.split('/')[-1]} > {self.large.split('/')[0]}"


def _cases() -> Iterator[Case]:
    for small, large in (
        ("Yi-34B", GPT4),
        ("Llama-2-13b-hf", GPT4),
        ("Mistral-7B-v0.1", "Yi-34B"),
        ("Yi-6B", "Yi-34B"),
        ("Qwen-14B", "Qwen-72B"),
        ("Qwen-1_8B", "Qwen-72B"),
    ):
        yield Case("lub_mmlu", small, large)
    yield Case("mot_date_gpt35", "gpt-3.5-turbo/pot1", SC3)
    yield Case("mot_date_gpt35", MIXTURE, SC3)
    yield Case("mot_date_llama2", MIXTURE, SC3)
    yield Case("mot_gsm8k_llama2", "llama-2-13b/pot2", SC3)
    mixtral, wizard = "Mixtral-8x7B-Instruct-v0.1", "WizardLM/WizardLM-13B-V1.2"
    yield Case("gsm8k_multi", "abel-7b", "gpt-4-0613/greedy-cot1", f"agree:{mixtral}")
    llama, phi = "Meta-Llama-3_1-8B-Instruct", "Phi-3-mini-4k-instruct"
    yield Case("mmlu_pro", llama, "gemini-1.5-pro-002", f"agree:{phi}")
    yield Case("routellm_mmlu", mixtral, GPT4, "short")
    yield Case("routerbench_arc", "mistralai/mistral-7b-chat", GPT4, f"agree:{wizard}")
    for name in ("ea_medmcqa", "ea_truthfulqa"):
        for small in ("llama3.2-3b", "llama3.1-8b", "llama3.1-70b"):
            yield Case(name, small, "llama3.1-405b")
        yield Case(name, "gpt-4o-mini", "gpt-4o")
        yield Case(name, "gpt-4o-mini", "qwen2.5-72b-instruct")
    for small, large, helper in (
        ("gpt-4o-mini", "claude-3.5-sonnet", "gemini-1.5-flash"),
        ("claude-3-haiku", "claude-3.5-sonnet", "gpt-4o-mini"),
        ("xLAM-1b", "claude-3.5-sonnet", "Llama-3-8B"),
        ("gpt-3.5-turbo-FC", "gpt-4-0125", "gpt-4o-mini"),
        ("gemini-1.5-flash", "gpt-4-0125", "gpt-4o-mini"),
        ("Llama-3-8B", "gpt-4-0125", "xLAM-1b"),
    ):
        yield Case("bfcl_calls", small, large, f"agree:{helper}")
    for small, large in (
        ("Meta-Llama-3-70B-Instruct", "gpt-4-0613"),
        ("gpt-3.5-turbo-0613", "gpt-4-0613"),
    ):
        yield Case("mint_agents", small, large)


# Rows -----------------------------------------------------------------------------------------


def set_files(folder: Path) -> dict[str, list[Path]]:
    """Files by the set's name, which is what stands before the first dot."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        found.setdefault(path.name.split(".")[0], []).append(path)
    return found


def read_rows(name: str, paths: list[Path]) -> list[Transcript]:
    rows = [row for path in paths for row in read_transcripts(path)]
    if name == "mint_agents":  # in `alfworld` the world says whether the goal was reached
        rows = [row for row in rows if (row.model_extra or {}).get("task") != "alfworld"]
    prompts = MIXTURES.get(name)
    return [with_mixture(row, prompts) for row in rows] if prompts else rows


def with_mixture(row: Transcript, prompts: tuple[str, str]) -> Transcript:
    """The row with the mixture-of-thought draft as one more model (2310.03094, MoT-1D).

    The first samples of two prompts vote together; its price is both prompts once and the
    output of the samples used.
    """
    votes: list[Any] = []
    cost = 0.0
    for prompt in prompts:
        outcome = row.models[prompt]
        recorded = outcome.signals["votes"]
        votes += recorded[:VOTES_PER_PROMPT] if isinstance(recorded, list) else []
        first = (outcome.model_extra or {}).get("cost_usd_single") or 0.0
        all_of_them = outcome.cost_usd or 0.0
        others = max(float(str(outcome.signals["n_samples"])) - 1, 1)
        cost += first + (VOTES_PER_PROMPT - 1) * (all_of_them - first) / others
    answer = Counter(map(str, votes)).most_common(1)[0][0] if votes else None
    draft = Outcome(
        pred=answer,
        correct=float(comparable(answer) == comparable(row.reference)),
        cost_usd=cost,
        signals={"votes": votes, "n_samples": VOTES_PER_PROMPT * len(prompts)},
    )
    return row.model_copy(update={"models": {**row.models, MIXTURE: draft}})


def load(arguments: argparse.Namespace) -> Iterator[tuple[Case, Pair, Pair | None]]:
    """Each case with its rows, and with other rows for the figures where there are some."""
    first = set_files(arguments.data or arguments.fit)
    second = set_files(arguments.test) if arguments.test else {}
    rows: dict[str, list[Transcript]] = {}
    for case in _cases():
        if arguments.sets and case.set_name not in arguments.sets.split(","):
            continue
        if case.set_name not in rows:
            rows.clear()
            for key, files in (("", first), (" test", second)):
                if case.set_name in files:
                    rows[case.set_name + key] = read_rows(case.set_name, files[case.set_name])
        if case.set_name not in rows or (second and f"{case.set_name} test" not in rows):
            print(f"no rows of {case.set_name}: left out", file=sys.stderr)
            continue
        yield (
            case,
            Pair(rows[case.set_name], case.small, case.large),
            Pair(rows[f"{case.set_name} test"], case.small, case.large) if second else None,
        )


def part(pair: Pair, rows: Rows) -> Pair:
    """Some of the rows, with the candidates of all."""
    some = Pair([pair.rows[i] for i in rows], pair.small, pair.large)
    some.candidates = pair.candidates
    return some


def splits(pair: Pair, other: Pair | None, labels: int, count: int) -> Iterator[tuple[Pair, Pair]]:
    """(rows that fit, rows that nothing has seen)."""
    n = len(pair)
    size = labels or (n if other is not None else n // 2)
    if size > (n if other is not None else n // 2 + 1):
        return
    for seed in range(1 if other is not None and size == n else count):
        order = np.random.default_rng(seed).permutation(n)
        fit, rest = order[:size], order[size : size + MOST_SEEN]
        yield part(pair, fit), part(pair, rest) if other is None else other


# Tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """A fixed threshold on one raw signal: what a user without labels to spare would set."""

    doubt: Array
    kept: Array
    escalated: Array
    gain: Array
    whole: float

    @classmethod
    def of(cls, pair: Pair, plain: str) -> Threshold:
        kept = pair.small_cost
        before = 0.0 * kept if plain == "short" else kept
        doubt = -np.nan_to_num(pair.raw)
        if plain == "short":
            doubt = pair.characters
        elif plain.startswith("agree:"):
            helper = plain.removeprefix("agree:")
            doubt = -pair.table(f"view:{helper}")["same"]
            kept = before = kept + pair.table(f"answers:{helper}")["cost_usd"]
        gain = pair.large_correct - pair.small_correct
        return cls(doubt, kept, before + pair.large_cost, gain, float(pair.large_cost.sum()))

    def curve(self) -> tuple[Array, Array, Array]:
        """(threshold, cost share, loss) from escalating all to keeping all."""
        order = np.argsort(self.doubt, kind="stable")
        ranked = self.doubt[order]
        ends = np.concatenate([[True], np.diff(ranked) > 0, [True]])
        cost = self.escalated.sum() + np.append(0, np.cumsum((self.kept - self.escalated)[order]))
        loss = np.append(0, np.cumsum(self.gain[order])) / len(order)
        cuts = np.append(-np.inf, ranked)
        return cuts[ends], (cost / self.whole)[ends], loss[ends]

    def choose(self, within: float) -> float:
        """The cheapest within a loss on these very rows; −∞ to switch off."""
        cuts, cost, loss = self.curve()
        allowed = np.flatnonzero(loss <= within + 1e-12)
        at = allowed[np.argmin(cost[allowed])]
        return float(cuts[at]) if cost[at] < 1 else -np.inf

    def apply(self, cut: float) -> tuple[float, float]:
        """(cost share, loss) of a threshold."""
        if cut == -np.inf:
            return 1.0, 0.0
        kept = self.doubt <= cut
        cost = np.where(kept, self.kept, self.escalated).sum() / self.whole
        return float(cost), float(np.where(kept, self.gain, 0.0).mean())


def at_equal(x: Array, y: Array, target: float) -> float:
    """y where x is the target; x rises with noise, so it is the mean of its two envelopes."""
    up, down = np.maximum.accumulate(x), np.minimum.accumulate(x[::-1])[::-1]
    return float(np.interp(target, (up + down) / 2 + 1e-12 * np.arange(len(x)), y))


def cost_figures(case: Case, fit: Pair, test: Pair) -> Figures:
    """Within one point of the large model: our choice and a fixed threshold, and both curves."""
    own, shapes = cross_fit(fit, OPTIONS), list(fit_shapes(fit, np.arange(len(fit))))
    sheet, shape = play_on(shapes, test), climb(shapes).name
    at = None if shape == "off" else cheapest(own, OPTIONS)
    ours = (1.0, 0.0) if at is None else (float(sheet.share[at]), float(sheet.loss[at]))
    cut = Threshold.of(fit, case.plain).choose(OPTIONS.within)
    threshold = Threshold.of(test, case.plain)
    plain = threshold.apply(cut)
    share, loss = np.append(1.0, sheet.share), np.append(0.0, sheet.loss)
    if shape == "off":
        share, loss = np.ones(2), np.zeros(2)
    _, their_share, their_loss = threshold.curve()
    equal, their_equal = min(1.0, at_equal(loss, share, plain[1])), 1.0
    loss_at = their_loss_at = 0.0
    if cut > -np.inf:
        their_equal = min(1.0, at_equal(their_loss, their_share, plain[1]))
        loss_at = at_equal(-share, loss, -plain[0])
        their_loss_at = at_equal(-their_share, their_loss, -plain[0])
    return {
        "cost": ours[0],
        "loss": ours[1],
        "plain cost": plain[0],
        "plain loss": plain[1],
        "cheaper at equal loss": their_equal - equal,
        "share at equal loss": equal / their_equal,
        "less lost at equal cost": their_loss_at - loss_at,
        "shape": "off" if at is None else shape,
        "covered loss": None if at is None else covered(own, sheet, at, 1),
        "covered cost": None if at is None else covered(own, sheet, at, 0),
    }


def covered(own: Any, sheet: Any, at: int, which: int) -> bool:
    """Whether what unseen rows show is in the 95 % interval, given that they are few as well."""
    said, seen = ((s.share, s.loss)[which][at] for s in (own, sheet))
    error = np.hypot(own.errors[which][at], sheet.errors[which][at])
    return bool(abs(said - seen) <= 1.96 * error)


def gain_figures(case: Case, fit: Pair, test: Pair) -> Figures:
    """nAUC on unseen rows: the raw signal, heads without and with a helper."""
    rows = np.arange(len(fit))
    given = test.small_correct, test.large_correct, test.small_cost, test.large_cost
    scores = play_on(list(fit_shapes(fit, rows)), test).gains
    scores = {"raw": Threshold.of(test, case.plain).doubt, **scores}
    found = {name: ranking(score, *given)["nAUC"] for name, score in scores.items()}
    found["helper"] = found.get("gain", found["router"])
    for helper in fit.helpers(rows)[:1]:
        own = ["draft"] * bool(fit.table("draft"))
        head = fit_head(fit, rows, [*own, "prompt", "topics", f"view:{helper}"])
        small, large = head(test)
        found["helper"] = ranking(large - small, *given)["nAUC"]
    return found


def certificate_figures(pair: Pair, alpha: float, n: int, resamples: int) -> Figures:
    """Resamples of n labels, half of them for the fit, all rows being the truth."""
    correct, out = pair.small_correct, []
    for seed in range(resamples):
        rows = np.random.default_rng(3000 + seed).permutation(len(pair))[:n]
        first = next(fit_shapes(pair, np.sort(rows[: n // 2])))  # its confidence is the ladder's
        confidence = first.stages(pair)[0].kept
        proof = rows[n // 2 :]
        got = certify(confidence[proof], correct[proof], max_harm=alpha, delta=DELTA)
        cut = np.inf if isinstance(got, Refusal) else got.threshold
        unseen = np.setdiff1d(np.arange(len(pair)), rows[: n // 2])
        kept = confidence[unseen] >= cut
        out.append(
            {
                "violated": float(np.mean(kept & (correct[unseen] < 0.5)) > alpha),
                "accepted": float(kept.mean()),
                "refused": float(isinstance(got, Refusal)),
            }
        )
    return {key: float(np.mean([one[key] for one in out])) for key in out[0]}


TUNED: dict[str, dict[str, float]] = {
    "as it is": {},
    "signals twice as free": {"draft": 0.2, "view": 0.6},
    "signals half as free": {"draft": 0.05, "view": 0.15},
    "text twice as free": {"prompt": 0.14, "topics": 0.06},
    "text half as free": {"prompt": 0.035, "topics": 0.015},
    "agreement twice as free": {"same": 2.4},
    "agreement half as free": {"same": 0.6},
    "steps without noise": {"NOISE": 0.0},
    "steps by 1.5 noises": {"NOISE": 1.5},
}
"""What was tuned, and what else it could be."""


def tuned_figures(case: Case, fit: Pair, test: Pair) -> Figures:
    """Worth on unseen rows with other settings."""
    found = {}
    usual, noise = dict(ladders.PRIORS), ladders.NOISE
    for name, changes in TUNED.items():
        wide = {
            source: ((small[0], changes[source]), (large[0], changes[source]))
            for source, (small, large) in usual.items()
            if source in changes
        }
        ladders.PRIORS, ladders.NOISE = {**usual, **wide}, changes.get("NOISE", noise)
        try:
            shape = climb(list(fit_shapes(fit, np.arange(len(fit)))))
        finally:
            ladders.PRIORS, ladders.NOISE = usual, noise
        found[name] = float(shape.worth(test).mean())
    return found


# Printing -------------------------------------------------------------------------------------


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval. Splits share rows, so that the spread of one split
    counts beside that of their mean (Nadeau and Bengio 2003, for halves)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), 1.96 * spread * np.sqrt(1 / len(values) + 1)


def show_cost(labels: str, runs: dict[str, list[Figures]]) -> None:
    print(f"\nwithin 1 point of the large model, {labels} labels; losses in points")
    print(
        f"{'':52}{'cost':>6}{'lost':>6}{'plain':>7}{'lost':>6}"
        f"{'cheaper at equal loss':>24}{'less lost at equal cost':>25}  shapes"
    )
    worse, saved, lost, shares = [], [], [], []
    for name, made in runs.items():
        mean = {
            key: float(np.mean([run[key] for run in made]))
            for key in ("cost", "loss", "plain cost", "plain loss")
        }
        cheaper, noise = interval([run["cheaper at equal loss"] for run in made])
        less, other = interval([run["less lost at equal cost"] for run in made])
        shapes = Counter(run["shape"] for run in made).most_common(3)
        print(
            f"{name[:52]:52}{mean['cost']:6.3f}{100 * mean['loss']:6.2f}{mean['plain cost']:7.3f}"
            f"{100 * mean['plain loss']:6.2f}{cheaper:+12.3f} ± {noise:.3f}"
            f"{100 * less:+15.2f} ± {100 * other:.2f}  {shapes}"
        )
        saved.append(cheaper)
        lost.append(less)
        shares.append(np.mean([run["share at equal loss"] for run in made]))
        if cheaper < -noise or less < -other:
            worse.append(name)

    def mean_of(key: str) -> float:
        return float(np.mean([np.mean([run[key] for run in made]) for made in runs.values()]))

    print(
        f"mean: cost {mean_of('cost'):.3f} at {100 * mean_of('loss'):.2f}, plain "
        f"{mean_of('plain cost'):.3f} at {100 * mean_of('plain loss'):.2f}; at equal loss "
        f"{1 - np.mean(shares):.1%} cheaper, at equal cost {100 * np.mean(lost):+.2f} points; "
        f"worse beyond noise on {worse or 'none'}; below 0 on {sum(s < 0 for s in saved)} of "
        f"{len(saved)}"
    )
    for key in ("covered loss", "covered cost"):
        known = [run[key] for made in runs.values() for run in made if run[key] is not None]
        print(f"{key}: {np.mean(known):.3f} of {len(known)}")


def show_gain(labels: str, runs: dict[str, list[Figures]]) -> None:
    columns = ("raw", "gain", "helper", "router")
    print(
        f"\nnAUC, median over splits, {labels} labels\n{'':52}"
        + "".join(f"{c:>9}" for c in columns)
    )
    medians = {
        name: [float(np.median([run.get(c, np.nan) for run in made])) for c in columns]
        for name, made in runs.items()
    }
    for name, row in medians.items():
        print(f"{name[:52]:52}" + "".join(f"{value:9.3f}" for value in row))
    for title, chosen in (
        ("mean over lub_mmlu", [row for name, row in medians.items() if name.startswith("lub_")]),
        ("mean over all", list(medians.values())),
    ):
        if chosen:
            print(f"{title:52}" + "".join(f"{v:9.3f}" for v in np.nanmean(chosen, axis=0)))


def show_tuned(labels: str, runs: dict[str, list[Figures]]) -> None:
    """Each set with the settings that are best on the others."""
    means: dict[str, dict[str, list[float]]] = {}
    for name, made in runs.items():
        own = means.setdefault(name.partition(" ")[0], {})
        for key in TUNED:
            own.setdefault(key, []).append(float(np.mean([run[key] for run in made])))
    print(f"\nsettings chosen on the other sets, {labels} labels; worth in points")
    totals = []
    for left_out, own in means.items():
        others = [m for name, m in means.items() if name != left_out] or [own]
        best = max(TUNED, key=lambda k: np.mean([np.mean(m[k]) for m in others]))
        judged, usual = (100 * float(np.mean(own[k])) for k in (best, "as it is"))
        totals.append((judged, usual))
        print(f"{left_out:24}{best:26}{judged:8.2f}   as it is {usual:8.2f}")
    print("mean", np.mean(totals, axis=0).round(3))
    for key in TUNED:
        print(f"  {key:26}{100 * np.mean([np.mean(m[key]) for m in means.values()]):8.3f}")


SHOW = {"cost": show_cost, "gain": show_gain, "tuned": show_tuned}
TABLES = ("cost", "gain", "certificates", "tuned")


def main() -> None:  # noqa: PLR0912 - one table after the other
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "fit", "test"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=200, help="per certificate")
    parser.add_argument("--labels", default=",".join(map(str, LABELS)), help="0 for half")
    parser.add_argument("--sets", default="", help="these sets alone")
    parser.add_argument("--only", default=",".join(TABLES), help="tables, with commas between")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    only, folders = set(arguments.only.split(",")), (arguments.data, arguments.fit, arguments.test)
    if only - set(TABLES):
        parser.error(f"--only {arguments.only}: tables are {', '.join(TABLES)}")
    if bool(arguments.fit) != bool(arguments.test) or (arguments.data and arguments.fit):
        parser.error("give --data FOLDER, or both --fit FOLDER and --test FOLDER")
    threadpool_limits(1, "blas")  # matrices are small
    result: dict[str, Any] = {}
    if not any(folders) or not all(f.is_dir() for f in folders if f):
        parser.error("give a folder of transcripts that exists: --data FOLDER")
    work = {"cost": cost_figures, "gain": gain_figures, "tuned": tuned_figures}
    for case, pair, other in load(arguments):
        began = time.perf_counter()
        for labels in map(int, arguments.labels.split(",")):
            parts = splits(pair, other, labels, arguments.splits)
            for fit, test in parts if only & work.keys() else ():
                for table in work.keys() & only:
                    made = work[table](case, fit, test)
                    runs = result.setdefault(f"{table} {labels or 'all'}", {})
                    runs.setdefault(case.name, []).append(made)
        if "certificates" in only and case.small in CERTIFIED:
            for alpha, n in ((a, n) for a in (0.05, 0.1) for n in (100, 300, 1000)):
                if n <= len(pair) // 2:
                    row = certificate_figures(pair, alpha, n, arguments.resamples)
                    result.setdefault("certificates", {})[f"{case.name} α={alpha} n={n}"] = row
        print(f"{case.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"benchmark": "decision_quality", **result}))
        return
    for title, found in result.items():
        table, _, count = title.partition(" ")
        if table in SHOW:
            SHOW[table](count, found)
        else:
            print(f"\n{table}")
            for name, row in found.items():
                print(f"  {name:60} {row}")


if __name__ == "__main__":
    main()
