"""What a capable model answers: it calls the tools it is given, keeps to schemas, stops in time."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.acceptance.upstream import Answer, Seen

Schema = Mapping[str, Any]


def obliging(*, unsure: bool = False) -> Callable[[Seen], Answer]:
    """A model for `upstream.says`; an `unsure` one doubts every second of its answers."""
    number = itertools.count()

    def say(seen: Seen) -> Answer:
        p = 0.4 if unsure and next(number) % 2 == 0 else 0.97
        if seen.is_check:
            return Answer("True" if p > 0.5 else "False", p=p)
        called = _call(seen)
        if called is not None:
            return Answer("", p=p, calls=(called,))
        text = _text(seen)
        for stop in seen.body.get("stop") or ():
            text = text.partition(stop)[0]
        details = {"prompt_tokens_details": {"cached_tokens": 1}}
        return Answer(text, p=p, details=details)

    return say


def _call(seen: Seen) -> tuple[str, Mapping[str, Any]] | None:
    """The tool that it calls: the one it must, or any for a fresh question."""
    tools = {tool["function"]["name"]: tool["function"] for tool in seen.body.get("tools") or ()}
    choice = seen.body.get("tool_choice", "auto")
    asked = seen.body["messages"][-1]["role"] == "user"
    if not tools or choice == "none" or (choice == "auto" and not asked):
        return None
    name = choice["function"]["name"] if isinstance(choice, Mapping) else next(iter(tools))
    return name, made(tools[name].get("parameters") or {}, _facts(seen.last))


def _text(seen: Seen) -> str:
    form = seen.body.get("response_format") or {"type": "text"}
    if form["type"] == "text":
        return "Hello there, how can I help you today?"
    schema = form.get("json_schema", {}).get("schema") or {"type": "object"}
    if not schema.get("properties"):  # any object: its keys stand in the question
        return json.dumps(dict.fromkeys(re.findall(r"'(\w+)'", seen.last), "a cat"))
    return json.dumps(made(schema, _facts(seen.last)))


def _facts(question: str) -> Iterator[str]:
    """What stands in quotes, then the numbers."""
    return iter([*re.findall(r"'([^']+)'", question), *re.findall(r"\d+", question)])


def made(schema: Schema, facts: Iterator[str]) -> Any:
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
