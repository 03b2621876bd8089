"""An engine that is made, and brought up to date, when somebody first needs it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from cascade.ledger.store.engines import make_engine
from cascade.ledger.store.migrations import MigratedEngine

MEMORY = "sqlite+aiosqlite:///:memory:"


async def test_those_who_ask_at_once_get_one_engine_until_it_is_closed() -> None:
    kept = MigratedEngine(partial(make_engine, MEMORY))
    first, second = await asyncio.gather(kept.get(), kept.get())
    await kept.aclose()
    third = await kept.get()
    await kept.aclose()
    assert first is second
    assert third is not first


async def test_after_a_failure_the_next_one_tries_again() -> None:
    seen: list[AsyncEngine] = []

    async def fails_once(engine: AsyncEngine) -> None:
        seen.append(engine)
        if len(seen) == 1:
            raise OSError("away")

    kept = MigratedEngine(partial(make_engine, MEMORY), "the lessons", migrate=fails_once)
    with pytest.raises(Exception, match="the lessons: away"):
        await kept.get()
    engine = await kept.get()
    await kept.aclose()
    assert seen[1] is engine is not seen[0]
