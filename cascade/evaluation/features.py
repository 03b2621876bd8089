"""A pair of models on the same recorded rows, as arrays: outcomes, costs, and what is known before
the large model is asked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from cascade.confidence.base import combine, score_of
from cascade.confidence.calibrating import TextEncoder, fit_text_encoder
from cascade.confidence.calibration import Array
from cascade.confidence.trajectory import Step, trajectory_features
from cascade.errors import ConfigurationError
from cascade.evaluation.recordings import Outcome, Transcript, rows_of_pair

Rows = NDArray[np.intp]

Table = Mapping[str, Array]
"""Columns by name, (n,) each, NaN where a value is missing; none that is missing everywhere."""

LONGEST_PROMPT = 6000
"""Characters from the end: of prompts with worked examples the question is what counts."""
CHEAP = 0.15
"""A helper may cost this share of a large answer, or as much as a draft."""
MOST_HELPERS = 3
"""Helpers that are tried: the most accurate cheap ones. More would be a choice among noise."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The rows that have both models, sorted by id, and how many were `left_out`. Columns are (n,);
    costs are dollars, or 0 and 1 where they are not `priced`. Of `candidates`, which could help,
    every row has an answer with its cost."""

    small: str
    large: str
    rows: Sequence[Transcript]
    small_correct: Array
    large_correct: Array
    small_cost: Array
    large_cost: Array
    priced: bool
    left_out: int
    candidates: tuple[str, ...]
    _tables: dict[tuple[str, Pair | None], Table] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Rows) -> Pair:
        """Some of the rows, with the tables that have been made of all."""
        columns = ("small_correct", "large_correct", "small_cost", "large_cost")
        parts: dict[str, Any] = {name: getattr(self, name)[rows] for name in columns}
        tables: dict[tuple[str, Pair | None], Table] = {
            key: {name: column[rows] for name, column in table.items()}
            for key, table in self._tables.items()
        }
        return replace(self, rows=[self.rows[i] for i in rows], _tables=tables, **parts)

    def outcomes(self, model: str) -> list[Outcome]:
        """Outcomes of a model that every row has."""
        return [row.models[model] for row in self.rows]

    @property
    def raw(self) -> Array:
        """The draft's own score in [0, 1], not calibrated; NaN where it has none."""
        return self.table("draft").get("raw", np.full(len(self), np.nan))

    @property
    def runs(self) -> list[Sequence[Step]]:
        """The small agent's steps; none where models answer."""
        return [outcome.steps for outcome in self.outcomes(self.small)]

    @cached_property
    def prompts(self) -> list[str]:
        """The questions."""
        return [row.prompt for row in self.rows]

    @cached_property
    def characters(self) -> Array:
        """Length of each question: what a large answer costs grows with it."""
        return np.array([len(prompt) for prompt in self.prompts], dtype=np.float64)

    @cached_property
    def encoder(self) -> TextEncoder:
        """A latent space of topics, learned from these questions without labels."""
        return fit_text_encoder(self.prompts)

    def table(self, source: str, space: Pair | None = None) -> Table:
        """Columns of a source: `draft`, its raw score and what comes with it; `run`, how an agent
        went about it; `prompt`, marks of difficulty; `topics` (of agents `tasks`), in the space of
        other questions; `answers:NAME`, how right those of another model are and what they cost;
        `view:NAME`, whether it says the same, and how sure it is of both."""
        key = source, space if source in ("topics", "tasks") else None
        if key not in self._tables:
            self._tables[key] = self._made(*key)
        return self._tables[key]

    def _made(self, source: str, space: Pair | None) -> Table:
        kind, _, model = source.partition(":")
        rows: list[dict[str, float]]
        match kind:
            case "topics" | "tasks":
                places = (space or self).encoder.transform(self.prompts)
                return {f"topic{i}": column for i, column in enumerate(places.T)}
            case "draft":
                rows = [draft_features(draft) for draft in self.outcomes(self.small)]
            case "run":
                rows = [run_features(run) for run in self.runs]
            case "prompt":
                rows = [prompt_marks(prompt) for prompt in self.prompts]
            case "view":
                rows = list(map(_view, self.outcomes(self.small), self.outcomes(model)))
            case _:
                rows = [o.model_dump(include={"correct", "cost_usd"}) for o in self.outcomes(model)]
        names = dict.fromkeys(name for row in rows for name in row)
        table = {n: np.array([row.get(n) for row in rows], dtype=np.float64) for n in names}
        return {n: column for n, column in table.items() if not np.isnan(column).all()}

    def helpers(self, fit: Rows) -> tuple[str, ...]:
        """The most accurate cheap candidates on the fitting rows."""
        most = max(1.001 * self.small_cost[fit].mean(), CHEAP * self.large_cost[fit].mean())
        answers = {name: self.table(f"answers:{name}") for name in self.candidates}
        cheap = [name for name, of in answers.items() if of["cost_usd"][fit].mean() <= most]
        right = {name: float(answers[name]["correct"][fit].mean()) for name in cheap}
        return tuple(sorted(cheap, key=lambda name: -right[name])[:MOST_HELPERS])


