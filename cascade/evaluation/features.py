"""A pair of models on the same recorded rows, as arrays: outcomes, costs, and what is known when.

Columns hold only what is known before the large model is asked. The raw score keeps its full
precision: log-probabilities near 1 still tell drafts apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from cascade.confidence import combine, score_of
from cascade.confidence.text import TextEncoder, fit_text_encoder
from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import Array
from cascade.evaluation.recordings import Outcome, Transcript, rows_of_pair

Rows = NDArray[np.intp]

LONGEST_PROMPT = 6000
"""Characters from the end: of prompts with worked examples the question is what counts."""

CHEAP = 0.15
"""A helper may cost this share of a large answer, or as much as a draft."""

MOST_HELPERS = 3
"""Helpers that are tried: the most accurate cheap ones. More would be a choice among noise."""


@dataclass(frozen=True, slots=True)
class Block:
    """Named columns, (n, d), NaN where a value is missing."""

    names: tuple[str, ...]
    values: Array

    def select(self, names: Sequence[str]) -> Array:
        """Columns by name; NaN for those that are not here."""
        found = np.full((len(self.values), len(names)), np.nan)
        for at, name in enumerate(names):
            if name in self.names:
                found[:, at] = self.values[:, self.names.index(name)]
        return found

    def take(self, rows: Rows) -> Block:
        """Some of the rows."""
        return Block(self.names, self.values[rows])


@dataclass(frozen=True, slots=True)
class View:
    """Another model on the rows of a pair.

    Attributes:
        block: whether it says the same as the draft, and how sure it is of both.
        correct: (n,).
        cost: (n,) dollars.
    """

    block: Block
    correct: Array
    cost: Array

    def take(self, rows: Rows) -> View:
        """Some of the rows."""
        return View(self.block.take(rows), self.correct[rows], self.cost[rows])


@dataclass(frozen=True)
class Pair:
    """The rows that have both models, sorted by id.

    Attributes:
        small_correct, large_correct: (n,) from 0 to 1.
        small_cost, large_cost: (n,) dollars; where `priced` is False, 0 and 1: large answers.
        priced: whether the dollars of both models are known.
        left_out: rows without one of the models, or without its cost.
    """

    small: str
    large: str
    rows: Sequence[Transcript]
    small_correct: Array
    large_correct: Array
    small_cost: Array
    large_cost: Array
    priced: bool
    left_out: int
    _views: dict[str, View] = field(default_factory=dict, repr=False)
    _topics: dict[int, tuple[Block, TextEncoder]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def prompts(self) -> list[str]:
        """The questions."""
        return [row.prompt for row in self.rows]

    @cached_property
    def characters(self) -> Array:
        """Length of each question: what a large answer costs grows with it."""
        return np.array([len(prompt) for prompt in self.prompts], dtype=np.float64)

    def outcomes(self, model: str) -> list[Outcome]:
        """Of a model that every row has."""
        return [row.models[model] for row in self.rows]

    @cached_property
    def raw(self) -> Array:
        """The draft's own score in [0, 1], not calibrated; NaN where it has none."""
        scores = [raw_score(outcome) for outcome in self.outcomes(self.small)]
        return np.array([np.nan if s is None else s for s in scores], dtype=np.float64)

    @cached_property
    def draft(self) -> Block:
        """What comes with the drafts, besides the raw score."""
        return _block([draft_features(outcome) for outcome in self.outcomes(self.small)])

    @cached_property
    def prompt(self) -> Block:
        """Marks of difficulty in the questions."""
        return _block([prompt_marks(prompt) for prompt in self.prompts])

    @cached_property
    def encoder(self) -> TextEncoder:
        """A latent space of topics, learned from these questions without labels."""
        return fit_text_encoder(self.prompts)

    def topics(self, encoder: TextEncoder) -> Block:
        """The questions in a space of topics."""
        if id(encoder) not in self._topics:
            values = encoder.transform(self.prompts)
            names = tuple(f"topic{i}" for i in range(values.shape[1]))
            # The encoder is kept beside, so that its id stays its own.
            self._topics[id(encoder)] = Block(names, values), encoder
        return self._topics[id(encoder)][0]

    def view(self, helper: str) -> View:
        """Another model on these rows."""
        if helper not in self._views:
            drafts, others = self.outcomes(self.small), self.outcomes(helper)
            self._views[helper] = View(
                block=_block([_view(d, o) for d, o in zip(drafts, others, strict=True)]),
                correct=np.array([o.correct for o in others]),
                cost=np.array([np.nan if o.cost_usd is None else o.cost_usd for o in others]),
            )
        return self._views[helper]

    def take(self, rows: Rows) -> Pair:
        """Some of the rows, with what was worked out about them."""
        taken = replace(
            self,
            rows=[self.rows[i] for i in rows],
            small_correct=self.small_correct[rows],
            large_correct=self.large_correct[rows],
            small_cost=self.small_cost[rows],
            large_cost=self.large_cost[rows],
            _views={name: view.take(rows) for name, view in self._views.items()},
            _topics={},
        )
        for name in ("raw", "characters"):
            taken.__dict__[name] = getattr(self, name)[rows]
        for name in ("draft", "prompt"):
            taken.__dict__[name] = getattr(self, name).take(rows)
        taken.__dict__["candidates"] = self.candidates
        return taken

    @cached_property
    def candidates(self) -> tuple[str, ...]:
        """Models that could help: every row has an answer of theirs, with its cost."""
        if not self.priced:
            return ()
        names = [name for name in self.rows[0].models if name not in (self.small, self.large)]
        return tuple(name for name in names if all(_answered(row, name) for row in self.rows))

    def helpers(self, fit: Rows) -> tuple[str, ...]:
        """The most accurate cheap candidates on the fitting rows."""
        most = max(1.001 * self.small_cost[fit].mean(), CHEAP * self.large_cost[fit].mean())

        def known(name: str) -> tuple[float, float]:
            outcomes = [self.rows[i].models[name] for i in fit]
            costs = [outcome.cost_usd or 0.0 for outcome in outcomes]
            return float(np.mean([o.correct for o in outcomes])), float(np.mean(costs))

        figures = {name: known(name) for name in self.candidates}
        cheap = [name for name, (_, cost) in figures.items() if cost <= most]
        return tuple(sorted(cheap, key=lambda name: -figures[name][0])[:MOST_HELPERS])


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
    known = np.array([costs[i] for i in priced], dtype=np.float64).reshape(-1, 2)
    if priced and known[:, 1].sum() <= 0:
        raise ConfigurationError(
            f"the answers of {large} cost $0: there is nothing to save. Record `cost_usd`."
        )
    ones = np.ones(len(rows))
    return Pair(
        small=small,
        large=large,
        rows=rows,
        small_correct=np.array([row.models[small].correct for row in rows]),
        large_correct=np.array([row.models[large].correct for row in rows]),
        small_cost=known[:, 0] if priced else 0.0 * ones,
        large_cost=known[:, 1] if priced else ones,
        priced=bool(priced),
        left_out=len(everything) - len(rows),
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
    if "vote_share" in signals:
        return number(signals["vote_share"])
    scores = {name: score_of(name, outcome.features) for name in _SCORES}
    return combine({name: score for name, score in scores.items() if score is not None})


def draft_features(outcome: Outcome) -> dict[str, float]:
    """What an answer shows besides its raw score: collected features, else recorded signals."""
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
        found["entropy"] = float(-(shares * np.log(shares + 1e-12)).sum())
        found["distinct"] = len(counts) / total
        found["voted"] = sum(counts.values()) / total
    if outcome.output_tokens is not None and outcome.output_tokens > 1:
        found["length"] = float(outcome.output_tokens)
    if "answer_extracted" in signals:
        found["answered"] = number(signals["answer_extracted"])
    return found


def _option_shares(logprobs: JsonValue) -> Array:
    values = [number(v) for v in logprobs] if isinstance(logprobs, list) else [0.0]
    shares = [math.exp(v) if -100 <= v <= 0 else 1e-40 for v in values]
    return np.array(shares, dtype=np.float64) / sum(shares)


def _option_features(shares: Array) -> dict[str, float]:
    best, ranked = int(np.argmax(shares)), np.sort(shares)[::-1]
    second = float(ranked[1]) if len(ranked) > 1 else 0.0
    found = {
        "margin": float(np.log(ranked[0]) - np.log(second + 1e-9)),
        "entropy": float(-(shares * np.log(shares + 1e-12)).sum()),
    }
    found |= {f"rank{i}": float(np.log(ranked[i] + 1e-6)) for i in range(1, len(ranked))}
    found |= {f"mass{i}": float(np.log(shares[i] + 1e-6)) for i in range(4, len(shares))}
    return found | {f"is{i}": float(best == i) for i in range(min(4, len(shares)))}


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
    mine, shares = draft.signals.get("option_logprobs"), other.signals.get("option_logprobs")
    if mine and shares:
        others = _option_shares(shares)
        found["p_draft"] = float(np.log(others[int(np.argmax(_option_shares(mine)))] + 1e-6))
        found["p_top"] = float(np.log(others.max()))
        found["entropy"] = float(-(others * np.log(others + 1e-12)).sum())
    elif (score := raw_score(other)) is not None:
        found["score"] = score
        found["score_of_other"] = (1.0 - found["same"]) * score
    return found


def _block(rows: Sequence[Mapping[str, float]]) -> Block:
    """Columns in the order of first appearance."""
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    return Block(names, values.reshape(len(rows), len(names)))


_OPTION = re.compile(r"(?:^|\n)\(?([A-J])[.)] ")
_NEGATION = re.compile(r"\b(not|except|least|never|false|incorrect)\b", re.IGNORECASE)
_ROMAN = re.compile(r"\bI{2,3}\b")
_SYMBOL = re.compile(r"[=^$\\+*/∀∃⊃<>]")
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


def prompt_marks(prompt: str) -> dict[str, float]:
    """Length, numbers, negations, options and the like, before anything is asked."""
    text = prompt[-LONGEST_PROMPT:]
    parts = _OPTION.split(text)
    question, options = parts[0], parts[2::2]
    lengths = np.array([len(option) for option in options] or [0])
    words = _WORD.findall(question)
    numeric = sum(bool(_DIGIT.search(option)) for option in options)
    return {
        "characters": len(text),
        "question": len(question),
        "option": float(lengths.mean()),
        "option_spread": float(lengths.std()),
        "digits": sum(c.isdigit() for c in question),
        "numeric_options": numeric / len(options) if options else 0.0,
        "negation": float(bool(_NEGATION.search(question))),
        "all_of_above": float("of the above" in text.lower()),
        "blank": float("__" in question),
        "question_mark": float("?" in question),
        "statements": float("statement 1" in text.lower()),
        "roman": float(bool(_ROMAN.search(text))),
        "symbols": len(_SYMBOL.findall(text)),
        "sentences": question.count("."),
        "word_length": sum(map(len, words)) / len(words) if words else 0.0,
        "capitals": sum(word[0].isupper() for word in words) / len(words) if words else 0.0,
    }


def number(value: JsonValue) -> float:
    """A number of a recording; NaN where it is none."""
    return float(value) if isinstance(value, int | float) else math.nan
