"""A SQLite file that another process holds at the very moment of opening."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from cascade.ledger.store import engines
from cascade.ledger.store.base import UnavailableError
from cascade.ledger.store.sql import SqlBackend


def held(path: Path) -> sqlite3.Connection:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE another (x)")
    # With a writer at work SQLite refuses another journal mode at once, whatever its timeout.
    holder.execute("BEGIN IMMEDIATE")
    return holder


async def test_opening_waits_until_the_file_is_free(tmp_path: Path) -> None:
    holder = held(tmp_path / "ledger.db")
    backend = SqlBackend(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    opening = asyncio.create_task(backend.open())
    await asyncio.sleep(0.2)
    assert not opening.done()
    holder.execute("COMMIT")
    holder.close()
    await opening
    await backend.aclose()


async def test_opening_gives_up_with_a_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_MS", 50)
    holder = held(tmp_path / "ledger.db")
    backend = SqlBackend(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(UnavailableError, match="locked"):
        await backend.open()
    await backend.aclose()
    holder.close()
