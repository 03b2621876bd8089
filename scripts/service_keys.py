"""The keys of a service's configuration as tables, from the models that read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cascade.service.config import ServiceConfig


def tables() -> str:
    """A table for the configuration and for each section in it."""
    return "\n".join(_tables(ServiceConfig, ""))


def _tables(model: type[BaseModel], place: str) -> Iterator[str]:
    yield f"\n**{place or 'At the top'}**: {_sentence(model.__doc__ or '')}\n"
    yield "| key | by default | meaning |\n|---|---|---|"
    within = []
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_default(field)} | {_escaped(field.description or '')} |"
        for section, mark in _sections(field.annotation):
            within.append((section, f"{place}.{name}{mark}".removeprefix(".")))
    yield ""
    for section, where in within:
        yield from _tables(section, where)


def _sections(annotation: Any, mark: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, mark
    origin = getattr(annotation, "__origin__", None)
    name = getattr(origin, "__name__", "")
    mark += {"Mapping": ".NAME", "tuple": "[]"}.get(name, "")
    for argument in get_args(annotation):
        yield from _sections(argument, mark)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, (), {}) or value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    shown = format(value, "f") if isinstance(value, Decimal) else str(value)
    return f"`{shown.lower() if isinstance(value, bool) else shown}`"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return re.sub(r"\|", r"\\|", _sentence(text))


if __name__ == "__main__":
    print(tables())
