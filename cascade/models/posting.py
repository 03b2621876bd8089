"""Posts JSON to one address, the shortest way: aiohttp, and nothing built twice.

The OpenAI client spends more on a request (options, headers, URLs, a typed reply) than the rest of
the cascade does, and its retries are off here: the graph retries. What it knows is asked of it
once, its address, headers and key. Errors of the transport and refusals are those that it would
raise itself.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import httpx2
import openai
from openai._streaming import SSEDecoder
from pydantic import BaseModel
from pydantic_core import from_json

from cascade.models.bounds import fits, within
from cascade.models.failures import Caller

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

CONNECTIONS = 1000
"""At once, as many as the client has."""

LARGE_BODY = 2**20
"""Bytes; aiohttp warns of larger ones that are given in one piece."""

OPEN_S = 10.0
"""How long a server may take to say something when a connection is only opened."""

DRAIN_S = 0.1
"""How long the end of a reply is waited for whose last event has been read, as the client does."""

_IN_ANOTHER = "content-encoding"
_OF_THE_WIRE = frozenset({_IN_ANOTHER, "content-length", "transfer-encoding"})


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True)
    raise TypeError(f"{type(value).__name__} is no JSON: {value!r:.80}")


# As the client writes it.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)


def has_aiohttp() -> bool:
    """Whether the extra `aiohttp` is installed: half the time per request."""
    return find_spec("aiohttp") is not None


class Post:
    """A place to which JSON is posted; opens its connections with the first.

    Args:
        client: whose address, headers and key these are.
        path: below the client's address.
        caller: names errors.
        trust_env: whether certificates of the environment count.
    """

    def __init__(
        self, client: openai.AsyncOpenAI, path: str, caller: Caller, *, trust_env: bool
    ) -> None:
        self._caller = caller
        self._url = str(client.base_url).rstrip("/") + path
        named = {**client.default_headers, **client.auth_headers}
        self._headers = {key: value for key, value in named.items() if isinstance(value, str)}
        self._wait, self._trust_env = client.timeout, trust_env
        self._session: ClientSession | None = None

    @classmethod
    def of(
        cls, client: openai.AsyncOpenAI, path: str, caller: Caller, *, trust_env: bool
    ) -> Post | None:
        """The short way; None without aiohttp, or where the address needs what the client alone
        knows: a proxy, a password or a query in it."""
        url = client.base_url
        if not has_aiohttp() or url.query or url.userinfo or (trust_env and getproxies()):
            return None
        return cls(client, path, caller, trust_env=trust_env)

    async def open(self) -> None:
        """Open a connection, and leave it for the first request.

        Raises:
            OSError, aiohttp.ClientError: it cannot be opened.
        """
        from aiohttp import ClientTimeout  # noqa: PLC0415 - an extra

        session = self._session or self._open()
        # Whatever is said to that, the connection is there and costs nobody anything.
        async with session.head(
            self._url,
            headers=self._headers,
            allow_redirects=False,
            timeout=ClientTimeout(total=None, sock_connect=OPEN_S, sock_read=OPEN_S),
        ) as reply:
            await reply.read()

    async def send(self, body: Mapping[str, Any]) -> Any:
        """The JSON of the reply.

        Raises:
            openai.APIStatusError: the server refused.
            ModelNotFoundError: it sends the request on to another address.
            MalformedResponseError: the reply is too large.
            ValueError: it is no JSON.
            OSError, aiohttp.ClientError: the connection failed.
        """
        session = self._session or self._open()
        data = _written(body)
        async with session.post(
            self._url, data=data, headers=self._headers, allow_redirects=False
        ) as reply:
            await self._check(reply)
            raw = await self._read(reply)
        return read_json(raw)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Any]:
        """The JSON of each event of the reply, as the client reads it.

        Raises:
            openai.APIError: an event says that the server failed.
            Exception: what `send` raises.
        """
        session = self._session or self._open()
        data = _written(body)
        async with (
            session.post(
                self._url, data=data, headers=self._headers, allow_redirects=False
            ) as reply,
            aclosing(within(reply.content.iter_any(), self._caller)) as parts,
        ):
            await self._check(reply)
            async for event in SSEDecoder().aiter_bytes(parts):
                if event.data.startswith("[DONE]"):
                    await _drain(reply)
                    return
                told = read_json(event.data)
                if isinstance(told, Mapping) and (error := told.get("error")):
                    raise failure(self._url, error)
                yield told

    async def _check(self, reply: ClientResponse) -> None:
        if reply.status < 300:
            return
        if reply.status < 400:
            raise self._caller.moved(reply.status, reply.headers.get("location"))
        raise refusal(self._url, reply.status, reply.headers, await self._read(reply))

    async def _read(self, reply: ClientResponse) -> bytes:
        length = reply.content_length
        if length is not None and fits(length) and _IN_ANOTHER not in reply.headers:
            return await reply.read()
        async with aclosing(within(reply.content.iter_any(), self._caller)) as parts:
            return b"".join([part async for part in parts])

    def _open(self) -> ClientSession:
        import aiohttp  # noqa: PLC0415 - an extra

        given = httpx2.Timeout(self._wait)
        wait = aiohttp.ClientTimeout(
            total=None, connect=given.pool, sock_connect=given.connect, sock_read=given.read
        )
        safe = self._url.startswith("https:")
        certificates = httpx2.create_ssl_context(trust_env=self._trust_env) if safe else True
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=certificates)
        self._session = aiohttp.ClientSession(connector=connector, timeout=wait)
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _written(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """The body of a request; a large one is sent piece by piece, and others have their turn."""
    data = _JSON.encode(body).encode()
    return data if len(data) < LARGE_BODY else io.BytesIO(data)


async def _drain(reply: ClientResponse) -> None:
    """Read what is left of a reply, as its connection is of use again only then; not for long."""
    from aiohttp import ClientError  # noqa: PLC0415 - an extra

    with suppress(ClientError, OSError):  # a TimeoutError is an OSError
        async with asyncio.timeout(DRAIN_S):
            while await reply.content.readany():
                pass


def read_json(raw: bytes | str) -> Any:
    """What `json.loads` makes of it, in a third of its time.

    Pydantic's reader refuses halves of surrogate pairs, other encodings and deep nesting; `json`
    is asked about these, and says what is wrong with the rest.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return from_json(raw)
    except ValueError:
        try:
            return json.loads(raw)
        except RecursionError as error:
            raise ValueError("the JSON has parts within parts without end") from error


def failure(url: str, error: object) -> openai.APIError:
    """What the client makes of an event that says that the server failed."""
    message = error.get("message") if isinstance(error, Mapping) else None
    said = message if isinstance(message, str) and message else "An error occurred during streaming"
    return openai.APIError(said, request=httpx2.Request("POST", url), body=error)


def refusal(url: str, status: int, headers: Mapping[str, str], raw: bytes) -> openai.APIStatusError:
    """What the client makes of a reply that is none."""
    kept = [(name, value) for name, value in headers.items() if name.lower() not in _OF_THE_WIRE]
    request = httpx2.Request("POST", url)
    response = httpx2.Response(status, headers=kept, content=raw, request=request)
    text = response.text.strip()
    try:
        body: Any = json.loads(text)
    except ValueError:
        body = text
    error = body.get("error", body) if isinstance(body, Mapping) else body
    message = error.get("message") if isinstance(error, Mapping) else None
    said = f"Error code: {status}"
    if isinstance(message, str) and message:
        said += f" - {message}"
    return openai.APIStatusError(said, response=response, body=error)
