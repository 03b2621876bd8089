"""A real HTTP server that plays models: OpenAI chat completions and Ollama, scripted by a test.

    with Upstream() as upstream:
        upstream.says("small", "Sydney", p=0.3)                 # whenever it is asked
        upstream.next("large", failure(503), "Canberra")        # once each, in this order
        cascade = Cascade(upstream.tier("small"), upstream.tier("large"))

Its log is the witness of what was asked and paid. A model that nothing is said about answers
`<model>: <question>`, and is sure of it. It knows nothing of the project. What `will` come next
may be anything on any path, as `tests/servers/replies.py` writes it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from tests.servers import replies
from tests.servers.fake import Handler, Server, send
from tests.servers.replies import Reply

PROTOCOLS = {"/v1/chat/completions": "openai", "/api/chat": "ollama", "/v1/messages": "anthropic"}
"""By the path where models are asked; Anthropic's answers are those that `will` come."""

MOST_PIECES = 100
"""Into no more pieces an answer is cut where it is streamed."""


class Held(threading.Event):
    """Answers that wait until the test lets them go."""

    release = threading.Event.set


@dataclass(frozen=True)
class Answer:
    """What a model says to one request. A test of faults may put anything at all into it.

    Attributes:
        p: probability of each of its tokens (its words); None for no log-probabilities.
        items: log-probabilities instead, one object for each token.
        calls: tool calls, as (name, arguments).
        tokens: (input, output) as its usage says; None counts words, () says nothing of usage.
        details: further usage, such as `{"prompt_tokens_details": {"cached_tokens": 4}}`.
        thinking: what it thought first, in a field of its own; its tokens count, and have
            log-probabilities of their own (0.5 each).
        busy_s: seconds in which Ollama says that it computed; None where it says nothing of it.
        model: the name that it answers under, if it is another.
        raw: the whole body instead, as it is.
        status: of HTTP; from 400 on `text` is the message of the error.
        held: keeps it back until released; of a stream, all but its first `first` pieces.
        broken_after: pieces of a stream after which the connection breaks (0 for none at all).
        endless: a stream goes on with its last piece until the client leaves.
    """

    text: str = ""
    p: float | None = 0.95
    items: Sequence[object] | None = None
    calls: tuple[tuple[str, object], ...] = ()
    tokens: tuple[Any, ...] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    finish: str = "stop"
    thinking: str = ""
    busy_s: float | None = 0.002
    model: str | None = None
    raw: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    held: Held | None = None
    first: int = 0
    broken_after: int | None = None
    endless: bool = False
    delay_s: float = 0.0


def failure(status: int = 503, text: str = "overloaded", **headers: str) -> Answer:
    """An answer that is an error of HTTP."""
    return Answer(text, status=status, headers=headers)


@dataclass
class Seen:
    """One request as the server saw it.

    `usage` holds the tokens (input, output) that its answer said, if it said any. `left` is set
    once the client went before the end of the answer, `done` once the server is through with it.
    """

    number: int
    protocol: str
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    usage: tuple[Any, ...] | None = None
    left: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream", self.protocol == "ollama"))

    @property
    def texts(self) -> list[str]:
        return [_text(message) for message in self.body["messages"]]

    @property
    def last(self) -> str:
        """The text of the last message."""
        return self.texts[-1]

    @property
    def is_check(self) -> bool:
        """Whether the model is asked whether its own answer is true."""
        return len(self.texts) > 1 and "true" in self.last.lower() and "false" in self.last.lower()


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


Said = str | Answer | Reply
Say = Said | Callable[[Seen], Said]


