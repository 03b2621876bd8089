"""Recorded runs of agents: what a cascade of whole agents is worth, and when to give up a run.

What can be replayed exactly is the restart: the small agent's run, or its first steps, then the
large agent's whole run. Where tests, a schema or the environment show whether a task was solved,
the large agent begins where that check fails (`check_runs`), and hopeless runs can be given up
early; where nothing does, the run and the task decide (`ladder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from langchain_core.messages import BaseMessage

from cascade.confidence.calibrating import cross_fitted, fit_linear
from cascade.confidence.calibration import Array, Fitted, Linear, Share
from cascade.confidence.signals import Step, lowest_kept, message_steps
from cascade.errors import ConfigurationError
from cascade.evaluation.features import Pair, Rows, TextEncoder, run_features
from cascade.evaluation.recordings import read_transcripts
from cascade.evaluation.render import percent
from cascade.evaluation.verdict import FOLDS, Interval, Options, bootstrap, check
from cascade.state import Record

POINTS, LOST = (1, 2, 3, 4, 6, 8, 12, 16, 24), 0.05
"""Steps after which a run may be given up, and share of the successes that this may lose."""


class EarlyStop(Fitted):
    """Early stop (`AgentTier(stop=…)`) of runs whose chance of success, by the run so far and the
    topics of its question, is `below` a bound at one of the `points`, which loses a `share` of the
    successes at most."""

    points: Mapping[int, Linear]
    text: TextEncoder
    below: Share
    share: Share

    def after(self, questions: Sequence[str], runs: Sequence[Sequence[Step]]) -> Array:
        """After how many of their steps (n,) runs are given up; 0 lets one go on."""
        topics, ended = self.text.transform(questions), np.zeros(len(runs))
        for after in sorted(self.points, reverse=True):
            at = np.array([i for i, run in enumerate(runs) if len(run) >= after], dtype=np.intp)
            if len(at):
                table = _table([runs[i][:after] for i in at], topics[at])
                ended[at[self.points[after].predict(table) < self.below]] = after
        return ended

    def __call__(self, task: Sequence[BaseMessage], run: Sequence[BaseMessage]) -> str | None:
        """Reason to stop a run that is under way, or None to let it go on."""
        [after] = self.after([str(task[-1].text)], [message_steps(run)])
        said = f"after {after:.0f} steps its chance of success is below {self.below:.2f}"
        return said if after else None


def _table(runs: Sequence[Sequence[Step]], topics: Array) -> Array:
    """Columns that heads read: no raw score, features of runs, topics of their tasks."""
    read = np.array([[*run_features(run).values()] for run in runs])
    return np.hstack([np.full((len(runs), 1), np.nan), np.log1p(read), topics])


def _chance(table: Array, right: Array) -> Linear:
    """The chance of success; signals of runs and topics of questions may say much."""
    return fit_linear(table, right, range(1, table.shape[1]), 0.3**-2)


def fit_early_stop(
    pair: Pair, fit: Rows | None = None, *, share: float = LOST
) -> tuple[EarlyStop, Array]:
    """An early stop, fitted to some rows, and after how many steps it ends each run (0: never), by
    heads that have not seen the run. Of the bounds that lose no more than this share of the
    successes (`lowest_kept`) it takes the one that saves most, where a lost success costs a run of
    the large agent; none, where that is not more than its noise."""
    fit = np.arange(len(pair)) if fit is None else fit
    runs, right, large_cost = pair.runs, pair.small_correct, pair.large_cost
    topics = pair.encoder.transform(pair.prompts)
    length = np.array([len(run) for run in runs])
    chances, points = np.full((len(POINTS), len(pair)), np.inf), dict[int, Linear]()
    for number, after in enumerate(POINTS):
        at = np.flatnonzero(length > after)
        own = np.isin(at, fit)
        labels = right[at[own]]
        if np.bincount(labels > 0.5, minlength=2).min() >= 10:
            table = _table([runs[i][:after] for i in at], topics[at])
            points[after] = _chance(table[own], labels)
            chances[number, at] = points[after].predict(table)
            chances[number, at[own]] = cross_fitted(_chance, table[own], labels)

    def ends(below: float) -> Array:
        low = chances < below
        return np.where(low.any(axis=0), np.array(POINTS)[np.argmax(low, axis=0)], 0)

    def worth(below: float) -> float:
        ended = ends(below)
        left = pair.small_cost - spent_until(pair, ended)
        low = np.max(chances, axis=0, initial=0.0, where=chances < below)
        expected, seen = (((ended > 0) * (left - p * large_cost))[fit] for p in (low, right))
        return float(min(expected.sum(), seen.sum()) - np.linalg.norm(seen))

    lowest = np.minimum(chances.min(axis=0), 1.0)[fit]
    scored = sorted(zip(right[fit].tolist(), lowest.tolist(), strict=True))
    most = lowest_kept(scored, lambda correct: correct > 0.5, share) or 0.0
    bounds = np.unique(lowest[lowest < most]) + 1e-9
    below = max([0.0, *bounds.tolist()], key=worth)
    return EarlyStop(points=points, text=pair.encoder, below=below, share=share), ends(below)


def early_stop_of(path: str | Path, small: str, large: str) -> EarlyStop:
    """The early stop that a file of recorded runs of two agents gives."""
    return fit_early_stop(Pair(read_transcripts(path), small, large))[0]


def spent_until(pair: Pair, after: Array) -> Array:
    """Dollars of runs that are given up after so many steps, 0 being none; where the dollars of
    steps are unknown, all have cost the same."""
    spent, drafts = pair.small_cost.copy(), pair.outcomes(pair.small)
    for i in np.flatnonzero(after > 0):
        steps = drafts[i].steps
        known = [step.cost_usd for step in steps if step.cost_usd is not None]
        if len(known) < len(steps) or not any(known):
            known = [1.0] * len(steps)
        spent[i] *= sum(known[: int(after[i])]) / sum(known)
    return spent


class Checked(Record):
    """A cascade of agents whose tasks are checked, beside the large agent alone: `cost`, a share of
    that agent's, tasks `solved`, what is `gained` over it, the same as `whole_…` without an early
    stop, and the shares of runs that this has `stopped`, and of successes that are `lost` by it."""

    small: str
    large: str
    rows: int
    worth: Literal["cheaper and better", "cheaper", "dearer and better", "off", "unclear"]
    sentence: str
    stopped: float
    lost: float
    figures: Mapping[str, Interval]

    @property
    def text(self) -> str:
        """The figures for people."""
        said = {name: percent(figure.value) for name, figure in self.figures.items()}
        return (
            f"{self.sentence}\n\n"
            f"  {self.large} alone solves {said['large_solved']}\n"
            f"  checked, then the large agent: {said['whole_solved']} at {said['whole_cost']} of "
            f"the cost\n  and hopeless runs given up: {said['solved']} at {said['cost']}; "
            f"{percent(self.stopped)} of the runs are given up, {percent(self.lost)} of the small "
            "agent's successes among them"
        )


def check_runs(
    pair: Pair, options: Options | None = None, *, test: Pair | None = None, share: float = LOST
) -> Checked:
    """Worth of a check of each run, which shows its `correct`, with a restart by the large agent
    where it fails; on `test`, other runs, or on runs that the early stop has not seen, which loses
    this `share` of the successes at most."""
    check(pair)
    if not pair.priced:
        raise ConfigurationError("what a check saves is unknown: record `cost_usd` of both agents.")
    if test is not None:
        stop, _ = fit_early_stop(pair, share=share)  # a run's last step ends it
        rows, after = test, stop.after(test.prompts, [run[:-1] for run in test.runs])
    else:
        rows, after = pair, np.zeros(len(pair))
        order = np.random.default_rng(0).permutation(len(pair))
        for held in np.array_split(order, FOLDS):
            after[held] = fit_early_stop(pair, np.setdiff1d(order, held), share=share)[1][held]
    small, large, alone = rows.small_correct, rows.large_correct, rows.large_cost

    def figures(large: Array, alone: Array, *ways: Array) -> dict[str, float]:
        known: dict[str, float] = {"large_solved": large.mean()}
        for name, (passed, spent) in {"": ways[:2], "whole_": ways[2:]}.items():
            cost, solved = spent + (1 - passed) * alone, np.maximum(passed, large)
            known[f"{name}cost"] = cost.sum() / alone.sum()
            known |= {f"{name}solved": solved.mean(), f"{name}gained": (solved - large).mean()}
        return known

    stopped = small * (after == 0), spent_until(rows, after)
    known = bootstrap(figures, large, alone, *stopped, small, rows.small_cost, draws=400)
    worth, sentence = _judged(pair.large, known["cost"], known["gained"], options or Options())
    return Checked(
        small=pair.small,
        large=pair.large,
        rows=len(rows),
        worth=worth,
        sentence=sentence,
        stopped=float((after > 0).mean()),
        lost=float(small[after > 0].sum() / max(small.sum(), 1.0)),
        figures=known,
    )


def _judged(large: str, cost: Interval, gained: Interval, options: Options) -> tuple[Any, str]:
    """Which of the two the user gets, in a word and in a sentence."""
    low, high = (percent(end) for end in cost[1:])
    pays = f"it costs {percent(cost.value)} of {large} alone ({low} to {high})"
    more = f"{abs(100 * gained.value):.1f} points {'fewer' if gained.value < 0 else 'more'}"
    solves = f"solves {more} ({100 * gained.low:+.1f} to {100 * gained.high:+.1f})"
    if cost.high < 1 and gained.low > 0:
        return "cheaper and better", f"Use it: {pays}, and {solves}."
    if cost.high < 1 and gained.low >= -options.within:
        return "cheaper", f"Use it: {pays}, and solves as much ({solves})."
    if cost.value >= 1 and gained.low > 0:
        return "dearer and better", f"It saves no money and does better: {pays}, and {solves}."
    if cost.low >= 1:
        return "off", f"Switch it off and let {large} do everything: {pays}."
    return "unclear", f"Too few tasks to tell: {pays}, and {solves}."
