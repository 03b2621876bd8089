"""Facts that rule a draft out whatever its confidence: empty, not the JSON that was asked for.

They cost nothing, and unlike a score they are certain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import validator_for
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from cascade.errors import ConfigurationError
from cascade.state import Completion


def check_schema(schema: Mapping[str, Any], what: str = "response_format") -> None:
    """Raise `ConfigurationError` when `schema` is not a JSON schema that stands for itself."""
    try:
        validator_for(schema).check_schema(dict(schema))
    except SchemaError as error:
        raise ConfigurationError(f"{what} has no valid JSON schema: {error.message}") from error
    resolver = EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(dict(schema)))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ConfigurationError(
                f"{what} has no valid JSON schema: $ref {reference!r} leads nowhere in it."
            ) from error
    try:
        _schema_problem(what, None, schema)
    except RecursionError:
        raise ConfigurationError(f"{what} has no valid JSON schema: it refers to itself.") from None


def _references(schema: object) -> Iterator[str]:
    """The references in a schema; what stands in data is none."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference
        for name, part in schema.items():
            if name not in ("const", "default", "enum", "examples"):
                yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


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
    # With a registry of its own it never goes to an address that a schema names.
    error = best_match(validator_for(schema)(schema, registry=EMPTY_REGISTRY).iter_errors(value))
    if error is None:
        return None
    return f"{what} does not match its schema at {error.json_path}: {error.message}"
