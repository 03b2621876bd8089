"""A request to `/v1/responses` as one to the cascade: items become messages, options settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cascade.service.faults import ServiceError
from cascade.service.protocols.parameters import unsupported
from cascade.service.protocols.responses_wire import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    InputPart,
    InputRefusal,
    InputText,
    NamedFunction,
    ResponseRequest,
    ResponseTool,
    TextFormat,
)

_LOST = {
    "conversation": "give `previous_response_id`, or the whole conversation as `input`.",
    "prompt": "give the text as `instructions` and `input`.",
    "max_tool_calls": "tools are called by the client.",
    "n": "give it to /v1/chat/completions.",
    "messages": "give `input`.",
    "max_tokens": "give `max_output_tokens`.",
    "response_format": "give `text.format`.",
}

_SAME = ("temperature", "top_p", "parallel_tool_calls", "metadata")


def settings_of(body: ResponseRequest) -> dict[str, Any]:
    """The settings of the calls.

    Raises:
        ServiceError: 400, something cannot be obeyed.
    """
    extra = body.model_extra or {}
    for name in sorted(extra.keys() & _LOST.keys()):
        if extra[name] is not None:
            raise unsupported(name, _LOST[name])
    text = body.text
    settings: dict[str, Any] = {
        **extra,
        **{name: getattr(body, name) for name in _SAME},
        "max_tokens": body.max_output_tokens,
        "tools": [_tool(tool) for tool in body.tools or ()] or None,
        "tool_choice": _choice(body.tool_choice),
        "response_format": None if text is None else _format(text.format),
        "verbosity": None if text is None else text.verbosity,
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "logprobs": body.wants_logprobs or None,
        "top_logprobs": body.top_logprobs,
    }
    return {name: value for name, value in settings.items() if value is not None}


def messages_of(given: str | Sequence[InputItem]) -> list[dict[str, Any]]:
    """The conversation in the form of chat completions; calls in a row are one message."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for item in given:
        if isinstance(item, FunctionCallOutput):
            content = item.output if isinstance(item.output, str) else _content(item.output)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        elif isinstance(item, FunctionCall):
            _add_call(messages, item)
        elif isinstance(item, InputMessage):
            messages.append(_message(item))
    return messages


def _message(item: InputMessage) -> dict[str, Any]:
    content = item.content if isinstance(item.content, str) else _content(item.content)
    return {"role": item.role, "content": content}


def _add_call(messages: list[dict[str, Any]], item: FunctionCall) -> None:
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _content(parts: Sequence[InputPart]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, InputText) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, InputText))
    return [_part(part) for part in parts]


def _part(part: InputPart) -> dict[str, Any]:
    if isinstance(part, InputText):
        return {"type": "text", "text": part.text}
    if isinstance(part, InputRefusal):
        return {"type": "refusal", "refusal": part.refusal}
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}


def _tool(tool: ResponseTool) -> dict[str, Any]:
    function = tool.model_dump(exclude_none=True, exclude={"type"})
    return {"type": "function", "function": function}


def _choice(choice: str | NamedFunction | None) -> str | dict[str, Any] | None:
    if isinstance(choice, NamedFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(given: TextFormat | None) -> dict[str, Any] | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.schema_ is None:
        raise ServiceError(
            400, "text.format: json_schema needs a schema.", code="invalid_value", param="text"
        )
    return {
        "type": "json_schema",
        "json_schema": {"name": given.name or "answer", "schema": given.schema_},
    }
