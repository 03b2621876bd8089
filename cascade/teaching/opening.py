"""From an address to a store of lessons."""

from __future__ import annotations

from datetime import timedelta

from cascade.ledger.store import Redact
from cascade.ledger.store.opening import database_url
from cascade.teaching.store import LessonStore


def open_lessons(
    url: str,
    *,
    redact: Redact | None = None,
    keep_for: timedelta | None = None,
) -> LessonStore:
    """A store of lessons, with tables of its own in any database of a ledger or another one.

    Args:
        url: `sqlite:///lessons.db`, `postgresql://user:password@host/database`, or `memory://`,
            which keeps nothing longer than the store lives.
        redact: takes out of questions, answers and comments what must not be stored
            (`mask_secrets`, or a function of your own from text to text). Where it fails, nothing
            of that lesson or verdict is stored. Tags are kept as they are: they say whose it is.
        keep_for: delete what is older than this; looked at once an hour while the store is used.

    Raises:
        ConfigurationError: the address is none, or `keep_for` is not above 0.
        MissingDependencyError: the database's driver is not installed.
    """
    database_url("sqlite:///x" if url == "memory://" else url)
    from cascade.teaching.sql import SqlLessonStore  # noqa: PLC0415 - needs SQLAlchemy

    return SqlLessonStore(url, redact=redact, keep_for=keep_for)
