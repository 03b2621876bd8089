"""HTTP to one model server: JSON is posted, JSON or lines are read, and every failure is named.

aiohttp is asked directly where the extra is installed, httpx2 elsewhere and behind a proxy
(docs/decisions.md). Nothing is sent twice, since the ledger books every attempt.

Errors travel further than answers, into logs, ledgers and traces. Providers repeat in theirs the
key that they refuse and the text that they do not like; neither may stay in a message.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from pydantic_core import from_json, to_json

from cascade import errors

LARGEST_REPLY = 64 * 2**20  # bytes after decompression: far more than 100,000 tokens
CONNECT_S, READ_S = 10.0, 600.0  # in which a server has to accept a connection, to send something
KEEPALIVE_S = 4.0  # of an idle connection; uvicorn, Node.js and llama.cpp end theirs after 5 s
_CONNECTIONS, _LARGE_BODY = 1000, 2**20

_Send = Callable[..., Any]
"""Sends a request, as `aiohttp.ClientSession.request` does. Its pool is closed by its owner, by the
loop before it ends (`asyncio.run`), or in the loop once nobody refers to it."""


def check_address(url: str, example: str) -> None:
    """Refuse what is no address with a `ConfigurationError` that says what to write instead."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    better = f"http://{url}" if url and "://" not in url else example
    raise errors.ConfigurationError(f"base_url={url!r} is no address. Write {better!r}.")


def is_loopback(url: str) -> bool:
    """True if a server is on this machine, so that what is sent does not leave it."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        address = ip_address(host)
        # 0.0.0.0 is how OLLAMA_HOST is often set; a client that connects to it stays here.
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")


def stays_here(url: str, model: str) -> bool:
    """True if what is sent to a model of this name at this address stays on this machine."""
    # Ollama passes models whose tag ends in `cloud` on to its own servers.
    return is_loopback(url) and not model.endswith((":cloud", "-cloud"))


# What fails, and how errors name it

_CONTENT = r"(image|vision|audio|video|tool|think|reasoning|multimodal|logprob)"
_BY_WORDS: dict[type[errors.ModelError], str] = {
    errors.ContextLengthError: r"context.?(length|size|window)|maximum context|too many tokens|"
    r"prompt is too long|input length exceeds|exceeds? the (available )?context",
    errors.UnsupportedContentError: rf"{_CONTENT}.*(not|n't|no) support|(not|n't|no) support.*"
    rf"{_CONTENT}|missing data required for image|not a multimodal|no longer supports",
}
_ADVICE: dict[type[Exception], str] = {
    errors.AuthenticationError: "Check the API key and what it may use.",
    errors.ModelNotFoundError: "Check the model's name and the address.",
    errors.ContextLengthError: "Shorten the conversation, or use a model with a longer context.",
    errors.UnsupportedContentError: "Leave that out, or use a model that can take it.",
    errors.BadRequestError: "Change the request; sending it again will not help.",
    errors.RateLimitError: "Wait and send it again, or lower the concurrency.",
    errors.ModelUnavailableError: "Send it again later.",
    errors.ModelTimeoutError: "Send it again, or give it more time.",
    errors.StreamInterruptedError: "Send it again.",
    errors.MalformedResponseError: "Is this the right address and the right kind of server?",
    ConnectionRefusedError: "Is the server running? Check its address.",
}
_BY_STATUS: dict[int, type[errors.ModelError]] = {
    **dict.fromkeys((301, 302, 303, 307, 308, 404), errors.ModelNotFoundError),
    **dict.fromkeys((401, 403), errors.AuthenticationError),
    **dict.fromkeys((408, 504), errors.ModelTimeoutError),
    409: errors.ModelUnavailableError,  # requests were in each other's way, and none was worked on
    413: errors.ContextLengthError,
    429: errors.RateLimitError,
}

_BY_NAME: dict[str, type[Exception]] = {  # of aiohttp, httpx and SDKs, which may not be there
    "ClientConnectorError|ConnectionTimeoutError|ConnectError|ConnectTimeout|"
    "ConnectionRefusedError|gaierror": ConnectionRefusedError,
    "NotImplementedError": errors.UnsupportedContentError,
    "ContentEncodingError|DecodingError": errors.MalformedResponseError,
    "Timeout": errors.ModelTimeoutError,
    r"\b(OSError|ClientError|HTTPError|APIConnectionError)\b": errors.ModelUnavailableError,
}

_DID: dict[type[Exception], str] = {
    ConnectionRefusedError: "does not answer: no server listens there",
    errors.UnsupportedContentError: "cannot do that",
    errors.MalformedResponseError: "sent what cannot be read",
    errors.ModelTimeoutError: "gave no answer in time",
    errors.ModelUnavailableError: "lost the connection",
    errors.StreamInterruptedError: "broke the stream off",
}

_KEY = re.compile(r"\b(sk|pk|key|gsk|hf)[-_][\w*-]{6,}|\bBearer\s+[^\s,;'\"]+", re.IGNORECASE)
GAP = "[…]"  # in the place of what is left out


class Caller:
    """Model and server, as errors name them, with ways out of their own by the kind of error
    (`ollama pull …`), `ConnectionRefusedError` where no server runs."""

    def __init__(self, name: str, address: str, advice: Mapping[Any, str] | None = None) -> None:
        self.name, self.address = name, address
        self._advice = {**_ADVICE, **(advice or {})}

    def refused(self, status: int, reason: str, headers: object = None) -> errors.ModelError:
        """The error for an HTTP status; a refusal is not billed, a broken server may bill."""
        # Before the class of the status: Ollama and llama.cpp report these with 500, too.
        said = (kind for kind, words in _BY_WORDS.items() if re.search(words, reason, re.I))
        other = errors.ModelUnavailableError if status >= 500 else errors.BadRequestError
        kind = _BY_STATUS.get(status) or next(said, other)
        did = "failed" if status >= 500 else "refused the request"
        broken = kind in (errors.ModelUnavailableError, errors.ModelTimeoutError) and status != 409
        error = self.error(kind, reason, f"{did} ({status})", None if broken else False)
        error.status = status
        with suppress(KeyError, ValueError):  # there is none, or a date
            wait = float(headers["retry-after"]) if isinstance(headers, Mapping) else -1.0
            error.retry_after = wait if 0 <= wait < float("inf") else None
        return error

    def failed(self, error: Exception) -> errors.ModelError | None:
        """The named error for an exception of an HTTP client or an SDK; None where it is a bug."""
        reason, response = str(error) or type(error).__name__, getattr(error, "response", None)
        places = ((error, "status_code"), (error, "code"), (response, "status_code"))
        if not type(error).__module__.startswith("aiohttp"):  # for what is no HTTP it says 400
            said = (getattr(place, name, None) for place, name in places)
            if status := next((s for s in said if isinstance(s, int) and 400 <= s < 600), None):
                return self.refused(status, reason, getattr(response, "headers", None))
        names = " ".join(kind.__name__ for each in _causes(error) for kind in type(each).__mro__)
        kind = next((kind for words, kind in _BY_NAME.items() if re.search(words, names)), None)
        unsent = kind in (ConnectionRefusedError, errors.UnsupportedContentError)
        return None if kind is None else self.error(kind, reason, billed=False if unsent else None)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raise what is raised within under its name, as `failed` has it."""
        try:
            yield
        except errors.CascadeError:
            raise
        except Exception as error:
            did = f"failed with {type(error).__name__}"
            raise self.failed(error) or self.error(errors.ModelError, str(error), did) from error

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Raise what is raised where a reply is not as it should be as `MalformedResponseError`."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            told = f"{type(error).__name__}: {error}"
            raise self.error(errors.MalformedResponseError, told) from error

    def error(
        self, kind: type[Exception], reason: str, did: str = "", billed: bool | None = None
    ) -> errors.ModelError:
        """The error of a kind: what the server `did`, and why, in one line that moves no cursor and
        repeats no key."""
        known = kind if issubclass(kind, errors.ModelError) else errors.ModelUnavailableError
        line = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
        line = _KEY.sub(GAP, line).rstrip(".")
        line = f"{line[:299]}…" if len(line) > 300 else line or "it says no more"
        told = f"{self.name} at {self.address} {did or _DID[kind]}: {line}."
        return known(f"{told} {self._advice.get(kind, '')}".strip(), model=self.name, billed=billed)


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and len(found) < 10:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def without_secrets(url: str) -> str:
    """The address without a password or query in it."""
    return re.sub(r"(?<=://)[^\s/@]*@|\?\S*", "", url).rstrip("/")


