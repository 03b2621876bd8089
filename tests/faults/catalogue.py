"""The catalogue of what can be wrong with a reply: how each fault is made, in both protocols."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache, partial
from typing import Any, Literal

from cascade.models import http
from tests.acceptance.upstream import Answer, Seen, frames, reply_of, spelled, tokens_of, written
from tests.servers import replies
from tests.servers.replies import DROP, HANG, Reply

Protocol = Literal["openai", "ollama"]
Form = Literal["plain", "stream"]
Make = Callable[[Seen, Answer], Reply]

OPENAI: tuple[Protocol, ...] = ("openai",)
OLLAMA: tuple[Protocol, ...] = ("ollama",)
STREAM: tuple[Form, ...] = ("stream",)
NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Attributes:
        name: how tables call it.
        make: the reply, from the call and what would have been answered to it.
        protocols: in which it exists.
        forms: whether whole replies can have it, streams, or both.
    """

    name: str
    make: Make
    protocols: tuple[Protocol, ...] = ("openai", "ollama")
    forms: tuple[Form, ...] = ("plain", "stream")

    def exists(self, seen: Seen) -> bool:
        """Whether a call of this kind can meet it."""
        return seen.protocol in self.protocols and form_of(seen) in self.forms


def form_of(seen: Seen) -> Form:
    return "stream" if seen.streamed else "plain"


def _always(reply: Reply) -> Make:
    return lambda seen, answer: reply


def _changed(**change: Any) -> Make:
    """The answer with something else in it."""
    return lambda seen, answer: reply_of(seen, replace(answer, **change))


# refusals and redirects

STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
RETRY_AFTER = {
    "seconds": "0.05",
    "absurd": "31536000",
    "negative": "-5",
    "nonsense": "soon",
    "before all time": "Mon, 01 Jan 0001 00:00:00 +2300",
}


def _refusal(status: int, **headers: str) -> Make:
    return _changed(status=status, text=f"the server says {status}", headers=headers)


def _in_one_second(seen: Seen, answer: Answer) -> Reply:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    return _refusal(429, **{"retry-after": when})(seen, answer)


def _moved(seen: Seen, answer: Answer, *, status: int = 307, to: str | None = None) -> Reply:
    there = seen.headers["host"].replace("127.0.0.1", "localhost")
    where = f"http://{there}/elsewhere" if to is None else to
    how: Any = {"content_type": "text/plain", "headers": {"location": where}}
    return replies.text_reply("moved", status=status, **how)


REFUSALS = (
    *(Fault(f"status {status}", _refusal(status)) for status in STATUSES),
    *(
        Fault(f"429, Retry-After {kind}", _refusal(429, **{"retry-after": wait}))
        for kind, wait in RETRY_AFTER.items()
    ),
    Fault("429, Retry-After date", _in_one_second),
    *(
        Fault(f"redirect {status}", partial(_moved, status=status))
        for status in (301, 302, 303, 307, 308)
    ),
    Fault("redirect to itself", partial(_moved, to="")),
    Fault("redirect to a file", partial(_moved, to="file:///etc/passwd")),
)


# connections


def _body(seen: Seen, answer: Answer) -> bytes:
    return b"".join(reply_of(seen, answer).parts)


