"""Every backend does what a ledger needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cascade.ledger.store import Backend, MemoryBackend
from cascade.ledger.store.sql import SqlBackend
from cascade.testing.ledger_conformance import LedgerConformance


class TestMemory(LedgerConformance):
    durable = False

    @pytest.fixture
    def make_backend(self) -> Callable[[], Backend]:
        return MemoryBackend


class TestSQLite(LedgerConformance):
    @pytest.fixture
    def make_backend(self, sqlite_url: str) -> Callable[[], Backend]:
        return lambda: SqlBackend(sqlite_url.replace("sqlite", "sqlite+aiosqlite"))


class TestPostgreSQL(LedgerConformance):
    @pytest.fixture
    def make_backend(self, postgres_url: str) -> Callable[[], Backend]:
        return lambda: SqlBackend(postgres_url.replace("postgresql", "postgresql+asyncpg"))
