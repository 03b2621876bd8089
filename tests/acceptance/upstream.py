"""A real HTTP server that plays models: OpenAI chat completions and Ollama, scripted by a test.

    with Upstream() as upstream:
        upstream.says("small", "Sydney", p=0.3)                 # whenever it is asked
        upstream.next("large", failure(503), "Canberra")        # once each, in this order
        cascade = Cascade(upstream.tier("small"), upstream.tier("large"))

Its log is the witness of what was asked and paid. A model that nothing is said about answers
`<model>: <question>`, and is sure of it. It knows nothing of the project.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from aiohttp import web


class Held:
    """Answers that wait until the test lets them go."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def release(self) -> None:
        self.released.set()


@dataclass(frozen=True)
class Answer:
    """What a model says to one request.

    Attributes:
        p: probability of each of its tokens (its words); None for no log-probabilities.
        calls: tool calls, as (name, arguments).
        tokens: (input, output) as its usage says; None counts words, () says nothing of usage.
        details: further usage, such as `{"prompt_tokens_details": {"cached_tokens": 4}}`.
        thinking: what it thought first, in a field of its own; its tokens count, and have
            log-probabilities of their own (0.5 each).
        busy_s: seconds in which Ollama says that it computed; None where it says nothing of it.
        raw: the whole body instead, as it is.
        status: of HTTP; from 400 on `text` is the message of the error.
        held: keeps it back until released; of a stream, all but its first `first` pieces.
        first: pieces of a stream that come at once.
        broken_after: pieces of a stream after which the connection breaks (0 for none at all).
        endless: a stream goes on with its last piece until the client leaves.
    """

    text: str = ""
    p: float | None = 0.95
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    tokens: tuple[int, int] | tuple[()] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    finish: str = "stop"
    thinking: str = ""
    busy_s: float | None = 0.002
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
    """One request as the server saw it; `left` is set once the client went before its end.

    `usage` holds the tokens (input, output) that its answer said, if it said any.
    """

    number: int
    protocol: str
    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    usage: tuple[int, int] | None = None
    left: threading.Event = field(default_factory=threading.Event)

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


Say = str | Answer | Callable[[Seen], "str | Answer"]


