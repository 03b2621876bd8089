"""HTTP to one model server: JSON is posted, JSON or lines are read, and every failure is named.

aiohttp is asked directly where the extra is installed, httpx2 elsewhere and behind a proxy: a
provider's own client spends more on options, headers and typed replies than all else here costs.
Nothing is sent twice, since the ledger books every attempt.
"""

from __future__ import annotations

import asyncio
import io
import json
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from pydantic_core import from_json, to_json

from cascade.errors import ConfigurationError, InputError, ModelError
from cascade.models.failures import Caller, retry_after_seconds, without_secrets

LARGEST_REPLY = 64 * 2**20
"""Bytes of a reply after decompression: far more than 100,000 tokens with alternatives."""

CONNECT_S, READ_S = 10.0, 600.0
"""Seconds in which a server has to accept a connection, and to send something."""

KEEPALIVE_S = 4.0
"""Seconds that an idle connection is kept: less than the 5 s of uvicorn, Node.js and llama.cpp,
whose end of it could cross a request."""

_CONNECTIONS, _LARGE_BODY = 1000, 2**20

Headers = Mapping[str, str]

Exchange = Callable[[str, str, bytes, Headers], AsyncGenerator[Any]]
"""Sends method, address, body and headers; gives status and headers of the reply, then its parts.
It is that of a pool, which closes when it is closed: by its owner, by the loop before it ends
(`asyncio.run`), or in the loop once nobody refers to it."""


def check_address(url: str, example: str) -> None:
    """Refuse what is no address with a `ConfigurationError` that says what to write instead."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        better = f"http://{url}" if url and "://" not in url else example
        raise ConfigurationError(f"base_url={url!r} is no address. Write {better!r}.")


def is_loopback(url: str) -> bool:
    """True if a server is on this machine, so that what is sent does not leave it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    # 0.0.0.0 is how OLLAMA_HOST is often set; a client that connects to it stays here.
    return address.is_loopback or address.is_unspecified


def stays_here(url: str, model: str) -> bool:
    """True if what is sent to a model of this name at this address stays on this machine."""
    # Ollama passes models whose tag ends in `cloud` on to its own servers.
    return is_loopback(url) and not model.endswith((":cloud", "-cloud"))


