"""From a recorded answer to numbers: what its signals, other models and the prompt show.

Only what is known before the large model is called. The first column of a draft is the logit of
its raw score; the others follow in the order in which they are trusted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from cascade.confidence.columns import column_names, matrix
from cascade.confidence.metrics import Array
from cascade.evaluation.transcripts import Outcome

RAW = "raw"
VOTE_MARGIN = 0.02
"""Shares of votes are kept this far from 0 and 1: 20 of 20 is no certainty."""
LOGPROB_MARGIN = 1e-4
LONGEST_PROMPT = 6000
"""Characters from the end: of prompts with worked examples the question is what counts."""


@dataclass(frozen=True, slots=True)
class Block:
    """Named columns, (n, d) with NaN where missing, and the dollars per row to have them."""

    names: tuple[str, ...]
    values: Array
    cost: Array

    def column(self, name: str) -> Array:
        """One column."""
        return self.values[:, self.names.index(name)]

    def select(self, names: Sequence[str]) -> Array:
        """Columns by name; NaN for what this recording does not have."""
        found = np.full((len(self.values), len(names)), np.nan)
        for at, name in enumerate(names):
            if name in self.names:
                found[:, at] = self.column(name)
        return found


def block_of(rows: Sequence[Mapping[str, float]], cost: Array | None = None) -> Block:
    """Columns in the order of first appearance."""
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    free = np.zeros(len(rows)) if cost is None else cost
    return Block(names, values.reshape(len(rows), len(names)), free)


def answer_of(outcome: Outcome) -> str:
    """The answer in a form that can be compared; the empty string where there is none."""
    extracted = "pred" in outcome.model_fields_set
    return normalise(outcome.pred if extracted else outcome.output)


def normalise(text: JsonValue) -> str:
    """Numbers in one form, other text in lower case and cut."""
    if text is None:
        return ""
    cleaned = str(text).strip().replace(",", "").replace("$", "")
    try:
        return f"{float(cleaned):.6g}"
    except ValueError:
        return cleaned.lower()[:80]


def draft_block(outcomes: Sequence[Outcome]) -> Block:
    """What comes with the drafts: collected features where there are some, else the signals."""
    if any(outcome.features for outcome in outcomes):
        return _collected(outcomes)
    return block_of([_recorded(outcome) for outcome in outcomes])


_SCORES = ("p_true", "verbalised", "self_consistency", "prompt_votes", "semantic_agreement")


def _collected(outcomes: Sequence[Outcome]) -> Block:
    """The columns that a calibration would use, on the same scales."""
    rows = [outcome.features for outcome in outcomes]
    names = column_names(rows)
    values = matrix(rows, names, ("logprobs", *_SCORES))
    said = [o.confidence for o in outcomes]
    confidence = np.array([np.nan if c is None else _logit(c, VOTE_MARGIN) for c in said])
    values[:, 0] = np.where(np.isnan(confidence), values[:, 0], confidence)
    known = np.flatnonzero(np.isfinite(values).any(axis=0))
    return Block(tuple(names[i] for i in known), values[:, known], np.zeros(len(rows)))


def _recorded(outcome: Outcome) -> dict[str, float]:
    signals = outcome.signals
    found: dict[str, float] = {}
    if "option_logprobs" in signals:
        found |= _option_features(numbers(signals["option_logprobs"]))
    if "votes" in signals:
        found |= _vote_features(outcome)
    if "vote_share" in signals:
        found[RAW] = _logit(number(signals["vote_share"]), VOTE_MARGIN)
    if not found and outcome.confidence is not None:
        found[RAW] = _logit(outcome.confidence, VOTE_MARGIN)
    if outcome.output_tokens is not None and outcome.output_tokens > 1:
        found["log_length"] = math.log(outcome.output_tokens)
    if "answer_extracted" in signals:
        found["answered"] = number(signals["answer_extracted"])
    return found


def _option_features(logprobs: Sequence[float]) -> dict[str, float]:
    """Sorted option log-probs, margin, entropy and which option: free with a choice."""
    values = np.array(logprobs)
    values[(values > 0) | (values < -100) | ~np.isfinite(values)] = np.nan
    p = np.exp(np.nan_to_num(values, nan=-100.0))
    p = p / p.sum()
    best, ranked = int(np.argmax(p)), np.sort(p)[::-1]
    second = ranked[1] if len(ranked) > 1 else 0.0
    found = {
        RAW: _logit(float(ranked[0]), LOGPROB_MARGIN),
        "margin": float(np.log(ranked[0]) - np.log(second + 1e-9)),
        "entropy": float(-(p * np.log(p + 1e-12)).sum()),
    }
    found |= {f"rank{i}": float(np.log(ranked[i] + 1e-6)) for i in range(1, len(ranked))}
    found |= {f"mass{i}": float(np.log(p[i] + 1e-6)) for i in range(4, len(p))}
    return found | {f"is{i}": float(best == i) for i in range(min(4, len(p)))}


def _vote_features(outcome: Outcome) -> dict[str, float]:
    """Share, lead and entropy of the votes; a sample without an answer counts in the total."""
    votes = outcome.signals["votes"]
    votes = votes if isinstance(votes, list) else []
    counts, own = Counter(normalise(vote) for vote in votes), answer_of(outcome)
    total = max(int(number(outcome.signals.get("n_samples", 0))), len(votes), 1)
    shares = np.array(sorted(counts.values(), reverse=True) or [0]) / total
    second = float(shares[1]) if len(shares) > 1 else 0.0
    return {
        RAW: _logit(counts.get(own, 0) / total if own else 0.0, VOTE_MARGIN),
        "margin": float(shares[0]) - second,
        "entropy": float(-(shares * np.log(shares + 1e-12)).sum()),
        "distinct": len(counts) / total,
        "answered": len(votes) / total,
    }


def panel_block(drafts: Sequence[Outcome], helpers: Mapping[str, Sequence[Outcome]]) -> Block:
    """What other cheap models say of a draft: the same answer or not, and how sure they are."""
    answers = {name: [answer_of(o) for o in outcomes] for name, outcomes in helpers.items()}
    cost, found = np.zeros(len(drafts)), []
    for i, draft in enumerate(drafts):
        own = answer_of(draft)
        same = {name: float(own != "" and said[i] == own) for name, said in answers.items()}
        counts = Counter([own, *(said[i] for said in answers.values())])
        features = {
            "panel_same": float(np.mean(list(same.values()))),
            "panel_top": max(counts.values()) / (len(helpers) + 1),
        }
        for name, outcomes in helpers.items():
            features[f"agree:{name}"] = same[name]
            features |= _other_view(draft, outcomes[i], name)
            spent = outcomes[i].cost_usd
            cost[i] += np.nan if spent is None else spent
        found.append(features)
    return block_of(found, cost)


def _other_view(draft: Outcome, other: Outcome, name: str) -> dict[str, float]:
    own, theirs = draft.signals.get("option_logprobs"), other.signals.get("option_logprobs")
    if not own or not theirs:
        return {}
    logprobs = np.array(numbers(theirs))
    return {
        f"p_draft:{name}": float(logprobs[int(np.argmax(numbers(own)))]),
        f"p_top:{name}": float(logprobs.max()),
        f"entropy:{name}": float(-(np.exp(logprobs) * logprobs).sum()),
    }


_OPTION = re.compile(r"(?:^|\n)\(?([A-J])[.)] ")
_NEGATION = re.compile(r"\b(not|except|least|never|false|incorrect)\b", re.IGNORECASE)
_ROMAN = re.compile(r"\bI{2,3}\b")
_SYMBOL = re.compile(r"[=^$\\+*/∀∃⊃<>]")
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


def prompt_block(prompts: Sequence[str]) -> Block:
    """Cheap marks of difficulty in the text itself."""
    return block_of([prompt_marks(prompt) for prompt in prompts])


def prompt_marks(prompt: str) -> dict[str, float]:
    """Length, numbers, negations, options and the like, before anything is asked."""
    text = prompt[-LONGEST_PROMPT:]
    parts = _OPTION.split(text)
    question, options = parts[0], parts[2::2]
    lengths = [len(option) for option in options] or [0]
    words = _WORD.findall(question)
    lower = text.lower()
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    numeric = sum(bool(_DIGIT.search(option)) for option in options)
    return {
        "log_chars": math.log1p(len(text)),
        "log_question": math.log1p(len(question)),
        "log_option": math.log1p(mean),
        "log_option_spread": math.log1p(spread),
        "digits": math.log1p(sum(c.isdigit() for c in question)),
        "numeric_options": numeric / len(options) if options else 0.0,
        "negation": float(bool(_NEGATION.search(question))),
        "all_of_above": float("of the above" in lower),
        "blank": float("__" in question),
        "question_mark": float("?" in question),
        "statements": float("statement 1" in lower),
        "roman": float(bool(_ROMAN.search(text))),
        "symbols": math.log1p(len(_SYMBOL.findall(text))),
        "sentences": math.log1p(question.count(".")),
        "word_length": sum(map(len, words)) / len(words) if words else 0.0,
        "capitals": sum(word[0].isupper() for word in words) / len(words) if words else 0.0,
    }


def number(value: JsonValue) -> float:
    """A number of a recording; NaN where it is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def numbers(value: JsonValue) -> list[float]:
    """A list of numbers of a recording."""
    return [number(item) for item in value] if isinstance(value, list) else []


def _logit(p: float, margin: float) -> float:
    clipped = min(max(p, margin), 1.0 - margin)
    return math.log(clipped / (1.0 - clipped))