def _raw(length: int, kind: str, body: bytes, **how: Any) -> Reply:
    """A reply whose headers are what they are, true or not."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    return Reply((head.encode() + body,), raw=True, **how)


def _sent_raw(seen: Seen, answer: Answer, *, times: float = 1, **how: Any) -> Reply:
    """Headers and body as they go over the wire, with a length that may be wrong."""
    body = _body(seen, answer)
    return _raw(int(len(body) * times), reply_of(seen, answer).content_type, body, **how)


def _cut_body(seen: Seen, answer: Answer) -> Reply:
    body = _body(seen, answer)
    half = body[: len(body) // 2]
    return _raw(len(body), "application/json", half, ending="reset", pause_s=0.02)


def _drip(given: Reply) -> Reply:
    """Byte by byte."""
    sent = b"".join(given.parts)
    return replace(given, parts=tuple(sent[i : i + 1] for i in range(len(sent))), pause_s=0.02)


CONNECTIONS = (
    Fault("refused", _always(DROP)),  # it meets no server
    Fault("closed before", _always(DROP)),
    Fault("reset before", _always(Reply(ending="reset"))),
    Fault("reset during", _cut_body),
    # A reset takes away what has arrived and was not read yet: there is time to read it.
    Fault("reset after", partial(_sent_raw, ending="reset", pause_s=1.0)),
    Fault("silent", _always(HANG)),
    Fault("headers byte by byte", lambda seen, answer: _drip(_sent_raw(seen, answer))),
    Fault("body byte by byte", lambda seen, answer: _drip(reply_of(seen, answer))),
)


# bodies


def _beginning(given: Reply, otherwise: bytes = b"") -> bytes:
    return b"data: " if given.content_type == "text/event-stream" else otherwise


@lru_cache
def _bomb(begin: bytes, size: int) -> bytes:
    return gzip.compress(begin + b"a" * size, compresslevel=1)


def _gzip(seen: Seen, answer: Answer, *, bomb: bool) -> Reply:
    """What is no gzip, or what is more than a reply may be."""
    given = reply_of(seen, answer)
    body = b"\x1f\x8b" + b"?" * 64
    if bomb:
        body = _bomb(_beginning(given, b'{"a": "'), http.LARGEST_REPLY)
    return replace(given, parts=(body,), headers={"content-encoding": "gzip"})


def _nested(seen: Seen, answer: Answer) -> Reply:
    given = reply_of(seen, answer)
    body = _beginning(given) + b"[" * 100_000 + b"]" * 100_000 + b"\n\n"
    return replace(given, parts=(body,))


def _half(seen: Seen, answer: Answer) -> Reply:
    body = _body(seen, answer)
    return Reply((body[: len(body) // 2],))


def _labelled(seen: Seen, answer: Answer) -> Reply:
    return replace(reply_of(seen, answer), content_type="text/plain")


def _error_after(seen: Seen, answer: Answer, *, n: int) -> Reply:
    """An error object after so many frames."""
    error: object = "out of memory"
    inside = {"error": {"message": error} if seen.protocol == "openai" else error}
    return written(seen, [*frames(seen, answer)[:n], inside])


PROXY = Reply((b"<html><body>Please log in.</body></html>",), content_type="text/html")
HEADERS = Reply((b"HTTP/1.1 200 OK\r\n",), raw=True, endless=b"x-more: and more\r\n" * 1000)
BODIES = (
    Fault("empty body", _always(Reply((b"",)))),
    Fault("half a JSON", _half),
    Fault("JSON null", lambda seen, _: written(seen, [None])),
    Fault("nested JSON", _nested),
    Fault("endless headers", _always(HEADERS)),
    Fault("HTML of a proxy", _always(PROXY)),
    Fault("content type", _labelled),
    Fault("gzip garbage", partial(_gzip, bomb=False)),
    Fault("gzip bomb", partial(_gzip, bomb=True)),
    Fault("Content-Length short", partial(_sent_raw, times=0.5)),
    Fault("Content-Length long", partial(_sent_raw, times=2)),
    Fault("error in a 200", partial(_error_after, n=0)),
)


# streams


def _framed(change: Callable[[list[Any]], list[Any]]) -> Make:
    """The frames of the answer, changed."""
    return lambda seen, answer: written(seen, change(frames(seen, answer)))


def _crossed(seen: Seen, answer: Answer) -> Reply:
    """A frame of another answer among those of this one."""
    parts = frames(seen, answer)
    other = frames(replace(seen, number=seen.number + 10**9), Answer("Of another answer."))
    return written(seen, [*parts[:2], other[2], *parts[2:]])


def _endless(seen: Seen, answer: Answer) -> Reply:
    """A stream that never ends, or a whole reply in which a text never does."""
    first = frames(seen, replace(answer, text="w" * 20_000, p=None))[0]
    if not seen.streamed:
        return Reply((json.dumps(first).encode()[:-1] + b', "more": "',), endless=b"a" * 2**20)
    given = written(seen, [first])
    return replace(given, parts=(), endless=given.parts[0])


def _cut(seen: Seen, answer: Answer, *, after: int, half: bool, ending: Any) -> Reply:
    given = reply_of(seen, answer)
    after = min(after, len(given.parts) - half)
    kept = given.parts[:after]
    if half:
        cut = given.parts[after]
        kept = (*kept, cut[: len(cut) // 2])
    return replace(given, parts=kept or (b"",), ending=ending)


def _cuts(protocols: tuple[Protocol, ...], n: int) -> Iterator[Fault]:
    """The places at which a stream of so many frames can end too early."""
    for after in range(n + 1):
        ways = [("ended after", False, "end"), ("broken after", False, "drop")]
        for words, half, ending in [*ways, ("broken inside frame after", True, "drop")]:
            if after < n or not half:
                make = partial(_cut, after=after, half=half, ending=ending)
                yield Fault(f"{words} {after} of {n} frames", make, protocols, STREAM)


STREAMS = (
    Fault("error in the stream", partial(_error_after, n=2), forms=STREAM),
    Fault("frame twice", _framed(lambda parts: [*parts[:2], *parts[1:]]), forms=STREAM),
    Fault("frames swapped", _framed(lambda p: [p[1], p[0], *p[2:]]), forms=STREAM),
    Fault("frames of another id", _crossed, OPENAI, STREAM),
    Fault("frame is a number", _framed(lambda p: [*p[:2], 7, *p[2:]]), forms=STREAM),
    Fault("never ended", lambda s, a: replace(reply_of(s, a), ending="hang"), forms=STREAM),
    Fault("endless", _endless),
    *_cuts(OPENAI, 7),
    *_cuts(OLLAMA, 5),
)


# what is counted, and how sure it is

BUSY: dict[str, object] = {"prompt_eval_duration": -(10**9), "eval_duration": -(10**9)}
DETAILS: dict[str, tuple[dict[str, object], tuple[Protocol, ...]]] = {
    "usage cached beyond": ({"prompt_tokens_details": {"cached_tokens": 10**6}}, OPENAI),
    "usage reasoning beyond": ({"completion_tokens_details": {"reasoning_tokens": 10**6}}, OPENAI),
    "busy for ages": ({"eval_duration": 10**14}, OLLAMA),
    "busy negative": (BUSY, OLLAMA),
}
COUNTS: dict[str, object] = {
    "null": None,
    "negative": -5,
    "absurd": 10**15,
    "beyond floats": 10**400,
    "text": "12",
    "fraction": 2.5,
    "not a number": NAN,
    "true": True,
    "zero": 0,
}


def _half_known(seen: Seen, answer: Answer) -> Reply:
    return reply_of(seen, replace(answer, tokens=((answer.tokens or (0,))[0], None)))


USAGES = (
    Fault("usage missing", _changed(tokens=())),
    Fault("usage half known", _half_known),
    *(Fault(f"usage {name}", _changed(tokens=(n, n))) for name, n in COUNTS.items()),
    *(
        Fault(name, _changed(details=details), protocols)
        for name, (details, protocols) in DETAILS.items()
    ),
)

Items = Callable[[str], "list[Any] | None"]
LOGPROBS: dict[str, object | Items] = {
    "empty": lambda _: [],
    "not a number": NAN,
    "positive": 0.7,
    "-9999": -9999.0,  # vLLM's placeholder
    "-infinity": -INFINITY,
    "all zero": 0.0,
    "text": "-0.02",
    "null": None,
    "one not a number": lambda text: [*spelled(text, -0.02)[:-1], spelled(text, NAN)[-1]],
    "of another text": lambda _: spelled("Sydney, of course, as anybody knows", -0.02),
    "of half the text": lambda text: spelled(text, -0.02)[:2],
    "null items": lambda text: [None] * len(tokens_of(text)),
    "tokens null": lambda text: [{"token": None, "logprob": -0.02}] * len(tokens_of(text)),
}


def _likely(seen: Seen, answer: Answer, *, worth: Any) -> Reply:
    """Log-probabilities that are what a function of the text says, or all the same."""
    items = worth(answer.text) if callable(worth) else spelled(answer.text, worth)
    return reply_of(seen, replace(answer, items=items))


# answers


def _without_choices(seen: Seen, answer: Answer) -> Reply:
    empty: dict[str, object] = {"choices": []} if seen.protocol == "openai" else {"message": None}
    return written(seen, [{**frame, **empty} for frame in frames(seen, answer)])


def _several(seen: Seen, answer: Answer) -> Reply:
    """A second choice beside the first; in a stream each has frames of its own."""
    ours, other = frames(seen, answer), frames(seen, Answer("Sydney, I should think."))
    second = [[{**choice, "index": 1} for choice in frame["choices"]] for frame in other]
    if not seen.streamed:
        return written(seen, [{**ours[0], "choices": [*ours[0]["choices"], *second[0]]}])
    pairs = zip(ours[:-1], second, strict=False)
    mixed = [part for mine, its in pairs for part in ({**mine, "choices": its}, mine)]
    return written(seen, [*mixed, ours[-1]])


def _calls(arguments: object) -> Make:
    return _changed(text="", p=None, calls=(("weather", arguments),))


def _strange_content(seen: Seen, answer: Answer) -> Reply:
    spoilt = {"role": "assistant", "content": 7}
    first, *rest = frames(seen, answer)
    if seen.protocol == "ollama":
        return written(seen, [{**first, "message": spoilt}, *rest])
    choice = {**first["choices"][0], "delta" if seen.streamed else "message": spoilt}
    return written(seen, [{**first, "choices": [choice]}, *rest])


ANSWERS = (
    Fault("empty answer", _changed(text="")),
    Fault("white space", _changed(text=" \n\t \n")),
    Fault("a megabyte", _changed(text="word " * 210_000, p=None)),
    Fault("half a character", _changed(text="Canberra \ud83d")),
    Fault("NUL", _changed(text="Canberra \0 it is")),
    Fault("another model", _changed(model="another-model")),
    Fault("no choices", _without_choices),
    Fault("several choices", _several, OPENAI),
    Fault("content is a number", _strange_content),
    Fault("arguments half", _calls('{"city": "Can')),
    Fault("arguments a list", _calls(["Canberra"])),
    Fault("arguments of another tool", _calls('{"planet": 7}')),
)

FAULTS: tuple[Fault, ...] = (
    *REFUSALS,
    *CONNECTIONS,
    *BODIES,
    *STREAMS,
    *USAGES,
    Fault("log-probs absent", _changed(p=None)),
    *(Fault(f"log-probs {name}", partial(_likely, worth=w)) for name, w in LOGPROBS.items()),
    *ANSWERS,
)
