"""JSON schemas that are checked in bounded time: whoever sends one may mean harm.

Python's `re`, which `jsonschema` takes, needs exponential time for `^(a+)+$`, and so do references
of which each leads to two others. All else is held up meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema

from cascade.errors import ConfigurationError

REFERENCES = 5_000
"""That are followed to check one value, which takes a second or two."""

_left: ContextVar[Iterator[int]] = ContextVar("_left")

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]


class TooManyReferencesError(Exception):
    """A value was not checked to its end."""

    def __str__(self) -> str:
        return f"more than {REFERENCES:,} references would be followed to check it"


@contextmanager
def bounded() -> Iterator[None]:
    """Within it, one value is checked by a validator of `bounded_kind`.

    Raises:
        TooManyReferencesError: that would take too long.
    """
    token = _left.set(iter(range(REFERENCES)))
    try:
        yield
    finally:
        _left.reset(token)


def check_patterns(schema: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for what cannot be matched in linear time, wherever it stands: a
    reference may lead to it.
    """
    words = set[str]()
    for part in _mappings(schema):
        words |= part.keys()
        if part is not schema and isinstance(part.get("$schema"), str):
            raise ConfigurationError(f"$schema {part['$schema']!r} stands below the top.")
        if isinstance(pattern := part.get("pattern"), str):
            _compiled(pattern)
        if isinstance(named := part.get("patternProperties"), Mapping):
            for pattern in named:
                _compiled(pattern)
    if {"patternProperties", "unevaluatedProperties"} <= words:
        raise ConfigurationError(
            "patternProperties and unevaluatedProperties are not checked together: take "
            "additionalProperties."
        )


@cache
def bounded_kind(kind: type[Validator]) -> type[Validator]:
    """A kind of validator that matches patterns in linear time, and counts references."""
    changed: dict[str, Keyword] = {
        word: _counted(follow)
        for word, follow in kind.VALIDATORS.items()
        if word in ("$ref", "$dynamicRef", "$recursiveRef")
    }
    changed |= {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    other: type[Validator] = extend(kind, changed)
    return other


def _counted(follow: Keyword) -> Keyword:
    def counted(
        validator: Any, reference: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if next(_left.get(), None) is None:
            raise TooManyReferencesError
        yield from follow(validator, reference, instance, schema)

    return counted


def _mappings(schema: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for part in schema.values():
            yield from _mappings(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _mappings(part)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        why = str(error).splitlines()[-1].strip().removeprefix("error: ")
        raise ConfigurationError(
            f"the pattern {pattern!r} cannot be matched in linear time ({why}): write it without "
            "look-arounds and back-references."
        ) from None


def _matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).isinstance_python(text)


def _pattern(
    validator: Validator, pattern: str, instance: object, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, named: Mapping[str, Any], instance: object, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, Mapping):
        for pattern, part in named.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: object, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
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
