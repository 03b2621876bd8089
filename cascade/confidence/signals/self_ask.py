"""Signals for which the model is asked about its own answer: one short call each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, HumanMessage

from cascade.confidence.p_true import MAX_TOKENS, TOP_LOGPROBS, check_messages, p_true
from cascade.confidence.signals.base import Asked, Probe, Signal
from cascade.state import Completion

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class PTrueSignal(Signal):
    """P(True): the mass over True against False (arXiv 2207.05221)."""

    name = "p_true"
    calls = 1

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """One question, after the draft in the same conversation."""
        if replies:
            return ()
        messages = check_messages(asked.messages, asked.draft.transcript)
        return (Probe(messages, MAX_TOKENS, temperature=0.0, top_logprobs=TOP_LOGPROBS),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        """`p_true`, absent when the reply says neither."""
        del asked
        probability = p_true(replies[0])
        return {} if probability is None else {self.name: probability}


class VerbalisedSignal(Signal):
    """Verbalised confidence: the model names a percentage (arXiv 2305.14975).

    Its values are few and tied; a calibration makes sense of them.
    """

    name = "verbalised"
    calls = 1
    QUESTION = (
        "How likely is it that the answer above is correct? Reply with one number from 0 "
        "(certainly wrong) to 100 (certainly right)."
    )

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """One question, after the draft in the same conversation."""
        if replies:
            return ()
        messages = (
            *asked.messages,
            AIMessage(content=asked.draft.transcript),
            HumanMessage(content=self.QUESTION),
        )
        return (Probe(messages, max_tokens=8, temperature=0.0),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        """`verbalised` in [0, 1], absent when there is no number from 0 to 100."""
        del asked
        found = _NUMBER.search(replies[0].text)
        if found is None or float(found.group()) > 100:
            return {}
        return {self.name: float(found.group()) / 100}
