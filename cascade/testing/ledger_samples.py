"""Small records for tests of the ledger's backends: each number is a second later."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cascade.ledger import Pending, Texts
from cascade.ledger.store import Attempt, Backend, Selection, Stored, StoredTexts
from cascade.state import LedgerEntry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def made(number: int, **fields: Any) -> Stored:
    """An entry for tests: each number is a second later, with its own id and run."""
    tags = fields.pop("tags", {})
    given = {"run_id": f"run-{number}", "node": "draft", "at": NOON + timedelta(seconds=number)}
    return Stored(f"id-{number:06d}", LedgerEntry(**{**given, **fields}), tags)


def begun(attempt_id: str, **fields: Any) -> Attempt:
    """An attempt for tests."""
    given = {"run_id": "run", "node": "expert", "begun_at": NOON}
    return Attempt(attempt_id=attempt_id, **{**given, **fields})


def said(number: int, **fields: Any) -> StoredTexts:
    """The texts of the entry `made(number)`."""
    at = NOON + timedelta(seconds=number)
    given = {"run_id": f"run-{number}", "node": "draft", "tier": None, "at": at}
    texts = Texts(f'[{{"content":"größe {number} 🙂"}}]', f"answer\n{number}")
    return StoredTexts(**{"id": f"id-{number:06d}", **given, "texts": texts, **fields})


def drawn(number: int, **fields: Any) -> Pending:
    """A pending audit for tests: each number is a second later, of its own run."""
    given = {"run_id": f"run-{number}", "at": NOON + timedelta(seconds=number), "tags": {}}
    return Pending(**{**given, "payload": f'{{"größe": {number}}}', **fields})


@asynccontextmanager
async def opened(make_backend: Callable[[], Backend]) -> AsyncGenerator[Backend]:
    """A backend that is open within."""
    backend = make_backend()
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


async def everything(backend: Backend, selection: Selection | None = None) -> list[Stored]:
    """All entries that are meant."""
    return list(await backend.page(selection or Selection(), None, 1_000_000))
