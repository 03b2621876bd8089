"""An SQLite ledger as a file: which one it is, and how it is read by who may not write."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from cascade.errors import LedgerError
from cascade.ledger.store.base import UnavailableError

Identity = tuple[int, int]
"""Device and inode."""


def path_of(url: str) -> Path | None:
    """The file of an SQLite address; None for another database, or where SQLite is to find it."""
    found = make_url(url)
    if not found.drivername.startswith("sqlite") or not found.database:
        return None
    return None if found.database.startswith("file:") else Path(found.database)


def identity_of(path: Path | None) -> Identity | None:
    """Which file is there now; None where there is none."""
    if path is not None:
        with suppress(OSError):
            found = path.stat()
            return found.st_dev, found.st_ino
    return None


def journal_of(path: Path | None) -> Path | None:
    """Where SQLite keeps what it has not moved into the file yet."""
    return None if path is None else path.with_name(f"{path.name}-wal")


def read_only_url(path: Path) -> str:
    """The address under which SQLite reads a ledger without writing anything.

    In a folder that may not be written SQLite cannot make the files by which it shares a ledger
    with who writes it. Where nobody does, it needs none.

    Raises:
        LedgerError: there is no ledger, or it cannot be read from here; it says what to do.
    """
    if not path.exists():
        raise LedgerError(f"there is no ledger {path}.")
    uri, shared = path.absolute().as_uri(), "mode=ro"
    try:
        _try(f"{uri}?{shared}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise UnavailableError(f"the ledger {path}: {error}") from error
        shared = "immutable=1"
        _try_unshared(path, f"{uri}?{shared}", error)
    return f"sqlite+aiosqlite:///{uri}?{shared}&uri=true"


def _try_unshared(path: Path, uri: str, why: sqlite3.OperationalError) -> None:
    wal = journal_of(path)
    if wal is not None and wal.exists() and wal.stat().st_size:
        raise LedgerError(
            f"the ledger {path} cannot be read: its last entries are still in {wal.name}, and "
            f"{path.parent} may not be written. Copy both files to a folder that may, and read "
            "them there; or let the program that writes it close its ledger."
        ) from why
    try:
        _try(uri)
    except sqlite3.OperationalError as error:
        raise LedgerError(f"the ledger {path} may not be read: {error}.") from error


def _try(uri: str) -> None:
    with closing(sqlite3.connect(uri, uri=True, timeout=15)) as file:
        file.execute("SELECT 1 FROM sqlite_master").fetchone()
