"""The interface through which every model is reached.

An adapter implements `_complete` and, where it can, `_stream`. Time limits, the clock, the guard
against real requests and the cleaning of errors are here, once for all adapters.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from langchain_core.messages import BaseMessage

from cascade import errors
from cascade.state import Completion, TokenLogprob


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a model.

    Attributes:
        max_tokens, temperature: None leaves them to the provider.
        top_logprobs: how many alternatives per token (0 to 20), with `logprobs`.
        tools: in OpenAI format (`{"type": "function", "function": {...}}`).
        tool_choice: `auto`, `none`, `required` or a tool's name.
        extra: parameters passed to the provider as they are (`think`, `keep_alive`, …).
        answer: an answer to score instead of writing one.
    """

    messages: tuple[BaseMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | None = None
    schema: Mapping[str, Any] | None = None
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer, with the log-probabilities of its tokens where the model
    `streams_logprobs`; the last one carries the `completion`. The `first` one of an attempt says
    that what was heard before belongs to another."""

    text: str = ""
    completion: Completion | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    first: bool = False


guard = SimpleNamespace(forbidden=False)  # by `cascade.testing.forbid_real_requests`


def file_sha256(path: Path | None) -> str | None:
    """SHA-256 of a file, remembered as long as it is not written; None without one."""
    return None if path is None else _sha256(path, path.stat().st_mtime)


@lru_cache(maxsize=16)
def _sha256(path: Path, _changed_at: float) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Model(ABC):
    """A model that can be asked.

    Attributes:
        provider, model: before and after the colon of a model string, as `openai:gpt-5.1`.
        local: whether requests stay on this machine.
        returns_logprobs: whether answers carry log-probabilities when asked for.
        streams_logprobs: whether the pieces of a stream carry them already.
        scores: whether a given `answer` may have a score.
        forces_tools: whether it can be made to call a tool (`tool_choice`).
        real: whether a call reaches a real model (False for fakes and recordings).
        traces_itself: whether LangChain's callbacks see its calls without our help.
        server: the address of its server, where there is one and it is known; not to be shown.
        secrets: keys that are sent along; no error repeats them.
    """

    provider: str
    model: str
    # Made at its first use and plain then: one question asks for it nine times.
    name: str = cached_property(lambda self: f"{self.provider}:{self.model}")  # type: ignore[assignment]
    local: bool = False
    returns_logprobs: bool = False
    streams_logprobs: bool = False
    scores: bool = False
    forces_tools: bool = True
    real: bool = True
    traces_itself: bool = False
    weights_path: Path | None = None
    server: str | None = None
    secrets: tuple[str, ...] = ()

    @cached_property
    def place(self) -> str:
        """The model at its address: what is shared by the calls that fail together."""
        return f"{self.name} {self.server or ''}"

    async def complete(self, request: Request) -> Completion:
        """The answer in one piece.

        Raises:
            ModelError: the call failed; the subclass says how.
        """
        self.check_allowed(request)
        started, limit = time.perf_counter(), asyncio.timeout(request.timeout_s)
        try:
            async with limit:
                try:
                    completion = await self._complete(request)
                except errors.BadRequestError as error:
                    completion = await self._complete(self._without_logprobs(request, error))
        except (TimeoutError, errors.ModelError) as error:
            raise self._failure(error, request, late=limit.expired()) from error.__cause__
        return _timed(completion, started, real=self.real)

    async def stream(self, request: Request) -> AsyncGenerator[Chunk]:
        """The answer in pieces; the last chunk carries the whole completion.

        Raises:
            ModelError: the call failed; `StreamInterruptedError` once pieces had arrived.
        """
        self.check_allowed(request)
        started, limit, begun = time.perf_counter(), asyncio.timeout(request.timeout_s), False
        deadline = limit.when()
        while True:
            try:
                async with aclosing(self._stream(request)) as chunks:
                    while True:
                        # Around each piece: a timeout belongs to the task that waits, and a
                        # consumer may take pieces in several tasks.
                        limit = asyncio.timeout_at(deadline)
                        async with limit:
                            chunk = await anext(chunks, None)
                        if chunk is None:
                            return
                        begun = True
                        if chunk.completion is not None:
                            timed = _timed(chunk.completion, started, real=self.real)
                            chunk = replace(chunk, completion=timed)
                        yield chunk
            except (TimeoutError, errors.ModelError) as error:
                failure = self._failure(error, request, late=limit.expired(), begun=begun)
                if not isinstance(failure, errors.BadRequestError):
                    raise failure from error.__cause__
                request = self._without_logprobs(request, failure)

    @abstractmethod
    async def _complete(self, request: Request) -> Completion: ...

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        """The answer in one piece, where an adapter has no smaller ones."""
        completion = await self._complete(request)
        if completion.text:
            yield Chunk(completion.text)
        yield Chunk(completion=completion)

    async def digest(self) -> str | None:
        """SHA-256 of the weights, or the server's own digest; None where it is not known.

        Raises:
            ModelError: the server that knows cannot be asked.
        """
        return await asyncio.to_thread(file_sha256, self.weights_path)

    async def warm(self) -> None:  # noqa: B027 - most adapters have nothing to make ready
        """Have the weights loaded. No question is asked and nothing is spent.

        Raises:
            ModelError: they, or their server, cannot be had.
        """

    async def aclose(self) -> None:  # noqa: B027 - most adapters hold nothing
        """Give back connections and memory; from any event loop. The model may be used again."""

    def check_allowed(self, request: Request | None = None) -> None:
        """Refuse a request where real ones are forbidden, and one that the model cannot answer."""
        if guard.forbidden and self.real:
            raise errors.RealRequestForbiddenError(
                f"a request to {self.name} was stopped: real model requests are forbidden here. "
                "Use cascade.testing.ScriptedModel or a replay: model, or allow real requests."
            )
        if request is not None and request.answer is not None and not self.scores:
            raise errors.UnsupportedContentError(
                f"{self.name} cannot score a given answer: its server returns no "
                "log-probabilities of a prompt. Use a llamacpp: model, or a server such as vLLM.",
                model=self.name,
            )

    def _without_logprobs(self, request: Request, error: errors.BadRequestError) -> Request:
        """The request again, where the server refused it for the log-probabilities alone."""
        if not request.logprobs or request.answer is not None or "logprob" not in str(error):
            raise error
        self.returns_logprobs = self.streams_logprobs = False
        return replace(request, logprobs=False, top_logprobs=0)

    def _failure(
        self, error: Exception, request: Request, *, late: bool, begun: bool = False
    ) -> Exception:
        """Error for the caller: with nothing of the question, and no key."""
        if isinstance(error, errors.ModelError):
            from cascade.models.http import conceal  # noqa: PLC0415 - where a call has failed

            conceal(error, [str(message.text) for message in request.messages], self.secrets)
            if begun and not isinstance(error, errors.MalformedResponseError):
                told = f"{error} What had arrived is not the whole answer."
                return errors.StreamInterruptedError(told, model=self.name, billed=None)
        elif late:
            error.__cause__ = None
            return errors.ModelTimeoutError(
                f"{self.name} gave no answer within {request.timeout_s} s. "
                "Give it more time, ask for fewer tokens, or use a faster model.",
                model=self.name,
                billed=None,
            )
        return error


def _timed(completion: Completion, started: float, *, real: bool) -> Completion:
    """The completion with its wall time, unless it brings one along (a recording). A server that
    says it computed for a second longer than was waited for it has not measured it."""
    if completion.latency_ms:
        return completion
    elapsed_ms, busy_ms = (time.perf_counter() - started) * 1000, completion.busy_ms
    if real and busy_ms is not None and busy_ms > elapsed_ms + 1000:
        busy_ms = None
    return replace(completion, latency_ms=elapsed_ms, busy_ms=busy_ms)


class WithheldModel(Model):
    """Placeholder of a model that must not be asked: no address, no key. Names and prices go on to
    mean the same, so that a decision to escalate is still explained."""

    real = False

    def __init__(self, model: Model) -> None:
        self.provider, self.model = model.provider, model.model
        self.returns_logprobs, self.forces_tools = model.returns_logprobs, model.forces_tools

    async def _complete(self, request: Request) -> NoReturn:
        raise errors.LocalOnlyError(
            f"{self.name} was not asked: it is not on this machine, and the cascade is local only.",
            model=self.name,
        )
