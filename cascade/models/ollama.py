"""`ollama:` models, through Ollama's own chat API.

Not through its OpenAI-compatible one: only here are the durations, the thinking kept apart and
`keep_alive`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any, cast

import httpx
import ollama
from ollama._client import _parse_host

from cascade.errors import ModelError, ModelNotFoundError, UnsupportedContentError
from cascade.models.address import is_loopback, stays_here, without_secrets
from cascade.models.base import Chunk, Model, Request
from cascade.models.bounds import hooks
from cascade.models.failures import Caller, retry_after_seconds
from cascade.models.ollama_wire import Answer, UnreadableContentError, chat_payload
from cascade.models.openai_wire import SERVER_ERROR, read_error
from cascade.models.per_loop import PerLoop
from cascade.state import Completion

END_S = 0.1
"""So long is waited for the end of a stream whose answer is complete, as OpenAI's client does."""

_WAIT = httpx.Timeout(None, connect=10)


class OllamaModel(Model):
    """A model that an Ollama server runs.

    Args:
        model: the model's name and tag, such as `qwen2.5:3b`.
        base_url: address of the server, by default OLLAMA_HOST or http://127.0.0.1:11434.
        api_key: sent as bearer token, for servers behind a gateway.
        options: for every request: `think`, `keep_alive`, and model options such as `num_ctx`.
    """

    provider = "ollama"
    returns_logprobs = True
    streams_logprobs = True
    forces_tools = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else None
        self._defaults = dict(options or {})
        self.base_url = _parse_host(base_url or os.environ.get("OLLAMA_HOST"))
        self.local = stays_here(self.base_url, model)
        self.server = self.base_url
        self._caller = Caller(
            self.name,
            without_secrets(self.base_url),
            start="Is Ollama running? Start it with `ollama serve`, or set OLLAMA_HOST.",
            advice={ModelNotFoundError: f"Get it with `ollama pull {model}`."},
        )
        self._sees: bool | None = None
        self._clients = PerLoop(self._open_client, _Client.close)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key, where there is one."""
        return tuple(value.removeprefix("Bearer ") for value in (self._headers or {}).values())

    def _open_client(self) -> _Client:
        # A proxy of the environment has no business between two ends on one machine.
        trust_env = not is_loopback(self.base_url)
        return _Client(
            self.base_url,
            headers=self._headers,
            timeout=_WAIT,
            trust_env=trust_env,
            follow_redirects=False,
            event_hooks={"response": [*hooks(self._caller)["response"], self._refuse]},
        )

    async def _refuse(self, response: httpx.Response) -> None:
        """Raise what the server refuses: the client's own error has lost the headers."""
        if response.status_code >= 400:
            await response.aread()
            raise self._caller.refused(
                response.status_code,
                str(ollama.ResponseError(response.text).error),
                retry_after=retry_after_seconds(response.headers),
            )

    async def digest(self) -> str | None:
        """The server's own digest of the model, None when it has no model of that name."""
        client = await self._clients.get()
        with self._named_errors(Answer()):
            listed = (await client.list()).models
        names = {self.model, f"{self.model}:latest"}
        return next((model.digest for model in listed if model.model in names), None)

    async def _complete(self, request: Request) -> Completion:
        client = await self._clients.get()
        answer = Answer()
        with self._named_errors(answer):
            payload = await self._payload(client, request)
            reply = await client.chat_once(payload)
            if error := reply.get("error"):
                raise self._caller.refused(*read_error(error))
            answer.add(reply)
            return answer.completion(asked_for=self.model)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        client = await self._clients.get()
        answer = Answer()
        with self._named_errors(answer):
            payload = await self._payload(client, request)
            async with aclosing(client.chat_stream(payload)) as parts:
                async for part in parts:
                    if piece := answer.add(part):
                        yield Chunk(piece, logprobs=answer.tokens)
                    if answer.done:
                        await _read_on(parts)
                        break
            if not answer.done:
                raise self._caller.interrupted("it ended without `done`")
            completion = answer.completion(asked_for=self.model)
        yield Chunk(completion=completion)

    async def _payload(self, client: _Client, request: Request) -> dict[str, Any]:
        try:
            payload = chat_payload(request, self._defaults)
        except UnreadableContentError as error:
            raise UnsupportedContentError(f"{self.name}: {error}", model=self.name) from None
        if any("images" in message for message in payload["messages"]):
            await self._check_that_it_sees(client)
        return {"model": self.model, **payload}

    async def _check_that_it_sees(self, client: _Client) -> None:
        """Ollama leaves images out for a model that cannot see, and says nothing."""
        if self._sees is None:
            capabilities = await client.capabilities(self.model)
            self._sees = capabilities is None or "vision" in capabilities
        if not self._sees:
            raise UnsupportedContentError(
                f"{self.name} cannot see the image in the request. Leave it out, or use a model "
                "with vision.",
                model=self.name,
            )

    @contextmanager
    def _named_errors(self, answer: Answer) -> Iterator[None]:
        try:
            yield
        except ollama.ResponseError as error:
            raise self._refused(error, answer) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._caller.unreachable(str(error) or type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise self._caller.timed_out(type(error).__name__) from error
        except httpx.DecodingError as error:
            raise self._caller.malformed(str(error)) from error
        except httpx.HTTPError as error:
            raise self._broke_off(str(error) or type(error).__name__, answer) from error
        except ConnectionError as error:
            # The client's own error of a failed connect, whose text hides the reason.
            raise self._caller.unreachable("connection refused") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            # Two of them are the client's own, when it gets JSON that is not an object.
            raise self._caller.malformed(str(error)) from error

    def _broke_off(self, reason: str, answer: Answer) -> ModelError:
        return self._caller.interrupted(reason) if answer.begun else self._caller.broke_off(reason)

    def _refused(self, error: ollama.ResponseError, answer: Answer) -> ModelError:
        """An error inside a stream has no status: the server failed while it computed."""
        if answer.begun:
            return self._caller.interrupted(str(error.error))
        return self._caller.refused(SERVER_ERROR, str(error.error))

    async def warm(self) -> None:
        """Have the server load the model: that is what a request without messages does."""
        self._check_allowed()
        client = await self._clients.get()
        with self._named_errors(Answer()):
            await client.chat_once(await self._payload(client, Request(messages=())))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._clients.aclose()


async def _read_on(parts: AsyncGenerator[object]) -> None:
    """Read the end of a stream, so that its connection serves again; nothing more is told there.

    A server that does not end it is not waited for: the answer is complete.
    """
    with suppress(TimeoutError, httpx.HTTPError, ollama.ResponseError, ValueError):
        async with asyncio.timeout(END_S):
            await anext(parts, None)


class _Client(ollama.AsyncClient):
    """The official client, asked for plain JSON.

    Its own `chat` drops what its records do not know (`truncate`, nested parts of a tool's
    schema, the bytes of a token) and refuses a whole answer for one strange number in it.
    """

    async def chat_once(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        body = {**payload, "stream": False}
        return await self._request(dict, "POST", "/api/chat", json=body)

    async def capabilities(self, model: str) -> list[str] | None:
        """What a model can do (`vision`, `tools`, …); None from servers that do not say."""
        shown = await self._request(dict, "POST", "/api/show", json={"model": model})
        return cast("list[str] | None", shown.get("capabilities"))

    async def chat_stream(self, payload: Mapping[str, Any]) -> AsyncGenerator[object]:
        parts = await self._request(
            dict, "POST", "/api/chat", json={**payload, "stream": True}, stream=True
        )
        async with aclosing(cast("AsyncGenerator[object]", parts)) as stream:
            async for part in stream:
                yield part
