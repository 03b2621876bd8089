"""What can be wrong with a reply before it is read: refusals, connections, bodies, streams."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache, partial

from cascade.models import http
from tests.servers import replies
from tests.servers.fault import Fault
from tests.servers.replies import Reply
from tests.servers.saying import Asked, Protocol, Said, frames, raw, reply, whole, written

MEGABYTE = 2**20

# refusals


def _refuse(status: int, asked: Asked, said: Said, *, wait: str | None = None) -> Reply:
    del said
    headers = {} if wait is None else {"retry-after": wait}
    how = replies.error if asked.protocol == "openai" else replies.ollama_error
    return how(status, f"the server says {status}", headers=headers)


def _in_one_second(asked: Asked, said: Said) -> Reply:
    when = datetime.now(UTC) + timedelta(seconds=1)
    return _refuse(429, asked, said, wait=format_datetime(when, usegmt=True))


_STATUSES = {
    400: "bad request", 401: "no such key", 403: "not allowed", 404: "no such model",
    408: "request timed out", 409: "conflict", 413: "prompt too large", 422: "unprocessable",
    429: "too many requests", 500: "the server broke", 502: "bad gateway", 503: "overloaded",
    504: "the gateway timed out", 529: "overloaded (Anthropic's)",
}  # fmt: skip
_WAITS = {
    "seconds": "0.05",
    "absurd": "31536000",
    "negative": "-5",
    "nonsense": "soon",
    "before all time": "Mon, 01 Jan 0001 00:00:00 +2300",
}

REFUSALS = (
    *(
        Fault(f"status {status}", meaning, "refusals", partial(_refuse, status))
        for status, meaning in _STATUSES.items()
    ),
    *(
        Fault(
            f"429, Retry-After {kind}",
            f"too many requests, come back in {wait!r}",
            "refusals",
            partial(_refuse, 429, wait=wait),
        )
        for kind, wait in _WAITS.items()
    ),
    Fault("429, Retry-After date", "too many requests, come back at a time", "refusals",
          _in_one_second),
)  # fmt: skip


# connections and slowness


def _cut_body(asked: Asked, said: Said) -> Reply:
    body = whole(reply(asked, said))
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return raw(headers, body[: len(body) // 2], ending="reset", pause_s=0.02)


def _reset_after(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    body = whole(given)
    headers = {"content-type": given.content_type, "content-length": str(len(body))}
    # A reset takes away what has arrived and was not read yet: there is time to read it.
    return Reply((whole(raw(headers, body)),), raw=True, ending="reset", pause_s=1.0)


def _drip(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    body = whole(given)
    headers = {"content-type": given.content_type, "content-length": str(len(body))}
    sent = whole(raw(headers, body))
    return Reply(tuple(sent[i : i + 1] for i in range(len(sent))), raw=True, pause_s=0.02)


def _drip_body(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    body = whole(given)
    return replace(given, parts=tuple(body[i : i + 1] for i in range(len(body))), pause_s=0.02)


CONNECTIONS = (
    Fault("refused", "nobody listens at the address", "connections", lambda *_: replies.DROP,
          listens=False),
    Fault("closed before", "the connection is closed without a word", "connections",
          lambda *_: replies.DROP),
    Fault("reset before", "the connection is reset before the reply", "connections",
          lambda *_: Reply(ending="reset")),
    Fault("reset during", "the connection is reset in the middle of the body", "connections",
          _cut_body),
    Fault("reset after", "the connection is reset after the whole body", "connections",
          _reset_after),
)  # fmt: skip

SLOWNESS = (
    Fault("silent", "the request is taken and never answered", "slowness", lambda *_: replies.HANG),
    Fault("headers byte by byte", "a byte every 20 ms from the first on", "slowness", _drip),
    Fault("body byte by byte", "headers at once, then a byte every 20 ms", "slowness", _drip_body),
)  # fmt: skip


# bodies


def _half(asked: Asked, said: Said) -> Reply:
    body = whole(reply(asked, said))
    return Reply((body[: len(body) // 2],))


def _labelled(asked: Asked, said: Said) -> Reply:
    return replace(reply(asked, said), content_type="text/plain")


def _garbled(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    return replace(given, parts=(b"\x1f\x8b" + b"?" * 64,), headers={"content-encoding": "gzip"})


@lru_cache
def _bomb(begin: bytes, size: int) -> bytes:
    return gzip.compress(begin + b"a" * size, compresslevel=1)


def _bombed(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    begin = b"data: " if given.content_type == "text/event-stream" else b'{"a": "'
    return replace(
        given, parts=(_bomb(begin, http.LARGEST_REPLY),), headers={"content-encoding": "gzip"}
    )


def _miscounted(asked: Asked, said: Said, *, times: float) -> Reply:
    given = reply(asked, said)
    body = whole(given)
    headers = {"content-type": given.content_type, "content-length": str(int(len(body) * times))}
    return raw(headers, body)


def _of_proxy(asked: Asked, said: Said) -> Reply:
    del asked, said
    return Reply((b"<html><body>Please log in to the proxy.</body></html>",),
                 content_type="text/html")  # fmt: skip


def _nested(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    begin = b"data: " if given.content_type == "text/event-stream" else b""
    return replace(given, parts=(begin + b"[" * 100_000 + b"]" * 100_000 + b"\n\n",))


def _headers(asked: Asked, said: Said) -> Reply:
    del asked, said
    return Reply((b"HTTP/1.1 200 OK\r\n",), raw=True, endless=b"x-more: and more\r\n" * 1000)


def _error_inside(asked: Asked, said: Said) -> Reply:
    del said
    error: object = "out of memory"
    return written(asked, [{"error": {"message": error} if asked.protocol == "openai" else error}])


BODIES = (
    Fault("empty body", "200 and nothing", "bodies", lambda *_: Reply((b"",))),
    Fault("half a JSON", "200 and the first half of the body", "bodies", _half),
    Fault("JSON null", "200 and null", "bodies", lambda asked, _: written(asked, [None])),
    Fault("nested JSON", "100,000 brackets", "bodies", _nested),
    Fault("endless headers", "200, and headers for ever", "bodies", _headers),
    Fault("HTML of a proxy", "200 and a page", "bodies", _of_proxy),
    Fault("content type", "the right body, called text/plain", "bodies", _labelled),
    Fault("gzip garbage", "what is no gzip, called gzip", "bodies", _garbled),
    Fault("gzip bomb", "more than a reply may be, in a small gzip", "bodies", _bombed),
    Fault("Content-Length short", "half of the bytes that there are", "bodies",
          partial(_miscounted, times=0.5)),
    Fault("Content-Length long", "twice the bytes that there are", "bodies",
          partial(_miscounted, times=2)),
    Fault("error in a 200", "200 and an error object", "bodies", _error_inside),
)  # fmt: skip


# streams


def _error_later(asked: Asked, said: Said) -> Reply:
    parts: list[object] = list(frames(asked, said)[:2])
    error: object = "out of memory"
    parts.append({"error": {"message": error} if asked.protocol == "openai" else error})
    return written(asked, parts)


def _twice(asked: Asked, said: Said) -> Reply:
    parts = frames(asked, said)
    return written(asked, [*parts[:2], *parts[1:]])


def _swapped(asked: Asked, said: Said) -> Reply:
    parts = frames(asked, said)
    at = 1 if asked.protocol == "openai" else 0
    parts[at], parts[at + 1] = parts[at + 1], parts[at]
    return written(asked, parts)


def _crossed(asked: Asked, said: Said) -> Reply:
    parts = frames(asked, said)
    other = frames(replace(asked, number=asked.number + 10**9), Said.of("Of another answer."))
    return written(asked, [*parts[:2], other[2], *parts[2:]])


def _nonsense(asked: Asked, said: Said) -> Reply:
    parts: list[object] = [*frames(asked, said)]
    return written(asked, [*parts[:2], 7, *parts[2:]])


def _endless(asked: Asked, said: Said) -> Reply:
    """A stream that never ends, or a whole reply in which a text never does."""
    if asked.form == "plain":
        begin = json.dumps(frames(asked, said)[0]).encode()
        return Reply((begin[:-1] + b', "more": "',), endless=b"a" * MEGABYTE)
    long = replace(said, text="word " * 13_000, items=None)
    at = 1 if asked.protocol == "openai" else 0
    given = written(asked, [frames(asked, long)[at]])
    return replace(given, parts=(), endless=given.parts[0])


def _open_ended(asked: Asked, said: Said) -> Reply:
    return replace(reply(asked, said), ending="hang")


def _cut(asked: Asked, said: Said, *, after: int, half: bool, ending: replies.Ending) -> Reply:
    given = reply(asked, said)
    after = min(after, len(given.parts) - half)
    kept = given.parts[:after]
    if half:
        cut = given.parts[after]
        kept = (*kept, cut[: len(cut) // 2])
    return replace(given, parts=kept or (b"",), ending=ending)


STREAMS = (
    Fault("error in the stream", "an error object after two frames", "streams", _error_later,
          forms=("stream",)),
    Fault("frame twice", "the second frame comes again", "streams", _twice, forms=("stream",)),
    Fault("frames swapped", "two pieces of the text change places", "streams", _swapped,
          forms=("stream",)),
    Fault("frames of another id", "a piece of another answer in between", "streams", _crossed,
          protocols=("openai",), forms=("stream",)),
    Fault("frame is a number", "a frame that is no object", "streams", _nonsense,
          forms=("stream",)),
    Fault("never ended", "the whole answer, and the stream stays open", "streams", _open_ended,
          forms=("stream",)),
    Fault("endless", "it goes on for ever", "streams", _endless),
)  # fmt: skip

_FRAMES: dict[Protocol, int] = {"openai": 7, "ollama": 4}


def _cuts() -> Iterator[Fault]:
    for protocol, n in _FRAMES.items():
        endings: dict[str, replies.Ending] = {"ended": "end", "broken": "drop"}
        for after in range(n + 1):
            for word, ending in endings.items():
                make = partial(_cut, after=after, half=False, ending=ending)
                yield Fault(
                    f"{word} after {after} of {n} frames",
                    f"the stream is {word} there",
                    "streams",
                    make,
                    (protocol,),
                    ("stream",),
                )
            if after == n:
                break
            yield Fault(
                f"broken inside frame {after + 1} of {n}",
                "the connection breaks in the middle of it",
                "streams",
                partial(_cut, after=after, half=True, ending="drop"),
                (protocol,),
                ("stream",),
            )


CUTS = tuple(_cuts())
