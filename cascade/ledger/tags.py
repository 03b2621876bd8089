"""Tags: whose run it was, or what for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

NO_TAGS: Mapping[str, str] = MappingProxyType({})

_tags: ContextVar[Mapping[str, str]] = ContextVar("tags", default=NO_TAGS)


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Tag every entry of the calls made within: `with tagged(user="42"): ...`.

    Tags within tags are added. Entries can be queried, summed and deleted by them.
    """
    token = _tags.set({**_tags.get(), **tags})
    try:
        yield
    finally:
        _tags.reset(token)


def current_tags() -> Mapping[str, str]:
    """The tags of this context."""
    return _tags.get()
