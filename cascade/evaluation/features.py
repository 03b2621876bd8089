"""A pair of models on the same recorded rows, as arrays: outcomes, costs, and what is known when.

Columns hold only what is known before the large model is asked. The raw score keeps its full
precision: log-probabilities near 1 still tell drafts apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from pydantic import JsonValue

from cascade.confidence.base import combine, score_of
from cascade.confidence.text import TextEncoder, fit_text_encoder
from cascade.confidence.trajectory import Step, trajectory_features
from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import Array, Rows
from cascade.evaluation.recordings import Outcome, Transcript, rows_of_pair

LONGEST_PROMPT = 6000
"""Characters from the end: of prompts with worked examples the question is what counts."""

CHEAP = 0.15
"""A helper may cost this share of a large answer, or as much as a draft."""

MOST_HELPERS = 3
"""Helpers that are tried: the most accurate cheap ones. More would be a choice among noise."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Block:
    """Named columns, (n, d), NaN where a value is missing."""

    names: tuple[str, ...]
    values: Array

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]]) -> Block:
        """Columns in the order of first appearance."""
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        values = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
        return cls(names, values.reshape(len(rows), len(names)))

    def __getitem__(self, rows: Rows) -> Block:
        return Block(self.names, self.values[rows])

    def select(self, names: Sequence[str]) -> Array:
        """Columns by name; NaN for those that are not here."""
        missing = np.full(len(self.values), np.nan)
        known = dict(zip(self.names, self.values.T, strict=True))
        columns = [known.get(name, missing) for name in names]
        return np.array(columns).reshape(len(names), len(self.values)).T


@dataclass(frozen=True, eq=False)
class Pair:
    """The rows that have both models, sorted by id.

    Attributes:
        small_cost, large_cost: (n,) dollars; where `priced` is False, 0 and 1: large answers.
        priced: whether the dollars of both models are known.
        left_out: rows without one of the models, or without its cost.
        candidates: models that could help: every row has an answer of theirs, with its cost.
    """

    small: str
    large: str
    rows: Sequence[Transcript]
    small_cost: Array
    large_cost: Array
    priced: bool
    left_out: int
    candidates: tuple[str, ...]
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What has been made of the rows is made once."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    def take(self, rows: Rows) -> Pair:
        """Some of the rows, with what has been made of them."""
        return replace(
            self,
            rows=[self.rows[i] for i in rows],
            small_cost=self.small_cost[rows],
            large_cost=self.large_cost[rows],
            _known={
                key: made[rows]
                for key, made in self._known.items()
                if isinstance(made, Block | np.ndarray)
            },
        )

    def outcomes(self, model: str) -> list[Outcome]:
        """Outcomes of a model that every row has."""
        return [row.models[model] for row in self.rows]

    def _array(self, name: str, model: str, read: Callable[[Outcome], float | None]) -> Array:
        return self._once(
            (name, model),
            lambda: np.array([read(each) for each in self.outcomes(model)], dtype=np.float64),
        )

    def correct(self, model: str) -> Array:
        """(n,) from 0 to 1, of a model that every row has."""
        return self._array("correct", model, lambda outcome: outcome.correct)

    def cost(self, model: str) -> Array:
        """(n,) dollars of a model that every row has; NaN where unknown."""
        return self._array("cost", model, lambda outcome: outcome.cost_usd)

    @property
    def raw(self) -> Array:
        """The draft's own score in [0, 1], not calibrated; NaN where it has none."""
        return self._array("raw", self.small, raw_score)

    @property
    def small_correct(self) -> Array:
        """(n,) from 0 to 1."""
        return self.correct(self.small)

    @property
    def large_correct(self) -> Array:
        """(n,) from 0 to 1."""
        return self.correct(self.large)

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

    @cached_property
    def runs(self) -> list[Sequence[Step]]:
        """The small agent's steps; none where models answer."""
        return [outcome.steps for outcome in self.outcomes(self.small)]

    def topics(self, encoder: TextEncoder) -> Block:
        """The questions in the space of an encoder, which may be that of other questions."""

        def place() -> tuple[TextEncoder, Block]:
            values = encoder.transform(self.prompts)
            return encoder, Block(tuple(f"topic{i}" for i in range(values.shape[1])), values)

        # With the encoder itself, so that its id is given to no other one meanwhile.
        return self._once(("topics", id(encoder)), place)[1]

    def block(self, source: str) -> Block:
        """Columns of a source: `draft`, what comes with it besides the raw score; `run`, how an
        agent went about it; `prompt`, marks of difficulty; `view:NAME`, whether another model
        says the same, and how sure it is of both."""
        return self._once(source, lambda: Block.of(self._features(source)))

    def _features(self, source: str) -> list[dict[str, float]]:
        drafts = self.outcomes(self.small)
        match source:
            case "prompt":
                return [prompt_marks(prompt) for prompt in self.prompts]
            case "run":
                return [run_features(run) for run in self.runs]
            case "draft":
                return [draft_features(draft) for draft in drafts]
        others = self.outcomes(source.removeprefix("view:"))
        return [_view(draft, other) for draft, other in zip(drafts, others, strict=True)]

    def helpers(self, fit: Rows) -> tuple[str, ...]:
        """The most accurate cheap candidates on the fitting rows."""
        most = max(1.001 * self.small_cost[fit].mean(), CHEAP * self.large_cost[fit].mean())
        cheap = [name for name in self.candidates if self.cost(name)[fit].mean() <= most]
        right = {name: float(self.correct(name)[fit].mean()) for name in cheap}
        return tuple(sorted(cheap, key=lambda name: -right[name])[:MOST_HELPERS])


