"""`openai:` models: OpenAI itself and, with `base_url`, every server that speaks its API."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from cascade.errors import MissingKeyError, ModelError
from cascade.models.address import is_loopback, stays_here, without_secrets
from cascade.models.base import Chunk, Model, Request
from cascade.models.bounds import hooks
from cascade.models.failures import Caller, retry_after_seconds
from cascade.models.openai_wire import Answer, chat_payload, read_error
from cascade.models.per_loop import PerLoop
from cascade.models.posting import Post, has_aiohttp
from cascade.state import Completion

OPENAI_URL = "https://api.openai.com/v1"
_REASONING = ("o1", "o3", "o4", "gpt-5")
PATH = "/chat/completions"
_WAIT = httpx2.Timeout(600, connect=10)


@dataclass(frozen=True, slots=True)
class Link:
    """What reaches a server: the client, and where there is one a shorter way."""

    client: openai.AsyncOpenAI
    post: Post | None

    async def aclose(self) -> None:
        """Close the connections of both."""
        if self.post is not None:
            await self.post.aclose()
        await self.client.close()


class OpenAIModel(Model):
    """A model behind an OpenAI-compatible chat-completions API.

    Args:
        model: the model's name at the provider.
        base_url: address of a compatible server, by default OPENAI_BASE_URL or OpenAI's own.
        api_key: by default OPENAI_API_KEY; a server on this machine needs none.
        options: parameters for every request (`top_p`, `reasoning_effort`, …).

    Raises:
        MissingKeyError: no key was given or found, and the server is not on this machine.
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
        self.local = stays_here(self.base_url, model)
        self.server = self.base_url
        reasoning = model.rpartition("/")[2].startswith(_REASONING)
        self.returns_logprobs = self.streams_logprobs = not reasoning
        self._limit_field = "max_completion_tokens" if reasoning else "max_tokens"
        self._defaults = dict(options or {})
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or self._no_key_needed()
        self._caller = Caller(
            self.name,
            without_secrets(self.base_url),
            start="Is the server running? Check base_url.",
        )
        self._links = PerLoop(self._open_link, Link.aclose)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key."""
        return (self._key,)

    def _no_key_needed(self) -> str:
        if is_loopback(self.base_url):
            return "none"
        raise MissingKeyError(
            f"{self.name} at {self.base_url} needs an API key: set OPENAI_API_KEY or give api_key."
        )

    def _open_link(self) -> Link:
        # A proxy of the environment has no business between two ends on one machine.
        trust_env = not is_loopback(self.base_url)
        client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key,
            max_retries=0,  # the graph retries, and the ledger counts every attempt
            timeout=_WAIT,
            http_client=_transport(trust_env=trust_env, event_hooks=hooks(self._caller)),
        )
        return Link(client, Post.of(client, PATH, self._caller, trust_env=trust_env))

    def open_client(self) -> openai.AsyncOpenAI:
        """A client of one's own for other parts of the API, whose replies are files: they may be
        as large as they are. What it raises goes through `named_errors`.

        Raises:
            RealRequestForbiddenError: real requests are switched off for tests.
        """
        self._check_allowed()
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key,
            max_retries=0,
            timeout=_WAIT,
            http_client=_transport(trust_env=not is_loopback(self.base_url)),
        )

    async def _complete(self, request: Request) -> Completion:
        payload, answer = self.payload(request), Answer(grows=False)
        with self.named_errors(answer):
            return self._read(await self._reply(payload), answer)

    def read(self, reply: object) -> Completion:
        """The answer in a reply, as decoded JSON.

        Raises:
            ModelError: it is an error, or no reply.
        """
        answer = Answer(grows=False)
        with self.named_errors(answer):
            return self._read(reply, answer)

    def _read(self, reply: object, answer: Answer) -> Completion:
        if isinstance(reply, Mapping) and (error := reply.get("error")):
            raise self._caller.refused(*read_error(error))
        answer.add(reply)
        return answer.completion(asked_for=self.model)

    async def _reply(self, payload: Mapping[str, Any]) -> object:
        link = await self._links.get()
        if link.post is not None:
            return await link.post.send(payload)
        # Not chat.completions.create: building its typed objects costs more than half of the
        # client's time, and the answer is read field by field anyway.
        reply: object = await link.client.post(PATH, cast_to=object, body=payload)
        # A server that does not declare its JSON as such comes back as text.
        return json.loads(reply) if isinstance(reply, str) else reply

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        payload = self.payload(request)
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = Answer()
        with self.named_errors(answer):
            async with aclosing(await self._events(payload)) as chunks:
                async for chunk in chunks:
                    if piece := answer.add(chunk):
                        yield Chunk(piece, logprobs=answer.tokens)
        with self.named_errors(answer):
            if answer.finish_reason is None:
                raise self._caller.interrupted("it ended without a finish reason")
            completion = answer.completion(asked_for=self.model)
        yield Chunk(completion=completion)

    async def _events(
        self, payload: Mapping[str, Any]
    ) -> AsyncGenerator[object] | openai.AsyncStream[object]:
        link = await self._links.get()
        if link.post is not None:
            return link.post.stream(payload)
        kind = openai.AsyncStream[object]
        return await link.client.post(
            PATH, cast_to=object, body=payload, stream=True, stream_cls=kind
        )

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request."""
        payload = {**self._defaults, **chat_payload(request, limit_field=self._limit_field)}
        if not self.returns_logprobs:
            payload.pop("logprobs", None)
            payload.pop("top_logprobs", None)
        return {"model": self.model, **payload}

    @contextmanager
    def named_errors(self, answer: Answer) -> Iterator[None]:
        """Raise what happens within under its name in `cascade.errors`.

        A connection that breaks after the reason why the answer ends is no failure: all is there,
        but for the counts perhaps.
        """
        try:
            yield
        except openai.APIStatusError as error:
            raise self._refused(error) from error
        except openai.APIConnectionError as error:
            if answer.finish_reason is None:
                raise self._disconnected(error, answer) from error
        except openai.APIError as error:  # an error event inside a stream
            raise self._failed_inside(error, answer) from error
        except (ValueError, RecursionError) as error:
            raise self._caller.malformed(str(error)) from error
        except Exception as error:
            # What is no HTTP at all comes through the client as its transport raised it.
            if not isinstance(error, httpx2.HTTPError | OSError) and not _is_of_aiohttp(error):
                raise
            if answer.finish_reason is None:
                raise self._disconnected(error, answer) from error

    def _refused(self, error: openai.APIStatusError) -> ModelError:
        return self._caller.refused(
            error.status_code,
            _reason(error),
            retry_after=retry_after_seconds(error.response.headers),
        )

    def _failed_inside(self, error: openai.APIError, answer: Answer) -> ModelError:
        if answer.begun:
            return self._caller.interrupted(_reason(error))
        status = int(error.code) if error.code and error.code.isdecimal() else 500
        return self._caller.refused(status, _reason(error))

    def _disconnected(self, error: Exception, answer: Answer) -> ModelError:
        cause = _root(error)
        reason = str(cause) or type(cause).__name__
        if _never_connected(cause):
            return self._caller.unreachable(reason)
        if answer.begun:
            return self._caller.interrupted(reason)
        if _undecodable(cause):
            return self._caller.malformed(reason)
        if isinstance(cause, httpx2.TimeoutException | TimeoutError):
            return self._caller.timed_out(reason)
        return self._caller.broke_off(reason)

    async def warm(self) -> None:
        """Open a connection, whatever the server says to that."""
        self._check_allowed()
        link = await self._links.get()
        with self.named_errors(Answer()):
            if link.post is not None:
                await link.post.open()
                return
            with suppress(openai.APIStatusError):
                await link.client.get("/models", cast_to=object)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._links.aclose()


