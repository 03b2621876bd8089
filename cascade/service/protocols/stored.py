"""Conversations that `/v1/responses` may go on with: in memory, bounded, each for its own key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from cascade.service.faults import ServiceError
from cascade.service.keys import Key
from cascade.service.service import Service

KEPT = 1_000
"""Conversations; the one that was not gone on with for longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation up to an answer, and the answer as it was given."""

    key: str | None
    messages: Sequence[Any]
    body: dict[str, Any]


class Conversations:
    """Those of one service."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def put(
        self, response_id: str, key: Key | None, messages: Sequence[Any], body: dict[str, Any]
    ) -> None:
        """Keep one."""
        self._stored[response_id] = Stored(_id(key), messages, body)
        while len(self._stored) > self._kept:
            self._stored.popitem(last=False)

    def get(self, response_id: str, key: Key | None, status: int = 404) -> Stored:
        """One that this key has asked for.

        Raises:
            ServiceError: there is none of this id, or it is another key's.
        """
        stored = self._stored.get(response_id)
        if stored is None or stored.key != _id(key):
            raise ServiceError(
                status,
                f"there is no response {response_id!r:.80}: it was not stored, is forgotten, or "
                "another process has it. Send the whole conversation as `input`.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        self._stored.move_to_end(response_id)
        return stored

    def drop(self, response_id: str, key: Key | None) -> None:
        """Forget one; raises as `get`."""
        self.get(response_id, key)
        del self._stored[response_id]


def _id(key: Key | None) -> str | None:
    return None if key is None else key.id


_of_services: WeakKeyDictionary[Service, Conversations] = WeakKeyDictionary()


def conversations_of(service: Service) -> Conversations:
    """The conversations of a service."""
    return _of_services.setdefault(service, Conversations())
