"""Facts that rule a draft out whatever its confidence: empty, not the JSON that was asked for.

They cost nothing, and unlike a score they are certain. JSON schemas come from strangers, so both
reading one and checking against one take bounded time: schemas are limited in number, size and
depth, patterns are matched in linear time (Python's `re`, which `jsonschema` takes, needs
exponential time for `^(a+)+$`), and a check ends when it has used up its time. A schema is read
once, in one walk over it; a check against the metaschema would take a millisecond for each tool.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from pydantic_core import SchemaError, SchemaValidator, core_schema

from cascade.errors import ConfigurationError
from cascade.state import Completion

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

MOST_TOOLS = 512
"""Tools of one request; OpenAI takes 128."""
LARGEST_SCHEMA = 256 * 1024
"""Characters of one JSON schema."""
LARGEST_TOOLS = 2 * 1024 * 1024
"""Characters of the schemas of all tools of one request."""
DEEPEST = 64
"""Levels of one JSON schema."""
LONGEST_CHECK_S = 0.25
"""CPU seconds for reading a schema, and for checking one value; usual ones take less than a
millisecond."""
LONGEST_TRIAL_S = 0.02
"""CPU seconds in which the references of a schema have to be followed."""
SHOWN = 300
"""Characters of a problem: a message quotes the value."""


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
    unwanted = _choice_problem(completion.called, tool_choice)
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


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tools in OpenAI format whose calls cannot be checked.

    Raises:
        ConfigurationError: they are too many, or one has no valid JSON schema.
    """
    if len(tools) > MOST_TOOLS:
        raise ConfigurationError(f"{len(tools)} tools: a request may have {MOST_TOOLS} at most.")
    size = 0
    for tool in tools:
        function = tool["function"]
        size += check_schema(function.get("parameters") or {}, f"the tool {function['name']}")
        if size > LARGEST_TOOLS:
            raise ConfigurationError(
                f"the schemas of the tools have more than {LARGEST_TOOLS:,} characters together."
            )


def check_schema(schema: Mapping[str, Any], what: str = "response_format") -> int:
    """Refuse what is not a JSON schema that stands for itself and is checked in bounded time.

    Returns:
        its size in characters.

    Raises:
        ConfigurationError: with the place in the schema, and what is wrong there.
    """
    try:
        text = _text_of(schema)
        _read(text)
        return len(text)
    except _SchemaProblemError as problem:
        raise ConfigurationError(f"{what} has no valid JSON schema: {problem}") from None


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
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}"
    return _value_problem("the answer", value, schema)


def _call_problem(name: str, args: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    functions = (tool["function"] for tool in tools)
    function = next((function for function in functions if function["name"] == name), None)
    if function is None:
        return f"the answer calls a tool that does not exist: {name}"
    return _value_problem(f"the call of {name}", args, function.get("parameters") or {})


def _value_problem(what: str, value: Any, schema: Mapping[str, Any]) -> str | None:
    try:
        error = _read(_text_of(schema)).first_error(value, LONGEST_CHECK_S)
    except (_SchemaProblemError, _TooLongError, RecursionError) as unchecked:
        why = "it is too deep" if isinstance(unchecked, RecursionError) else unchecked
        return f"{what} is not checked against its schema: {why}"
    if error is None:
        return None
    message = error.message if len(error.message) <= SHOWN else f"{error.message[:SHOWN]} …"
    return f"{what} does not match its schema at {error.json_path}: {message}"


# --- reading a schema


class _SchemaProblemError(Exception):
    """What is wrong with a schema, and where."""


_ONE = frozenset(
    """additionalItems additionalProperties contains contentSchema else if items not propertyNames
    then unevaluatedItems unevaluatedProperties""".split()  # noqa: SIM905 - a list of words
)
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(
    ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
)
_REFERENCES = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _lists(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(v, kind) for v in value)


def _are_types(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


_NUMBERS = """exclusiveMaximum exclusiveMinimum maxContains maximum maxItems maxLength maxProperties
    minContains minimum minItems minLength minProperties""".split()  # noqa: SIM905
_FORMS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_NAMED, _is(dict)),
    **dict.fromkeys((*_LISTS, "enum"), _is(list)),
    **dict.fromkeys(_NUMBERS, _is(int, float)),
    **dict.fromkeys(("$schema", "pattern"), _is(str)),
    **dict.fromkeys(_REFERENCES, lambda value: f"{value}/".startswith("#/")),
    "dependentRequired": _is(dict),
    "multipleOf": lambda value: isinstance(value, int | float) and value > 0,
    "required": _lists(str),
    "type": _are_types,
    "uniqueItems": _is(bool),
}
"""What the value of a keyword has to be: where it is something else, a check would fail."""


