"""A small and a large model on the same recorded rows, as arrays and feature matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.calibrators import logit, sigmoid
from cascade.confidence.metrics import Array
from cascade.evaluation.features import (
    LOGPROB_MARGIN,
    RAW,
    VOTE_MARGIN,
    Block,
    draft_block,
    panel_block,
    prompt_block,
)
from cascade.evaluation.transcripts import Outcome, Transcript, rows_of_pair
from cascade.state import Record

Rows = NDArray[np.intp]
Level = Literal["prompt", "draft", "panel"]
"""How much is known: the prompt alone, the draft too, other cheap models too."""

LABELS_FOR_THE_PROMPT = 200
"""Below, the many weak columns of the prompt cost a head more in noise than they bring."""

PRIOR_SCORE, PRIOR_SIGNAL, PRIOR_PROMPT, PRIOR_TEXT, PRIOR_PANEL = 2.0, 0.3, 0.7, 0.3, 1.0
"""Spread of the weights that is expected of a standardised column of each kind."""

_SCORES = (RAW, "margin", "entropy")
_PROMPT_IN_CONFIDENCE = (
    "log_chars",
    "digits",
    "numeric_options",
    "negation",
    "symbols",
)


@dataclass(frozen=True)
class Recorded:
    """The rows that have both models and whose costs are known.

    Attributes:
        unit: of the costs; `calls` where nobody knows dollars: a large answer then counts 1
            and a draft nothing.
        left_out: rows without one of the models, or without its cost.
    """

    small: str
    large: str
    rows: Sequence[Transcript]
    small_correct: Array
    large_correct: Array
    small_cost: Array
    large_cost: Array
    unit: Literal["dollars", "calls"]
    left_out: int
    _panels: dict[tuple[str, ...], Block] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def prompts(self) -> list[str]:
        """The questions."""
        return [row.prompt for row in self.rows]

    @cached_property
    def draft(self) -> Block:
        """Columns that come with the drafts."""
        return draft_block(self.outcomes(self.small))

    @cached_property
    def prompt(self) -> Block:
        """Columns of the questions."""
        return prompt_block(self.prompts)

    def panel(self, helpers: tuple[str, ...]) -> Block:
        """What other models say of the drafts; their cost is paid for."""
        if helpers not in self._panels:
            others = {name: self.outcomes(name) for name in helpers}
            self._panels[helpers] = panel_block(self.outcomes(self.small), others)
        return self._panels[helpers]

    def outcomes(self, model: str) -> list[Outcome]:
        """Of a model that every row has."""
        return [row.models[model] for row in self.rows]

    def raw_score(self) -> Array:
        """The draft's own score in [0, 1], not calibrated; NaN where it has none."""
        if RAW not in self.draft.names:
            return np.full(len(self), np.nan)
        raw = self.draft.column(RAW)
        return np.where(np.isnan(raw), np.nan, sigmoid(np.nan_to_num(raw)))

    @cached_property
    def candidates(self) -> list[str]:
        """Models that could help: every row has an answer of theirs, with its cost, that was given
        without seeing the draft.
        """
        if self.unit == "calls" or not len(self):
            return []
        names = [name for name in self.rows[0].models if name not in (self.small, self.large)]
        return [name for name in names if all(_answered(row, name) for row in self.rows)]

    def helpers(self, fit: Rows, count: int) -> tuple[str, ...]:
        """The most accurate cheap candidates on the fitting rows; none where votes are there.

        Cheap is what costs no more than the draft, or than a tenth of the large model.
        """
        if any("votes" in row.models[self.small].signals for row in self.rows[:1]):
            return ()
        most = max(self.small_cost[fit].mean() * 1.001, 0.1 * self.large_cost[fit].mean())
        cheap = [name for name in self.candidates if self._mean(name, fit)[1] <= most]
        return tuple(sorted(cheap, key=lambda name: -self._mean(name, fit)[0])[:count])

    def _mean(self, model: str, fit: Rows) -> tuple[float, float]:
        outcomes = [self.rows[i].models[model] for i in fit]
        correct = float(np.mean([outcome.correct for outcome in outcomes]))
        return correct, float(np.mean([outcome.cost_usd or 0.0 for outcome in outcomes]))


def _answered(row: Transcript, model: str) -> bool:
    outcome = row.models.get(model)
    if outcome is None or outcome.cost_usd is None or outcome.approved is not None:
        return False
    return bool(outcome.model_fields_set & {"pred", "output"})


