"""JSON schemas of answers and tools, which come from strangers: read and checked in bounded time.

They are limited in number and size, patterns are matched in linear time (Python's `re` needs
exponential time for `^(a+)+$`), and a check ends with its time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import accumulate
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from pydantic_core import SchemaError, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from cascade.errors import ConfigurationError

MOST_TOOLS = 512
"""Tools of one request; OpenAI takes 128."""
LARGEST_SCHEMA, LARGEST_TOOLS = 256 * 1024, 2 * 1024 * 1024
"""Characters of one JSON schema, and of those of all tools of one request."""
LONGEST_CHECK_S, LONGEST_TRIAL_S = 0.25, 0.02
"""CPU seconds for reading a schema or checking one value, and for following references."""
SHOWN = 300
"""Characters of a problem."""


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tools in OpenAI format whose calls cannot be checked."""
    functions = [tool["function"] for tool in tools]
    sizes = (check_schema(f.get("parameters") or {}, f"the tool {f['name']}") for f in functions)
    if len(tools) > MOST_TOOLS or any(size > LARGEST_TOOLS for size in accumulate(sizes)):
        raise ConfigurationError(
            f"{len(tools)} tools: a request may have {MOST_TOOLS}, whose schemas have "
            f"{LARGEST_TOOLS:,} characters together."
        )


def check_schema(schema: Mapping[str, Any], what: str = "response_format") -> int:
    """Refuse what is not a JSON schema that stands for itself and is checked in bounded time; its
    size in characters."""
    try:
        _read(text := _text_of(schema))
    except _FaultError as fault:
        raise ConfigurationError(f"{what} has no valid JSON schema: {fault}") from None
    return len(text)


def mismatch(what: str, value: Any, schema: Mapping[str, Any]) -> str | None:
    """Reason why a value does not keep to its schema, None where it does."""
    try:
        validator = _read(_text_of(schema))
        _begin(LONGEST_CHECK_S)
        error: Any = best_match(validator.iter_errors(value))
    except (_FaultError, RecursionError) as unchecked:
        why = "it is too deep" if isinstance(unchecked, RecursionError) else unchecked
        return f"{what} is not checked against its schema: {why}"
    if error is None:
        return None
    rule = error.message  # which names what is missing; of other rules it quotes the answer
    if error.validator != "required":
        broken = {error.validator: error.validator_value} if error.validator else False
        rule = json.dumps(broken, ensure_ascii=False)
    rule = rule[:SHOWN] + " …" * (len(rule) > SHOWN)
    return f"{what} does not match its schema at {error.json_path}: {rule}"


# --- reading a schema


class _FaultError(Exception):
    """Fault of a schema, and its place."""


_clock = threading.local()
"""The CPU time of this thread `until` which it reads or checks."""


def _begin(seconds: float) -> None:
    _clock.until = time.thread_time() + seconds


def _tick() -> None:
    if time.thread_time() > _clock.until:
        raise _FaultError("it takes too long to read or to check")


