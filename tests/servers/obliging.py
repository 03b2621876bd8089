"""A server that answers as a capable model would: it calls the tools that it is given, keeps to
the schema that it is given, stops where it is told to, and says how sure it is of each token.

The model named `small` is unsure of every second answer, so that a cascade takes both ways.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cascade.confidence.checks import QUESTION
from tests.servers import replies
from tests.servers.fake import FakeServer

SURE, UNSURE = math.log(0.97), math.log(0.4)
Json = Mapping[str, Any]


class ObligingServer(FakeServer):
    """Answers every chat completion that it has no script for."""

    def __init__(self) -> None:
        super().__init__()
        self._drafts = 0

    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, self.oblige)

    def oblige(self, body: Json) -> replies.Reply:
        """The reply to a request."""
        if str(body["messages"][-1]["content"]).startswith(QUESTION):
            return self._say(body, "True" if self._sure(body) else "False")
        if call := _call(body):
            return self._use(body, *call)
        text = _text(body)
        for stop in body.get("stop") or ():
            text = text.partition(stop)[0]
        return self._say(body, text)

    def _sure(self, body: Json) -> bool:
        if body["model"] != "small":
            return True
        self._drafts += 1
        return self._drafts % 2 == 0

    def _say(self, body: Json, text: str) -> replies.Reply:
        logprob = SURE if self._sure(body) else UNSURE
        tokens = re.findall(r"\s*\S+|\s+$", text)
        given = [{"token": t, "logprob": logprob, "top_logprobs": []} for t in tokens]
        usage = _usage(body, len(tokens))
        if not body.get("stream"):
            logprobs = given if body.get("logprobs") else None
            return replies.json_reply(
                {
                    **replies.openai_body(text, usage=usage, logprobs=logprobs),
                    "model": body["model"],
                }
            )
        chunks = [replies.openai_delta(content=token) for token in tokens]
        return _stream(body, [*chunks, replies.openai_delta("stop")], usage)

    def _use(self, body: Json, name: str, arguments: Json) -> replies.Reply:
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        usage = _usage(body, 9)
        if not body.get("stream"):
            answer = replies.openai_body(None, usage=usage, finish="tool_calls", tool_calls=[call])
            return replies.json_reply({**answer, "model": body["model"]})
        chunks = [replies.openai_delta(tool_calls=[call]), replies.openai_delta("tool_calls")]
        return _stream(body, chunks, usage)


def _stream(body: Json, chunks: list[dict[str, Any]], usage: Json) -> replies.Reply:
    named = [{**chunk, "model": body["model"]} for chunk in chunks]
    return replies.sse([*named, {"choices": [], "usage": usage}])


def _usage(body: Json, tokens_out: int) -> dict[str, Any]:
    words = sum(len(str(message.get("content")).split()) for message in body["messages"])
    return {
        "prompt_tokens": words,
        "completion_tokens": tokens_out,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _question(body: Json) -> str:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(block.get("text", "") for block in content)


def _call(body: Json) -> tuple[str, dict[str, Any]] | None:
    """The tool that a capable model would call now: a forced one, or any for a fresh question."""
    tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if choice == "auto" and body["messages"][-1]["role"] != "user":
        return None
    name = choice["function"]["name"] if isinstance(choice, Mapping) else next(iter(tools))
    return name, made(tools[name].get("parameters") or {}, iter(_facts(_question(body))))


def _text(body: Json) -> str:
    wanted = (body.get("response_format") or {"type": "text"})["type"]
    facts = iter(_facts(_question(body)))
    if wanted == "json_schema":
        schema = body["response_format"]["json_schema"]["schema"]
        if schema == {"type": "object"}:  # any object: its keys stand in the question
            return json.dumps(dict.fromkeys(re.findall(r"'(\w+)'", _question(body)), "a cat"))
        return json.dumps(made(schema, facts))
    return "Hello there, how can I help you today?"


def _facts(question: str) -> list[str]:
    """What stands in quotes, numbers, and then what could be meant by any text."""
    return [*re.findall(r"'([^']+)'", question), *re.findall(r"\d+", question)]


def made(schema: Json, facts: Iterator[str]) -> Any:
    """A value that satisfies a schema, of the facts of a question."""
    if "anyOf" in schema:
        return made(schema["anyOf"][0], facts)
    match schema.get("type"):
        case "object":
            return {name: made(part, facts) for name, part in schema["properties"].items()}
        case "integer" | "number":
            return int(next((fact for fact in facts if fact.isdecimal()), "1"))
        case _:
            return next(facts, "San Francisco")
