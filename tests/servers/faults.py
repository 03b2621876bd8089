"""The catalogue of what can be wrong with a reply: how each fault is made, in both protocols."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache, partial
from typing import Any

from cascade.models import http
from tests.servers import replies
from tests.servers.replies import Reply
from tests.servers.saying import (
    Asked,
    Form,
    Protocol,
    Said,
    frames,
    raw,
    reply,
    spelled,
    tokens_of,
    whole,
    written,
)

Make = Callable[[Asked, Said], Reply]
Items = Callable[[Said], tuple[object, ...] | None]

BOTH: tuple[Protocol, ...] = ("openai", "ollama")
OPENAI: tuple[Protocol, ...] = ("openai",)
OLLAMA: tuple[Protocol, ...] = ("ollama",)
ANY: tuple[Form, ...] = ("plain", "stream")
STREAM: tuple[Form, ...] = ("stream",)
MEGABYTE = 2**20
NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Attributes:
        name: how tables call it.
        make: the reply, from the call and what would have been answered to it.
        protocols: in which it exists.
        forms: whether whole replies can have it, streams, or both.
        listens: False where there is no reply, as nobody listens (`FaultyServer.refusing_url`).
    """

    name: str
    make: Make
    protocols: tuple[Protocol, ...] = BOTH
    forms: tuple[Form, ...] = ANY
    listens: bool = True

    def exists(self, protocol: Protocol, form: Form) -> bool:
        """Whether a call of this kind can meet it."""
        return protocol in self.protocols and form in self.forms


# refusals


def _refuse(status: int, asked: Asked, said: Said, *, wait: str | None = None) -> Reply:
    del said
    headers = {} if wait is None else {"retry-after": wait}
    how = replies.error if asked.protocol == "openai" else replies.ollama_error
    return how(status, f"the server says {status}", headers=headers)


def _in_one_second(asked: Asked, said: Said) -> Reply:
    when = datetime.now(UTC) + timedelta(seconds=1)
    return _refuse(429, asked, said, wait=format_datetime(when, usegmt=True))


STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
WAITS = {
    "seconds": "0.05",
    "absurd": "31536000",
    "negative": "-5",
    "nonsense": "soon",
    "before all time": "Mon, 01 Jan 0001 00:00:00 +2300",
}

REFUSALS = (
    *(Fault(f"status {status}", partial(_refuse, status)) for status in STATUSES),
    *(
        Fault(f"429, Retry-After {kind}", partial(_refuse, 429, wait=wait))
        for kind, wait in WAITS.items()
    ),
    Fault("429, Retry-After date", _in_one_second),
)


# connections


def _sent_raw(asked: Asked, said: Said, *, times: float = 1) -> bytes:
    """Headers and body as they go over the wire, with a length that may be wrong."""
    given = reply(asked, said)
    body = whole(given)
    length = str(int(len(body) * times))
    return whole(raw({"content-type": given.content_type, "content-length": length}, body))


