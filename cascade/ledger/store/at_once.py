"""Calls that are about to be sent, written by whoever waits for it instead of the writer's thread.

To hand one line to another thread, and to wait for its word that it is in the database, takes five
times as long as to write it. What arises in one round of an event loop is written together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from cascade.ledger.store.base import Attempt

Done = asyncio.Future[None]


class AtOnce:
    """Writes attempts in the event loop that waits for them, where that can be done.

    Args:
        write: keeps attempts, in the thread that calls it; returns whether they are kept.
        hand_over: has one kept by the writer's thread instead.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Attempt]], bool],
        hand_over: Callable[[Attempt, Done], None],
    ) -> None:
        self._write = write
        self._hand_over = hand_over
        self._groups: WeakKeyDictionary[asyncio.AbstractEventLoop, list[tuple[Attempt, Done]]] = (
            WeakKeyDictionary()
        )

    def written(self, attempt: Attempt) -> Done:
        """Done once the attempt is in the database; who is cancelled later takes nothing back."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        group = self._groups.get(loop)
        if group is None:
            group = self._groups[loop] = []
            loop.call_soon(self._write_group, loop)
        group.append((attempt, done))
        return done

    def _write_group(self, loop: asyncio.AbstractEventLoop) -> None:
        # Who was cancelled before this sends nothing, so nothing has to be known of it.
        group = [(attempt, done) for attempt, done in self._groups.pop(loop) if not done.done()]
        if not group:
            return
        if self._write([attempt for attempt, _ in group]):
            for _, done in group:
                done.set_result(None)
            return
        for attempt, done in group:
            try:
                self._hand_over(attempt, done)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                done.set_exception(error)
