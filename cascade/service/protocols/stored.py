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

KEPT_BYTES = 64 * 1024 * 1024
"""Of requests and answers in them, whichever bound comes first."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A conversation up to an answer, and the answer as it was given."""

    key: str | None
    messages: Sequence[Any]
    body: dict[str, Any]
    size: int


class Conversations:
    """Those of one service."""

    def __init__(self, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._bytes = 0
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def put(
        self,
        response_id: str,
        key: Key | None,
        messages: Sequence[Any],
        body: dict[str, Any],
        size: int = 0,
    ) -> None:
        """Keep one.

        Args:
            response_id: of the answer.
            key: whose it is.
            messages: up to the answer.
            body: the answer.
            size: bytes of the request and the answer. A conversation shares its earlier turns.
        """
        self._stored[response_id] = Stored(_id(key), messages, body, size)
        self._bytes += size
        while len(self._stored) > self._kept or self._bytes > self._kept_bytes:
            _, forgotten = self._stored.popitem(last=False)
            self._bytes -= forgotten.size

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
        self._bytes -= self.get(response_id, key).size
        del self._stored[response_id]


def _id(key: Key | None) -> str | None:
    return None if key is None else key.id


_of_services: WeakKeyDictionary[Service, Conversations] = WeakKeyDictionary()


def conversations_of(service: Service) -> Conversations:
    """The conversations of a service."""
    return _of_services.setdefault(service, Conversations())
