"""What a call of a chat model may bring along: tools, a schema, limits → the cascade's task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from cascade._variants import Variants
from cascade.agents import Task
from cascade.errors import ConfigurationError
from cascade.questions import marks_of, to_task

ANY_JSON: Mapping[str, Any] = {"type": "object"}
"""The schema of JSON mode: an object, whatever it holds."""

FORCED = {"any": "required", "required": "required", "auto": "auto", "none": "none"}
"""LangChain's and OpenAI's words for whether a tool is called → the cascade's."""

TOOL_RISKS = "tool_risks"
"""Setting of a call: what the tools were marked with that it has in OpenAI's format."""

_NUMBERS = {
    "temperature": ("temperature", None),
    "seed": ("seed", None),
    "max_tokens": ("max_tokens", 0),
    "timeout": ("timeout_s", 0),
}
"""Settings of a call that are numbers → their fields of a task, and what they have to exceed."""
_OTHERS = {
    "stop",
    "tools",
    "tool_choice",
    "response_format",
    "model",
    "logprobs",
    "top_logprobs",
    TOOL_RISKS,
}
MOST_ALTERNATIVES = 20
"""To a token of the answer, of all providers."""
_IGNORABLE = {"stream", "strict"}
"""`stream` chose the method that is running; `strict` went into tools and schemas already."""


def call_task(task: Task, settings: Mapping[str, Any]) -> Task:
    """The task of one call.

    Args:
        task: the cascade's own.
        settings: `tools`, `tool_choice`, `response_format`, `temperature`, `max_tokens`, `seed`,
            `stop`, `timeout`, `logprobs`, `top_logprobs`, `tool_risks`; what else there is
            goes to every provider as it is.

    Raises:
        ConfigurationError: one of them cannot be read, or names a model.
    """
    if settings.get("model") is not None:
        raise ConfigurationError(
            f"model={settings['model']!r}: a cascade asks its own models; make another one for "
            "other models."
        )
    given = {name: value for name, value in settings.items() if value is not None}
    changes: dict[str, Any] = {
        field: _number(name, given[name], above=above)
        for name, (field, above) in _NUMBERS.items()
        if name in given
    }
    if "temperature" in changes:
        changes["temperature"] = float(changes["temperature"])  # 0 and 0.0 are one temperature
    if given.get("stop"):
        stop = given["stop"]
        texts = [stop] if isinstance(stop, str) else stop
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(f"stop={stop!r}: give a text, or a list of texts.")
        changes["stop"] = tuple(texts)
    if "tools" in given:
        changes["tools"] = _checked_tools(given["tools"])
    if "tools" in given or TOOL_RISKS in given:
        marks = {**marks_of(given.get("tools", ())), **_marks(given.get(TOOL_RISKS, {}))}
        changes["risks"] = task.risks.besides(marks)
    if "response_format" in given:
        changes["schema"] = _checked_format(given["response_format"])
    if "tool_choice" in given:
        tools = changes.get("tools", task.tools)
        changes["tool_choice"] = read_tool_choice(given["tool_choice"], tools)
    if "logprobs" in given or "top_logprobs" in given:
        changes["top_logprobs"] = _alternatives(given.get("logprobs"), given.get("top_logprobs"))
    known = {*_NUMBERS, *_OTHERS, *_IGNORABLE}
    extra = {name: value for name, value in given.items() if name not in known}
    if extra:
        changes["extra"] = {**task.extra, **extra}
    return replace(task, **changes)


def check_alone(task: Task) -> None:
    """Refuse what would have to wait for a person in the middle of a model call.

    Raises:
        ConfigurationError: it would.
    """
    if task.risks.irreversible == "ask":
        raise ConfigurationError(
            "ToolRisks(irreversible='ask') waits for a person, which a chat model cannot. Leave "
            "it out and let the app ask before it runs a tool (LangChain's "
            "HumanInTheLoopMiddleware), or use cascade.graph as a node."
        )


def _marks(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{TOOL_RISKS}={given!r}: with a call give names and risks, "
            "{'delete_file': 'irreversible'}; the rest is said where the cascade is made."
        )
    return given


def _checked_tools(tools: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Tools as a binding holds them come with every call, and are checked with the first."""
    plain = all(isinstance(tool, dict) and "function" in tool for tool in tools)
    return _TOOLS[tools] if plain else to_task(tools).tools


def _checked_format(given: Any) -> Mapping[str, Any] | None:
    return _FORMATS[given] if isinstance(given, dict) else read_response_format(given)


def _alternatives(wanted: Any, n: Any) -> int | None:
    """How many alternatives to each token come with the answer; None for no log-probs."""
    if wanted not in (True, False, None):
        raise ConfigurationError(f"logprobs={wanted!r}: give true or false.")
    if n is not None and (
        isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST_ALTERNATIVES
    ):
        raise ConfigurationError(f"top_logprobs={n!r}: a number from 0 to {MOST_ALTERNATIVES}.")
    if not wanted and n:
        raise ConfigurationError(f"top_logprobs={n!r} needs logprobs=True.")
    return n or 0 if wanted else None


def _number(name: str, value: Any, *, above: int | None) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{name}={value!r}: give a number.")
    if above is not None and value <= above:
        raise ConfigurationError(f"{name}={value!r}: give a number above {above}.")
    return value


def read_tools(tools: Sequence[Any], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of any kind that LangChain knows, in OpenAI format.

    Raises:
        ConfigurationError: one cannot be read.
    """
    try:
        read = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"a tool cannot be read: {error}") from error
    return [dict(tool) for tool in to_task(read).tools]


def read_tool_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """LangChain's and OpenAI's ways to choose a tool, as `auto`, `none`, `required` or a name.

    Raises:
        ConfigurationError: it is none of them, or there is no such tool.
    """
    names = [tool["function"]["name"] for tool in tools]
    wanted = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        wanted = (function if isinstance(function, Mapping) else choice).get("name")
        wanted = wanted or choice.get("type")
    elif isinstance(choice, bool):
        wanted = "required" if choice else "auto"
    if wanted in names:
        return str(wanted)
    if wanted not in FORCED:
        there = ", ".join(names) or "none"
        raise ConfigurationError(
            f"tool_choice={choice!r}: give 'any', 'auto', 'none' or the name of a tool; tools "
            f"there are: {there}."
        )
    if FORCED[wanted] == "required" and not names:
        raise ConfigurationError(f"tool_choice={choice!r}, but there are no tools.")
    return FORCED[wanted]


def read_response_format(given: Any) -> Mapping[str, Any] | None:
    """The JSON schema of a response format: a class, a schema, or OpenAI's form of it.

    Raises:
        ConfigurationError: it cannot be read, or its schema is none.
    """
    if not isinstance(given, Mapping):
        return to_task(response_format=given).schema
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_JSON
    if kind != "json_schema":
        return to_task(response_format=given).schema
    described = given.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(described, Mapping) or not isinstance(schema, Mapping):
        raise ConfigurationError(
            f"response_format={dict(given)!r}: give {{'type': 'json_schema', 'json_schema': "
            "{'name': …, 'schema': {…}}}."
        )
    title = schema.get("title") or described.get("name") or "answer"
    return to_task(response_format={**schema, "title": title}).schema


_TOOLS: Variants[Sequence[Any], tuple[Mapping[str, Any], ...]] = Variants(
    lambda tools: to_task(tools).tools
)
_FORMATS: Variants[Any, Mapping[str, Any] | None] = Variants(read_response_format)
