"""Journal of a job: what became of each row, and of each batch, in a SQLite file.

What is written survives the end of the process: a row with an answer is never asked again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from cascade.errors import ConfigurationError, LedgerError

MONEY = ("cost_usd", "counted_usd", "saved_usd", "expected_usd")

TABLES = """
CREATE TABLE IF NOT EXISTS job (made_with TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    number INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    spent_usd TEXT NOT NULL,
    expected_usd TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting ON rows (number) WHERE status = 'waiting';
CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, facts TEXT NOT NULL);
"""
"""`rows.spent_usd` is of all attempts at a row, its record of the last."""


@dataclass(frozen=True, slots=True)
class RowRecord:
    """Fate of a row, as of `CascadeResult`; None where nothing is known.

    Attributes:
        number, key: of the row, and of its question.
        counted_usd: what budgets count: the cost, or what is assumed of an unknown one.
        run, question: of a row that waits, or has waited in vain: nothing is paid for twice.
        request: what it waits for an answer to; `expected_usd`, what that may cost.
    """

    number: int
    key: str
    status: Literal["ok", "error", "waiting"]
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
    question: Any = None
    request: Mapping[str, Any] | None = None
    expected_usd: Decimal | None = None

    def to_json(self) -> str:
        """The record as JSON; money is text, so that no digit is lost."""
        kept = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return json.dumps(kept, default=lambda amount: format(amount, "f"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record that was written down."""
        kept = json.loads(text)
        return cls(**{**kept, **{name: Decimal(kept[name]) for name in MONEY if name in kept}})


class Journal:
    """The journal of one job, on disk; one process works with it at a time.

    Args:
        path: the file; made if it is not there.
        made_with: what the answers depend on besides the questions; another one is refused.
        fresh: forget all that is in it.

    Attributes:
        spent_usd: dollars of all attempts, also of rows that were asked again.
        expected_usd: dollars that the answers which rows wait for may cost, as far as it is known.
        batches: what is known of each of a provider's batches, by their names.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        with self._told():
            self._file = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            with self._told():
                self._open(json.loads(json.dumps(dict(made_with))), fresh)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, number: int) -> RowRecord | None:
        """The record of a row, None where there is none yet."""
        found = self._file.execute("SELECT record FROM rows WHERE number = ?", (number,)).fetchone()
        return None if found is None else RowRecord.from_json(found[0])

    def waiting(self) -> list[int]:
        """The rows that wait."""
        statement = "SELECT number FROM rows WHERE status = 'waiting' ORDER BY number"
        return [number for (number,) in self._file.execute(statement)]

    def add(self, record: RowRecord) -> None:
        """Write what became of a row."""
        before = "SELECT spent_usd, expected_usd FROM rows WHERE number = ?"
        found = self._file.execute(before, (record.number,)).fetchone() or ("0", "0")
        paid, expected = record.counted_usd or Decimal(0), Decimal(0)
        if record.status == "waiting":
            expected = record.expected_usd or Decimal(0)
        spent = Decimal(found[0]) + paid
        row = (record.number, record.status, str(spent), str(expected), record.to_json())
        with self._told():
            self._file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", row)
        self.spent_usd += paid
        self.expected_usd += expected - Decimal(found[1])

    def note(self, batch: str, **facts: Any) -> None:
        """Write down facts of a provider's batch, beside those that are known."""
        known = self.batches.get(batch, {}) | facts
        with self._told():
            row = (batch, json.dumps(known))
            self._file.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", row)
        self.batches[batch] = known

    def _open(self, made_with: dict[str, Any], fresh: bool) -> None:
        execute = self._file.execute
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            execute(f"PRAGMA {setting}")
        execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            execute(statement)
        nothing = execute("SELECT 1 FROM rows UNION SELECT 1 FROM batches").fetchone() is None
        for table in ("job", "rows", "batches") if fresh or nothing else ():
            execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        begun = execute("SELECT made_with FROM job").fetchone()
        if begun is None:
            execute("INSERT INTO job VALUES (?)", (json.dumps(made_with),))
        was = made_with if begun is None else json.loads(begun[0])
        changed = sorted(k for k in {*was, *made_with} if was.get(k) != made_with.get(k))
        if changed:
            raise ConfigurationError(
                f"{self.path} was begun with other {', '.join(changed)}: answers of two set-ups "
                "in one file would be of no use. Give the options of then, another --output, or "
                "--fresh to ask and pay anew."
            )
        execute("COMMIT")
        self.spent_usd = self.expected_usd = Decimal(0)
        for spent, expected in execute("SELECT spent_usd, expected_usd FROM rows"):
            self.spent_usd += Decimal(spent)
            self.expected_usd += Decimal(expected)
        kept = execute("SELECT name, facts FROM batches")
        self.batches: dict[str, dict[str, Any]] = {name: json.loads(facts) for name, facts in kept}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say what SQLite's errors mean here."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise ConfigurationError(
                    f"another process is at {self.path}: wait for it, or give another output."
                ) from error
            if not isinstance(error, sqlite3.OperationalError) or "column" in str(error):
                raise ConfigurationError(
                    f"{self.path} is no journal of a batch: give another --output."
                ) from error
            raise LedgerError(
                f"{self.path} cannot be written: {error}. What is in it is kept: run the same "
                "command again when there is room."
            ) from error