class Upstream(Server):
    """The server; what comes to a path where no model answers is `elsewhere`."""

    def __init__(self, otherwise: Say | None = None) -> None:
        super().__init__()
        self.otherwise: Say = otherwise or _echo
        self.forget()
        self._changed = threading.Condition()

    def forget(self) -> None:
        """Begin anew: nothing was said, and nothing was asked."""
        self.seen: list[Seen] = []
        self.elsewhere: list[str] = []
        self._always: dict[str, Say] = {}
        self._next: dict[str | None, deque[Say]] = {}

    def routes(self) -> Mapping[str, Handler]:
        asked = dict.fromkeys([f"POST {path}" for path in PROTOCOLS], self._asked)
        return {**asked, "* /{path:.*}": self._arrived_elsewhere}

    # --- what a test says and asks

    def tier(self, model: str, *, provider: str = "openai", **options: Any) -> Any:
        """A tier of the cascade that speaks to this server."""
        from cascade import Tier  # noqa: PLC0415 - the server itself is no part of the project

        if provider == "ollama":
            return Tier(f"ollama:{model}", base_url=self.url, **options)
        key = options.pop("api_key", "a-key")
        return Tier(f"{provider}:{model}", base_url=self.openai_url, api_key=key, **options)

    def chat(self, model: str) -> Any:
        """A chat model of LangChain's that speaks to this server."""
        from langchain_openai import ChatOpenAI  # noqa: PLC0415 - slow, and not for every test

        how: Any = {"base_url": self.openai_url, "api_key": "a-key", "max_retries": 0}
        return ChatOpenAI(model=model, stream_usage=True, **how)

    def says(self, model: str, say: Say, **how: Any) -> None:
        """What a model answers from now on."""
        self._always[model] = Answer(say, **how) if isinstance(say, str) else say

    def echoes(self, model: str, p: float | None, text: str | None = None, **how: Any) -> None:
        """A model is so sure of `<model>: <question>`, or of a text; it checks its own answers."""
        self.says(model, lambda seen: replace(_echo(seen, text), p=p, **how))

    def next(self, model: str, *says: Say) -> None:
        """What a model answers to its next requests, one after the other."""
        self._next.setdefault(model, deque()).extend(says)

    def will(self, *says: Said) -> None:
        """What the next requests get, whatever they ask for."""
        self._next.setdefault(None, deque()).extend(says)

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def asked(self, model: str | None = None) -> list[Seen]:
        """The requests to a model, or all of them."""
        return [seen for seen in list(self.seen) if model in (None, seen.model)]

    def models(self) -> list[str]:
        """The model of each request, in order."""
        return [seen.model for seen in list(self.seen)]

    def wait_for(self, n: int = 1, model: str | None = None) -> Seen:
        """Wait until a model was asked so often; the last of these requests."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.asked(model)) >= n, timeout=300)
            assert came, f"{self.models()}: no {n} requests to {model or 'any'}"
            return self.asked(model)[n - 1]

    async def has_asked(self, n: int = 1, model: str | None = None) -> Seen:
        """`wait_for` in an event loop."""
        return await asyncio.to_thread(self.wait_for, n, model)

    # --- HTTP

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body["messages"]:  # Ollama is asked to load the model
            self.elsewhere.append(request.path)
            loaded = {"message": {"content": ""}, "done": True, "done_reason": "load"}
            return web.json_response(loaded)
        with self._changed:
            model = str(body.get("model"))
            headers = {name.lower(): value for name, value in request.headers.items()}
            seen = Seen(len(self.seen), PROTOCOLS[request.path], model, body, headers)
            self.seen.append(seen)
            waiting = self._next.get(None) or self._next.get(model)
            say = waiting.popleft() if waiting else self._always.get(model, self.otherwise)
            self._changed.notify_all()
        said = say(seen) if callable(say) else say
        answer = Answer(said) if isinstance(said, str) else said
        if isinstance(answer, Answer) and answer.status < 400:
            seen.usage = _usage(seen, answer) or None
        try:
            reply = reply_of(seen, answer) if isinstance(answer, Answer) else answer
            return await send(request, reply, seen.left)
        finally:
            seen.done.set()

    async def _arrived_elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.elsewhere.append(request.path)
        await request.read()
        if waiting := self._next.get(None):
            refusal: Any = waiting.popleft()
            return await send(request, refusal, threading.Event())
        names = {*self._always, *self._next, "small", "large"} - {None}
        tags = [{"model": name, "name": name, "digest": f"sha256:{name}"} for name in names]
        known: dict[str, Any] = {
            "/api/tags": {"models": tags},
            "/api/version": {"version": "0.30.0"},
            "/api/show": {"capabilities": ["completion", "tools"]},
        }
        said = known.get(request.path)
        return web.json_response(said, status=404 if said is None else 200)


def _echo(seen: Seen, text: str | None = None) -> Answer:
    text = f"{seen.model}: {seen.last}" if text is None else text
    return Answer("True" if seen.is_check else text)


# --- the two protocols


def reply_of(seen: Seen, answer: Answer) -> Reply:
    """An answer as it goes over the wire: whole or as a stream, in the protocol of the request."""
    how: dict[str, Any] = {"held": answer.held, "delay_s": answer.delay_s}
    if answer.status >= 400:
        refuse = replies.ollama_error if seen.protocol == "ollama" else replies.error
        return refuse(answer.status, answer.text, headers=answer.headers, **how)
    if answer.broken_after == 0 or (answer.broken_after is not None and not seen.streamed):
        return replace(replies.DROP, **how)
    if answer.raw is not None:
        return replies.text_reply(answer.raw, **how)
    reply = written(seen, frames(seen, answer), **how)
    if not seen.streamed:
        return reply
    if answer.broken_after is not None:
        reply = replace(reply, parts=reply.parts[: answer.broken_after], ending="drop")
    if answer.endless:
        last = -3 if seen.protocol == "openai" else -1
        reply = replace(reply, parts=reply.parts[:last], endless=reply.parts[last - 1])
    return replace(reply, first=answer.first, pause_s=0.001 if answer.endless else 0.0)


def written(seen: Seen, parts: Sequence[object], **how: Any) -> Reply:
    """Frames as a reply; a whole one has a single frame."""
    if not seen.streamed:
        return replies.json_reply(parts[0], **how)
    return (replies.sse if seen.protocol == "openai" else replies.ndjson)(parts, **how)


def frames(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    """The JSON objects of an answer, in order."""
    made = (_openai if seen.protocol == "openai" else _ollama)(seen, answer)
    return [{**frame, "model": answer.model or seen.model} for frame in made]


def tokens_of(text: str) -> list[str]:
    """Words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def spelled(text: str, logprob: object) -> list[dict[str, Any]]:
    """Log-probabilities that spell a text."""
    return [{"token": t, "logprob": logprob, "top_logprobs": []} for t in tokens_of(text)]