class Connection:
    """The connections to one server, a pool of them for each event loop."""

    def __init__(self, base_url: str, headers: Headers, caller: Caller) -> None:
        self._address = urlsplit(base_url)
        self._headers = {"content-type": "application/json", **headers}
        self._caller = caller
        # A proxy of the environment has no business between two ends on one machine.
        self._here = is_loopback(base_url)
        self._direct = find_spec("aiohttp") is not None and (self._here or not getproxies())
        self._pools: dict[asyncio.AbstractEventLoop, tuple[Exchange, AsyncGenerator[Exchange]]] = {}

    async def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the reply to JSON, or to nothing; a `ModelError` where the server refused,
        the connection failed, or the reply cannot be read."""
        raw = b"".join([part async for part in self._parts(path, body)])
        with self._caller.readable():
            return read_json(raw)

    async def lines(
        self, path: str, body: Mapping[str, Any], begun: Callable[[], bool]
    ) -> AsyncGenerator[bytes]:
        """The lines of a streamed reply; leaving early closes the connection. Errors are those of
        `request`, `StreamInterruptedError` where an answer had `begun`."""
        held = bytearray()
        async with aclosing(self._parts(path, body, begun)) as parts:
            async for part in parts:
                first, *others = part.split(b"\n")
                held += first
                for other in others:
                    yield bytes(held).rstrip(b"\r")
                    held = bytearray(other)
        if held:
            yield bytes(held)

    async def aclose(self) -> None:
        """Close the connections; they are opened again when needed. Those of other loops are closed
        there, as nobody refers to them, and not waited for: a loop may be held up by the caller."""
        pools, self._pools = self._pools, {}
        if (own := pools.pop(asyncio.get_running_loop(), None)) is not None:
            await own[1].aclose()

    async def _exchange(self) -> Exchange:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            for other in list(self._pools):  # of which other threads have some
                if other.is_closed():
                    self._pools.pop(other, None)
            encrypted = self._address.scheme == "https"
            pool = _by_aiohttp(encrypted) if self._direct else _by_httpx(not self._here)
            self._pools[loop] = await anext(pool), pool
        return self._pools[loop][0]

    async def _parts(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        begun: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[bytes]:
        """The parts of a reply that is no refusal."""
        url = self._address._replace(path=self._address.path.rstrip("/") + path).geturl()
        try:
            method, data = ("GET", b"") if body is None else ("POST", to_json(body))
        except ValueError as error:
            raise InputError(f"the request holds what is no JSON: {error}") from error
        exchange, left = await self._exchange(), LARGEST_REPLY
        with self._caller.named(begun):
            async with aclosing(exchange(method, url, data, self._headers)) as parts:
                status, headers = await anext(parts)
                if status >= 300:
                    raise await self._refusal(status, headers, parts)
                async for part in parts:
                    left -= len(part)
                    if left < 0:
                        large = f"more than {LARGEST_REPLY >> 20} MiB in one reply"
                        raise self._caller.malformed(large)
                    yield part

    async def _refusal(
        self, status: int, headers: Headers, parts: AsyncIterator[Any]
    ) -> ModelError:
        if status < 400:  # followed, it would take question and key to wherever a reply says
            to = without_secrets(headers.get("location", ""))
            return self._caller.refused(status, f"go to {to or 'elsewhere'}; give it as base_url")
        raw = b""
        async for part in parts:
            raw += part
            if len(raw) > _LARGE_BODY:
                break
        try:
            body = read_json(raw)
        except (ValueError, RecursionError):
            body = raw[:1000].decode(errors="replace")
        wait = retry_after_seconds(headers)
        return self._caller.refused(status, read_error(body)[1], retry_after=wait)


async def _by_aiohttp(encrypted: bool) -> AsyncGenerator[Exchange]:
    """A pool of aiohttp, the faster of the two."""
    import aiohttp  # noqa: PLC0415 - an extra

    class Connector(aiohttp.TCPConnector):
        def __del__(self, *_: Any) -> None:
            """Silence where the process ends before the loop could close it."""

    certificates: Any = True
    if encrypted:
        import httpx2  # noqa: PLC0415 - for its certificates: Python may have none

        certificates = httpx2.create_ssl_context()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
    connector = Connector(limit=_CONNECTIONS, keepalive_timeout=KEEPALIVE_S, ssl=certificates)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout)

    async def exchange(method: str, url: str, body: bytes, headers: Headers) -> AsyncGenerator[Any]:
        # A large body goes piece by piece, so that other requests have their turn.
        data = (body or None) if len(body) < _LARGE_BODY else io.BytesIO(body)
        async with session.request(
            method, url, data=data, headers=headers, allow_redirects=False
        ) as reply:
            yield reply.status, reply.headers
            async for part in reply.content.iter_any():
                yield part

    weakref.finalize(exchange, session.detach)  # it says nothing then where nobody could close it
    try:
        yield exchange
    finally:
        session.detach()
        await connector.close()


async def _by_httpx(proxies: bool) -> AsyncGenerator[Exchange]:
    """A pool of httpx2, which comes with the OpenAI client and knows proxies."""
    import httpx2  # noqa: PLC0415 - where it is needed

    async with httpx2.AsyncClient(
        timeout=httpx2.Timeout(READ_S, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=KEEPALIVE_S),
        trust_env=proxies,
    ) as client:

        async def exchange(
            method: str, url: str, body: bytes, headers: Headers
        ) -> AsyncGenerator[Any]:
            async with client.stream(method, url, content=body, headers=headers) as reply:
                yield reply.status_code, reply.headers
                async for part in reply.aiter_bytes():
                    yield part

        yield exchange


def read_json(raw: bytes) -> Any:
    """Decoded JSON, in a third of the time of `json.loads`; ValueError where it is none."""
    try:
        return from_json(raw)
    except ValueError:
        # Halves of surrogate pairs, other encodings and deep nesting are read by `json` alone.
        return json.loads(raw)


def read_error(body: object) -> tuple[int, str]:
    """Status and reason in the body of an error; its code may be the only word on a long prompt."""
    error = body.get("error") or body.get("detail") or body if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return 500, str(error)
    code = str(error.get("code") or error.get("type") or "")
    reason = str(error.get("message") or dict(error))
    status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500
    return status, reason if status != 500 or code in reason else f"{reason} [{code}]"
