"""The lessons of a service, as its configuration says."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cascade.errors import ConfigurationError
from cascade.ledger.store import mask_secrets
from cascade.service.config import ServiceConfig
from cascade.teaching import Lessons, Terms, open_lessons

if TYPE_CHECKING:
    from cascade.teaching.memory import Memory


def keeper_of(config: ServiceConfig) -> Lessons | None:
    """What keeps the lessons of all cascades; None where none are kept. Nothing is connected yet.

    Raises:
        ConfigurationError: there is no place for them, or the address is none.
    """
    given = config.lessons
    if given is None:
        return None
    url = address_of(config)
    store = open_lessons(
        url,
        redact=mask_secrets if given.mask_secrets else None,
        keep_for=None if given.keep_days is None else timedelta(days=given.keep_days),
    )
    terms = {model: Terms(**dict(stated)) for model, stated in given.terms.items()}
    return Lessons(store, terms=terms)


def memories_of(config: ServiceConfig, lessons: Lessons | None) -> dict[str, Memory]:
    """The memory of each cascade that is to have one; it stays when a calibration is replaced.

    Raises:
        ConfigurationError: there are no lessons that it could show.
    """
    wanted = [name for name, given in config.cascades.items() if given.memory]
    if not wanted:
        return {}
    from cascade.teaching.memory import Memory  # noqa: PLC0415 - needs numpy and scipy

    memories = {}
    for name in wanted:
        if lessons is None or not config.cascades[name].lessons:
            raise ConfigurationError(
                f"cascades.{name}.memory shows lessons, and none are kept: give the section "
                "`lessons`, and leave that of the cascade on."
            )
        memories[name] = Memory(lessons.store, cascade=name)
    return memories


def address_of(config: ServiceConfig) -> str:
    """Where the lessons of a configuration are kept: by default in the ledger's database.

    Raises:
        ConfigurationError: it keeps none, or there is no database.
    """
    if config.lessons is None:
        raise ConfigurationError("lessons are not kept: the configuration has no `lessons`.")
    url = config.lessons.url or (None if config.ledger is None else config.ledger.url)
    if url is None or (config.lessons.url is None and url.startswith("memory:")):
        raise ConfigurationError(
            "lessons have no place: set lessons.url, such as sqlite:///lessons.db, or a ledger in "
            "a database."
        )
    return url
