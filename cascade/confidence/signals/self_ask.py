"""Signals for which the model is asked about its own answer: one short call each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cascade.confidence.p_true import (
    MAX_TOKENS,
    TOP_LOGPROBS,
    WORDING,
    asking_about,
    check_messages,
    p_true,
    wording_of,
)
from cascade.confidence.signals.base import Asked, Probe, Signal
from cascade.state import Completion

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?: ?%| ?/ ?100)?\.?")


class PTrueSignal(Signal):
    """P(True): the mass over True against False (arXiv 2207.05221)."""

    name = "p_true"
    calls = 1
    wording = WORDING

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
    QUESTION = "How likely is it that the answer above is correct?"
    REPLY = "Reply with one number from 0 (certainly wrong) to 100 (certainly right)."
    wording = wording_of(QUESTION, REPLY)

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """One question, after the draft in the same conversation."""
        if replies:
            return ()
        draft = asked.draft.transcript
        messages = asking_about(asked.messages, draft, self.QUESTION, self.REPLY)
        return (Probe(messages, max_tokens=8, temperature=0.0),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        """`verbalised` in [0, 1], absent when the reply is not a number from 0 to 100 alone."""
        del asked
        found = _NUMBER.fullmatch(replies[0].text.strip())
        if found is None or float(found[1]) > 100:
            return {}
        return {self.name: float(found[1]) / 100}
