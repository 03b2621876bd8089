"""A replica: a process with a cascade of its own, which answers blocks of rows.

It knows nothing of Ray. Whatever becomes of a row stands in the block's part before anyone is told,
so that a replica may be killed at any moment: the next one is given the block again and asks only
the rows that are not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from cascade import errors
from cascade._portal import run_sync
from cascade._together import together
from cascade.api import Cascade
from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.jobs.parts import Part, lock
from cascade.jobs.records import Record, from_content, to_line
from cascade.jobs.rows import Row
from cascade.jobs.running import ask, made_with
from cascade.models.llamacpp_engine import share

__all__ = ["Answers", "Factory", "Problem", "Replica", "Work", "from_bytes", "to_bytes"]

Factory = Callable[[], AbstractContextManager[Cascade]]
"""Makes the cascade of a process; it is sent to the processes by pickle, clients never are."""

STOP = "stop"
"""While a file of this name is in the folder of the run, no more rows are begun."""

MOST_LOST = 3
"""So many processes may end with a row under way. It may be the row that ends them."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a replica is told.

    Attributes:
        factory: makes its cascade.
        made_with: what the answers of the job depend on; a replica with another set-up refuses.
        job: the tag of the ledger's entries.
        folder: of this run, with its parts.
        directory: in which the job was started, and to which relative paths belong.
        concurrency: rows under way at once.
        threads: that a model in this process may compute with; None leaves it to the model.
    """

    factory: Factory
    made_with: Mapping[str, Any]
    job: str
    folder: Path
    directory: Path
    concurrency: int
    threads: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a replica cannot go on: the class of the error in `cascade.errors`, and its message."""

    kind: str
    message: str

    def error(self) -> CascadeError:
        """The error, for whoever waits for the rows."""
        kind = getattr(errors, self.kind, CascadeError)
        made = kind(self.message)
        assert isinstance(made, CascadeError)
        return made


Answers = Mapping[int, Record]
"""Records by the numbers of their rows. A row that was not begun is left out."""


def to_bytes(answers: Answers | Problem) -> bytes:
    """What a replica says to a block: a line for each row, as in the journal, or the problem."""
    if isinstance(answers, Problem):
        return json.dumps({"problem": asdict(answers)}).encode()
    return b"\n".join(map(to_line, answers.values()))


def from_bytes(said: bytes) -> Answers | Problem:
    """The answers that were written by `to_bytes`."""
    contents = [json.loads(line) for line in said.split(b"\n") if line]
    if contents and "problem" in contents[0]:
        return Problem(**contents[0]["problem"])
    return {record.number: record for record in map(from_content, contents)}


class Replica:
    """What answers blocks of rows in a process, several at once in threads.

    Args:
        work: what to do; never raises, `__call__` tells what is wrong with it.
    """

    def __init__(self, work: Work) -> None:
        self._opened = ExitStack()
        self._work = work
        self._free = asyncio.Semaphore(work.concurrency)
        self._problem: Problem | None = None
        self._flush: Callable[[], Any] | None = None
        try:
            self._cascade = self._set_up()
        except CascadeError as error:
            self._problem = Problem(type(error).__name__, f"a replica cannot begin: {error}")
        except Exception as error:  # noqa: BLE001 - of the user's factory; whoever waits is told
            said = f"a replica cannot begin: {type(error).__name__}: {error}"
            self._problem = Problem("ConfigurationError", said)

    def __call__(self, block: Any) -> Any:
        """Answer a block: its `index` and the pickled `rows`; the same `index` and `answers`, as
        `to_bytes` has them."""
        (index,), (rows,) = block["index"].to_pylist(), block["rows"].to_pylist()
        answers = self.answer(index, pickle.loads(rows)) if rows else {}  # noqa: S301 - our own
        pa: Any = import_module("pyarrow")  # it has no types
        cells = {"index": [index], "answers": pa.array([to_bytes(answers)], pa.large_binary())}
        return pa.table(cells)

    def answer(self, index: int, rows: Sequence[Row]) -> Answers | Problem:
        """What became of rows; of none of them where the journal has them already."""
        if self._problem is not None:
            return self._problem
        try:
            with Part(self._work.folder / f"{index}.part") as part:
                return run_sync(self._ask_all(part, rows))
        except FileNotFoundError:
            return {} if self._work.folder.is_dir() else self._no_folder()
        except CascadeError as error:
            return Problem(type(error).__name__, str(error))

    def close(self) -> None:
        """End audits, write what is left, and give everything back."""
        self._opened.close()

    def __del__(self) -> None:
        # The end of a process as Ray tells of it.
        self.close()

    def _set_up(self) -> Cascade:
        work = self._work
        if not work.folder.is_dir():
            raise self._no_folder().error()
        if not work.directory.is_dir():
            raise ConfigurationError(
                f"{work.directory} is not there: a replica works where the job was started."
            )
        os.chdir(work.directory)
        if work.threads is not None:
            share.threads = work.threads
        self._opened.enter_context(_presence(work.folder))
        cascade = self._opened.enter_context(work.factory())
        if json.dumps(made_with(cascade)) != json.dumps(dict(work.made_with)):
            raise ConfigurationError(
                f"its cascade is not that of the job: {made_with(cascade)}, not {work.made_with}. "
                "Models, prices and configuration have to be the same for all replicas."
            )
        self._flush = getattr(cascade.options["ledger"], "flush", None)
        return cascade

    def _no_folder(self) -> Problem:
        return Problem(
            "ConfigurationError",
            f"{self._work.folder} is not there: all machines of a cluster have to see the folder "
            "of the output under the same path.",
        )

    async def _ask_all(self, part: Part, rows: Sequence[Row]) -> Answers:
        records = await together(self._ask(part, row) for row in rows)
        return {record.number: record for record in records if record is not None}

    async def _ask(self, part: Part, row: Row) -> Record | None:
        found = part.find(row.number, row.key)
        if found is not None:
            return found
        lost = part.lost(row.number)
        async with self._free:
            stopped = (self._work.folder / STOP).exists()
            if stopped and not lost:
                return None
            if stopped or lost >= MOST_LOST:
                record = _left(row, lost)
            else:
                part.begin(row.number)
                record = await ask(self._cascade, row, self._work.job)
                await self._ledger_written()
        record = replace(record, lost=lost or None)
        part.add(record)
        return record

    async def _ledger_written(self) -> None:
        """A record is told after its entries are in the ledger, or nobody might ever write them."""
        if self._flush is not None:
            with suppress(LedgerError):  # it has told the log, and tries again
                await self._flush()


def _left(row: Row, lost: int) -> Record:
    """A row that is not asked again in this run. It may have cost something."""
    said = f"{lost} replica(s) ended while it was under way"
    return Record(row.number, row.key, "error", error=f"ModelUnavailableError: {said}.")


def _presence(folder: Path) -> ExitStack:
    """A file that says which process this is; it is locked as long as the process lives."""
    stack = ExitStack()
    path = folder / f"{uuid4().hex}.replica"
    file = stack.enter_context(path.open("w"))
    lock(file)
    file.write(json.dumps({"pid": os.getpid()}))
    file.flush()
    stack.callback(path.unlink, missing_ok=True)
    return stack