def _text_of(schema: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _FaultError(f"it is not JSON ({error})") from None
    if len(text) > LARGEST_SCHEMA:
        raise _FaultError(f"it has {len(text):,} characters, of {LARGEST_SCHEMA:,} at most")
    return text


@lru_cache(maxsize=1024)
def _read(text: str) -> Validator:
    """The validator of a schema, or a `_FaultError` with what is wrong."""
    if '"patternProperties"' in text and '"unevaluatedProperties"' in text:
        both = "patternProperties and unevaluatedProperties"
        raise _FaultError(f"{both} are not checked together: take additionalProperties")
    schema = json.loads(text)
    try:
        _begin(LONGEST_CHECK_S)
        references = _check_form(schema)
        # With a registry of its own it never goes to an address that a schema names.
        validator = _bounded(validator_for(schema))(schema, registry=EMPTY_REGISTRY)
        if references:  # they may lead in a circle, or each to two others
            _begin(LONGEST_TRIAL_S)
            best_match(validator.iter_errors(None))
    except RecursionError:
        raise _FaultError("it refers to itself without end") from None
    return validator


def _check_form(schema: Any) -> set[str]:
    """The references of a schema, whose targets have the form of schemas as well."""
    top, followed = schema, set[str]()
    if isinstance(schema, dict):
        named = [word for word in ("$id", "$schema") if isinstance(schema.get(word), str)]
        top = {word: value for word, value in schema.items() if word not in named}
    root, left = EMPTY_REGISTRY.resolver_with_root(Resource.opaque(schema)), [("$", top)]
    while left:
        _tick()
        (place, part), found = left.pop(), set[str]()
        try:
            _form().validate_python(part, strict=True, context=found)
        except ValidationError as error:
            # Of a schema or a list of them the error that lies deepest is of what was meant.
            errors = error.errors(include_url=False, include_input=False)
            first = max(errors, key=lambda each: len(each["loc"]))
            where = ".".join([place, *(str(at) for at in first["loc"] if at != _EITHER)])
            said = first["msg"].removeprefix("Value error, ")
            raise _FaultError(f"{where[:SHOWN]}: {said}") from None
        for each in found - followed - {"#"}:
            try:
                left.append((each, root.lookup(each).contents))
            except (Unresolvable, ValueError, TypeError):
                raise _FaultError(f"{each!r} leads nowhere in it") from None
        followed |= found
    return followed


_EITHER = "(either)"


@cache
def _form() -> SchemaValidator:
    """Types that the values of a schema's keywords need: of other ones a check would fail."""

    def either(*kinds: cs.CoreSchema) -> cs.CoreSchema:
        return cs.union_schema([(kind, _EITHER) for kind in kinds], mode="left_to_right")

    sub = either(cs.definition_reference_schema("part"), cs.bool_schema())
    subs, text, texts = cs.list_schema(sub), cs.str_schema(), cs.list_schema(cs.str_schema())
    kinds = cs.literal_schema(["array", "boolean", "integer", "null", "number", "object", "string"])
    pattern = cs.no_info_after_validator_function(_linear, text)
    forms: dict[str, cs.CoreSchema] = {
        "$defs definitions dependentSchemas properties": cs.dict_schema(values_schema=sub),
        "allOf anyOf oneOf prefixItems": subs,
        "additionalItems additionalProperties contains contentSchema else if not": sub,
        "propertyNames then unevaluatedItems unevaluatedProperties": sub,
        "exclusiveMaximum exclusiveMinimum maximum minimum": cs.float_schema(),
        "maxContains maxItems maxLength maxProperties": cs.float_schema(),
        "minContains minItems minLength minProperties": cs.float_schema(),
        "$ref $dynamicRef $recursiveRef": cs.with_info_after_validator_function(_reference, text),
        "$id $schema": cs.no_info_plain_validator_function(_below_the_top),
        "dependencies": cs.dict_schema(values_schema=either(sub, texts)),
        "dependentRequired": cs.dict_schema(values_schema=texts),
        "enum": cs.list_schema(),
        "items": either(sub, subs),
        "multipleOf": cs.float_schema(gt=0),
        "pattern": pattern,
        "patternProperties": cs.dict_schema(pattern, sub),
        "required": texts,
        "type": either(kinds, cs.list_schema(kinds, min_length=1)),
        "uniqueItems": cs.bool_schema(),
    }
    fields = {
        word: cs.typed_dict_field(form, required=False)
        for words, form in forms.items()
        for word in words.split()
    }
    return SchemaValidator(cs.definitions_schema(sub, [cs.typed_dict_schema(fields, ref="part")]))


def _linear(pattern: str) -> str:
    _tick()  # patterns take long to compile
    try:
        _compiled(pattern)
    except SchemaError as error:
        why = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the pattern {pattern!r} cannot be matched in linear time ({why}): write it without "
            "look-arounds and back-references"
        ) from None
    return pattern


def _reference(reference: str, info: cs.ValidationInfo[Any]) -> str:
    if not f"{reference}/".startswith("#/"):
        raise ValueError("a reference is written as '#/$defs/name'")
    info.context.add(reference)
    return reference


def _below_the_top(value: object) -> object:
    raise ValueError("it is no text, or below the top, where references change")


# --- checking a value


@cache
def _bounded(kind: type[Validator]) -> type[Validator]:
    """A kind of validator that matches patterns in linear time, and looks at the clock."""
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }

    def timed(check: Callable[..., Any], *given: Any) -> Any:
        _tick()
        return check(*given)

    checks = {**kind.VALIDATORS, **own}.items()
    bounded: type[Validator] = extend(kind, {word: partial(timed, check) for word, check in checks})
    return bounded


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator:
    return SchemaValidator(cs.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not _compiled(pattern).isinstance_python(value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, named: Any, value: Any, schema: Any) -> Iterator[Any]:
    for name, part in value.items() if isinstance(value, dict) else ():
        for pattern in named:
            if _compiled(pattern).isinstance_python(name):
                yield from validator.descend(part, named[pattern], path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, value: Any, schema: Any) -> Iterator[Any]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, part in value.items() if isinstance(value, dict) else ():
        if name not in known and not any(_compiled(p).isinstance_python(name) for p in patterns):
            yield from validator.descend(part, allowed, path=name)


def _unique_items(validator: Any, wanted: bool, value: Any, schema: Any) -> Iterator[Any]:
    """`jsonschema` compares each item with each other."""
    items = value if wanted and isinstance(value, list) else []
    if len({json.dumps(item, sort_keys=True) for item in items}) < len(items):
        yield jsonschema.ValidationError(f"{value!r} has non-unique elements")