def _root(error: BaseException) -> BaseException:
    """The exception of the transport below the client: aiohttp's own, or httpx2's.

    The adapter between aiohttp and httpx2 calls every lost connection a timeout of connecting.
    """
    while error.__cause__ is not None and not _is_of_aiohttp(error):
        if isinstance(error, httpx2.HTTPError) and not _is_of_aiohttp(error.__cause__):
            break
        error = error.__cause__
    return error


def _is_of_aiohttp(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp"


def _never_connected(cause: BaseException) -> bool:
    if _is_of_aiohttp(cause):
        kinds = {kind.__name__ for kind in type(cause).__mro__}
        return bool(kinds & {"ClientConnectorError", "ConnectionTimeoutError"})
    return isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)


def _undecodable(cause: BaseException) -> bool:
    """Whether a reply arrived and could not be unpacked."""
    kinds = {kind.__name__ for kind in (*type(cause).__mro__, *type(cause.__cause__).__mro__)}
    return bool(kinds & {"ContentEncodingError", "DecodingError"})


def _reason(error: openai.APIError) -> str:
    """What the server said, with its code: some say only there that the prompt is too long."""
    code = error.code or error.type
    return f"{error.message} [{code}]" if code and code not in error.message else error.message


def _transport(*, trust_env: bool, **options: Any) -> httpx2.AsyncClient:
    """aiohttp's transport where the extra `aiohttp` is installed: half the time per request."""
    kind = openai.DefaultAioHttpClient if has_aiohttp() else openai.DefaultAsyncHttpxClient
    return kind(timeout=_WAIT, trust_env=trust_env, follow_redirects=False, **options)