def record_pair(transcripts: Iterable[Transcript], small: str, large: str) -> Recorded:
    """The rows of a pair.

    Raises:
        ConfigurationError: no row has both models.
    """
    everything = list(transcripts)
    both = rows_of_pair(everything, small, large)
    priced = [row for row in both if _cost(row, small) is not None and _cost(row, large)]
    by_calls = not priced
    rows = both if by_calls else priced
    ones = np.ones(len(rows))
    return Recorded(
        small=small,
        large=large,
        rows=rows,
        small_correct=np.array([row.models[small].correct for row in rows]),
        large_correct=np.array([row.models[large].correct for row in rows]),
        small_cost=0.0 * ones if by_calls else np.array([_cost(row, small) for row in rows]),
        large_cost=ones if by_calls else np.array([_cost(row, large) for row in rows]),
        unit="calls" if by_calls else "dollars",
        left_out=len(everything) - len(rows),
    )


def _cost(row: Transcript, model: str) -> float | None:
    """Dollars of an answer and of checking it; None where a part is unknown."""
    outcome = row.models[model]
    if "check_cost_usd" not in outcome.model_fields_set:
        return outcome.cost_usd
    if outcome.cost_usd is None or outcome.check_cost_usd is None:
        return None
    return outcome.cost_usd + outcome.check_cost_usd


class Columns(Record):
    """A choice of columns for a head, by name, so that other recordings give the same ones.

    Attributes:
        spread: prior scale per column, the latent dimensions of the text last.
    """

    draft: tuple[str, ...]
    prompt: tuple[str, ...]
    panel: tuple[str, ...]
    text: int
    spread: tuple[float, ...]


def choose_columns(
    recorded: Recorded, level: Level, labels: int, helpers: tuple[str, ...], text: int
) -> Columns:
    """What a head at this level can use, given how many labels there are."""
    own = recorded.draft.names if level != "prompt" else ()
    with_prompt = labels >= LABELS_FOR_THE_PROMPT or not own
    prompt = recorded.prompt.names if with_prompt else ()
    panel = recorded.panel(helpers).names if level == "panel" else ()
    dimensions = text if with_prompt else 0
    spread = [PRIOR_SCORE if name in _SCORES else PRIOR_SIGNAL for name in own]
    spread += [PRIOR_PROMPT] * len(prompt) + [PRIOR_PANEL] * len(panel)
    return Columns(
        draft=own,
        prompt=prompt,
        panel=panel,
        text=dimensions,
        spread=(*spread, *[PRIOR_TEXT] * dimensions),
    )


def features(recorded: Recorded, columns: Columns, helpers: tuple[str, ...], text: Array) -> Array:
    """(n, d) of the chosen columns."""
    parts = [recorded.draft.select(columns.draft), recorded.prompt.select(columns.prompt)]
    if columns.panel:
        parts.append(recorded.panel(helpers).select(columns.panel))
    return np.hstack([*parts, text[:, : columns.text]])


def confidence_features(
    recorded: Recorded, helpers: tuple[str, ...] = (), raw: Array | None = None
) -> Array:
    """Features of P(draft is correct): the logit of the raw score, then in order of trust.

    Args:
        recorded: the rows.
        helpers: whose agreement counts where the draft has no signal of its own.
        raw: a raw score to take instead of the draft's own.
    """
    margin = LOGPROB_MARGIN if "rank1" in recorded.draft.names else VOTE_MARGIN
    score = recorded.raw_score() if raw is None else raw
    first = np.where(np.isnan(score), np.nan, logit(np.nan_to_num(score), margin))
    trusted = (RAW, "margin", "entropy", "distinct", "rank2")
    own = [name for name in trusted if name in recorded.draft.names]
    parts = [first[:, None], recorded.draft.select(own)]
    if not own and helpers:
        parts.append(recorded.panel(helpers).values)
    if any(outcome.features for outcome in recorded.outcomes(recorded.small)[:1]):
        rest = [name for name in recorded.draft.names if name != RAW]
        parts = [first[:, None], recorded.draft.select(rest)]
    if "log_length" in recorded.draft.names:
        parts.append(recorded.draft.column("log_length")[:, None])
    parts.append(recorded.prompt.select(_PROMPT_IN_CONFIDENCE))
    return np.hstack(parts)
