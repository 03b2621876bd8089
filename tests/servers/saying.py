"""An answer that a server gives, apart from its protocol, and how it is written in each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from tests.servers import replies

Protocol = Literal["openai", "ollama"]
Form = Literal["plain", "stream"]
PIECES = 3
"""Into so many pieces an answer is cut where it is streamed."""


@dataclass(frozen=True)
class Asked:
    """One call as the server saw it.

    `number` counts the calls of this server from 1; `topic` is the first thing that the user said;
    `elsewhere` is the address of another server.
    """

    number: int
    protocol: Protocol
    form: Form
    model: str
    topic: str
    elsewhere: str

    @classmethod
    def of(cls, number: int, protocol: Protocol, body: Mapping[str, Any], elsewhere: str) -> Asked:
        # Ollama streams unless it is told not to.
        streamed = body.get("stream", protocol == "ollama")
        topic = next(str(m["content"]) for m in body["messages"] if m["role"] == "user")
        form: Form = "stream" if streamed else "plain"
        return cls(number, protocol, form, str(body.get("model")), topic, elsewhere)


@dataclass(frozen=True)
class Said:
    """What is answered. Whatever a fault may spoil may be anything at all.

    `items` are the log-probabilities, one object for each token; None for none. `usage` False
    leaves the counts out. `arguments` makes it a call of the tool `weather`. `details` stand beside
    the counts.
    """

    text: str = "Canberra is the capital."
    items: tuple[object, ...] | None = None
    input_tokens: object = 10
    output_tokens: object = 5
    usage: bool = True
    model: str | None = None
    finish: str | None = "stop"
    arguments: object = None
    details: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, *, logprob: object = -0.02, **rest: Any) -> Said:
        """A text, every token of which is as likely as said."""
        return cls(text, spelled(text, logprob), **rest)

    @property
    def pieces(self) -> list[tuple[str, list[object] | None]]:
        """Its text in pieces, each with its tokens; what is too much goes with the last."""
        tokens = tokens_of(self.text)
        n = max(1, min(PIECES, len(tokens)))
        cuts = [len(tokens) * piece // n for piece in range(n + 1)]
        spans = [slice(*ends) for ends in pairwise(cuts)]
        texts = ["".join(tokens[span]) for span in spans]
        if self.items is None:
            return [(text, None) for text in texts]
        items = [list(self.items[span]) for span in spans]
        items[-1] += self.items[cuts[-1] :]
        return list(zip(texts, items, strict=True))


def tokens_of(text: str) -> list[str]:
    """Words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def spelled(text: str, logprob: object) -> tuple[object, ...]:
    """Log-probabilities that spell a text."""
    return tuple(
        {"token": token, "logprob": logprob, "top_logprobs": []} for token in tokens_of(text)
    )


def reply(asked: Asked, said: Said) -> replies.Reply:
    """The answer as a whole reply or a stream, in the protocol of the call."""
    return written(asked, frames(asked, said))


def written(asked: Asked, parts: Sequence[object], **how: Any) -> replies.Reply:
    """Frames as a reply; a plain one has a single frame."""
    if asked.form == "plain":
        return replies.json_reply(parts[0], **how)
    write = replies.sse if asked.protocol == "openai" else replies.ndjson
    return write(parts, **how)


def frames(asked: Asked, said: Said) -> list[dict[str, Any]]:
    """The JSON objects of the answer, in order."""
    make = _openai if asked.protocol == "openai" else _ollama
    named = {"model": said.model or asked.model}
    if asked.protocol == "openai":
        named["id"] = f"call-{asked.number}"
    return [{**frame, **named} for frame in make(asked.form, said)]


def _openai(form: Form, said: Said) -> list[dict[str, Any]]:
    usage: dict[str, object] = {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens,
    }
    usage |= said.details
    calls: dict[str, Any] = {}
    finish = said.finish
    if said.arguments is not None:
        function = {"name": "weather", "arguments": said.arguments}
        calls = {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": function}]}
        finish = "tool_calls"
    if form == "plain":
        items = None if said.items is None else list(said.items)
        counted = usage if said.usage else None
        return [
            replies.openai_body(said.text, usage=counted, logprobs=items, finish=finish, **calls)
        ]
    deltas = [replies.openai_delta(content=text, logprobs=items) for text, items in said.pieces]
    if calls:
        deltas.append(replies.openai_delta(**calls))
    end = [{"choices": [], "usage": usage}] if said.usage else []
    return [
        replies.openai_delta(role="assistant", content=""),
        *deltas,
        replies.openai_delta(finish),
        *end,
    ]


def _ollama(form: Form, said: Said) -> list[dict[str, Any]]:
    counts = {"prompt_eval_count": said.input_tokens, "eval_count": said.output_tokens}
    calls: dict[str, Any] = {}
    if said.arguments is not None:
        calls = {"tool_calls": [{"function": {"name": "weather", "arguments": said.arguments}}]}
    text = said.text if form == "plain" else ""
    tokens = {"logprobs": list(said.items)} if form == "plain" and said.items is not None else {}
    end = {
        **replies.ollama_body(text, done_reason=said.finish, **calls),
        **counts,
        **said.details,
        **tokens,
    }
    if not said.usage:
        end = {name: value for name, value in end.items() if name not in counts}
    if form == "plain":
        return [end]
    pieces = (
        replies.ollama_body(piece, done=False, **({} if items is None else {"logprobs": items}))
        for piece, items in said.pieces
    )
    return [*pieces, end]


def raw(headers: Mapping[str, str], body: bytes, **how: Any) -> replies.Reply:
    """A reply whose headers are what they are, true or not."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()
    return replies.Reply((head, body), raw=True, **how)


def whole(given: replies.Reply) -> bytes:
    """The body of a reply in one piece."""
    return b"".join(given.parts)
