"""How long a question waits for a ledger whose database does not answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cascade import Audits
from cascade._patience import Patience
from cascade.errors import DeadlineError
from cascade.ledger.store import Store
from cascade.ledger.store.base import Batch
from cascade.ledger.store.memory import MemoryBackend
from tests.failing.worlds import asking, entries, until


class Standing(MemoryBackend):
    """A database that answers nothing while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    async def write(self, batch: Batch) -> None:
        await asyncio.to_thread(self.free.wait)
        await super().write(batch)

    @contextmanager
    def held(self) -> Iterator[None]:
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()


async def test_what_was_before_a_restart_is_waited_for_once_and_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cascade.oversight.drift.READY_S", 0.2)
    backend = Standing()
    async with Store(backend, crash_safe=False) as store:
        cascade = asking(store, drift="tighten")
        with backend.held():
            store.append(entries(1))
            for _ in range(5):
                assert (await cascade.ainvoke("2 + 2?")).answer == "yes"
            watch = cascade.drift
            assert watch is not None
            assert watch._patience.over
            began = time.monotonic()
            await watch.ready()
            assert time.monotonic() - began < 5
        await until(lambda: watch._restored is not None and watch._restored.done())
        await cascade.aclose()


async def test_what_a_day_of_audits_has_cost_is_waited_for_once_and_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cascade.agents.auditor.READY_S", 0.2)
    backend = Standing()
    async with Store(backend, crash_safe=False) as store:
        cascade = asking(store, audit_rate=Audits(rate=1.0, daily_usd=1))
        with backend.held():
            store.append(entries(1))
            for _ in range(5):
                assert (await cascade.ainvoke("2 + 2?")).answer == "yes"
        await cascade.aclose()
        nodes = [each.node for each in await store.query()]
    assert "audit" not in nodes  # none before it is known what may be spent


async def test_a_deadline_holds_while_a_call_is_written_down() -> None:
    backend = Standing()
    async with Store(backend) as store:
        cascade = asking(store, deadline=0.3)
        with backend.held(), pytest.raises(DeadlineError, match=r"written into the ledger"):
            await cascade.ainvoke("2 + 2?")
        await store.flush()
        assert await store.unfinished() == []
        await cascade.aclose()


async def test_patience_is_of_all_who_wait_together() -> None:
    patience = Patience(0.1)
    assert not patience.over
    never = asyncio.get_running_loop().create_future()
    assert not await patience.wait_for(asyncio.shield(never))
    assert patience.over
    assert not await patience.wait_for(asyncio.shield(never))
    assert await Patience(30).wait_for(asyncio.sleep(0))
    never.cancel()
