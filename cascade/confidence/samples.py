"""Signals that ask again and look whether the same answer comes back."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from cascade.confidence.base import Asked, Features, Probe, Signal
from cascade.errors import ConfigurationError
from cascade.state import Completion

Normaliser = Callable[[str], str]
"""Maps answers that mean the same to the same string."""

_FINAL = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)
_NOISE = re.compile(r"[^\w\s.%+-]")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """The answer without case, punctuation, articles and the words around it.

    Takes what follows the last "answer is" or "answer:", else the whole text; a number loses its
    thousands separators and trailing zeros. Made for short answers; longer ones need semantic
    agreement.
    """
    stated = _FINAL.findall(text)
    answer = (stated[-1] if stated else text).strip().casefold()
    words = _NOISE.sub(" ", re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer))
    answer = _tidy(_ARTICLE.sub(" ", words)) or _tidy(words)  # "A" alone is an option
    return _number(answer) or answer


def _tidy(words: str) -> str:
    return re.sub(r"^[. ]+(?!\d)", "", " ".join(words.split()).rstrip(". "))


def _number(answer: str) -> str | None:
    """A number with all its digits: two long ones that differ in the last are two answers."""
    if not _NUMBER.fullmatch(answer):
        return None
    number = Decimal(answer)
    # The default context would round it to 28 digits.
    return f"{number.normalize(Context(prec=len(answer))):f}" if number else "0"


Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts to vectors, as `Embeddings.embed_documents` of LangChain does."""


class SelfConsistency(Signal):
    """Share of the samples that agree with the draft, weighted by their own confidence.

    CISC (arXiv 2502.06233): weight ∝ exp(c/T) with c the geometric mean token probability of
    a sample; samples without log-probs weigh the same. Sampling stops as soon as the remaining
    ones cannot change on which side of one half the draft stands.

    Args:
        k: samples at most, the draft not counted.
        temperature: of the samples; at 0 they would all be the draft.
        sharpness: 1/T of the weights; 0 counts votes.
        same: maps answers that mean the same to the same string.
        at_once: samples that are asked side by side before looking at the vote again.

    Raises:
        ConfigurationError: k, at_once or the temperature is not positive, or the sharpness
            negative.
    """

    name = "self_consistency"

    def __init__(
        self,
        k: int = 5,
        *,
        temperature: float = 0.8,
        sharpness: float = 1.0,
        same: Normaliser = normalise,
        at_once: int = 2,
    ) -> None:
        if k < 1 or at_once < 1 or temperature <= 0:
            raise ConfigurationError(
                f"SelfConsistency(k={k}, temperature={temperature}, at_once={at_once}): all "
                "three must be above 0."
            )
        if not 0 <= sharpness < math.inf:
            raise ConfigurationError(f"SelfConsistency(sharpness={sharpness}): 0 or more.")
        self.calls = k
        self.temperature = temperature
        self.sharpness = sharpness
        self.same = same
        self.at_once = at_once

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The next few samples, none when the vote is decided."""
        remaining = self.calls - len(replies)
        if remaining <= 0 or self._decided(asked, replies, remaining):
            return ()
        sample = Probe(
            tuple(asked.messages),
            temperature=self.temperature,
            top_logprobs=1 if self.sharpness else 0,
            as_draft=True,
        )
        return (sample,) * min(self.at_once, remaining)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """`self_consistency`: weighted share of samples that give the draft's answer."""
        agreeing, total = self._votes(asked, replies)
        return {self.name: agreeing / total} if total else {}

    def _decided(self, asked: Asked, replies: Sequence[Completion], remaining: int) -> bool:
        agreeing, total = self._votes(asked, replies)
        most = remaining * math.exp(self.sharpness)
        least_share = agreeing / (total + most)
        most_share = (agreeing + most) / (total + most)
        return bool(replies) and (least_share > 0.5 or most_share < 0.5)

    def _votes(self, asked: Asked, replies: Sequence[Completion]) -> tuple[float, float]:
        draft = self.same(asked.draft.transcript)
        weights = [math.exp(self.sharpness * _mean_probability(reply)) for reply in replies]
        agreeing = sum(
            weight
            for weight, reply in zip(weights, replies, strict=True)
            if self.same(reply.transcript) == draft
        )
        return agreeing, sum(weights)


