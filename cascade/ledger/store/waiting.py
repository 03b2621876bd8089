"""What waits in the writer's queue, and those who wait until it is written."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cascade.errors import LedgerError
from cascade.ledger.store.base import Attempt, Batch, Dropped, Stored, StoredTexts, Withdrawn
from cascade.ledger.texts import Pending

Kept = Attempt | Stored | Withdrawn | StoredTexts | Pending | Dropped
"""What can be handed over."""

Done = Future[None] | asyncio.Future[None]
"""What somebody waits for, in a thread or in an event loop."""


@dataclass(slots=True)
class Item:
    """A place in the queue.

    Attributes:
        what: what is to be written; None is nothing but a mark.
        done: what somebody waits for; None where nobody does.
    """

    what: Kept | None
    done: Done | None = None


def is_entry_of(runs: Collection[str], item: Item) -> bool:
    """Whether it is an entry of one of these runs."""
    return isinstance(item.what, Stored) and item.what.entry.run_id in runs


def batch_of(items: Sequence[Item]) -> Batch:
    """All of them as one transaction."""
    kinds: dict[type, list[Any]] = defaultdict(list)
    for item in items:
        kinds[type(item.what)].append(item.what)
    return Batch(
        attempts=kinds[Attempt],
        entries=kinds[Stored],
        withdrawn=kinds[Withdrawn],
        texts=kinds[StoredTexts],
        pending=kinds[Pending],
        dropped=kinds[Dropped],
    )


def as_json(stored: Stored) -> str:
    """An entry for the log, without its free texts."""
    entry = stored.entry.model_dump(mode="json", exclude_defaults=True, exclude={"note", "signals"})
    return json.dumps({"id": stored.id, **entry, "tags": dict(stored.tags)})


def settle(outcomes: Mapping[Done, LedgerError | None]) -> None:
    """Tell all who wait how it ended; those of one event loop together, which wakes it once."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for done, error in outcomes.items():
        if isinstance(done, asyncio.Future):
            loops[done.get_loop()].append(done)
        elif done.set_running_or_notify_cancel():
            _tell(done, error)
    for loop, waiting in loops.items():
        with suppress(RuntimeError):  # the loop was closed, and nobody waits there any more
            loop.call_soon_threadsafe(_tell_all, waiting, outcomes)


def _tell_all(
    waiting: Sequence[asyncio.Future[None]], outcomes: Mapping[Done, LedgerError | None]
) -> None:
    for done in waiting:
        if not done.done():
            _tell(done, outcomes[done])


def _tell(done: Done, error: LedgerError | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
