"""P(True): the model is asked whether its own answer is correct (arXiv 2207.05221).

The probability is the mass over all spellings of True against all spellings of False among the
alternatives of the first answering token, not the sampled word: a model that says "True" with
51 % is not sure. The question follows the draft in the same conversation, so that the prompt
cache of the draft serves the check as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade.state import Completion, TokenLogprob

QUESTION = (
    "Is the answer above correct? Reply with one word, True if it is correct, False if it is not."
)
MAX_TOKENS = 4
"""Room for a space or a line break before the word."""
TOP_LOGPROBS = 20

_TRUE = frozenset({"true", "yes", "correct"})
_FALSE = frozenset({"false", "no", "incorrect", "wrong"})
_STRIP = " \t\r\n\"'`*_.,:;!()[]▁Ġ"


def check_messages(messages: Sequence[BaseMessage], draft: str) -> tuple[BaseMessage, ...]:
    """The conversation that asks the model about its draft."""
    return (*messages, AIMessage(content=draft), HumanMessage(content=QUESTION))


def p_true(check: Completion) -> float | None:
    """P(True) in [0, 1] from the reply to `check_messages`, or None when it says neither.

    With log-probabilities: P(True) / (P(True) + P(False)) at the first token where either
    appears; white space before it is passed over. A word that is not listed counts with the
    most it can have: what the least likely listed token has. Without log-probabilities the word
    decides: 1 or 0.
    """
    tokens = check.logprobs or ()
    answering = [token for token in tokens if token.token.strip(_STRIP)]
    for token in (*answering, *tokens):
        probability = _mass(token)
        if probability is not None:
            return probability
    if check.logprobs:
        return None
    word = check.text.strip(_STRIP).split(maxsplit=1)
    verdict = _verdict(word[0]) if word else None
    return None if verdict is None else float(verdict)


def _mass(token: TokenLogprob) -> float | None:
    listed = [
        (_verdict(text), math.exp(logprob))
        for text, logprob in token.top or ((token.token, token.logprob),)
    ]
    true = math.fsum(mass for verdict, mass in listed if verdict is True)
    false = math.fsum(mass for verdict, mass in listed if verdict is False)
    if true + false == 0.0:
        return None
    rest = max(0.0, 1.0 - math.fsum(mass for _, mass in listed))
    unlisted = min(rest, *(mass for _, mass in listed))
    true, false = true or unlisted, false or unlisted
    return true / (true + false)


def _verdict(text: str) -> bool | None:
    word = text.strip(_STRIP).casefold()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None
