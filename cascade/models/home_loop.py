"""Where a stranger's client is at home: connections belong to the event loop that opened them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cascade._background import reply_loop

T = TypeVar("T")

BEGINS_S = 2.0
"""A loop that has not begun with a call after so long is held up, and is not waited for."""

LOOK_S = 1.0
"""How often to look whether the loop is still there."""


async def at_home(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do what comes after a reply on the loop of the reply, where that runs on; else here.

    A client of which nothing is known may keep connections and locks of the loop on which
    requests use it. Work on the background loop that used it at the same time would break both.

    Raises:
        ConnectionError: that loop ended meanwhile.
    """
    home = reply_loop()
    if home is None or home is asyncio.get_running_loop() or not home.is_running():
        return await work()
    begun = threading.Event()

    async def visit() -> T:
        begun.set()
        return await work()

    coroutine = visit()
    try:
        there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, home))
    except RuntimeError:  # it was closed this moment
        coroutine.close()
        return await work()
    try:
        await asyncio.wait({there}, timeout=BEGINS_S)
        if not begun.is_set():
            there.cancel()
            return await work()
        while not there.done() and not home.is_closed():
            await asyncio.wait({there}, timeout=LOOK_S)
    finally:
        there.cancel()
    if there.cancelled() or not there.done():
        raise ConnectionError("the event loop of the requests ended during the call")
    return there.result()
