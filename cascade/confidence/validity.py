"""Facts that rule a draft out whatever its confidence: empty, not the JSON that was asked for.

They cost nothing, and unlike a score they are certain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.state import Completion


def check_schema(schema: Mapping[str, Any], what: str = "response_format") -> None:
    """Raise `ConfigurationError` when `schema` is not a JSON schema that stands for itself."""
    from cascade.confidence import schemas  # noqa: PLC0415 - its import takes longer than all here

    schemas.check(schema, what)


def objection(
    completion: Completion,
    *,
    schema: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    tool_choice: str | None = None,
) -> str | None:
    """Why this answer cannot be used, or None when nothing speaks against it.

    Args:
        completion: the answer.
        schema: JSON schema that the text must satisfy.
        tools: tools in OpenAI format; a call must name one and satisfy its parameters.
        tool_choice: `required` or a tool's name where the answer has to call it, `none` where
            it must call nothing.
    """
    unwanted = _choice_problem([call["name"] for call in completion.tool_calls], tool_choice)
    if unwanted is not None:
        return unwanted
    for call in completion.tool_calls:
        problem = _call_problem(call["name"], call["args"], tools)
        if problem is not None:
            return problem
    if completion.tool_calls:
        return None
    if not completion.text.strip():
        return "the answer is empty"
    return None if schema is None else _text_problem(completion.text, schema)


def repetition(messages: Sequence[BaseMessage], completion: Completion) -> str | None:
    """Why a step of an agent leads nowhere: all its calls were made in the step before it.

    Log-probs do not tell: a small model is the surer of a call, the more often it stands in the
    conversation. Whether the tool would answer otherwise this time, the next model may judge.

    Args:
        messages: the conversation; calls count whose results are its last messages.
        completion: the step.
    """
    asked = next((m for m in reversed(messages) if not isinstance(m, ToolMessage)), None)
    if not completion.tool_calls or not isinstance(asked, AIMessage) or asked is messages[-1]:
        return None
    made = [(call["name"], call["args"]) for call in asked.tool_calls]
    if any((call["name"], call["args"]) not in made for call in completion.tool_calls):
        return None
    names = ", ".join(completion.called)
    return f"the answer repeats the call of the step before it: {names}"


def _choice_problem(called: Sequence[str], choice: str | None) -> str | None:
    if choice is None or choice == "auto":
        return None
    if choice == "none":
        return f"the answer calls {called[0]}, though it must call no tool" if called else None
    if not called:
        wanted = "a tool" if choice == "required" else f"the tool {choice}"
        return f"the answer does not call {wanted}, though it has to"
    if choice not in ("required", *called):
        return f"the answer calls {called[0]}, though it has to call {choice}"
    return None


def _text_problem(text: str, schema: Mapping[str, Any]) -> str | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"the answer is not JSON: {error}"
    return _schema_problem("the answer", value, schema)


def _call_problem(name: str, args: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    if name not in functions:
        return f"the answer calls a tool that does not exist: {name}"
    return _schema_problem(f"the call of {name}", args, functions[name].get("parameters") or {})


def _schema_problem(what: str, value: Any, schema: Mapping[str, Any]) -> str | None:
    from cascade.confidence import schemas  # noqa: PLC0415 - only where there is a schema

    return schemas.problem(what, value, schema)
