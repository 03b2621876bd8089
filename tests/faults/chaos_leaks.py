"""What a run leaves behind: tasks, threads, descriptors, memory, and what Python complains of."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade._portal import portal_loop
from tests.faults.chaos_verdicts import problem

SETTLES_S = 30.0
"""How long what was closed may take to be gone."""

EVERY_S = 0.02
"""How often to look whether an event loop is late: the less often, the more of it is missed."""

LATE_S = 0.1
"""A loop that is later than this was held up."""

LET_PASS = ("unclosed transport",)
"""Beginnings of warnings of nothing that is left. anyio, below httpx, drops a connection that is
cancelled in the moment in which it comes about; Python closes it when it sees that, and descriptors
that stay open are counted."""

SAMPLE_S = 0.25
"""How often to look at the memory."""


@dataclass(frozen=True)
class Held:
    """What the process holds: how many of each kind of descriptor, threads and tasks by name."""

    descriptors: Counter[str]
    threads: Counter[str]
    tasks: Counter[str]

    @classmethod
    def now(cls) -> Held:
        """As it is."""
        return cls(_descriptors(), Counter(_threads()), _tasks())

    def more_than(self, before: Held) -> dict[str, int]:
        """What there is more of than before."""
        pairs = {
            "descriptor": (self.descriptors, before.descriptors),
            "thread": (self.threads, before.threads),
            "task": (self.tasks, before.tasks),
        }
        return {
            f"{kind} {name}": n
            for kind, (now, then) in pairs.items()
            for name, n in (now - then).items()
        }


def _threads() -> list[str]:
    """Names of threads, but for those of the loop's own pool: it makes them as it needs them."""
    return [thread.name for thread in threading.enumerate() if thread.name[:8] != "asyncio_"]


def _descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # the one by which the folder was read
            continue
        kinds[target.partition(":")[0] if target[0] != "/" else target] += 1
    return kinds


def _tasks() -> Counter[str]:
    """Tasks of this loop and of the one behind synchronous callers, but for the present one."""
    here = asyncio.current_task()
    tasks = asyncio.all_tasks() | asyncio.all_tasks(portal_loop())
    return Counter(getattr(t.get_coro(), "__qualname__", "?") for t in tasks if t is not here)


async def left_behind(before: Held) -> dict[str, int]:
    """What there is more of than before, once it had time to go."""
    until = time.monotonic() + SETTLES_S
    while True:
        gc.collect()
        more = Held.now().more_than(before)
        if not more or time.monotonic() > until:
            return more
        await asyncio.sleep(0.1)


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Pulse:
    """Looks at this process while it runs, from its two event loops and from a thread.

    Attributes:
        memory_mb: samples.
        late_s: by loop or thread, the time in which it did not come to what was due, all together.
        computed_s: the longest that a loop has computed without coming to what was due. Time in
            which others had the processor is not in it.
    """

    memory_mb: list[float] = field(default_factory=list)
    late_s: dict[str, float] = field(default_factory=dict)
    computed_s: float = 0.0

    @asynccontextmanager
    async def beating(self) -> AsyncGenerator[None]:
        """Look as long as this goes on."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat_in_thread, args=(over,))
        thread.start()
        here = [asyncio.create_task(one) for one in (self._beat("here"), self._sample())]
        portal = asyncio.run_coroutine_threadsafe(self._beat("portal"), portal_loop())
        try:
            yield
        finally:
            portal.cancel()
            for task in here:
                task.cancel()
            await asyncio.wait(here)
            over.set()
            thread.join()

    @property
    def behind_s(self) -> float:
        """Time in which this process did not come to what was due, so far.

        A request waits for its event loop and for the thread of the ledger in turns.
        """
        late = self.late_s
        return max(late.get("here", 0.0), late.get("portal", 0.0)) + late.get("thread", 0.0)

    def _beat_in_thread(self, over: threading.Event) -> None:
        while True:
            due = time.monotonic() + EVERY_S
            if over.wait(EVERY_S):
                return
            self.late_s["thread"] = self.late_s.get("thread", 0.0) + time.monotonic() - due

    async def _beat(self, loop: str) -> None:
        while True:
            due, computed = time.monotonic() + EVERY_S, time.thread_time()
            await asyncio.sleep(EVERY_S)
            late_s = time.monotonic() - due
            self.late_s[loop] = self.late_s.get(loop, 0.0) + late_s
            if late_s > LATE_S:
                self.computed_s = max(self.computed_s, time.thread_time() - computed)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.memory_mb.append(resident_mb())

    def thirds(self) -> tuple[float, float, float]:
        """The least memory in each of three parts of the run: what comes and goes is not in it."""
        n = max(1, len(self.memory_mb) // 3)
        parts = (self.memory_mb[:n], self.memory_mb[n : 2 * n], self.memory_mb[2 * n :])
        first, second, third = (min(part, default=resident_mb()) for part in parts)
        return first, second, third


class _Log(logging.Handler):
    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        # What the cascade warns of is what it is made for; its errors are not.
        if record.name == "asyncio" or record.levelno >= logging.ERROR:
            self._tell(f"{record.name} complained", f"{record.getMessage():.300}")


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What nobody handled: exceptions of tasks, what was not closed or awaited, errors logged."""
    found: list[str] = []

    def tell(kind: str, about: str) -> None:
        found.append(problem(kind, about))

    def unraisable(given: Any) -> None:
        tell("an exception that nobody could take", f"{given.exc_value!r} in {given.object!r:.100}")

    def unhandled(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        tell("an event loop complained", f"{context.get('message')}: {context.get('exception')!r}")

    def shown(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if not str(message).startswith(LET_PASS):
            tell(f"a {category.__name__}", str(message))

    loops = (asyncio.get_running_loop(), portal_loop())
    hook, handler, root = sys.unraisablehook, _Log(tell), logging.getLogger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what others in this process have left is theirs
        warnings.simplefilter("always", ResourceWarning)
        warnings.filterwarnings("always", message=".*never awaited")
        warnings.showwarning = shown
        sys.unraisablehook = unraisable
        root.addHandler(handler)
        for loop in loops:
            loop.set_exception_handler(unhandled)
        try:
            yield found
            gc.collect()
        finally:
            for loop in loops:
                loop.set_exception_handler(None)
            root.removeHandler(handler)
            sys.unraisablehook = hook
