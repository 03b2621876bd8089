"""The one narrow interface through which every model is reached.

An adapter implements `_complete` and `_stream`; everything else of the cascade sees only
`Model`, `Request`, `Chunk` and the errors of `cascade.errors.ModelError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.errors import RealRequestForbiddenError
from cascade.state import Completion

JsonSchema = Mapping[str, Any]
"""A JSON schema as decoded JSON."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a model.

    Attributes:
        messages: the conversation, oldest first.
        max_tokens: upper limit of output tokens; None leaves it to the provider.
        temperature: None leaves it to the provider.
        logprobs: ask for the log-probability of each output token.
        top_logprobs: how many alternatives per token (0 to 20), with `logprobs`.
        tools: tools in OpenAI format (`{"type": "function", "function": {...}}`).
        tool_choice: `auto`, `none`, `required` or a tool's name.
        schema: JSON schema that the answer must satisfy.
        timeout_s: give up after this many seconds.
        extra: parameters passed to the provider as they are (`think`, `keep_alive`, …).
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
    schema: JsonSchema | None = None
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer; the last one carries the whole `completion`."""

    text: str = ""
    completion: Completion | None = None


class _RequestGuard:
    """Process-wide switch of `cascade.testing.forbid_real_requests`."""

    forbidden: bool = False


guard = _RequestGuard()


class Model(ABC):
    """A model that can be asked.

    Attributes:
        provider: the prefix of the model string, `openai` in `openai:gpt-5.1`.
        model: the name after the prefix.
        local: whether requests stay on this machine.
        returns_logprobs: whether answers carry log-probabilities when asked for.
        real: whether a call reaches a real model (False for fakes and recordings).
    """

    provider: str
    model: str
    local: bool = False
    returns_logprobs: bool = False
    real: bool = True

    @property
    def name(self) -> str:
        """The model string, `provider:name`."""
        return f"{self.provider}:{self.model}"

    async def complete(self, request: Request) -> Completion:
        """Answer in one piece.

        Raises:
            ModelError: the call failed; the subclass says how.
            RealRequestForbiddenError: real requests are switched off for tests.
        """
        self._check_allowed()
        return await self._complete(request)

    async def stream(self, request: Request) -> AsyncGenerator[Chunk]:
        """Answer in pieces; the last chunk carries the whole completion.

        Raises:
            ModelError: the call failed; `StreamInterruptedError` once pieces had arrived.
            RealRequestForbiddenError: real requests are switched off for tests.
        """
        self._check_allowed()
        async for chunk in self._stream(request):
            yield chunk

    @abstractmethod
    async def _complete(self, request: Request) -> Completion: ...

    @abstractmethod
    def _stream(self, request: Request) -> AsyncIterator[Chunk]: ...

    async def aclose(self) -> None:  # noqa: B027 - most adapters hold nothing
        """Give back connections and memory; the model may be used again afterwards."""

    def _check_allowed(self) -> None:
        if guard.forbidden and self.real:
            raise RealRequestForbiddenError(
                f"a request to {self.name} was stopped: real model requests are forbidden here. "
                "Use cascade.testing.ScriptedModel or a replay: model, or allow real requests."
            )
