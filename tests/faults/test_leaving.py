"""Whoever leaves while a server stands still leaves nothing behind."""

from __future__ import annotations

import asyncio

from tests.faults.cells import WAITS, bench, cells, until
from tests.servers.faults import named

STANDING_STILL = [named(name) for name in sorted(WAITS)]


async def test_a_caller_who_leaves_takes_the_calls_along() -> None:
    wanted = cells(STANDING_STILL)
    async with bench(wanted) as (bed, server):
        asking = [asyncio.create_task(bed.run([cell])) for cell in wanted]
        await until(lambda: sum(call.fault in WAITS for call in list(server.calls)) >= 5)
        for task in asking:
            task.cancel()
        ends = await asyncio.gather(*asking, return_exceptions=True)
        assert any(isinstance(end, asyncio.CancelledError) for end in ends)
        await until(lambda: all(call.done.is_set() for call in list(server.calls)))
        assert all(call.done.is_set() for call in server.calls)
        await bed.aclose()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
