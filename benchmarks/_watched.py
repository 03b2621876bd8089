"""The command `cascade`, with a look into its process from time to time.

    python benchmarks/_watched.py FILE SECONDS serve cascade.yaml

A thread writes a line of JSON every so many seconds: the tasks of all event loops that are not
done, and the objects of each type that the garbage collector knows, most frequent first. That takes
some hundredths of a second each time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
from collections import Counter
from pathlib import Path

from cascade.cli import main

KINDS = 60
"""Types that are told of each time."""


def seen() -> dict[str, object]:
    """What is in this process now."""
    objects = gc.get_objects()
    loops = [one for one in objects if isinstance(one, asyncio.AbstractEventLoop)]
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects)
    tasks = sum(len(asyncio.all_tasks(loop)) for loop in loops if not loop.is_closed())
    return {"tasks": tasks, "objects": len(objects), "kinds": dict(kinds.most_common(KINDS))}


def watch(path: Path, seconds: float) -> None:
    """Write what is seen, for ever."""
    with path.open("w", encoding="utf-8") as file:
        while not threading.Event().wait(seconds):
            file.write(json.dumps(seen()) + "\n")
            file.flush()


if __name__ == "__main__":
    where, every = Path(sys.argv.pop(1)), float(sys.argv.pop(1))
    threading.Thread(target=watch, args=(where, every), name="watched", daemon=True).start()
    main()