class Agreement(Signal):
    """1 when another cheap model gives the same answer, else 0 (arXiv 2407.02348).

    Args:
        model: the other model, as `Cascade` takes models.
        same: maps answers that mean the same to the same string.
        name: `agreement` by default; give others when you ask several models.
    """

    calls = 1

    def __init__(
        self, model: Any, *, same: Normaliser = normalise, name: str = "agreement"
    ) -> None:
        self.model = model
        self.same = same
        self.name = name

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The same question to the other model."""
        return () if replies else (Probe(tuple(asked.messages), as_draft=True),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """1.0 or 0.0 under the signal's name."""
        agrees = self.same(replies[0].transcript) == self.same(asked.draft.transcript)
        return {self.name: float(agrees)}


class PromptVotes(Signal):
    """Share of differently put questions that give the draft's answer (arXiv 2310.03094).

    Args:
        prompts: templates with `{question}`, each asked `samples` times.
        samples: how often each is asked.
        temperature: of the samples; None takes the tier's.
        same: maps answers that mean the same to the same string.

    Raises:
        ConfigurationError: no template, or one without `{question}`.
    """

    name = "prompt_votes"

    def __init__(
        self,
        prompts: Sequence[str],
        *,
        samples: int = 1,
        temperature: float | None = None,
        same: Normaliser = normalise,
    ) -> None:
        for prompt in prompts:
            if "{question}" not in prompt:
                raise ConfigurationError(f"PromptVotes: {prompt!r} has no {{question}} in it.")
        if not prompts or samples < 1:
            raise ConfigurationError("PromptVotes needs a template and at least one sample.")
        self.prompts = tuple(prompts)
        self.samples = samples
        self.calls = len(self.prompts) * samples
        self.temperature = temperature
        self.same = same

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """All prompts, side by side."""
        if replies:
            return ()
        earlier: tuple[BaseMessage, ...] = tuple(asked.messages[:-1])
        return tuple(
            Probe(
                (*earlier, HumanMessage(content=prompt.replace("{question}", asked.question))),
                temperature=self.temperature,
                as_draft=True,
            )
            for prompt in self.prompts
            for _ in range(self.samples)
        )

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Share of votes for the draft's answer, and whether it is the most common one."""
        votes = Counter(self.same(reply.transcript) for reply in replies)
        draft = self.same(asked.draft.transcript)
        return {
            self.name: votes[draft] / len(replies),
            f"{self.name}_top": float(votes[draft] == max(votes.values())),
        }


class SemanticAgreement(Signal):
    """Mean similarity of meaning between the draft and other samples (arXiv 2509.21837).

    For open-ended answers, which never match word by word.

    Args:
        embed: texts to vectors, such as LangChain's `Embeddings.embed_documents`.
        k: samples.
        temperature: of the samples.
    """

    name = "semantic_agreement"

    def __init__(self, embed: Embed, *, k: int = 3, temperature: float = 0.8) -> None:
        if k < 1:
            raise ConfigurationError(f"SemanticAgreement(k={k}): needs at least one sample.")
        self.embed = embed
        self.calls = k
        self.temperature = temperature

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """All samples, side by side."""
        if replies:
            return ()
        sample = Probe(tuple(asked.messages), temperature=self.temperature, as_draft=True)
        return (sample,) * self.calls

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Mean cosine similarity, clipped to [0, 1]."""
        draft, *samples = self.embed(
            [asked.draft.transcript, *(reply.transcript for reply in replies)]
        )
        similarities = [_cosine(draft, sample) for sample in samples]
        return {self.name: min(1.0, max(0.0, math.fsum(similarities) / len(similarities)))}


def _mean_probability(completion: Completion) -> float:
    logprobs = completion.decisive_logprobs
    if not logprobs:
        return 0.0
    return math.exp(math.fsum(token.logprob for token in logprobs) / len(logprobs))


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norm = math.hypot(*a) * math.hypot(*b)
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return product / norm if norm else 0.0