def pair_of(transcripts: Iterable[Transcript], small: str, large: str) -> Pair:
    """The rows of two models.

    Rows without a cost are left out where others have theirs; where no row has both costs, none
    are known and `priced` is False.

    Raises:
        ConfigurationError: no row has both models, or large answers cost nothing.
    """
    everything = list(transcripts)
    both = rows_of_pair(everything, small, large)
    costs = [(_draft_cost(row.models[small]), row.models[large].cost_usd) for row in both]
    priced = [i for i, (cheap, dear) in enumerate(costs) if cheap is not None and dear is not None]
    rows = [both[i] for i in priced] or both
    known = np.array([costs[i] for i in priced] or [(0, 1)] * len(rows), dtype=np.float64)
    if known[:, 1].sum() <= 0:
        raise ConfigurationError(
            f"the answers of {large} cost $0: there is nothing to save. Record `cost_usd`."
        )
    others = [name for name in rows[0].models if priced and name not in (small, large)]
    return Pair(
        small=small,
        large=large,
        rows=rows,
        small_cost=known[:, 0],
        large_cost=known[:, 1],
        priced=bool(priced),
        left_out=len(everything) - len(rows),
        candidates=tuple(n for n in others if all(_answered(row, n) for row in rows)),
    )


def _draft_cost(outcome: Outcome) -> float | None:
    """Dollars of a draft and of checking it; a large answer needs no check."""
    if "check_cost_usd" not in outcome.model_fields_set:
        return outcome.cost_usd
    if outcome.cost_usd is None or outcome.check_cost_usd is None:
        return None
    return outcome.cost_usd + outcome.check_cost_usd


def _answered(row: Transcript, model: str) -> bool:
    outcome = row.models.get(model)
    if outcome is None or outcome.cost_usd is None:
        return False
    return bool(outcome.model_fields_set & {"pred", "output"})


# Columns --------------------------------------------------------------------------------------

_SCORES = ("logprobs", "p_true", "verbalised", "self_consistency", "prompt_votes", "agreement")


