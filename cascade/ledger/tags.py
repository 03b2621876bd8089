"""Tags: whose run it was, or what for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from cascade.errors import ConfigurationError

NO_TAGS: Mapping[str, str] = MappingProxyType({})

AGENT = "agent"
"""The tag that names an agent; that of `create_agent(…, name=…)` is set without asking."""

_tags: ContextVar[Mapping[str, str]] = ContextVar("tags", default=NO_TAGS)


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Tag every entry of the calls made within: `with tagged(user="42"): ...`.

    Tags within tags are added. Entries can be queried, summed and deleted by them.

    Raises:
        ConfigurationError: a value is no text.
    """
    token = _tags.set({**_tags.get(), **checked_tags(tags, "tagged(…)")})
    try:
        yield
    finally:
        _tags.reset(token)


def current_tags() -> Mapping[str, str]:
    """The tags of this context."""
    return _tags.get()


def checked_tags(tags: Mapping[str, str], where: str) -> Mapping[str, str]:
    """The tags, if names and values are text: 42 and "42" would be found and summed apart.

    Raises:
        ConfigurationError: they are not; the message says where they were given.
    """
    pairs = tags.items() if isinstance(tags, Mapping) else ()
    fine = all(isinstance(name, str) and isinstance(value, str) for name, value in pairs)
    if not isinstance(tags, Mapping) or not fine:
        raise ConfigurationError(
            f"tags of {where} are {tags!r}: give names and values as text, {{'user': '42'}}."
        )
    return tags
