"""Takes a calibration on that has changed, without dropping a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cascade.api import Cascade
from cascade.confidence.calibration import Calibration
from cascade.errors import CascadeError, ModelError
from cascade.oversight.validity import check_weights
from cascade.service.serving import Served

logger = logging.getLogger("cascade")

Stamp = tuple[int, int, int]
"""What tells a file from the one before: time of change in ns, size, inode."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """How loading a calibration went.

    Attributes:
        cascade: its name.
        at: when.
        problem: why the one before goes on; None where the new one is in use.
    """

    cascade: str
    at: datetime
    problem: str | None = None


class Reloads:
    """Loads calibrations again when their files change, or when it is told to.

    A new cascade is built and checked beside the running one and takes its place at once, with
    its mode; running requests finish on the old one. One that cannot be built changes nothing.

    Args:
        served: the cascades that are replaced.
        files: the calibration of each cascade that has one.
        build: makes a cascade anew by its name, with its own calibration or another.
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        files: Mapping[str, Path],
        build: Callable[[str, Calibration | None], Cascade],
    ) -> None:
        self._served = served
        self._files = dict(files)
        self._own = dict(files)
        self._build = build
        self._seen = {name: _stamp(path) for name, path in files.items()}
        self._one_at_a_time = asyncio.Lock()
        now = datetime.now(UTC)
        self.last: dict[str, Loaded] = {name: Loaded(name, now) for name in files}
        self.counts: dict[tuple[str, str], int] = {}

    @property
    def problems(self) -> Mapping[str, str]:
        """Why cascades go on with an older calibration than their file has."""
        return {name: last.problem for name, last in self.last.items() if last.problem}

    @property
    def names(self) -> frozenset[str]:
        """The cascades that can be made anew."""
        return frozenset(name for name in self._served if "/" not in name)

    def leave_alone(self, name: str, *, left: bool) -> None:
        """Go by the calibration's file no more, as another version is in use; or again."""
        if left:
            self._files.pop(name, None)
        elif name in self._own:
            self._files[name] = self._own[name]
            self._seen[name] = _stamp(self._own[name])

    async def watch(self, every_s: float) -> None:
        """Look at the files for ever, whatever is found there."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.look()
            except Exception:
                logger.exception("the calibrations could not be looked at; they are again later")

    async def look(self) -> list[Loaded]:
        """Load the calibrations whose files are others than those seen last."""
        stamps = {name: _stamp(path) for name, path in self._files.items()}
        return [
            await self.load(name) for name, stamp in stamps.items() if stamp != self._seen[name]
        ]

    async def load_all(self) -> list[Loaded]:
        """Load every calibration again."""
        return [await self.load(name) for name in list(self._files)]

    async def load(self, name: str) -> Loaded:
        """Load the calibration of one cascade again.

        Raises:
            KeyError: it has none.
        """
        async with self._one_at_a_time:
            self._seen[name] = _stamp(self._files[name])
            problem = await self._try(name)
        loaded = self.last[name] = Loaded(name, datetime.now(UTC), problem)
        result = "failed" if problem else "done"
        self.counts[name, result] = self.counts.get((name, result), 0) + 1
        if problem is None:
            logger.info("%s: loaded its calibration %s", name, self._files[name])
        else:
            logger.error("%s: goes on with its old calibration: %s", name, problem)
        return loaded

    async def _try(self, name: str) -> str | None:
        try:
            cascade = await self.make(name)
        except Exception as error:  # noqa: BLE001 - the log and the page tell of it
            return self.why(name, error)
        self.take(name, cascade)
        return None

    async def make(self, name: str, calibration: Calibration | None = None) -> Cascade:
        """Make a cascade anew and check it, beside the one that runs.

        Args:
            name: of the cascade.
            calibration: in place of its configuration's.

        Raises:
            CascadeError: it cannot be made, or is not for the models that run now.
        """
        # Reading and fitting take a while; other requests go on meanwhile.
        cascade = await asyncio.to_thread(self._build, name, calibration)
        try:
            await self._check(cascade)
        except BaseException:
            await cascade.aclose()
            raise
        return cascade

    def take(self, name: str, cascade: Cascade, version: str | None = None) -> None:
        """Let a cascade take its place, for requests that begin from now on."""
        served = self._served[name]
        cascade.mode = served.cascade.mode
        served.swap(cascade, version)

    def why(self, name: str, error: Exception) -> str:
        """Why a calibration cannot be loaded; the log has all of what nobody thought of."""
        if isinstance(error, CascadeError):
            return str(error)
        logger.error("%s: its calibration cannot be loaded", name, exc_info=error)
        place = self._own.get(name, name)
        return f"{place}: {type(error).__name__}: {error}"

    async def _check(self, cascade: Cascade) -> None:
        """Whether the calibration was made for the weights that run now."""
        if cascade.calibration is None:
            return
        try:
            await check_weights(cascade.calibration, cascade.tiers, cascade.task)
        except ModelError as error:
            if not error.circumstantial:
                raise
            # Nobody could say; the cascade asks again with its first question.
            logger.warning("%s: the calibration could not be checked: %s", cascade.name, error)


def _stamp(path: Path) -> Stamp | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
