"""From an address to a store."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from cascade._masking import mask_keys
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.store.base import Backend
from cascade.ledger.store.memory import MemoryBackend
from cascade.ledger.store.redaction import Redact
from cascade.ledger.store.store import Store
from cascade.ledger.store.writer import Limits
from cascade.ledger.tags import NO_TAGS
from cascade.ledger.texts import KeptTexts

FORMS = "sqlite:///ledger.db (a file) or postgresql://user:password@host/database"


def open_store(
    url: str,
    *,
    read_only: bool = False,
    crash_safe: bool = True,
    durable: bool = False,
    texts: KeptTexts = "none",
    hash_key: str | bytes | None = None,
    redact: Redact | None = None,
    tags: Mapping[str, str] = NO_TAGS,
    limits: Limits | None = None,
) -> Store:
    """A store for `Cascade(ledger=…)`. It connects with its first entry, not here.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`.
        read_only: read what is there, and change nothing: an older schema is not migrated, no
            file is made, and an SQLite ledger may be in a folder that cannot be written. Whatever
            would write raises `LedgerError`.
        crash_safe: write down each call before it is sent, so that a killed process leaves a
            list of the calls whose outcome is unknown. Costs one commit per call, shared by
            the calls that are under way together.
        durable: survive a loss of power with every entry that was flushed: each commit waits
            for the disk (SQLite: `synchronous = FULL`, PostgreSQL: `synchronous_commit = on`).
        texts: which prompts and answers are kept: "none"; "pending", those of audits that are
            not done yet, so that a restart loses none; "all", also those of every call.
        hash_key: a secret for the hashes of prompts and answers. Without it, whoever reads the
            ledger can find short texts by trying.
        redact: takes out of notes, prompts and answers what must not be stored
            (`mask_secrets`, or a function of your own from text to text).
        tags: tags of every entry of this store.
        limits: sizes and times of the queue.

    Raises:
        ConfigurationError: the address has none of these forms, or an option no such value.
        MissingDependencyError: the database's driver is not installed.
    """
    return Store(
        _backend(url, durable=durable, read_only=read_only),
        crash_safe=crash_safe,
        texts=texts,
        hash_key=hash_key,
        redact=redact,
        tags=tags,
        limits=limits,
    )


def _backend(url: str, *, durable: bool, read_only: bool) -> Backend:
    scheme, separator, _ = url.partition("://")
    dialect = scheme.partition("+")[0]
    if separator and dialect == "memory":
        if durable:
            raise ConfigurationError(f"{url} keeps nothing: durable=True needs a database.")
        if read_only:
            raise ConfigurationError(f"{url} has nothing in it: read_only=True needs a database.")
        return MemoryBackend()
    address = database_url(url)
    from cascade.ledger.store.sql import SqlBackend  # noqa: PLC0415 - needs SQLAlchemy

    return SqlBackend(address, durable=durable, read_only=read_only)


def database_url(url: str) -> str:
    """The address of a ledger's database with the asynchronous driver that it is reached by.

    Raises:
        ConfigurationError: it is no address of a database.
        MissingDependencyError: its driver is not installed.
    """
    scheme, separator, rest = url.partition("://")
    dialect = scheme.partition("+")[0]
    if dialect == "postgres":
        dialect = "postgresql"
    if not separator or dialect not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"{mask_keys(url)!r} is no address of a ledger: give {FORMS}.")
    if dialect == "sqlite" and rest.lstrip("/").partition("?")[0] in ("", ":memory:"):
        raise ConfigurationError(
            f"{url!r} names no file: give sqlite:///ledger.db, or memory:// to keep nothing."
        )
    if dialect == "sqlite" and not rest.startswith("/"):
        raise ConfigurationError(
            f"{mask_keys(url)!r} has a slash too few: give sqlite:///{rest.rpartition('@')[2]}, or "
            "sqlite:////folder/ledger.db."
        )
    _require(dialect)
    driver = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}[dialect]
    return f"{dialect}+{driver}://{rest}"


def _require(dialect: str) -> None:
    extra, packages = {
        "sqlite": ("store", ("sqlalchemy", "greenlet", "aiosqlite")),
        "postgresql": ("postgres", ("sqlalchemy", "greenlet", "asyncpg")),
    }[dialect]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f"a ledger in {dialect} needs {' and '.join(missing)}: "
            f'pip install "agent-cascade[{extra}]".'
        )
