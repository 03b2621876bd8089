"""Models behind an HTTP server, in OpenAI's form; `openai:` models among them: OpenAI itself and,
with `base_url`, every server that speaks its API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from cascade.errors import ConfigurationError, ModelError
from cascade.models.base import Chunk, Model, Request
from cascade.models.failures import Caller, without_secrets
from cascade.models.http import (
    Connection,
    check_address,
    is_loopback,
    read_error,
    read_json,
    stays_here,
)
from cascade.models.logprobs import answer_logprobs
from cascade.models.wire import Answer, chat_payload
from cascade.state import Completion

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"

DRAIN_S = 0.1
"""How long the end of a reply is waited for whose answer is complete: only then its connection
serves again."""


class ServedModel(Model):
    """A model behind an HTTP server: requests are posted to `path`, with the parameters `streaming`
    for a stream, where nothing may come after the reason why it ends (`ends_with_reason`)."""

    path: ClassVar[str] = "/chat/completions"
    streaming: ClassVar[Mapping[str, Any]] = {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    ends_with_reason: ClassVar[bool] = False

    def __init__(
        self, caller: Caller, base_url: str, key: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._caller = caller
        self.secrets = (key,)
        # A user in the address stands for a key; no request has both.
        bearer = {"authorization": f"Bearer {key}"} if key and "@" not in base_url else {}
        self._connection = Connection(base_url, {**bearer, **(headers or {})}, caller)

    async def _connected(self) -> Connection:
        return self._connection

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        return chat_payload(request)

    async def _payload(self, request: Request) -> dict[str, Any]:
        return self.payload(request)

    async def _frames(self, lines: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """The JSON parts of a stream: data of whole server-sent events (WHATWG HTML, 9.2.6), or
        lines of JSON: Ollama's, errors, and replies of servers that cannot stream."""
        data: list[bytes] = []
        async for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"{"):
                yield line
            elif not line and data:
                if data[0].startswith(b"[DONE]"):
                    return
                yield b"\n".join(data)
                data = []

    def _chunk(self, part: Any) -> Any:
        """A part of a reply in OpenAI's form."""
        return part

    async def _complete(self, request: Request) -> Completion:
        connection = await self._connected()
        return self.read(await connection.request(self.path, await self._payload(request)))

    def read(self, reply: object) -> Completion:
        """The answer in a reply, as decoded JSON; a `ModelError` where it has none."""
        answer = Answer(grows=False)
        with self._readable():
            self._add(reply, answer)
            return answer.completion(asked_for=self.model)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        connection = await self._connected()
        payload = {**await self._payload(request), **self.streaming}
        answer = Answer()
        lines = connection.lines(self.path, payload, lambda: answer.begun)
        try:
            with self._readable():
                async with aclosing(lines):
                    async for data in self._frames(lines):
                        if piece := self._add(read_json(data), answer):
                            yield Chunk(piece, logprobs=answer.tokens)
                        if self.ends_with_reason and answer.finish_reason is not None:
                            break
                    with suppress(TimeoutError, ModelError):
                        async with asyncio.timeout(DRAIN_S):
                            async for _ in lines:
                                pass
        except ModelError:
            # What breaks after the reason why the answer ends is no failure: all is there, but for
            # the counts perhaps.
            if answer.finish_reason is None:
                raise
        if answer.finish_reason is None:
            raise self._caller.interrupted("it ended without a finish reason")
        with self._readable():
            completion = answer.completion(asked_for=self.model)
        yield Chunk(completion=completion)

    def _add(self, reply: Any, answer: Answer) -> str:
        if isinstance(reply, Mapping) and (error := reply.get("error")):
            status, reason = read_error(error)
            interrupted = self._caller.interrupted(reason)
            raise interrupted if answer.begun else self._caller.refused(status, reason)
        return answer.add(self._chunk(reply))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._caller.malformed(f"{type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()


def reasons(model: str) -> bool:
    """Whether a name is that of a reasoning model of OpenAI, which returns no log-probabilities."""
    return model.rpartition("/")[2].startswith(("o1", "o3", "o4", "gpt-5", "gpt-6"))


class OpenAIModel(ServedModel):
    """A model behind an OpenAI-compatible chat-completions API.

    Args:
        model: the model's name at the provider.
        base_url: address of a compatible server, by default OPENAI_BASE_URL or OpenAI's own.
        api_key: by default OPENAI_API_KEY; a server on this machine needs none.
        options: parameters for every request (`top_p`, `reasoning_effort`, …).

    Raises:
        ConfigurationError: the address is none, or no key was given or found, and the server is
            not on this machine.
    """

    provider = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
        check_address(self.base_url, "http://localhost:8000/v1")
        self.server = self.base_url
        self.local = stays_here(self.base_url, model)
        self.returns_logprobs = self.streams_logprobs = not reasons(model)
        self.scores = not self.base_url.startswith("https://api.openai.com/")
        self._defaults = dict(options or {})
        self._key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        address = without_secrets(self.base_url)
        if not self._key and not is_loopback(self.base_url) and "@" not in self.base_url:
            raise ConfigurationError(
                f"{self.name} at {address} needs an API key: set OPENAI_API_KEY or give api_key."
            )
        names = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
        headers = {to: os.environ[name] for to, name in names.items() if os.environ.get(name)}
        caller = Caller(self.name, address, start="Is the server running? Check base_url.")
        super().__init__(caller, self.base_url, self._key, headers)

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        payload = {"model": self.model, **self._defaults, **super().payload(request)}
        if reasons(self.model) and "max_tokens" in payload:
            payload["max_completion_tokens"] = payload.pop("max_tokens")
        return payload

    async def _complete(self, request: Request) -> Completion:
        if request.answer is None:
            return await super()._complete(request)
        return await self._scored(request, request.answer)

    async def _scored(self, request: Request, answer: str) -> Completion:
        """A given answer with its log-probabilities, which vLLM returns of a prompt, in one pass:
        `prompt_logprobs` 0 stands for those of its own tokens. Other servers ignore it."""
        asked = self.payload(replace(request, answer=None, logprobs=False, max_tokens=1))
        asked |= {
            "messages": [*asked["messages"], {"role": "assistant", "content": answer}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "prompt_logprobs": 0,
        }
        reply = await (await self._connected()).request(self.path, asked)
        completion = self.read(reply)
        with self._readable():
            places = [list(place.values()) for place in reply.get("prompt_logprobs") or () if place]
            tokens = [
                {"token": token.get("decoded_token"), "logprob": token.get("logprob")}
                for token, *_ in places
            ]
        logprobs = answer_logprobs(tokens, answer)
        return replace(completion, text=answer, logprobs=logprobs, finish_reason="stop")

    def open_client(self) -> openai.AsyncOpenAI:
        """The official client, for other parts of the API, such as files and batches.

        What it raises goes through `named_errors`. It belongs to the running event loop.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - heavy

        self._check_allowed()
        here = is_loopback(self.base_url)
        http_client = DefaultAsyncHttpxClient(trust_env=not here, follow_redirects=False)
        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",
            max_retries=0,
            http_client=http_client,
        )

    def named_errors(self) -> AbstractContextManager[None]:
        """Raises what the official client raises within under its name in `cascade.errors`."""
        return self._caller.named()
