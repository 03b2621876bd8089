"""Fakes for tests of what is built on the cascade: no network, no weights, no surprises.

model = ScriptedModel({"Capital of France?": reply("Paris", probability=0.95)})
with forbid_real_requests():
    result = Cascade(small=model, large=other).invoke("Capital of France?")
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from langchain_core.messages import ToolCall

from cascade.models.base import Chunk, Model, Request, guard
from cascade.state import Completion, TokenLogprob, Usage

__all__ = ["ScriptedModel", "forbid_real_requests", "reply"]

Answer = str | Completion | Exception  # a text, a whole completion, or a failure
Answers = Sequence[Answer] | Mapping[str, Answer] | Callable[[Request], Answer]

Probability = float | Sequence[float]  # of all tokens, or of each of them


@contextmanager
def forbid_real_requests() -> Iterator[None]:
    """Stop every request to a real model in this process with `RealRequestForbiddenError`; fakes
    and recordings still answer."""
    before, guard.forbidden = guard.forbidden, True
    try:
        yield
    finally:
        guard.forbidden = before


def reply(
    text: str,
    *,
    probability: Probability | None = None,
    call_probability: Probability | None = None,
    input_tokens: int | None = 10,
    output_tokens: int | None = None,
    tool_calls: Sequence[ToolCall] = (),
    finish_reason: str = "stop",
) -> Completion:
    """A completion as a model would give it.

    Args:
        text: the answer; each word is a token.
        probability: of its tokens; None: no log-probabilities.
        call_probability: the same of the tokens of its tool calls: each name, and each word of
            the argument values.
        input_tokens: None: the provider did not say.
        output_tokens: by default as many as there are tokens.

    Raises:
        ValueError: a probability is not in (0, 1], or there are not as many as tokens.
    """
    tokens, called = _split(text), list[str]()
    written = len(tokens) if output_tokens is None else output_tokens
    for call in tool_calls:
        called.append(call["name"])
        for value in call["args"].values():
            spelled = value if isinstance(value, str) else json.dumps(value)
            called += _split(spelled) or [spelled]
    return Completion(
        text=text,
        model="scripted",
        usage=Usage(input_tokens=input_tokens, output_tokens=written),
        logprobs=_logprobs(tokens, probability),
        call_logprobs=_logprobs(called, call_probability),
        tool_calls=tuple(tool_calls),
        finish_reason="tool_calls" if tool_calls else finish_reason,
    )


def _split(text: str) -> list[str]:
    """The text cut before each word."""
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+$", text)


def _logprobs(
    tokens: list[str], probability: Probability | None
) -> tuple[TokenLogprob, ...] | None:
    if probability is None:
        return None
    given = [probability] * len(tokens) if isinstance(probability, int | float) else probability
    if len(given) != len(tokens):
        raise ValueError(f"{len(given)} probabilities for the {len(tokens)} tokens {tokens}")
    if wrong := [chance for chance in given if not 0 < chance <= 1]:
        raise ValueError(f"{wrong[0]} is not a probability above 0 and up to 1")
    return tuple(TokenLogprob(*each) for each in zip(tokens, map(math.log, given), strict=True))


class ScriptedModel(Model):
    """A model with chosen answers, log-probabilities, usage, delays and failures.

    Args:
        answers: a list (one after the other, the last one again and again), a mapping from the
            question (the text of the last message) to its answer, or a function of the request.
            An exception is raised; a completion (`reply`) brings its usage. One text answers all.
        name: the model is `scripted:name`.
        logprobs: probability of the tokens of answers given as text (see `reply`).
        delay_s: wait this long before each answer.
        returns_logprobs: what the model promises; by default True when an answer given here
            has log-probabilities. Without it none are returned.
        local: whether requests count as staying on this machine.

    Attributes:
        requests: every request it got, in order.

    Raises:
        LookupError: (from `complete`) the script has no answer for a request.
    """

    provider = "scripted"
    real = False

    def __init__(
        self,
        answers: str | Answers,
        *,
        name: str = "scripted",
        logprobs: Probability | None = None,
        delay_s: float = 0.0,
        returns_logprobs: bool | None = None,
        local: bool = True,
    ) -> None:
        self.model, self.local = name, local
        self.requests: list[Request] = []
        self._answers: Answers = [answers] if isinstance(answers, str) else answers
        self._probability, self._delay_s = logprobs, delay_s
        self._given, self._lock = 0, threading.Lock()
        if returns_logprobs is None:
            listed = answers.values() if isinstance(answers, Mapping) else answers
            known = [] if callable(listed) else [a for a in listed if isinstance(a, Completion)]
            told = any(answer.logprobs or answer.call_logprobs for answer in known)
            returns_logprobs = told or logprobs is not None
        self.returns_logprobs = self.streams_logprobs = returns_logprobs

    async def _complete(self, request: Request) -> Completion:
        with self._lock:
            self.requests.append(request)
            answer = self._answer_to(request)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            answer = replace(reply(answer, probability=self._probability), model=self.model)
        if request.logprobs and self.returns_logprobs:
            return answer
        return replace(answer, logprobs=None, call_logprobs=None)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        completion = await self._complete(request)
        pieces = [Chunk(each.token, logprobs=(each,)) for each in completion.logprobs or ()]
        if "".join(piece.text for piece in pieces) != completion.text:
            pieces = [Chunk(piece) for piece in _split(completion.text)]
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)
        yield Chunk(completion=completion)

    def _answer_to(self, request: Request) -> Answer:
        if callable(self._answers):
            return self._answers(request)
        if isinstance(self._answers, Mapping):
            question = request.messages[-1].text
            if question not in self._answers:
                known = list(self._answers)
                raise LookupError(f"{self.name} has no answer for {question!r}; it has {known}")
            return self._answers[question]
        if not self._answers:
            raise LookupError(f"{self.name} has no answers")
        self._given += 1
        return self._answers[min(self._given, len(self._answers)) - 1]
