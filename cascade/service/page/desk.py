"""What the page keeps of one service: sessions, what was read of the ledger."""

from __future__ import annotations

import math
import secrets
import time

from fastapi import Request

from cascade.service.keys import KNOWN_FOR_S
from cascade.service.page.reading import Shelf
from cascade.service.page.sessions import Session, Sessions
from cascade.service.service import Service, service_of


class Desk:
    """The page's own state, one per application.

    Attributes:
        anybody: the session of everybody where no key is asked for.
        epoch: tells the numbers of this process from those before a restart.
        watching: streams of events that are open.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.sessions = Sessions()
        self.shelf = Shelf(service.store)
        self.anybody = Session(None, math.inf)
        self.epoch = secrets.token_hex(4)
        self.watching = 0
        self._valid: dict[str, tuple[bool, float]] = {}

    async def still_valid(self, session: Session) -> bool:
        """Whether the session has not ended, and its key not been revoked since.

        Raises:
            UnavailableError: the keys' database cannot be reached.
        """
        if self.sessions.ended(session):
            return False
        if session.key is None:
            return True
        name, now = session.key.id, time.monotonic()
        valid, at = self._valid.get(name, (False, -math.inf))
        if now - at < KNOWN_FOR_S:
            return valid
        key = await self.service.keys.get(name)
        valid = key is not None and key.revoked_at is None and key.admin
        self._valid[name] = (valid, now)
        return valid


def desk_of(request: Request) -> Desk:
    """The page's state of the service that a request came to."""
    state = request.app.state
    desk: Desk | None = getattr(state, "page_desk", None)
    if desk is None or desk.service is not service_of(request):
        desk = state.page_desk = Desk(service_of(request))
    return desk
