"""What may be asked: the forms in which a question is given, and what is wrong with some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AnyMessage, HumanMessage, MessageLikeRepresentation
from langchain_core.messages.utils import convert_to_messages
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from cascade.agents import Task
from cascade.confidence import check_schema
from cascade.errors import ConfigurationError, InputError
from cascade.policies import RISKS, Risk, ToolRisks

Question = str | Sequence[MessageLikeRepresentation] | Mapping[str, Any]
"""A string, a list of messages, or `{"messages": [...]}`."""

ResponseFormat = type[BaseModel] | Mapping[str, Any]
"""A pydantic model, or a JSON schema as decoded JSON."""

RISK = "risk"
"""Key of a LangChain tool's `metadata` or `extras` that marks it `read`, `write` or
`irreversible`."""


def to_messages(question: Question) -> list[AnyMessage]:
    """The conversation that a question stands for.

    Raises:
        InputError: it is empty, or of a type that cannot be read as messages.
    """
    given: Any = question
    if isinstance(given, str):
        _check_text(given)
        return [HumanMessage(content=given)]
    if isinstance(given, bytes | bytearray):
        raise InputError(
            f"the question is {type(given).__name__}: decode it to text first, "
            "question.decode('utf-8')."
        )
    if isinstance(given, Mapping):
        if "messages" not in given:
            raise InputError(
                f"the question is a dict with {sorted(given)}: it needs the key 'messages'."
            )
        given = given["messages"]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(
            f"the question is of type {type(given).__name__}: give a string, a list of "
            "messages, or {'messages': [...]}."
        )
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
        raise InputError(f"the question is empty ({text!r}): ask something.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the question holds bytes that are not text (at character {error.start}): it was "
            "probably read from a file that is not UTF-8; open the file with its right encoding."
        ) from error


def to_task(
    tools: Sequence[Any] = (),
    response_format: ResponseFormat | None = None,
    tool_risks: ToolRisks | Mapping[str, Risk] | None = None,
) -> Task:
    """What every question has in common, from the user's tools and response format.

    Raises:
        ConfigurationError: a tool, its risk or the schema cannot be read.
    """
    schema: Mapping[str, Any] | None
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        schema = response_format.model_json_schema()
    elif response_format is None or isinstance(response_format, Mapping):
        schema = response_format
    else:
        raise ConfigurationError(
            f"response_format={response_format!r}: give a pydantic model class or a JSON schema."
        )
    if schema is not None:
        check_schema(schema)
    try:
        read = tuple(convert_to_openai_tool(tool) for tool in tools)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"a tool cannot be read: {error}") from error
    for tool in read:
        if "function" not in tool:
            raise ConfigurationError(
                f"the tool {tool.get('type')!r} is one provider's own: the models of a cascade can "
                "share tools with a name and parameters only."
            )
        function = tool["function"]
        check_schema(function.get("parameters") or {}, f"the tool {function['name']}")
    return Task(tools=read, schema=schema, risks=_risks(tools, read, tool_risks))


def marks_of(tools: Sequence[Any]) -> dict[str, Risk]:
    """The risks that LangChain tools are marked with, by their names.

    Where a tool's `metadata` and `extras` differ, the greater risk holds.

    Raises:
        ConfigurationError: a mark is no risk.
    """
    marks: dict[str, Risk] = {}
    for tool in (tool for tool in tools if isinstance(tool, BaseTool)):
        places = (tool.metadata, tool.extras)
        given = [place[RISK] for place in places if isinstance(place, Mapping) and RISK in place]
        for mark in given:
            if mark not in RISKS:
                raise ConfigurationError(
                    f"the tool {tool.name!r} is marked {RISK}={mark!r}; a tool is one of "
                    f"{', '.join(RISKS)}."
                )
        if given:
            marks[tool.name] = max(given, key=RISKS.index)
    return marks


def _risks(
    tools: Sequence[Any],
    read: Sequence[Mapping[str, Any]],
    given: ToolRisks | Mapping[str, Risk] | None,
) -> ToolRisks:
    """The risks of tools: what is said of their names, then what they are marked with.

    Raises:
        ConfigurationError: a risk is none, or of a tool that there is not.
    """
    if given is not None and not isinstance(given, ToolRisks | Mapping):
        raise ConfigurationError(
            f"tool_risks={given!r}: give names and risks, {{'delete_file': 'irreversible'}}, or "
            "ToolRisks(…)."
        )
    risks = given if isinstance(given, ToolRisks) else ToolRisks(dict(given or {}))
    names = {tool["function"]["name"] for tool in read}
    unknown = sorted(risks.tools.keys() - names)
    if names and unknown:
        raise ConfigurationError(
            f"tool_risks: there is no tool {unknown[0]!r}; there are: {', '.join(sorted(names))}."
        )
    return risks.besides(marks_of(tools))