def pair_of(transcripts: Iterable[Transcript], small: str, large: str) -> Pair:
    """The rows of two models, without those that lack a cost where others have theirs; where no row
    has both costs, none are known.

    Raises:
        ConfigurationError: no row has both models, or large answers cost nothing.
    """
    everything = list(transcripts)
    both = rows_of_pair(everything, small, large)
    costs = [(_draft_cost(row.models[small]), row.models[large].cost_usd) for row in both]
    priced = [i for i, dollars in enumerate(costs) if None not in dollars]
    rows = [both[i] for i in priced] or both
    known = np.array([costs[i] for i in priced] or [(0, 1)] * len(rows), dtype=np.float64)
    if known[:, 1].sum() <= 0:
        raise ConfigurationError(
            f"the answers of {large} cost $0: there is nothing to save. Record `cost_usd`."
        )
    right = np.array([(row.models[small].correct, row.models[large].correct) for row in rows])
    others = [name for name in rows[0].models if priced and name not in (small, large)]
    return Pair(
        small=small,
        large=large,
        rows=rows,
        small_correct=right[:, 0],
        large_correct=right[:, 1],
        small_cost=known[:, 0],
        large_cost=known[:, 1],
        priced=bool(priced),
        left_out=len(everything) - len(rows),
        candidates=tuple(n for n in others if all(_answered(row.models.get(n)) for row in rows)),
    )


def _draft_cost(outcome: Outcome) -> float | None:
    """Dollars of a draft and of checking it; a large answer needs no check."""
    check = outcome.check_cost_usd if "check_cost_usd" in outcome.model_fields_set else 0.0
    return None if outcome.cost_usd is None or check is None else outcome.cost_usd + check


def _answered(outcome: Outcome | None) -> bool:
    if outcome is None or outcome.cost_usd is None:
        return False
    return bool(outcome.model_fields_set & {"pred", "output"})


_SCORES = ("logprobs", "p_true", "verbalised", "self_consistency", "agreement")


def draft_features(outcome: Outcome) -> dict[str, float]:
    """Features of an answer, as collected, else what recorded signals say; `raw` is its score of
    itself: the recorded confidence, the probability of the likeliest option, the share of votes for
    it, or the lowest of the collected scores. NaN where it has none."""
    signals, scores, found = outcome.signals, [outcome.confidence], {"raw": math.nan}
    if "option_logprobs" in signals:
        shares = _option_shares(signals["option_logprobs"])
        scores.append(shares.max())
        found |= _option_features(shares)
    if isinstance(votes := signals.get("votes"), list):
        counts, samples = Counter(map(comparable, votes)), signals.get("n_samples")
        # Samples without an answer count too.
        total = max(int(samples) if isinstance(samples, int | float) else 0, len(votes), 1)
        own, shares = answer_of(outcome), np.array(sorted(counts.values(), reverse=True)) / total
        scores.append(counts[own] / total if own else 0.0)
        found["margin"] = shares[:1].sum() - shares[1:2].sum()
        found["entropy"] = _entropy(shares)
        found["distinct"] = len(counts) / total
        found["voted"] = len(votes) / total
    if outcome.output_tokens is not None and outcome.output_tokens > 1:
        found["length"] = outcome.output_tokens
    if isinstance(extracted := signals.get("answer_extracted"), int):
        found["answered"] = extracted
    if collected := outcome.features:
        found = {"raw": math.nan, **collected}
    scores.append(combine(score_of(name, collected) for name in _SCORES))
    found["raw"] = next((score for score in scores if score is not None), math.nan)
    return found


