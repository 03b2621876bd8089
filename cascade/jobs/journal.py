"""What a job has done so far: one line per row, appended when the row is done.

A process that is killed leaves at most half a line, which the next one cuts off. A row that is
there with an answer is never asked again.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs.parts import left_over, lock
from cascade.jobs.records import Record, Status, from_content, to_line

__all__ = ["Journal", "Record", "Status"]

FORMAT = 1

NONE = 0
"""The place of a row that is not there; the head of the file has the place 0."""


class Journal:
    """The journal of one job, on disk.

    Args:
        path: the file; made if it is not there.
        made_with: what the answers depend on besides the questions. A journal of another set-up
            is refused.

    Raises:
        ConfigurationError: it is of another set-up, is no journal, or another process is at it.
        LedgerError: it cannot be written.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            self._lock()
            self._places = array("Q")
            self._waited = array("Q")
            self.spent_usd = Decimal(0)
            """Dollars of all attempts, also of rows that were asked again."""
            depends = json.loads(json.dumps(dict(made_with)))
            self._read(depends)
            self._take_up(depends)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return self._count("ok")

    @property
    def failed(self) -> int:
        """Rows with an error."""
        return self._count("error")

    @property
    def waiting(self) -> int:
        """Rows that wait for an answer."""
        return self._count("waiting")

    def add(self, record: Record) -> None:
        """Write what became of a row; it survives the end of the process.

        Raises:
            LedgerError: it cannot be written.
        """
        line = to_line(record)
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise LedgerError(
                f"{self.path} cannot be written: {error.strerror}. What is in it is kept: run the "
                "same command again when there is room."
            ) from error
        self._note(record, place)

    def find(self, number: int) -> Record | None:
        """What became of a row, None where nothing has yet."""
        return self._at(self._places, number)

    def find_waiting(self, number: int) -> Record | None:
        """A row as it waited last, whatever became of it since; None where it never has."""
        return self._at(self._waited, number)

    def _at(self, places: array[int], number: int) -> Record | None:
        place = places[number] if number < len(places) else NONE
        if place == NONE:
            return None
        self._file.seek(place)
        return from_content(json.loads(self._file.readline()))

    def _note(self, record: Record, place: int) -> None:
        _put(self._places, record.number, place)
        if record.status == "waiting":
            _put(self._waited, record.number, place)
        self.spent_usd += record.counted_usd or Decimal(0)

    def _lock(self) -> None:
        if not lock(self._file):
            raise ConfigurationError(
                f"another process is at {self.path}: wait for it, or give another output."
            )

    def _take_up(self, made_with: Mapping[str, Any]) -> None:
        """What replicas of a job that was killed have done, and could not tell it any more."""
        for record in left_over(self.path, made_with):
            before = self.find(record.number)
            if before is None or _attempt(before) != _attempt(record):
                self.add(record)

    def _read(self, made_with: Mapping[str, Any]) -> None:
        self._file.seek(0)
        head = self._file.readline()
        if not head.endswith(b"\n"):  # new, or killed before its first row
            self._file.truncate(0)
            self._file.write(json.dumps({"journal": FORMAT, "made_with": made_with}).encode())
            self._file.write(b"\n")
            self._file.flush()
            return
        self._check(head, made_with)
        while True:
            place = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                return
            self._note(from_content(self._json(line)), place)

    def _count(self, status: Status) -> int:
        found = map(self.find, range(len(self._places)))
        return sum(record is not None and record.status == status for record in found)

    def _check(self, head: bytes, made_with: Mapping[str, Any]) -> None:
        kept = self._json(head)
        if not isinstance(kept, dict) or kept.get("journal") != FORMAT:
            raise self._foreign()
        was = kept["made_with"]
        changed = sorted(k for k in {*was, *made_with} if was.get(k) != made_with.get(k))
        if changed:
            raise ConfigurationError(
                f"{self.path} was begun with another {', '.join(changed)}: answers of two set-ups "
                "in one file would be of no use. Give the options of then, another --output, or "
                "--fresh to ask and pay anew."
            )

    def _json(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise self._foreign() from error

    def _foreign(self) -> ConfigurationError:
        return ConfigurationError(f"{self.path} is no journal of a batch: give another --output.")


def _put(places: array[int], number: int, place: int) -> None:
    missing = number + 1 - len(places)
    if missing > 0:
        places.extend([NONE] * missing)
    places[number] = place


def _attempt(record: Record) -> tuple[str | None, ...]:
    """Tells one attempt at a row from another."""
    return record.key, record.status, record.run_id, record.error
