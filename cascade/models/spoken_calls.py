"""Tool calls that a model writes as text, and tools that it is told of as text.

Small models often leave out the marks by which a server finds their tool calls, and many chat
templates have no place for tools at all: llama.cpp then drops the tools, the calls and a forced
tool choice without a word. What is here makes such a model one that can call tools.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from cascade.models.base import JsonSchema

Tools = Sequence[Mapping[str, Any]]
"""Tools in OpenAI format."""

_BETWEEN = re.compile(r"(?:\s|,|</?tool_call>|```(?:json)?)*")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    read = float(number)
    return read if math.isfinite(read) else _refuse(number)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_OPENINGS = ("{", "[", "<tool_call>", "```")
_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def read_calls(text: str, tools: Tools) -> tuple[ToolCall, ...]:
    """The tool calls that a text consists of; none where it holds anything else as well.

    A call is a JSON object with the `name` of one of the tools and its `arguments` (Llama:
    `parameters`), bare, in a list, in a code block or between `<tool_call>` marks.
    """
    found, place = list[ToolCall](), _skip(text, 0)
    names = {tool["function"]["name"] for tool in tools}
    while place < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return ()
        for item in value if isinstance(value, list) else [value]:
            call = _read_call(item, names)
            if call is None:
                return ()
            found.append(call)
        place = _skip(text, place)
    return tuple(found)


def _skip(text: str, place: int) -> int:
    between = _BETWEEN.match(text, place)
    return between.end() if between else place


def _read_call(item: object, names: set[str]) -> ToolCall | None:
    if not isinstance(item, Mapping) or str(item.get("name")) not in names:
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if not isinstance(arguments, Mapping):
        return None
    call_id = f"call_{uuid4().hex}"
    return ToolCall(name=item["name"], args=dict(arguments), id=call_id, type="tool_call")


class Holding:
    """Holds a streamed text back as long as it may turn out to be a tool call."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def add(self, piece: str) -> str:
        """Take a piece in, and return what can be shown by now."""
        begun = (self._held + piece).lstrip()
        self._is_text = self._is_text or not any(
            begun.startswith(opening) or opening.startswith(begun) for opening in _OPENINGS
        )
        self._held += piece
        return self.release() if self._is_text else ""

    def release(self) -> str:
        """What was held back until now."""
        held, self._held = self._held, ""
        return held


def told(messages: Sequence[BaseMessage], tools: Tools) -> tuple[BaseMessage, ...]:
    """The conversation for a template without tools: tools, calls and their results as text."""
    worded: list[BaseMessage] = []
    results: list[str] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            results.append(f"<tool_response>\n{message.text}\n</tool_response>")
            continue
        worded += _turn(results)
        results = []
        if isinstance(message, AIMessage) and message.tool_calls:
            worded.append(AIMessage(_written(message)))
        else:
            worded.append(message)
    return _introduced((*worded, *_turn(results)), tools)


def _turn(results: Sequence[str]) -> list[BaseMessage]:
    """Results of one step as one turn: some templates want the roles to alternate."""
    return [HumanMessage("\n".join(results))] if results else []


def _written(message: AIMessage) -> str:
    calls = (
        f"<tool_call>\n{_json({'name': call['name'], 'arguments': call['args']})}\n</tool_call>"
        for call in message.tool_calls
    )
    return "\n".join([*([message.text] if message.text.strip() else []), *calls])


def _introduced(messages: tuple[BaseMessage, ...], tools: Tools) -> tuple[BaseMessage, ...]:
    if not tools:
        return messages
    text = _INTRODUCTION.format(tools="\n".join(_json(tool) for tool in tools))
    if messages and isinstance(messages[0], SystemMessage):
        return (SystemMessage(f"{messages[0].text}\n\n{text}"), *messages[1:])
    return (SystemMessage(text), *messages)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_schema(tools: Tools, choice: str) -> JsonSchema | None:
    """The schema of a call that is forced, for servers that hold text to a schema.

    None where the tools' own definitions of the same name differ, or the tool does not exist.

    Args:
        tools: what may be called.
        choice: `required`, or the name of the tool that has to be called.
    """
    forms: list[JsonSchema] = []
    shared: dict[str, Any] = {}
    for tool in tools:
        function = tool["function"]
        if choice not in ("required", function["name"]):
            continue
        given: Mapping[str, Any] = function.get("parameters") or {"type": "object"}
        arguments = dict(given)
        for name, definition in arguments.pop("$defs", {}).items():
            if shared.setdefault(name, definition) != definition:
                return None
        properties = {"name": {"const": function["name"]}, "arguments": arguments}
        forms.append({"type": "object", "properties": properties, "required": list(properties)})
    if not forms:
        return None
    return {"anyOf": forms, **({"$defs": shared} if shared else {})}