class Upstream:
    """The server, in a thread of its own, so that any loop, thread or process may call it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._always: dict[str, Say] = {}
        self._next: dict[str, deque[Say]] = {}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = self._run(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/api/chat", self._ollama)
        app.router.add_post("/api/show", self._show)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/version", self._version)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.openai_url = f"{self.url}/v1"
        return runner

    # --- what a test says and asks

    def tier(self, model: str, *, provider: str = "openai", **options: Any) -> Any:
        """A tier of the cascade that speaks to this server."""
        from cascade import Tier  # noqa: PLC0415 - the server itself is no part of the project

        if provider == "ollama":
            return Tier(f"ollama:{model}", base_url=self.url, **options)
        key = options.pop("api_key", "a-key")
        return Tier(f"{provider}:{model}", base_url=self.openai_url, api_key=key, **options)

    def says(self, model: str, say: Say, **how: Any) -> None:
        """What a model answers from now on."""
        self._always[model] = Answer(say, **how) if isinstance(say, str) else say

    def echoes(self, model: str, p: float | None) -> None:
        """A model answers `<model>: <question>`, with this probability of its tokens."""
        self.says(model, lambda seen: replace(_echo(seen), p=p))

    def next(self, model: str, *says: Say) -> None:
        """What a model answers to its next requests, one after the other."""
        self._next.setdefault(model, deque()).extend(says)

    def asked(self, model: str | None = None) -> list[Seen]:
        """The requests to a model, or all of them."""
        return [seen for seen in list(self.seen) if model in (None, seen.model)]

    def models(self) -> list[str]:
        """The model of each request, in order."""
        return [seen.model for seen in list(self.seen)]

    def wait_for(self, n: int = 1, model: str | None = None, *, within_s: float = 60) -> Seen:
        """Wait until a model was asked so often; the last of these requests."""
        end = time.monotonic() + within_s
        with self._changed:
            while len(self.asked(model)) < n:
                if not self._changed.wait(end - time.monotonic()):
                    raise AssertionError(f"{self.models()}: no {n} requests to {model or 'any'}")
            return self.asked(model)[n - 1]

    async def has_asked(self, n: int = 1, model: str | None = None) -> Seen:
        """`wait_for` in an event loop."""
        return await asyncio.to_thread(self.wait_for, n, model)

    # --- HTTP

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "openai", _openai_frames, _sse)

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "ollama", _ollama_frames, _ndjson)

    async def _show(self, request: web.Request) -> web.Response:
        await request.read()
        return await _done({"capabilities": ["completion", "tools"]})

    async def _version(self, request: web.Request) -> web.Response:
        return await _done({"version": "0.30.0"})

    async def _tags(self, request: web.Request) -> web.Response:
        names = {*self._always, *self._next, "small", "large"}
        listed = [{"model": name, "name": name, "digest": f"sha256:{name}"} for name in names]
        return await _done({"models": listed})

    async def _answer(
        self, request: web.Request, protocol: str, frames: Any, write: Any
    ) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not body["messages"]:  # Ollama is asked to load the model
            return await _done({"message": {"content": ""}, "done": True, "done_reason": "load"})
        with self._changed:
            seen = Seen(len(self.seen), protocol, str(body["model"]), body, headers)
            self.seen.append(seen)
            waiting = self._next.get(seen.model)
            say = waiting.popleft() if waiting else self._always.get(seen.model, _echo)
            self._changed.notify_all()
        said = say(seen) if callable(say) else say
        answer = Answer(said) if isinstance(said, str) else said
        seen.usage = _usage(seen, answer) if answer.status < 400 else None
        try:
            response = await _send(request, seen, answer, frames, write)
        except (asyncio.CancelledError, ConnectionResetError):
            seen.left.set()
            raise
        return response


def _echo(seen: Seen) -> Answer:
    return Answer("True" if seen.is_check else f"{seen.model}: {seen.last}")


async def _done(body: object, **how: Any) -> web.Response:
    return web.json_response(body, **how)


async def _until(held: Held | None) -> None:
    while held is not None and not held.released.is_set():  # noqa: ASYNC110 - another thread's
        await asyncio.sleep(0.002)


async def _send(
    request: web.Request, seen: Seen, answer: Answer, frames: Any, write: Any
) -> web.StreamResponse:
    if answer.delay_s:
        await asyncio.sleep(answer.delay_s)
    if not (seen.streamed and answer.first):
        await _until(answer.held)
    if answer.status >= 400:
        error: object = answer.text if seen.protocol == "ollama" else {"message": answer.text}
        return await _done({"error": error}, status=answer.status, headers=dict(answer.headers))
    if answer.broken_after == 0:
        return _break(request)
    if answer.raw is not None:
        return web.Response(text=answer.raw, content_type="application/json")
    parts = frames(seen, answer)
    if not seen.streamed:
        return await _done(parts[0]) if answer.broken_after is None else _break(request)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number, part in enumerate(parts):
        if answer.first and number == answer.first:
            await _until(answer.held)
        if number == answer.broken_after:
            return _break(request)
        await response.write(write(part))
        while answer.endless and number == len(parts) - 3:
            await asyncio.sleep(0.001)
            await response.write(write(part))
    await response.write(write(None))
    with suppress(ConnectionResetError):
        await response.write_eof()
    return response


def _break(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _sse(part: object) -> bytes:
    return b"data: [DONE]\n\n" if part is None else f"data: {json.dumps(part)}\n\n".encode()


def _ndjson(part: object) -> bytes:
    return b"" if part is None else json.dumps(part).encode() + b"\n"


# --- the two protocols


def _spelled(answer: Answer) -> list[dict[str, Any]]:
    """The tokens of an answer with their log-probabilities; "True" and "False" share all of it."""
    if answer.p is None:
        return []
    thought = re.findall(r"\s*\S+|\s+$", answer.thinking)
    spelled = [{"token": t, "logprob": math.log(0.5), "top_logprobs": []} for t in thought]
    for token in re.findall(r"\s*\S+|\s+$", answer.text):
        top = [(token, answer.p)]
        if token.strip() in ("True", "False"):
            top.append(("False" if token.strip() == "True" else "True", 1 - answer.p))
        listed = [{"token": t, "logprob": math.log(max(p, 1e-9))} for t, p in top]
        spelled.append({**listed[0], "top_logprobs": listed})
    return spelled


def _usage(seen: Seen, answer: Answer) -> tuple[int, int] | None:
    if answer.tokens is None:
        words = sum(len(text.split()) for text in seen.texts)
        return words, max(1, len(answer.text.split()) + 5 * len(answer.calls))
    return answer.tokens or None


def _openai_frames(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    base = {"id": f"call-{seen.number}", "model": seen.model, "object": "chat.completion"}
    functions = [{"name": name, "arguments": json.dumps(args)} for name, args in answer.calls]
    calls = [
        {"index": n, "id": f"call_{seen.number}_{n}", "type": "function", "function": function}
        for n, function in enumerate(functions)
    ]
    finish = "tool_calls" if calls else answer.finish
    counted = _usage(seen, answer)
    usage: dict[str, Any] | None = None
    if counted is not None:
        usage = {"prompt_tokens": counted[0], "completion_tokens": counted[1]}
        usage |= {"total_tokens": sum(counted), **answer.details}
    asked = bool(seen.body.get("logprobs"))
    tokens = _spelled(answer) if asked else []
    if not seen.streamed:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": message}
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        if calls:
            message["tool_calls"] = calls
        choice["logprobs"] = {"content": tokens} if tokens else None
        return [{**base, "choices": [choice], **({} if usage is None else {"usage": usage})}]

    def piece(end: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": end}
        given |= {} if logprobs is None else {"logprobs": {"content": logprobs}}
        return {**base, "object": "chat.completion.chunk", "choices": [given]}

    said = _spelled(answer) or [{"token": t} for t in re.findall(r"\s*\S+|\s+$", answer.text)]
    pieces = [piece(content=t["token"], logprobs=[t] if tokens else None) for t in said]
    if calls:
        pieces.append(piece(tool_calls=calls))
    last = [{**base, "choices": [], "usage": usage}] if usage is not None else []
    return [*pieces, piece(finish), *last]


def _ollama_frames(seen: Seen, answer: Answer) -> list[dict[str, Any]]:
    base = {"model": seen.model, "created_at": "2026-01-01T00:00:00Z", "done": False}
    calls = [{"function": {"name": name, "arguments": args}} for name, args in answer.calls]
    extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
    extra |= {"thinking": answer.thinking} if answer.thinking else {}
    counted = _usage(seen, answer)
    end: dict[str, Any] = {"done": True, "done_reason": answer.finish}
    if counted is not None:
        end |= {"prompt_eval_count": counted[0], "eval_count": counted[1]}
    if counted is not None and answer.busy_s is not None:
        half = int(answer.busy_s * 5e8)
        end |= {"prompt_eval_duration": half, "eval_duration": half, "total_duration": 2 * half}
    tokens = _spelled(answer) if seen.body.get("logprobs") else []

    def message(text: str, **rest: Any) -> dict[str, Any]:
        return {**base, "message": {"role": "assistant", "content": text, **rest}}

    if not seen.streamed:
        whole = {**message(answer.text, **extra), **end}
        return [{**whole, "logprobs": tokens} if tokens else whole]
    said = _spelled(replace(answer, p=answer.p or 0.5))
    pieces = [{**message(t["token"]), **({"logprobs": [t]} if tokens else {})} for t in said]
    return [*pieces, *([message("", **extra)] if calls else []), {**message(""), **end}]
