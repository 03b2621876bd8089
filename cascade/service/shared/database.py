"""The way to what is shared: one statement is one round trip, and waits seconds at most."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from cascade.ledger.store.engines import make_prompt_engine, told_apart
from cascade.ledger.store.migrations import MigratedEngine, migrate
from cascade.ledger.store.opening import database_url

Row = Mapping[str, Any]


def is_shared(url: str | None) -> bool:
    """Whether several processes can share what a ledger at this address has beside its entries."""
    return url is not None and url.partition(":")[0].partition("+")[0] in ("postgresql", "postgres")


class SharedDatabase:
    """A ledger's PostgreSQL, for statements that requests wait for.

    Used in one event loop. It connects with the first statement, and again where a connection was
    ended.

    Args:
        url: of the ledger.
    """

    def __init__(self, url: str) -> None:
        make = partial(make_prompt_engine, database_url(url))
        self._engine = MigratedEngine(make, migrate=_migrate)

    async def ask(self, statement: str, **values: object) -> Sequence[Row]:
        """The rows that a statement gives, which is a transaction of its own.

        It may be sent twice, where a connection ended meanwhile: it has to be one that can be
        repeated.

        Raises:
            UnavailableError: the database cannot be reached, or has not answered within seconds.
        """
        with told_apart():
            engine = await self._engine.get()
            try:
                return await _rows(engine, statement, values)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return await _rows(engine, statement, values)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any]:
        """A connection of asyncpg's for who stays connected; it is closed afterwards.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        with told_apart():
            engine = await self._engine.get()
            raw = await engine.raw_connection()
        try:
            yield raw.driver_connection
        finally:
            raw.invalidate()

    async def aclose(self) -> None:
        """Close the connections; it may be used again afterwards."""
        await self._engine.aclose()


async def _migrate(engine: AsyncEngine) -> None:
    await migrate(engine.execution_options(isolation_level="READ COMMITTED"))


async def _rows(engine: AsyncEngine, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
    async with engine.connect() as connection:
        found = await connection.execute(text(statement), values)
        return [dict(row) for row in found.mappings()] if found.returns_rows else []