def _cut_body(asked: Asked, said: Said) -> Reply:
    body = whole(reply(asked, said))
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return raw(headers, body[: len(body) // 2], ending="reset", pause_s=0.02)


def _reset_after(asked: Asked, said: Said) -> Reply:
    # A reset takes away what has arrived and was not read yet: there is time to read it.
    return Reply((_sent_raw(asked, said),), raw=True, ending="reset", pause_s=1.0)


def _drip(asked: Asked, said: Said) -> Reply:
    sent = _sent_raw(asked, said)
    return Reply(tuple(sent[i : i + 1] for i in range(len(sent))), raw=True, pause_s=0.02)


def _drip_body(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    body = whole(given)
    return replace(given, parts=tuple(body[i : i + 1] for i in range(len(body))), pause_s=0.02)


CONNECTIONS = (
    Fault("refused", lambda *_: replies.DROP, listens=False),
    Fault("closed before", lambda *_: replies.DROP),
    Fault("reset before", lambda *_: Reply(ending="reset")),
    Fault("reset during", _cut_body),
    Fault("reset after", _reset_after),
    Fault("silent", lambda *_: replies.HANG),
    Fault("headers byte by byte", _drip),
    Fault("body byte by byte", _drip_body),
)


# bodies


def _half(asked: Asked, said: Said) -> Reply:
    body = whole(reply(asked, said))
    return Reply((body[: len(body) // 2],))


def _labelled(asked: Asked, said: Said) -> Reply:
    return replace(reply(asked, said), content_type="text/plain")


def _beginning(given: Reply, otherwise: bytes = b"") -> bytes:
    return b"data: " if given.content_type == "text/event-stream" else otherwise


@lru_cache
def _bomb(begin: bytes, size: int) -> bytes:
    return gzip.compress(begin + b"a" * size, compresslevel=1)


def _gzip(asked: Asked, said: Said, *, bomb: bool) -> Reply:
    """What is no gzip, or what is more than a reply may be."""
    given = reply(asked, said)
    body = b"\x1f\x8b" + b"?" * 64
    if bomb:
        body = _bomb(_beginning(given, b'{"a": "'), http.LARGEST_REPLY)
    return replace(given, parts=(body,), headers={"content-encoding": "gzip"})


def _miscounted(asked: Asked, said: Said, *, times: float) -> Reply:
    return Reply((_sent_raw(asked, said, times=times),), raw=True)


def _of_proxy(asked: Asked, said: Said) -> Reply:
    del asked, said
    return Reply((b"<html><body>Please log in.</body></html>",), content_type="text/html")


def _nested(asked: Asked, said: Said) -> Reply:
    given = reply(asked, said)
    body = _beginning(given) + b"[" * 100_000 + b"]" * 100_000 + b"\n\n"
    return replace(given, parts=(body,))


def _headers(asked: Asked, said: Said) -> Reply:
    del asked, said
    return Reply((b"HTTP/1.1 200 OK\r\n",), raw=True, endless=b"x-more: and more\r\n" * 1000)


def _error_after(asked: Asked, said: Said, *, n: int) -> Reply:
    """An error object after so many frames."""
    error: object = "out of memory"
    inside = {"error": {"message": error} if asked.protocol == "openai" else error}
    return written(asked, [*frames(asked, said)[:n], inside])


BODIES = (
    Fault("empty body", lambda *_: Reply((b"",))),
    Fault("half a JSON", _half),
    Fault("JSON null", lambda asked, _: written(asked, [None])),
    Fault("nested JSON", _nested),
    Fault("endless headers", _headers),
    Fault("HTML of a proxy", _of_proxy),
    Fault("content type", _labelled),
    Fault("gzip garbage", partial(_gzip, bomb=False)),
    Fault("gzip bomb", partial(_gzip, bomb=True)),
    Fault("Content-Length short", partial(_miscounted, times=0.5)),
    Fault("Content-Length long", partial(_miscounted, times=2)),
    Fault("error in a 200", partial(_error_after, n=0)),
)


# streams


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


def _cuts(protocol: Protocol, n: int) -> Iterator[Fault]:
    """The places at which a stream of so many frames can end too early."""
    for after in range(n + 1):
        for word, ending in (("ended", "end"), ("broken", "drop")):
            make = partial(_cut, after=after, half=False, ending=ending)  # type: ignore[arg-type]
            yield Fault(f"{word} after {after} of {n} frames", make, (protocol,), STREAM)
        if after < n:
            make = partial(_cut, after=after, half=True, ending="drop")
            yield Fault(f"broken inside frame {after + 1} of {n}", make, (protocol,), STREAM)


STREAMS = (
    Fault("error in the stream", partial(_error_after, n=2), forms=STREAM),
    Fault("frame twice", _twice, forms=STREAM),
    Fault("frames swapped", _swapped, forms=STREAM),
    Fault("frames of another id", _crossed, OPENAI, STREAM),
    Fault("frame is a number", _nonsense, forms=STREAM),
    Fault("never ended", _open_ended, forms=STREAM),
    Fault("endless", _endless),
    *_cuts("openai", 7),
    *_cuts("ollama", 4),
)


# what is said


def _changed(asked: Asked, said: Said, **change: Any) -> Reply:
    return reply(asked, replace(said, **change))


def _both(value: object) -> dict[str, object]:
    return {"input_tokens": value, "output_tokens": value}


BUSY = {"prompt_eval_duration": -(10**9), "eval_duration": -(10**9)}
DETAILS: dict[str, tuple[dict[str, object], tuple[Protocol, ...]]] = {
    "usage cached beyond": ({"prompt_tokens_details": {"cached_tokens": 10**6}}, OPENAI),
    "usage reasoning beyond": ({"completion_tokens_details": {"reasoning_tokens": 10**6}}, OPENAI),
    "busy for ages": ({"eval_duration": 10**14}, OLLAMA),
    "busy negative": (BUSY, OLLAMA),
}
USAGES: dict[str, dict[str, object]] = {
    "missing": {"usage": False},
    "null": _both(None),
    "negative": _both(-5),
    "absurd": _both(10**15),
    "beyond floats": _both(10**400),
    "text": _both("12"),
    "fraction": _both(2.5),
    "not a number": _both(NAN),
    "true": _both(True),
    "half known": {"output_tokens": None},
    "zero": _both(0),
}

COUNTS = (
    *(Fault(f"usage {name}", partial(_changed, **change)) for name, change in USAGES.items()),
    *(
        Fault(name, partial(_changed, details=details), protocols)
        for name, (details, protocols) in DETAILS.items()
    ),
)


def _likely(asked: Asked, said: Said, *, items: Items) -> Reply:
    return reply(asked, replace(said, items=items(said)))


def _worth(value: object) -> Items:
    return lambda said: spelled(said.text, value)


def _one_bad(said: Said) -> tuple[object, ...]:
    return (*spelled(said.text, -0.02)[:-1], {"token": tokens_of(said.text)[-1], "logprob": NAN})


LOGPROBS: dict[str, Items] = {
    "absent": lambda _: None,
    "empty": lambda _: (),
    "not a number": _worth(NAN),
    "positive": _worth(0.7),
    "-9999": _worth(-9999.0),  # vLLM's placeholder
    "-infinity": _worth(-INFINITY),
    "all zero": _worth(0.0),
    "text": _worth("-0.02"),
    "null": _worth(None),
    "one not a number": _one_bad,
    "of another text": lambda _: spelled("Sydney, of course, as anybody knows", -0.02),
    "of half the text": lambda said: spelled(said.text, -0.02)[:2],
    "null items": lambda said: (None,) * len(tokens_of(said.text)),
    "tokens null": lambda said: ({"token": None, "logprob": -0.02},) * len(tokens_of(said.text)),
}


# answers


def _says(asked: Asked, said: Said, *, text: str) -> Reply:
    return reply(asked, replace(said, text=text, items=said.items and spelled(text, -0.02)))


def _without_choices(asked: Asked, said: Said) -> Reply:
    empty = {"choices": []} if asked.protocol == "openai" else {"message": None}
    return written(asked, [{**frame, **empty} for frame in frames(asked, said)])


def _several(asked: Asked, said: Said) -> Reply:
    """A second choice beside the first; in a stream each has frames of its own."""
    other = frames(asked, Said.of("Sydney, I should think."))
    ours = frames(asked, said)
    second = [[{**choice, "index": 1} for choice in frame["choices"]] for frame in other]
    if asked.form == "plain":
        return written(asked, [{**ours[0], "choices": [*ours[0]["choices"], *second[0]]}])
    pairs = zip(ours[:-1], second, strict=False)
    mixed = [part for mine, its in pairs for part in ({**mine, "choices": its}, mine)]
    return written(asked, [*mixed, ours[-1]])


def _calls(asked: Asked, said: Said, *, arguments: object) -> Reply:
    return reply(asked, replace(said, text="", items=None, arguments=arguments))


def _strange_content(asked: Asked, said: Said) -> Reply:
    spoilt = {"role": "assistant", "content": 7}
    parts = frames(asked, said)
    at = 0 if asked.form == "plain" else 1
    if asked.protocol == "ollama":
        parts[at] = {**parts[at], "message": spoilt}
    else:
        field = "message" if asked.form == "plain" else "delta"
        choice = {**parts[at]["choices"][0], field: spoilt}
        parts[at] = {**parts[at], "choices": [choice]}
    return written(asked, parts)


ANSWERS = (
    Fault("empty answer", partial(_says, text="")),
    Fault("white space", partial(_says, text=" \n\t \n")),
    Fault("a megabyte", partial(_changed, text="word " * 210_000, items=None)),
    Fault("half a character", partial(_says, text="Canberra \ud83d")),
    Fault("NUL", partial(_says, text="Canberra \0 it is")),
    Fault("another model", partial(_changed, model="another-model")),
    Fault("no choices", _without_choices),
    Fault("several choices", _several, OPENAI),
    Fault("content is a number", _strange_content),
    Fault("arguments half", partial(_calls, arguments='{"city": "Can')),
    Fault("arguments a list", partial(_calls, arguments=["Canberra"])),
    Fault("arguments of another tool", partial(_calls, arguments='{"planet": 7}')),
)


# redirects


def _moved(status: int, asked: Asked, said: Said, *, to: str | None = None) -> Reply:
    del said
    path = "/v1/chat/completions" if asked.protocol == "openai" else "/api/chat"
    where = f"{asked.elsewhere}{path}" if to is None else to
    headers = {"location": where}
    return Reply((b"moved",), status=status, content_type="text/plain", headers=headers)


REDIRECTS = (
    *(Fault(f"redirect {status}", partial(_moved, status)) for status in (301, 302, 303, 307, 308)),
    Fault("redirect to itself", partial(_moved, 307, to="")),
    Fault("redirect to a file", partial(_moved, 307, to="file:///etc/passwd")),
)

FAULTS: tuple[Fault, ...] = (
    *REFUSALS,
    *CONNECTIONS,
    *BODIES,
    *STREAMS,
    *COUNTS,
    *(Fault(f"log-probs {name}", partial(_likely, items=it)) for name, it in LOGPROBS.items()),
    *ANSWERS,
    *REDIRECTS,
)
