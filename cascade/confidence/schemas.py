"""JSON schemas: whether one stands for itself, and whether a value satisfies it.

Imported with the first schema: `jsonschema` takes a twentieth of the import of the whole package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from cascade.confidence.bounded import (
    TooManyReferencesError,
    bounded,
    bounded_kind,
    check_patterns,
)
from cascade.errors import ConfigurationError


def check(schema: Mapping[str, Any], what: str) -> None:
    """Raise `ConfigurationError` when `schema` is not a JSON schema that stands for itself."""
    try:
        validator_for(schema).check_schema(dict(schema))
    except SchemaError as error:
        raise ConfigurationError(f"{what} has no valid JSON schema: {error.message}") from error
    try:
        check_patterns(schema)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    resolver = EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(dict(schema)))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ConfigurationError(
                f"{what} has no valid JSON schema: $ref {reference!r} leads nowhere in it."
            ) from error
    try:
        _error(None, schema)
    except TooManyReferencesError as error:
        raise ConfigurationError(
            f"{what} has a JSON schema that takes too long: {error}."
        ) from None
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


def problem(what: str, value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, or None."""
    try:
        error = _error(value, schema)
    except TooManyReferencesError as too_many:
        return f"{what} is not checked against its schema: {too_many}"
    if error is None:
        return None
    return f"{what} does not match its schema at {error.json_path}: {error.message}"


def _error(value: Any, schema: Mapping[str, Any]) -> ValidationError | None:
    # With a registry of its own it never goes to an address that a schema names.
    validator = bounded_kind(validator_for(schema))(schema, registry=EMPTY_REGISTRY)
    with bounded():
        return best_match(validator.iter_errors(value))
