"""Structured output of a chat model: how it is asked for, and how it is read."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal, TypeGuard

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from cascade.errors import ConfigurationError

Method = Literal["json_schema", "function_calling", "json_mode"]
"""How a structured output is asked for."""

Parser = Runnable[Any, Any]


def response_format(method: Method, schema: Any, *, strict: bool | None) -> dict[str, Any]:
    """What the text of the answer is held to, in OpenAI's form.

    Raises:
        ConfigurationError: the schema cannot be read.
    """
    if method == "json_mode":
        return {"type": "json_object"}
    read = _schema_of(schema, strict=strict)
    return {"type": "json_schema", "json_schema": {"name": read["title"], "schema": read}}


def tool_parser(schema: Any, name: str) -> Parser:
    """Reads the answer from the arguments of the tool call."""
    if _is_model(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def text_parser(schema: Any) -> Parser:
    """Reads the answer from its text."""
    if _is_model(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def with_raw(llm: Runnable[Any, Any], parser: Parser) -> Runnable[Any, Any]:
    """The message beside what was read from it; what cannot be read is no error."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _is_model(schema: Any) -> TypeGuard[type[Any]]:
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _schema_of(output: Any, *, strict: bool | None) -> dict[str, Any]:
    if isinstance(output, dict) and "title" not in output and "type" in output:
        output = {**output, "title": "answer"}
    try:
        return convert_to_json_schema(output, strict=strict)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{output!r} is no schema of an answer: give a pydantic model, a TypedDict or a JSON "
            f"schema ({error})."
        ) from error