def _text_of(schema: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _SchemaProblemError(f"it is not JSON ({error})") from None
    if len(text) > LARGEST_SCHEMA:
        raise _SchemaProblemError(f"it has {len(text):,} characters, of {LARGEST_SCHEMA:,} at most")
    return text


@lru_cache(maxsize=1024)
def _read(text: str) -> _Schema:
    schema: Mapping[str, Any] = json.loads(text)
    words, until = set[str](), time.thread_time() + LONGEST_CHECK_S
    for place, part in _parts(schema):
        words |= part.keys()
        for word, value in part.items():
            problem = _keyword_problem(word, value, top=part is schema)
            if problem is not None:
                raise _SchemaProblemError(f"{word} at {place}: {problem}")
            if time.thread_time() > until:  # patterns take long to compile
                raise _SchemaProblemError("to read it takes too long")
    if {"patternProperties", "unevaluatedProperties"} <= words:
        raise _SchemaProblemError(
            "patternProperties and unevaluatedProperties are not checked together: take "
            "additionalProperties"
        )
    read = _Schema(schema)
    if words & _REFERENCES:
        _try_references(read)
    return read


def _parts(schema: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each schema within a schema once, with its place, also where only references lead to it."""
    left: list[tuple[str, Any, int]] = [("$", schema, 0)]
    seen = set[int]()
    while left:
        place, part, depth = left.pop()
        if isinstance(part, bool) or id(part) in seen:
            continue
        if not isinstance(part, Mapping):
            raise _SchemaProblemError(f"{json.dumps(part)[:40]} at {place} is no schema")
        if depth > DEEPEST:
            raise _SchemaProblemError(f"it is more than {DEEPEST} levels deep")
        seen.add(id(part))
        yield place, part
        for word, value in part.items():
            if word in _REFERENCES:
                left.append((value, _target(value, schema), 0))
            else:
                left += [(f"{place}.{at}", p, depth + 1) for at, p in _parts_of(word, value)]


def _parts_of(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The schemas that a keyword's value holds; what is data holds none."""
    if word in _NAMED:
        for name, part in value.items():
            if word != "dependencies" or not isinstance(part, list):
                yield f"{word}.{name}", part
    elif word in _LISTS or (word == "items" and isinstance(value, list)):
        for number, part in enumerate(value):
            yield f"{word}.{number}", part
    elif word in _ONE:
        yield word, value


def _target(reference: str, schema: Any) -> Any:
    """What a reference leads to. No address is ever asked."""
    found = schema
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise _SchemaProblemError(f"{reference!r} leads nowhere in it")
    return found


def _keyword_problem(word: str, value: Any, *, top: bool) -> str | None:
    """What is wrong with one keyword's value; None where nothing is."""
    if word in _FORMS and not _FORMS[word](value):
        hint = "; it is written as '#/$defs/name'" if word in _REFERENCES else ""
        return f"{json.dumps(value)[:80]} cannot stand there{hint}"
    if word in ("$schema", "$id") and isinstance(value, str) and not top:
        return "it stands below the top, where references would mean another place"
    if word == "pattern":
        return _pattern_problem(value)
    if word == "patternProperties":
        return next(filter(None, map(_pattern_problem, value)), None)
    return None


def _pattern_problem(pattern: str) -> str | None:
    try:
        _compiled(pattern)
    except SchemaError as error:
        why = str(error).splitlines()[-1].strip().removeprefix("error: ")
        return (
            f"the pattern {pattern!r} cannot be matched in linear time ({why}): write it without "
            "look-arounds and back-references"
        )
    return None


def _try_references(schema: _Schema) -> None:
    """References may lead in a circle, or each to two others."""
    try:
        schema.first_error(None, LONGEST_TRIAL_S)
    except _TooLongError as error:
        raise _SchemaProblemError(
            f"its references are not followed to their end: {error}"
        ) from None
    except RecursionError:
        raise _SchemaProblemError("it refers to itself") from None


# --- checking a value


class _TooLongError(Exception):
    """A value was not checked to its end."""

    def __str__(self) -> str:
        return "that takes too long"


_until: ContextVar[float] = ContextVar("_until")
"""The CPU time of this thread at which the check of a value is given up."""

_Keyword = Callable[[Any, Any, Any, Any], "Iterator[ValidationError] | None"]


class _Schema:
    """A schema that can be checked against; its validator is made with the first value."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    @cached_property
    def validator(self) -> Validator:
        from jsonschema.validators import validator_for  # noqa: PLC0415 - where there is a schema
        from referencing.jsonschema import EMPTY_REGISTRY  # noqa: PLC0415

        # With a registry of its own it never goes to an address that a schema names.
        return _bounded(validator_for(self.content))(self.content, registry=EMPTY_REGISTRY)

    def first_error(self, value: Any, seconds: float) -> ValidationError | None:
        """The most telling error of a value.

        Raises:
            _TooLongError: the check was not finished.
            RecursionError: a reference leads in a circle.
        """
        from jsonschema.exceptions import best_match  # noqa: PLC0415

        validator = self.validator  # made before the clock is set
        token = _until.set(time.thread_time() + seconds)
        try:
            return best_match(validator.iter_errors(value))
        finally:
            _until.reset(token)


@cache
def _bounded(kind: type[Validator]) -> type[Validator]:
    """A kind of validator that matches patterns in linear time, and looks at the clock."""
    from jsonschema.validators import extend  # noqa: PLC0415

    own: dict[str, _Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    words = {**kind.VALIDATORS, **own}
    bounded: type[Validator] = extend(
        kind, {word: _counted(check) for word, check in words.items()}
    )
    return bounded


def _counted(check: _Keyword) -> _Keyword:
    def counted(
        validator: Any, word: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError] | None:
        if time.thread_time() > _until.get():
            raise _TooLongError
        return check(validator, word, instance, schema)

    return counted


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).isinstance_python(text)


def _pattern(
    validator: Any, pattern: str, instance: object, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    del validator, schema
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, named: Mapping[str, Any], instance: object, schema: Any
) -> Iterator[ValidationError]:
    del schema
    if isinstance(instance, Mapping):
        for pattern, part in named.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: object, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    if not isinstance(instance, Mapping):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if isinstance(allowed, Mapping):
            yield from validator.descend(value, allowed, path=name)
        elif not allowed:
            yield ValidationError(f"Additional properties are not allowed: {name!r}")


def _unique_items(
    validator: Any, wanted: bool, instance: object, schema: Any
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415

    del validator, schema
    if wanted and isinstance(instance, list) and len(set(map(_hashed, instance))) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _hashed(value: Any) -> Any:
    """JSON as something that can be in a set: `jsonschema` compares each item with each other."""
    if isinstance(value, dict):
        return frozenset((name, _hashed(part)) for name, part in value.items())
    if isinstance(value, list):
        return tuple(map(_hashed, value))
    return (value,) if isinstance(value, bool) else value  # 1 is no True
