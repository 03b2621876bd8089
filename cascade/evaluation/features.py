"""A pair of models on the same recorded rows: outcomes, costs, and what is known beforehand."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from cascade.confidence.base import combine, score_of
from cascade.confidence.calibration import Array, Fitted
from cascade.confidence.signals import Step, trajectory_features
from cascade.errors import ConfigurationError
from cascade.evaluation.recordings import Outcome, Transcript

Rows = NDArray[np.intp]

Table = Mapping[str, Array]
"""Columns by name, (n,) each, NaN where a value is missing; none that is missing everywhere."""

_WORD = re.compile(r"\b\w\w+\b")


class TextEncoder(Fitted):
    """Encoder of prompts as points in a latent space: TF-IDF over words, then a truncated SVD. Of
    words it knows the inverse document frequency, then the coordinates; a space that was learned
    from prompts that share no words has no dimension."""

    words: Mapping[str, tuple[float, ...]] = {}
    dimensions: int = 0

    def transform(self, prompts: Sequence[str]) -> Array:
        """One row per prompt; zeros for a prompt without a known word."""
        said = [_WORD.findall(prompt.lower()) for prompt in prompts]
        found = [Counter(word for word in words if word in self.words) for words in said]
        table = {word: np.array(self.words[word]) for word in set[str]().union(*found)}
        rows = np.zeros((len(prompts), self.dimensions))
        for row, counts in zip(rows, found, strict=True):
            if counts:
                known = np.array([table[word] for word in counts])
                tf_idf = (1 + np.log(list(counts.values()))) * known[:, 0]
                row[:] = (tf_idf / np.linalg.norm(tf_idf)) @ known[:, 1:]
        return rows


def fit_text_encoder(prompts: Sequence[str], *, dimensions: int = 50) -> TextEncoder:
    """The space of these prompts, of at most one dimension per 20."""
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415 - heavy
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - heavy

    kept: Any = {"min_df": 3 if len(prompts) >= 1000 else 2, "max_features": 8000}
    vectoriser = TfidfVectorizer(sublinear_tf=True, stop_words="english", **kept)
    try:
        table = vectoriser.fit_transform(prompts)
    except ValueError:  # no word is left
        return TextEncoder()
    size = min(dimensions, len(prompts) // 20, table.shape[1] - 1)
    if size < 1:
        return TextEncoder()
    with np.errstate(divide="ignore", invalid="ignore"):  # where all prompts are alike
        svd: Any = TruncatedSVD(size, random_state=0).fit(table)
    rows = np.column_stack([vectoriser.idf_, svd.components_.T]).tolist()
    words = {word: tuple(rows[at]) for word, at in vectoriser.vocabulary_.items()}
    return TextEncoder(words=words, dimensions=size)


class Pair:
    """The rows of two models, sorted by id, and how many were `left_out`, since they lack a model,
    or a cost where others have theirs. Columns are (n,); costs are dollars, or 0 and 1 where they
    are not `priced`. Of `candidates`, which could help, every row has an answer with its cost.

    Raises:
        ConfigurationError: no row has both models, or large answers cost nothing.
    """

    def __init__(self, transcripts: Iterable[Transcript], small: str, large: str) -> None:
        self.small, self.large, everything = small, large, list(transcripts)
        self._tables: dict[tuple[str, Pair | None], Table] = {}
        rows = [row for row in everything if {small, large} <= row.models.keys()]
        if not rows or small == large:
            counts = Counter(name for row in everything for name in row.models).most_common()
            there = ", ".join(f"{name} ({n:,})" for name, n in counts) or "none"
            told = f"no row has both {small or 'the small model'} and {large or 'the large model'}"
            told += ": name two models, --small and --large"
            raise ConfigurationError(f"{told}. There are, with their number of rows: {there}.")
        # What is drawn at random must not depend on the order in which answers were recorded.
        rows.sort(key=lambda row: row.id)
        both = [(row.models[small], row.models[large]) for row in rows]  # large ones need no check
        paid = np.array([(d.cost_usd, d.check_cost_usd, a.cost_usd) for d, a in both], np.float64)
        known = np.flatnonzero(np.isfinite(paid).all(axis=1))
        if priced := len(known) > 0:
            rows, paid = [rows[i] for i in known], paid[known]
        else:
            paid[:] = 0, 0, 1
        draft_cost, check_cost, self.large_cost = paid.T.copy()
        if self.large_cost.sum() <= 0:
            told = f"the answers of {large} cost $0: there is nothing to save"
            raise ConfigurationError(f"{told}. Record `cost_usd`.")
        self.rows, self.priced, self.left_out = rows, priced, len(everything) - len(rows)
        self.small_cost: Array = draft_cost + check_cost
        self.small_correct = np.array([draft.correct for draft in self.outcomes(small)])
        self.large_correct = np.array([answer.correct for answer in self.outcomes(large)])
        others = [name for name in rows[0].models if priced and name not in (small, large)]
        self.candidates = tuple(name for name in others if self._answered(name))

    def _answered(self, name: str) -> bool:
        given, said = [row.models.get(name) for row in self.rows], {"pred", "output"}
        return all(o and o.cost_usd is not None and o.model_fields_set & said for o in given)

    def __len__(self) -> int:
        return len(self.rows)

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
        return [draft.steps for draft in self.outcomes(self.small)]

    @cached_property
    def features(self) -> list[dict[str, float]]:
        """Features of each draft for a calibration: those that were recorded, and of its run."""
        drafts = self.outcomes(self.small)
        return [{**draft.features, **trajectory_features(draft.steps)} for draft in drafts]

    @property
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
            kind, _, model = source.partition(":")
            drafts, others = self.outcomes(self.small), self.outcomes(model or self.small)
            match kind:
                case "topics" | "tasks":
                    places = (space or self).encoder.transform(self.prompts)
                    rows = [{f"topic{i}": x for i, x in enumerate(place)} for place in places]
                case "draft":
                    rows = [draft_features(draft) for draft in drafts]
                case "run":
                    rows = [run_features(draft.steps) for draft in drafts]
                case "prompt":
                    rows = [prompt_marks(prompt) for prompt in self.prompts]
                case "view":
                    rows = list(map(_view, drafts, others))
                case _:
                    rows = [other.model_dump(include={"correct", "cost_usd"}) for other in others]
            names = dict.fromkeys(name for row in rows for name in row)
            table = {n: np.array([row.get(n) for row in rows], dtype=np.float64) for n in names}
            self._tables[key] = {n: c for n, c in table.items() if not np.isnan(c).all()}
        return self._tables[key]

    def helpers(self, fit: Rows) -> tuple[str, ...]:
        """The three most accurate candidates on the fitting rows (more would be a choice among
        noise) that cost no more than a draft, or 15 % of a large answer."""
        most = max(1.001 * self.small_cost[fit].mean(), 0.15 * self.large_cost[fit].mean())
        answers = {name: self.table(f"answers:{name}") for name in self.candidates}
        cheap = [name for name, of in answers.items() if of["cost_usd"][fit].mean() <= most]
        return tuple(sorted(cheap, key=lambda name: -answers[name]["correct"][fit].mean())[:3])


def draft_features(outcome: Outcome) -> dict[str, float]:
    """Features of an answer, as collected, else what recorded signals say; `raw` is its score of
    itself: the recorded confidence, the probability of the likeliest option, the share of votes for
    it, or the lowest of the collected scores. NaN where it has none."""
    signals, scores, found = outcome.signals, [outcome.confidence], {"raw": math.nan}
    if "option_logprobs" in signals:
        shares = _option_shares(signals["option_logprobs"])
        scores.append(shares.max())
        ranked = np.append(np.sort(shares)[::-1], 0.0)
        found["margin"] = np.log(ranked[0]) - np.log(ranked[1] + 1e-9)
        found["entropy"] = _entropy(shares)
        found |= {f"rank{i}": np.log(ranked[i] + 1e-6) for i in range(1, len(shares))}
        found |= {f"mass{i}": np.log(shares[i] + 1e-6) for i in range(4, len(shares))}
        found |= {f"is{i}": float(np.argmax(shares) == i) for i in range(min(4, len(shares)))}
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
    known = ("logprobs", "p_true", "verbalised", "self_consistency", "agreement")
    scores.append(combine(score_of(name, collected) for name in known))
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


def _entropy(shares: Array) -> float:
    return float(-(shares * np.log(shares + 1e-12)).sum())


def answer_of(outcome: Outcome) -> str:
    """The answer in a form that can be compared; the empty string where there is none."""
    return comparable(outcome.pred if "pred" in outcome.model_fields_set else outcome.output)


def comparable(text: JsonValue) -> str:
    """Numbers in one form, other text in lower case and cut."""
    cleaned = "" if text is None else str(text).strip().replace(",", "").replace("$", "")
    try:
        return f"{float(cleaned):.6g}"
    except ValueError:
        return cleaned.lower()[:80]


def _view(draft: Outcome, other: Outcome) -> dict[str, float]:
    own, found = answer_of(draft), {f"its_{name}": x for name, x in other.features.items()}
    found = {"same": float(own != "" and own == answer_of(other)), **found}
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


def prompt_marks(prompt: str) -> dict[str, float]:
    """Length, numbers, negations, options and the like, before anything is asked."""
    text = prompt[-6000:]  # after worked examples the question is what counts
    question, *options = re.split(r"(?:^|\n)\(?[A-J][.)] ", text)
    words, lengths = re.findall(r"\w+", question) or [""], np.array([*map(len, options)] or [0])
    negation = re.search(r"\b(not|except|least|never|false|incorrect)\b", question, re.IGNORECASE)
    return {
        "characters": len(text),
        "question": len(question),
        "option": float(lengths.mean()),
        "option_spread": float(lengths.std()),
        "digits": sum(map(str.isdigit, question)),
        "numeric_options": sum(bool(re.search(r"\d", o)) for o in options) / max(len(options), 1),
        "negation": float(bool(negation)),
        "symbols": len(re.findall(r"[=^$\\+*/∀∃⊃<>]", text)),
        "sentences": question.count("."),
        "word_length": sum(map(len, words)) / len(words),
        "capitals": sum(word[:1].isupper() for word in words) / len(words),
    }