def run_features(run: Sequence[Step]) -> dict[str, float]:
    """Features of an agent's run, or of its first steps, without the score."""
    found = trajectory_features(run)
    return {name.removeprefix("trajectory_"): x for name, x in found.items() if "_" in name}


def _option_shares(logprobs: JsonValue) -> Array:
    values = logprobs if isinstance(logprobs, list) else [0.0]
    known = [v if isinstance(v, int | float) and -100 <= v <= 0 else None for v in values]
    shares = [1e-40 if v is None else math.exp(v) for v in known]
    return np.array(shares, dtype=np.float64) / sum(shares)


def _option_features(shares: Array) -> dict[str, float]:
    ranked = np.append(np.sort(shares)[::-1], 0.0)
    margin = np.log(ranked[0]) - np.log(ranked[1] + 1e-9)
    found = {"margin": margin, "entropy": _entropy(shares)}
    found |= {f"rank{i}": np.log(ranked[i] + 1e-6) for i in range(1, len(shares))}
    found |= {f"mass{i}": np.log(shares[i] + 1e-6) for i in range(4, len(shares))}
    return found | {f"is{i}": float(np.argmax(shares) == i) for i in range(min(4, len(shares)))}


def _entropy(shares: Array) -> float:
    return float(-(shares * np.log(shares + 1e-12)).sum())


def answer_of(outcome: Outcome) -> str:
    """The answer in a form that can be compared; the empty string where there is none."""
    return comparable(outcome.pred if "pred" in outcome.model_fields_set else outcome.output)


def comparable(text: JsonValue) -> str:
    """Numbers in one form, other text in lower case and cut."""
    if text is None:
        return ""
    cleaned = str(text).strip().replace(",", "").replace("$", "")
    try:
        return f"{float(cleaned):.6g}"
    except ValueError:
        return cleaned.lower()[:80]


def _view(draft: Outcome, other: Outcome) -> dict[str, float]:
    own, theirs = answer_of(draft), answer_of(other)
    found = {"same": float(own != "" and own == theirs)}
    found |= {f"its_{name}": value for name, value in other.features.items()}
    mine, shares = draft.signals.get("option_logprobs"), other.signals.get("option_logprobs")
    if mine and shares:
        others = _option_shares(shares)
        found["p_draft"] = np.log(others[np.argmax(_option_shares(mine))] + 1e-6)
        found["p_top"] = np.log(others.max())
        found["entropy"] = _entropy(others)
    elif not math.isnan(score := draft_features(other)["raw"]):
        found["score"] = score
        found["score_of_other"] = (1.0 - found["same"]) * score
    return found


_OPTION = re.compile(r"(?:^|\n)\(?([A-J])[.)] ")
_NEGATION = re.compile(r"\b(not|except|least|never|false|incorrect)\b", re.IGNORECASE)
_SYMBOL = re.compile(r"[=^$\\+*/∀∃⊃<>]")
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


def prompt_marks(prompt: str) -> dict[str, float]:
    """Length, numbers, negations, options and the like, before anything is asked."""
    text = prompt[-LONGEST_PROMPT:]
    parts = _OPTION.split(text)
    question, options = parts[0], parts[2::2]
    lengths = np.array([len(option) for option in options] or [0])
    words = _WORD.findall(question) or [""]
    return {
        "characters": len(text),
        "question": len(question),
        "option": float(lengths.mean()),
        "option_spread": float(lengths.std()),
        "digits": sum(map(str.isdigit, question)),
        "numeric_options": sum(bool(_DIGIT.search(o)) for o in options) / max(len(options), 1),
        "negation": float(bool(_NEGATION.search(question))),
        "symbols": len(_SYMBOL.findall(text)),
        "sentences": question.count("."),
        "word_length": sum(map(len, words)) / len(words),
        "capitals": sum(word[:1].isupper() for word in words) / len(words),
    }