def raw_score(outcome: Outcome) -> float | None:
    """The draft's score of itself: the recorded confidence, else the most doubtful of its signals.

    Of options it is the probability of the likeliest, of votes their share for the answer.
    """
    signals = outcome.signals
    if outcome.confidence is not None:
        return outcome.confidence
    if "option_logprobs" in signals:
        return float(_option_shares(signals["option_logprobs"]).max())
    if "votes" in signals:
        counts, total, own = _votes(outcome)
        return counts.get(own, 0) / total if own else 0.0
    scores = {name: score_of(name, outcome.features) for name in _SCORES}
    return combine({name: score for name, score in scores.items() if score is not None})


def draft_features(outcome: Outcome) -> dict[str, float]:
    """Features of an answer besides its raw score: collected ones, else recorded signals."""
    if outcome.features:
        return dict(outcome.features)
    signals = outcome.signals
    found: dict[str, float] = {}
    if "option_logprobs" in signals:
        found |= _option_features(_option_shares(signals["option_logprobs"]))
    if "votes" in signals:
        counts, total, _ = _votes(outcome)
        shares = np.array(sorted(counts.values(), reverse=True) or [0]) / total
        found["margin"] = float(shares[0] - (shares[1] if len(shares) > 1 else 0.0))
        found["entropy"] = _entropy(shares)
        found["distinct"] = len(counts) / total
        found["voted"] = sum(counts.values()) / total
    if outcome.output_tokens is not None and outcome.output_tokens > 1:
        found["length"] = float(outcome.output_tokens)
    if "answer_extracted" in signals:
        found["answered"] = number(signals["answer_extracted"])
    return found


READ = ("steps", "errors", "error_share", "repeats", "same", "failing", "answered", "words", "last",
        "read")  # fmt: skip
"""Features of a trajectory that heads read."""


def run_features(run: Sequence[Step]) -> dict[str, float]:
    """Features of an agent's run, or of its first steps."""
    features = trajectory_features(run)
    return {name: features.get(f"trajectory_{name}", 0.0) for name in READ}


def _option_shares(logprobs: JsonValue) -> Array:
    values = [number(v) for v in logprobs] if isinstance(logprobs, list) else [0.0]
    shares = [math.exp(v) if -100 <= v <= 0 else 1e-40 for v in values]
    return np.array(shares, dtype=np.float64) / sum(shares)


def _option_features(shares: Array) -> dict[str, float]:
    best, ranked = int(np.argmax(shares)), np.sort(shares)[::-1]
    second = float(ranked[1]) if len(ranked) > 1 else 0.0
    found = {
        "margin": float(np.log(ranked[0]) - np.log(second + 1e-9)),
        "entropy": _entropy(shares),
    }
    found |= {f"rank{i}": float(np.log(ranked[i] + 1e-6)) for i in range(1, len(ranked))}
    found |= {f"mass{i}": float(np.log(shares[i] + 1e-6)) for i in range(4, len(shares))}
    return found | {f"is{i}": float(best == i) for i in range(min(4, len(shares)))}


def _entropy(shares: Array) -> float:
    return float(-(shares * np.log(shares + 1e-12)).sum())


def _votes(outcome: Outcome) -> tuple[Counter[str], int, str]:
    """Counts, samples (also those without an answer), and the answer that was given."""
    votes = outcome.signals["votes"]
    votes = votes if isinstance(votes, list) else []
    samples = outcome.signals.get("n_samples", 0)
    total = max(int(samples) if isinstance(samples, int | float) else 0, len(votes), 1)
    return Counter(comparable(vote) for vote in votes), total, answer_of(outcome)


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
        found["p_draft"] = float(np.log(others[int(np.argmax(_option_shares(mine)))] + 1e-6))
        found["p_top"] = float(np.log(others.max()))
        found["entropy"] = _entropy(others)
    elif (score := raw_score(other)) is not None:
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


def number(value: JsonValue) -> float:
    """A number of a recording; NaN where it is none."""
    return float(value) if isinstance(value, int | float) else math.nan
