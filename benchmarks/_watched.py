"""The command `cascade`, with a look into its process from time to time.

    python benchmarks/_watched.py FILE SECONDS FRAMES serve cascade.yaml

A thread writes a line of JSON every so many seconds: the tasks of all event loops that are not
done, and how many blocks of memory Python has given out. With FRAMES above 0 tracemalloc keeps so
many of each origin, and a line has those which hold most more than at the first look.
"""

# Not by gc.get_objects(): a tuple that another thread is making is among them, and its making fails
# with a SystemError where somebody else holds it.

from __future__ import annotations

import asyncio
import json
import sys
import threading
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

from cascade.cli import main

LOOKS = 100
"""A set of weak references may change while it is read; then it is read again."""


def tasks() -> int:
    """Tasks of all event loops that are not done."""
    # `asyncio.all_tasks` wants to know the loop, which is made by who runs it.
    names = ("_all_tasks", "_scheduled_tasks")
    known: Iterable[asyncio.Task[object]] = next(
        getattr(asyncio.tasks, name) for name in names if hasattr(asyncio.tasks, name)
    )
    for _ in range(LOOKS):
        try:
            return sum(not task.done() for task in list(known))
        except RuntimeError:
            continue
    return -1


def grown(before: tracemalloc.Snapshot) -> list[str]:
    """Where most more memory was asked for that is still held."""
    told = []
    for one in tracemalloc.take_snapshot().compare_to(before, "traceback")[:8]:
        more = f"{one.size_diff:+,} bytes, {one.count_diff:+,} blocks"
        told.append("\n".join([more, *one.traceback.format()]))
    return told


def watch(path: Path, seconds: float, frames: int) -> None:
    """Write what is seen, for ever."""
    before = None
    with path.open("w", encoding="utf-8") as file:
        while not threading.Event().wait(seconds):
            seen: dict[str, object] = {"tasks": tasks(), "blocks": sys.getallocatedblocks()}
            if frames and before is None:
                before = tracemalloc.take_snapshot()
            elif before is not None:
                seen["grown"] = grown(before)
            file.write(json.dumps(seen) + "\n")
            file.flush()


if __name__ == "__main__":
    where, every, depth = (sys.argv.pop(1) for _ in range(3))
    if int(depth):
        tracemalloc.start(int(depth))
    arguments = (Path(where), float(every), int(depth))
    threading.Thread(target=watch, args=arguments, name="watched", daemon=True).start()
    main()
