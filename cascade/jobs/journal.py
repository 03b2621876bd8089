"""Journal of a job: one line per row, appended when the row is done, and notes beside them.

A process that is killed leaves at most half a line, which the next one cuts off. A row that is
there with an answer is never asked again.
"""

from __future__ import annotations

import fcntl
import json
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from cascade.errors import ConfigurationError, LedgerError

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
        tier: that answered.
        confidence: of the last draft; None where none could be judged.
        calibrated: whether that is a probability.
        escalated: whether a tier above the first was needed.
        degraded: the large model was needed and could not be had.
        cost_usd: dollars; None where unknown.
        counted_usd: what budgets count: the cost, or what is assumed of an unknown one.
        saved_usd: dollars against the large model alone; None where unknown.
        saved_basis: measured, estimated or unknown.
        run_id: of the row's run in the ledger.
        error: kind of the error and its message.
        run: of a row that waits, or has waited in vain, as JSON (`Run.to_json`); with it nothing is
            paid for twice.
        expected_usd: what the answer that it waits for may cost.
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
    run: Mapping[str, Any] | None = None
    expected_usd: Decimal | None = None


def to_line(record: Record) -> bytes:
    """A record as a line of JSON, without the line's end."""
    kept = {f.name: v for f in fields(record) if (v := getattr(record, f.name)) is not None}
    content = {k: format(v, "f") if isinstance(v, Decimal) else v for k, v in kept.items()}
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


def from_content(content: Mapping[str, Any]) -> Record:
    """The record of a line that was decoded."""
    money = {k: Decimal(content[k]) for k in MONEY if k in content}
    return Record(**{**content, **money})


FORMAT = 1

NONE = 0
"""The place of a row that is not there; the head of the file has the place 0."""


class Journal:
    """The journal of one job, on disk.

    Args:
        path: the file; made if it is not there.
        made_with: what the answers depend on besides the questions. A journal of another set-up
            is refused.

    Attributes:
        spent_usd: dollars of all attempts, also of rows that were asked again.
        notes: what was written down of things that are no rows, by their names.

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
            self.spent_usd = Decimal(0)
            self.notes: dict[str, dict[str, Any]] = {}
            self._expected: dict[int, Decimal] = {}
            depends = json.loads(json.dumps(dict(made_with)))
            self._read(depends)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def expected_usd(self) -> Decimal:
        """Dollars that the answers which rows wait for may cost, as far as that is known."""
        return sum(self._expected.values(), Decimal(0))

    def add(self, record: Record) -> None:
        """Write what became of a row; it survives the end of the process.

        Raises:
            LedgerError: it cannot be written.
        """
        self._keep(record, self._append(to_line(record)))

    def note(self, name: str, **facts: Any) -> None:
        """Write down facts of something that is no row, such as a provider's batch, beside those
        that were written down before; they survive the end of the process.

        Raises:
            LedgerError: it cannot be written.
        """
        self._append(json.dumps({"note": name, "facts": facts}).encode())
        self.notes.setdefault(name, {}).update(facts)

    def find(self, number: int) -> Record | None:
        """The record of a row, None where there is none yet."""
        places = self._places
        place = places[number] if number < len(places) else NONE
        if place == NONE:
            return None
        self._file.seek(place)
        return from_content(json.loads(self._file.readline()))

    def _append(self, line: bytes) -> int:
        """The place of a line that is written now."""
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise LedgerError(
                f"{self.path} cannot be written: {error.strerror}. What is in it is kept: run the "
                "same command again when there is room."
            ) from error
        return place

    def _keep(self, record: Record, place: int) -> None:
        _put(self._places, record.number, place)
        self.spent_usd += record.counted_usd or Decimal(0)
        self._expected.pop(record.number, None)
        if record.status == "waiting" and record.expected_usd is not None:
            self._expected[record.number] = record.expected_usd

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"another process is at {self.path}: wait for it, or give another output."
            ) from None

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
            self._take(self._json(line), place)

    def _take(self, content: Any, place: int) -> None:
        """Know what a line says."""
        try:
            if "note" in content:
                self.notes.setdefault(content["note"], {}).update(content["facts"])
            else:
                self._keep(from_content(content), place)
        except (TypeError, KeyError) as error:
            raise self._foreign() from error

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
