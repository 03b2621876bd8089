"""Parts of a journal: what other processes have made of rows, until the journal has it.

A replica writes down what became of a row before it tells anyone. Where it is killed, the next one
takes up what is there; where the job is killed, the journal does when it is opened again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs.records import Record, from_content, to_line

__all__ = ["Part", "discard_parts", "left_over", "lock", "new_run", "parts_of"]

fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
"""Not on Windows, where nothing keeps two processes apart."""

PATIENCE_S = 60.0
"""How long to wait for a process that is still at a part. Ray ends those of a job that was killed
within seconds."""

PAUSE_S = 0.05

CLOSED = ".closed"

HEAD = "made_with"
"""In the folder of a run: what its answers depend on, as in the head of the journal."""


class Part:
    """What became of the rows of one block.

    Only one process has it at a time; another waits. The file must be there already: that of a
    block whose rows the journal has is gone, and nobody asks them again.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        ConfigurationError: another process does not let go of it.
        LedgerError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun: Counter[int] = Counter()
        self._done: dict[int, Record] = {}
        try:
            self._file = path.open("r+b")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            _wait_for(self._file, path)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def records(self) -> list[Record]:
        """What is done, in the order in which it was."""
        return list(self._done.values())

    def find(self, number: int, key: str) -> Record | None:
        """What became of a row, None where nothing has yet."""
        found = self._done.get(number)
        return found if found is not None and found.key == key else None

    def lost(self, number: int) -> int:
        """How often a row was begun by a process that did not live to end it."""
        return self._begun[number]

    def begin(self, number: int) -> None:
        """Say that a row is about to be asked.

        Raises:
            LedgerError: it cannot be written.
        """
        self._append(json.dumps({"begun": number}).encode())
        self._begun[number] += 1

    def add(self, record: Record) -> None:
        """Write what became of a row; it survives the end of the process.

        Raises:
            LedgerError: it cannot be written.
        """
        self._append(to_line(record))
        self._done[record.number] = record

    def _append(self, line: bytes) -> None:
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be written: {error.strerror}.") from error

    def _read(self) -> None:
        while True:
            place = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):  # the end, or half a line of a process that was killed
                self._file.seek(place)
                self._file.truncate()
                return
            content = json.loads(line)
            if "begun" in content:
                self._begun[content["begun"]] += 1
            else:
                record = from_content(content)
                self._done[record.number] = record


def parts_of(journal: Path) -> Path:
    """The folder in which the parts of a journal are."""
    return journal.with_name(journal.name + ".parts")


def new_run(journal: Path, made_with: Mapping[str, Any]) -> Path:
    """A folder for the parts of one run of a job."""
    folder = parts_of(journal) / uuid4().hex
    folder.mkdir(parents=True)
    (folder / HEAD).write_text(json.dumps(dict(made_with)))
    return folder


def left_over(journal: Path, made_with: Mapping[str, Any]) -> Iterator[Record]:
    """What a job that was killed has left in parts; when all of it was taken, they are removed.

    Raises:
        ConfigurationError: it is of another set-up, or a process of that job is still at work.
    """
    folder = parts_of(journal)
    if not folder.is_dir():
        return
    for run in sorted(folder.iterdir()):
        head = run / HEAD
        if head.exists() and json.loads(head.read_text()) != made_with:
            raise ConfigurationError(
                f"{run} has answers of another set-up than {journal}: remove it if they are of no "
                "use any more."
            )
        for path in sorted(_closed(run).glob("*.part")):
            with Part(path) as part:
                yield from part.records
    discard_parts(journal)


def discard_parts(journal: Path) -> None:
    """Remove what is in parts, wherever it came from."""
    shutil.rmtree(parts_of(journal), ignore_errors=True)


def _closed(run: Path) -> Path:
    """The folder under a name where a process that was left behind finds no part to begin with."""
    return run if run.name.endswith(CLOSED) else run.rename(run.with_name(run.name + CLOSED))


def lock(file: Any) -> bool:
    """Keep other processes from a file until it is closed; False where one has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _wait_for(file: Any, path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not lock(file):
        if time.monotonic() > until:
            raise ConfigurationError(
                f"a process of an earlier run is still at {path}: end it, or wait for it."
            )
        time.sleep(PAUSE_S)
