"""Questions: the forms in which one is given, and what it is asked with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.messages.utils import convert_to_messages
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict  # also for those of typing_extensions

from cascade.errors import ConfigurationError, InputError
from cascade.run import Settings, read_settings

Question = str | Sequence[Any] | Mapping[str, Any]
"""A string, a list of messages, or `{"messages": [...]}`."""

ResponseFormat: TypeAlias = type[Any] | Mapping[str, Any]
"""A pydantic model, a TypedDict, a dataclass, or a JSON schema as decoded JSON."""

RISK = "risk"
"""Key of a LangChain tool's `metadata` or `extras`: `read`, `write` or `irreversible`."""


def to_messages(question: Question) -> list[AnyMessage]:
    """The conversation that a question stands for."""
    given: Any = question
    if isinstance(given, str):
        _check_text(given)
        return [HumanMessage(content=given)]
    if isinstance(given, Mapping):
        if "messages" not in given:
            raise InputError(f"the question is a dict with {sorted(given)}: it needs 'messages'.")
        given = given["messages"]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
        told = f"the question is of type {type(given).__name__}: give a string (decode bytes)"
        raise InputError(f"{told}, a list of messages, or {{'messages': [...]}}.")
    try:
        messages = cast("list[AnyMessage]", convert_to_messages(given))
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        raise InputError(f"the messages cannot be read: {error}") from error
    if not messages:
        raise InputError("the list of messages is empty: ask something.")
    if messages[-1].type == "human" and isinstance(messages[-1].content, str):
        _check_text(messages[-1].content)
    # LangGraph gives messages an id; those of the caller's stay as they are.
    return [message if message.id else message.model_copy() for message in messages]


def _check_text(text: str) -> None:
    if not text.strip():
        raise InputError("the question is empty: ask something.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the question is no valid text: {error}") from error


def to_settings(
    *,
    tools: Sequence[Any] | None = None,
    response_format: ResponseFormat | None = None,
    **given: Any,
) -> Settings:
    """Settings of a question, as JSON. Tools are LangChain's, functions, pydantic models, or dicts
    in OpenAI format; `given` are other keys of `Settings`."""
    settings: Settings = {**given}  # type: ignore[typeddict-item]
    if response_format is not None:
        settings["schema"] = to_schema(response_format)
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable | None):
        raise ConfigurationError(f"tools={tools!r}: give a list of tools.")
    if tools is not None:
        settings["tools"] = [_to_tool(tool) for tool in tools]
    if offered := settings.get("tools"):
        from cascade.confidence.schemas import check_tools  # noqa: PLC0415 - seldom

        check_tools(offered)
    return read_settings(settings)


def to_schema(response_format: ResponseFormat) -> dict[str, Any]:
    """The JSON schema that a response format stands for."""
    from cascade.confidence.schemas import check_schema  # noqa: PLC0415 - seldom

    form: Any = response_format
    if isinstance(form, Mapping):
        schema = dict(form)
    elif isinstance(form, type) and (
        issubclass(form, BaseModel) or dataclasses.is_dataclass(form) or is_typeddict(form)
    ):
        try:
            schema = TypeAdapter(form).json_schema()
        except PydanticUserError as error:  # it has no schema, as typing's TypedDict before 3.12
            raise ConfigurationError(f"response_format={response_format!r}: {error}") from error
    else:
        told = "give a pydantic model class, a TypedDict, a dataclass or a JSON schema"
        raise ConfigurationError(f"response_format={response_format!r}: {told}.")
    check_schema(schema)
    return schema


def parse(answer: str, response_format: ResponseFormat | None) -> Any:
    """The answer by its format; None where it does not keep to it."""
    if response_format is None or not answer:
        return None
    # A schema may also mean a list or a number.
    form: Any = Any if isinstance(response_format, Mapping) else response_format
    try:
        return TypeAdapter(form).validate_json(answer)
    except ValidationError:
        return None


def _to_tool(tool: Any) -> dict[str, Any]:
    from langchain_core.utils.function_calling import convert_to_openai_tool  # noqa: PLC0415

    try:
        read = convert_to_openai_tool(tool)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"a tool cannot be read: {error}") from error
    if "function" not in read:
        told = f"the tool {read.get('type')!r} is one provider's own"
        raise ConfigurationError(f"{told}: models share tools with a name and parameters only.")
    places = (getattr(tool, "metadata", None), getattr(tool, "extras", None))
    marks = [place[RISK] for place in places if isinstance(place, Mapping) and RISK in place]
    return {**read, "metadata": {RISK: marks}} if marks else read