def _items(seen: Seen, answer: Answer) -> list[Any] | None:
    """The log-probabilities of a text; "True" and "False" share all of it."""
    if not seen.body.get("logprobs") or (answer.items is None and answer.p is None):
        return None
    if answer.items is not None:
        return list(answer.items)
    made = []
    for token in tokens_of(answer.text):
        top = [(token, answer.p or 0.0)]
        if token.strip() in ("True", "False"):
            top.append(("False" if token.strip() == "True" else "True", 1 - top[0][1]))
        listed = [{"token": t, "logprob": math.log(max(p, 1e-9))} for t, p in top]
        made.append({**listed[0], "top_logprobs": listed})
    return made


def _all_items(seen: Seen, answer: Answer) -> list[Any] | None:
    """Those of what was thought, then those of the text."""
    items = _items(seen, answer)
    return None if items is None else [*spelled(answer.thinking, math.log(0.5)), *items]


def _pieces(seen: Seen, answer: Answer) -> list[tuple[str, list[Any] | None]]:
    """The text in pieces, each with its tokens; what is too much goes with the last."""
    words, items = tokens_of(answer.text), _items(seen, answer)
    size = math.ceil(len(words) / MOST_PIECES)
    made: list[tuple[str, list[Any] | None]] = []
    for at in range(0, len(words), size or 1):
        last = at + size >= len(words)
        own = None if items is None else items[at:] if last else items[at : at + size]
        made.append(("".join(words[at : at + size]), own))
    return made


def _usage(seen: Seen, answer: Answer) -> tuple[Any, ...]:
    if answer.tokens is not None:
        return answer.tokens
    words = sum(len(text.split()) for text in seen.texts)
    return words, max(1, len(answer.text.split()) + 5 * len(answer.calls))


def _openai(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    counted, call_id = _usage(seen, answer), f"call_{seen.number}"
    usage: dict[str, Any] = {}
    if counted:
        usage = {"prompt_tokens": counted[0], "completion_tokens": counted[1], **answer.details}
        usage["total_tokens"] = sum(n for n in counted if isinstance(n, int))
    calls = [
        {"index": n, "id": f"{call_id}_{n}", "type": "function", "function": function}
        for n, function in enumerate(_functions(answer, as_text=True))
    ]
    finish = "tool_calls" if calls else answer.finish
    thought = {"reasoning_content": answer.thinking} if answer.thinking else {}
    more: dict[str, Any] = {"tool_calls": calls} if calls else {}
    if not seen.streamed:
        given: dict[str, Any] = {
            "usage": usage or None,
            "logprobs": _all_items(seen, answer),
            "finish": finish,
        }
        body = replies.openai_body(answer.text or None, **given, **thought, **more)
        return [{**body, "id": call_id}]
    delta = replies.openai_delta
    made = [delta(**thought)] if thought else []
    made += [delta(None, items, content=text) for text, items in _pieces(seen, answer)]
    made += [delta(**more)] if calls else []
    made += [delta(finish), *([{"choices": [], "usage": usage}] if usage else [])]
    return [{**frame, "id": call_id} for frame in made]


def _ollama(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    calls = [{"function": function} for function in _functions(answer, as_text=False)]
    more: dict[str, Any] = {"tool_calls": calls} if calls else {}
    more |= {"thinking": answer.thinking} if answer.thinking else {}
    names = ("prompt_eval_count", "eval_count")
    counts = dict(zip(names, _usage(seen, answer), strict=False))
    if counts and answer.busy_s is not None:
        half = int(answer.busy_s * 5e8)
        counts |= {"prompt_eval_duration": half, "eval_duration": half, "total_duration": 2 * half}
    counts |= answer.details if counts else {}
    end = {"done": True, "done_reason": answer.finish, **counts}
    body = replies.ollama_body
    if not seen.streamed:
        return [{**body(answer.text, logprobs=_all_items(seen, answer), **more), **end}]
    made = [body(text, logprobs=items) for text, items in _pieces(seen, answer)]
    return [*([body(**more)] if more else []), *made, {**body(), **end}]


def _functions(answer: Answer, *, as_text: bool) -> list[dict[str, Any]]:
    return [
        {"name": n, "arguments": json.dumps(a) if as_text and isinstance(a, Mapping) else a}
        for n, a in answer.calls
    ]
