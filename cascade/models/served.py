"""Models behind an HTTP server: what `openai:` and `ollama:` models have in common."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from cascade.errors import (
    MalformedResponseError,
    ModelError,
    ModelTimeoutError,
    ModelUnavailableError,
    StreamInterruptedError,
)
from cascade.models.base import Chunk, Model, Request
from cascade.models.failures import Caller
from cascade.models.http import CONNECT_S, Connection, drain, events, read_error, read_json
from cascade.models.wire import Answer
from cascade.state import Completion


class ServedModel(Model):
    """A model behind an HTTP server.

    Attributes:
        path: to which requests are posted.
        ends_with_reason: whether nothing comes in a stream after the reason why the answer ends.
    """

    path: ClassVar[str]
    ends_with_reason: ClassVar[bool] = False

    def __init__(
        self, caller: Caller, api_key: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._caller = caller
        self._key = api_key
        bearer = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._headers = {**bearer, **(headers or {})}
        self._connection: Connection | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key, where there is one."""
        return (self._key,)

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(await self._address(), self._headers, self._caller)
        return self._connection

    @abstractmethod
    async def _address(self) -> str:
        """The address of the server."""

    @abstractmethod
    async def _payload(self, request: Request, *, stream: bool) -> dict[str, Any]:
        """The JSON body of a request."""

    async def _frames(self, lines: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """The parts of a stream, each of them JSON; in OpenAI's API server-sent events."""
        async for data in events(lines):
            if data.startswith(b"[DONE]"):
                return
            yield data

    def _chunk(self, part: Any, answer: Answer) -> Any:
        """A part of a reply in OpenAI's form."""
        del answer
        return part

    async def _complete(self, request: Request) -> Completion:
        connection = await self._connected()
        payload = await self._payload(request, stream=False)
        return self.read(await connection.request(self.path, payload))

    def read(self, reply: object) -> Completion:
        """The answer in a reply, as decoded JSON.

        Raises:
            ModelError: it is an error, or no reply.
        """
        answer = Answer(grows=False)
        self._add(reply, answer)
        return self._completion(answer)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        connection = await self._connected()
        payload = await self._payload(request, stream=True)
        answer = Answer()
        lines = connection.lines(self.path, payload, lambda: answer.begun)
        try:
            async with aclosing(lines):
                async for data in self._frames(lines):
                    if piece := self._add(data, answer):
                        yield Chunk(piece, logprobs=answer.tokens)
                    if self.ends_with_reason and answer.finish_reason is not None:
                        break
                await drain(lines)
        except (ModelUnavailableError, ModelTimeoutError, StreamInterruptedError):
            # A connection that breaks after the reason why the answer ends is no failure: all is
            # there, but for the counts perhaps.
            if answer.finish_reason is None:
                raise
        if answer.finish_reason is None:
            raise self._caller.interrupted("it ended without a finish reason")
        yield Chunk(completion=self._completion(answer))

    def _add(self, part: object, answer: Answer) -> str:
        try:
            reply = read_json(part) if isinstance(part, bytes) else part
            if isinstance(reply, Mapping) and (error := reply.get("error")):
                status, reason = read_error(error)
                interrupted = self._caller.interrupted(reason)
                raise interrupted if answer.begun else self._caller.refused(status, reason)
            return answer.add(self._chunk(reply, answer))
        except (ValueError, RecursionError) as error:
            raise self._caller.malformed(str(error)) from error

    def _completion(self, answer: Answer) -> Completion:
        try:
            return answer.completion(asked_for=self.model)
        except (ValueError, RecursionError) as error:
            raise self._caller.malformed(str(error)) from error

    async def warm(self) -> None:
        """Open a connection, whatever the server says to that."""
        self._check_allowed()
        until = asyncio.get_running_loop().time() + CONNECT_S
        async with self._until(Request((), timeout_s=CONNECT_S), until):
            try:
                await (await self._connected()).request("/models")
            except ModelError as error:
                if error.status is None and not isinstance(error, MalformedResponseError):
                    raise

    async def aclose(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            await self._connection.aclose()