def conceal(error: errors.ModelError, asked: Iterable[str], secrets: Sequence[str]) -> None:
    """Take keys, and quotes of the question, out of an error; drop causes that have any. A quote
    has 16 characters or more: both may have the same words. Servers quote beginnings and ends; to
    look through megabytes would hold up everybody else."""
    ends = [part for text in asked for part in {text[:100_000], text[-100_000:]}]
    # Inside JSON the same characters have another spelling.
    sources = [spelling for text in ends for spelling in {text, json.dumps(text)[1:-1]}]

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, GAP) if len(secret) >= 6 else text
        places = range(len(text) - 15)
        begun = [at for at in places if any(text[at : at + 16] in source for source in sources)]
        hidden = {at + i for at in begun for i in range(16)}
        kept = (GAP if i in hidden else c for i, c in enumerate(text))
        return re.sub(rf"({re.escape(GAP)})+", GAP, "".join(kept))

    error.args = tuple(clean(part) if isinstance(part, str) else part for part in error.args)
    if any(clean(said[:10_000]) != said for said in map(str, _causes(error))):
        error.__cause__ = error.__context__ = None


# Asking


class Connection:
    """The connections to one server, a pool of them for each event loop."""

    def __init__(self, base_url: str, headers: Mapping[str, str], caller: Caller) -> None:
        self._address = urlsplit(base_url)
        self._headers = {"content-type": "application/json", **headers}
        self._caller = caller
        # A proxy of the environment has no business between two ends on one machine.
        here, encrypted = is_loopback(base_url), self._address.scheme == "https"
        direct = find_spec("aiohttp") is not None and (here or not getproxies())
        self._open = partial(_by_aiohttp, encrypted) if direct else partial(_by_httpx, not here)
        self._pools: dict[asyncio.AbstractEventLoop, tuple[_Send, AsyncGenerator[_Send]]] = {}

    async def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the reply to JSON, or to nothing; a `ModelError` where the server refused,
        the connection failed, or the reply cannot be read."""
        raw = b"".join([data async for data in self._received(path, body)])
        with self._caller.readable():
            return read_json(raw)

    async def parts(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes]:
        """The JSON parts of a streamed reply: data of whole server-sent events, or lines of JSON:
        Ollama's, errors, and replies of servers that cannot stream. Leaving early closes the
        connection. Errors are those of `request`."""
        held, part = bytearray(), bytearray()
        async with aclosing(self._received(path, body)) as received:
            async for data in received:
                held += data
                *lines, held = held.split(b"\n") if b"\n" in data else [held]
                for line in lines:
                    if line.startswith((b"data:", b"{")):
                        part += line.removeprefix(b"data:").strip()
                    # The end of itself, or of an event.
                    if part and (line.startswith(b"{") or not line.strip()):
                        yield bytes(part)
                        part.clear()
        if held.startswith(b"{"):
            yield bytes(held)

    async def aclose(self) -> None:
        """Close the connections; they are opened again when needed. Those of other loops are closed
        there, as nobody refers to them, and not waited for: a loop may be held up by the caller."""
        pools, self._pools = self._pools, {}
        if (own := pools.pop(asyncio.get_running_loop(), None)) is not None:
            await own[1].aclose()

    async def _received(self, path: str, body: Mapping[str, Any] | None) -> AsyncGenerator[bytes]:
        try:
            method, data = ("GET", b"") if body is None else ("POST", to_json(body))
        except ValueError as error:
            raise errors.InputError(f"the request holds what is no JSON: {error}") from error
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            for other in list(self._pools):  # of which other threads have some
                if other.is_closed():
                    self._pools.pop(other, None)
            pool = self._open()
            self._pools[loop] = await anext(pool), pool
        send, left = self._pools[loop][0], LARGEST_REPLY
        url = self._address._replace(path=self._address.path.rstrip("/") + path).geturl()
        # A large body goes piece by piece, so that other requests have their turn.
        sent = io.BytesIO(data) if len(data) > _LARGE_BODY else data or None
        with self._caller.named():
            async with send(method, url, data=sent, headers=self._headers) as reply:
                if reply.status >= 300:
                    raise await self._refusal(reply)
                async for received in reply.content.iter_any():
                    left -= len(received)
                    if left < 0:
                        large = f"more than {LARGEST_REPLY >> 20} MiB in one reply"
                        raise self._caller.error(errors.MalformedResponseError, large)
                    yield received

    async def _refusal(self, reply: Any) -> errors.ModelError:
        if reply.status < 400:  # followed, it would take question and key to wherever a reply says
            to = without_secrets(reply.headers.get("location", "")) or "elsewhere"
            return self._caller.refused(reply.status, f"go to {to}; give it as base_url")
        raw = b""
        async for part in reply.content.iter_any():
            raw += part
            if len(raw) > _LARGE_BODY:
                break
        body: object = raw[:1000].decode(errors="replace")
        with suppress(ValueError, RecursionError):
            body = read_json(raw)
        return self._caller.refused(reply.status, read_error(body)[1], reply.headers)


async def _by_aiohttp(encrypted: bool) -> AsyncGenerator[_Send]:
    import aiohttp  # noqa: PLC0415 - an extra

    class Connector(aiohttp.TCPConnector):
        def __del__(self, *_: Any) -> None:
            """Silence where the process ends before the loop could close it."""

    certificates: Any = True
    if encrypted:
        import httpx2  # noqa: PLC0415 - for its certificates: Python may have none

        certificates = httpx2.create_ssl_context()
    connector = Connector(limit=_CONNECTIONS, keepalive_timeout=KEEPALIVE_S, ssl=certificates)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout)
    send = partial(session.request, allow_redirects=False)
    weakref.finalize(send, session.detach)  # it says nothing then where nobody could close it
    try:
        yield send
    finally:
        session.detach()
        await connector.close()


async def _by_httpx(proxies: bool) -> AsyncGenerator[_Send]:
    """A pool of httpx2, which comes with the OpenAI client and knows proxies."""
    import httpx2  # noqa: PLC0415 - where it is needed

    timeout = httpx2.Timeout(READ_S, connect=CONNECT_S)
    limits = httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=KEEPALIVE_S)
    async with httpx2.AsyncClient(timeout=timeout, limits=limits, trust_env=proxies) as client:

        @asynccontextmanager
        async def send(method: str, url: str, *, data: Any, headers: Any) -> AsyncGenerator[Any]:
            body = data.getvalue() if isinstance(data, io.BytesIO) else data
            async with client.stream(method, url, content=body, headers=headers) as reply:
                told: Any = {"status": reply.status_code, "headers": reply.headers}
                yield SimpleNamespace(content=SimpleNamespace(iter_any=reply.aiter_bytes), **told)

        yield send


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
