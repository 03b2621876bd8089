"""What a job has done so far: one line per row, appended when the row is done.

A process that is killed leaves at most half a line, which the next one cuts off. A row that is
there with an answer is never asked again.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from cascade.errors import ConfigurationError, LedgerError

__all__ = ["Journal", "Record", "Status"]

FORMAT = 1

fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
"""Not on Windows, where nothing keeps two jobs apart."""

NONE = 0
"""The place of a row that is not there; the head of the file has the place 0."""

Status = Literal["ok", "error", "waiting"]

MONEY = ("cost_usd", "counted_usd", "saved_usd", "expected_usd")


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a row.

    Attributes:
        number: of the row.
        key: of the row's question.
        status: `ok`, or `error` and why; `waiting` for an answer that comes later.
        answer: None where there is none.
        tier: who answered.
        confidence: of the last draft; None where none could be judged.
        calibrated: whether that is a probability.
        escalated: whether a tier above the first was needed.
        degraded: the large model was needed and could not be had.
        cost_usd: dollars; None where unknown.
        counted_usd: what budgets count: the cost, or what is assumed of an unknown one. None where
            nobody was asked. Of a row that has waited: since then.
        saved_usd: dollars against the large model alone; None where unknown.
        saved_basis: measured, estimated or unknown.
        run_id: of the row's run in the ledger.
        error: the kind of error and its message.
        paused: the run of a row that waits, or that failed afterwards (`cascade.jobs.continuing`).
        expected_usd: what the answer that it waits for may cost; in a plan, what escalating the
            row was expected to cost.
        output_tokens: of the answer, in a plan.
        rank: its place among all drafts by what escalating it is expected to bring per dollar,
            from 1, in a plan; None where that is nothing, or it was not ranked.
        gain: how much more probably the large model is right than its draft, in a plan.
        reason: of the decision, in a plan.
    """

    number: int
    key: str
    status: Status
    answer: str | None = None
    tier: str | None = None
    confidence: float | None = None
    calibrated: bool | None = None
    escalated: bool | None = None
    degraded: bool | None = None
    cost_usd: Decimal | None = None
    counted_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    saved_basis: str | None = None
    run_id: str | None = None
    error: str | None = None
    paused: Mapping[str, Any] | None = None
    expected_usd: Decimal | None = None
    output_tokens: int | None = None
    rank: int | None = None
    gain: float | None = None
    reason: str | None = None


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
            self._done: dict[Status, int] = {"ok": 0, "error": 0, "waiting": 0}
            self.spent_usd = Decimal(0)
            """Dollars of all attempts, also of rows that were asked again."""
            self._read(json.loads(json.dumps(dict(made_with))))
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
        return self._done["ok"]

    @property
    def failed(self) -> int:
        """Rows with an error."""
        return self._done["error"]

    @property
    def waiting(self) -> int:
        """Rows that wait for an answer."""
        return self._done["waiting"]

    def add(self, record: Record) -> None:
        """Write what became of a row; it survives the end of the process.

        Raises:
            LedgerError: it cannot be written.
        """
        line = json.dumps(_content(record), ensure_ascii=False).encode("utf-8", "surrogatepass")
        before = self.find(record.number)
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise LedgerError(
                f"{self.path} cannot be written: {error.strerror}. What is in it is kept: run the "
                "same command again when there is room."
            ) from error
        if before is not None:
            self._done[before.status] -= 1
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
        return _record(json.loads(self._file.readline()))

    def _note(self, record: Record, place: int) -> None:
        _put(self._places, record.number, place)
        if record.status == "waiting":
            _put(self._waited, record.number, place)
        self._done[record.status] += 1
        self.spent_usd += record.counted_usd or Decimal(0)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"another process is at {self.path}: wait for it, or give another output."
            ) from error

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
            found = _record(self._json(line))
            before = self._status(found.number)
            if before is not None:
                self._done[before] -= 1
                self._file.seek(place + len(line))
            self._note(found, place)

    def _status(self, number: int) -> Status | None:
        before = self.find(number)
        return None if before is None else before.status

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


def _content(record: Record) -> dict[str, Any]:
    kept = {f.name: v for f in fields(record) if (v := getattr(record, f.name)) is not None}
    return {k: format(v, "f") if isinstance(v, Decimal) else v for k, v in kept.items()}


def _record(content: Mapping[str, Any]) -> Record:
    money = {k: Decimal(content[k]) for k in MONEY if k in content}
    return Record(**{**content, **money})
