"""PostgreSQL's notifications: what another replica changed is heard of at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from cascade.errors import LedgerError
from cascade.service.shared.database import SharedDatabase

logger = logging.getLogger("cascade")

PAUSE_S = 1.0
"""Before it is tried again to listen."""

Hear = Callable[[str], None]


class Listening:
    """Listens on channels, through a connection of its own.

    What is notified while there is no connection is not heard: whatever is told here is looked
    for from time to time as well.

    Args:
        database: the shared one.
        heard: what is called with each message, by the name of its channel.
    """

    def __init__(self, database: SharedDatabase, heard: Mapping[str, Hear]) -> None:
        self._database = database
        self._heard = heard

    async def live(self) -> None:
        """Listen for ever."""
        while True:
            try:
                await self._listen()
            except LedgerError as error:
                logger.warning("other replicas cannot be listened to: %s", error)
            except Exception:
                logger.exception("other replicas cannot be listened to")
            await asyncio.sleep(PAUSE_S)

    async def _listen(self) -> None:
        """Listen until the connection ends."""
        ended = asyncio.Event()
        async with self._database.connection() as driver:
            driver.add_termination_listener(lambda _: ended.set())
            for channel in self._heard:
                await driver.add_listener(channel, self._hear)
            await ended.wait()

    def _hear(self, connection: object, process: int, channel: str, message: object) -> None:
        del connection, process
        self._heard[channel](str(message))
