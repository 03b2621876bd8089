"""Files of a job: questions in, a journal in SQLite, and each row with its answer beside it out."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from cascade.errors import ConfigurationError, LedgerError
from cascade.evaluation.recordings import KINDS, QUESTIONS, read_table
from cascade.questions import Question, to_messages
from cascade.state import Record

OF_RESULT = ("answer", "tier", "confidence", "calibrated", "escalated", "degraded")
ADDED = (*OF_RESULT, "cost_usd", "saved_usd", "saved_basis", "error")
"""Columns of the output beside those of a row."""

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
class Row:
    """Row of the input: its place over all files, from 0, and a question, or why there is none."""

    number: int
    columns: Mapping[str, Any]
    question: Question | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        """Tells this question from another in its place; a changed row is asked again."""
        said = json.dumps([self.question, self.problem], sort_keys=True, default=str)
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def record(self, **found: Any) -> RowRecord:
        """Fate of the row."""
        return RowRecord(number=self.number, key=self.key, **found)


def read_rows(path: Path, column: str | None = None, system: str | None = None) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder in the order of their names. A row without a
    question is a row with a `problem`; `system` goes before each question that is a text."""
    names, files = (column,) if column else QUESTIONS, [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.casefold() in KINDS and f.is_file())
        if not files:
            raise ConfigurationError(f"{path} has no file that ends with {', '.join(KINDS)}.")
        if len({file.suffix.casefold() for file in files}) > 1:
            told = f"{path} has files of several kinds, whose columns would differ"
            raise ConfigurationError(f"{told}: leave those of one.")
    every = (columns for file in files for columns in read_table(file))
    for number, columns in enumerate(every):
        name = next((name for name in names if columns.get(name) not in (None, "")), None)
        if name is None:
            yield Row(number, columns, problem=f"there is nothing in {' or '.join(names)}.")
            continue
        question = columns[name]
        try:
            if isinstance(question, str) and name == "messages":
                question = json.loads(question)
            if isinstance(question, str) and system:
                question = [("system", system), ("human", question)]
            to_messages(question)
        except ValueError as error:
            yield Row(number, columns, problem=f"{name}: {error}")
        else:
            yield Row(number, columns, question)


def check_rows(path: Path, column: str | None = None, *, prefix: str = "") -> list[str]:
    """Rows that cannot be asked, and why; a `ConfigurationError` where columns cannot be right."""
    found: dict[str, None] = {}
    problems = []
    for row in read_rows(path, column):
        found |= dict.fromkeys(row.columns)
        if row.problem is not None:
            problems.append(f"row {row.number + 1}: {row.problem.rstrip('.')}")
    wanted = (column,) if column else QUESTIONS
    if not found.keys() & set(wanted):
        told = f"{path} has no column {' or '.join(wanted)}: it has {', '.join(found) or 'no rows'}"
        raise ConfigurationError(f"{told}. Name the one with the questions, --column NAME.")
    if taken := [prefix + name for name in ADDED if prefix + name in found]:
        told = f"the input has a column {taken[0]!r} already"
        raise ConfigurationError(f"{told}: give the new ones another name, --prefix cascade_.")
    return problems


class RowRecord(Record):
    """Fate of a row, as of `CascadeResult`; None where nothing is known.

    Attributes:
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
        return json.dumps(self.model_dump(mode="json", exclude_none=True))


class Journal(AbstractContextManager["Journal"]):
    """The journal of one job, on disk; one process works with it at a time.

    Args:
        made_with: what the answers depend on besides the questions; another one is refused.
        fresh: forget all that is in it.

    Attributes:
        spent_usd: of all attempts; `expected_usd`, of answers that rows wait for, where known.
        batches: facts of each of a provider's batches, by its name.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        with self._told(), ExitStack() as opened:
            file = sqlite3.connect(path, isolation_level=None, timeout=0)
            self._file = opened.enter_context(closing(file))
            self._open(json.dumps(dict(made_with)), fresh)
            opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, number: int) -> RowRecord | None:
        """The record of a row, None where there is none yet."""
        found = self._file.execute("SELECT record FROM rows WHERE number = ?", (number,)).fetchone()
        return None if found is None else RowRecord(**json.loads(found[0]))

    def waiting(self) -> list[int]:
        """The rows that wait."""
        statement = "SELECT number FROM rows WHERE status = 'waiting' ORDER BY number"
        return [number for (number,) in self._file.execute(statement)]

    def add(self, record: RowRecord) -> None:
        """Write what became of a row."""
        before = "SELECT spent_usd, expected_usd FROM rows WHERE number = ?"
        found = self._file.execute(before, (record.number,)).fetchone() or ("0", "0")
        paid, expected = record.counted_usd or Decimal(0), record.expected_usd or Decimal(0)
        spent = Decimal(found[0]) + paid
        row = (record.number, record.status, str(spent), str(expected), record.to_json())
        with self._told():
            self._file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", row)
        self.spent_usd += paid
        self.expected_usd += expected - Decimal(found[1])

    def note(self, batch: str, **facts: Any) -> None:
        """Write down facts of a provider's batch, beside those that are known."""
        known = self.batches.get(batch, {}) | facts
        row = (batch, json.dumps(known))
        with self._told():
            self._file.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", row)
        self.batches[batch] = known

    def _open(self, made_with: str, fresh: bool) -> None:
        execute = self._file.execute
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            execute(f"PRAGMA {setting}")
        execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            execute(statement)
        if fresh or not execute("SELECT 1 FROM rows UNION SELECT 1 FROM batches").fetchone():
            for table in ("job", "rows", "batches"):
                execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            execute("INSERT INTO job VALUES (?)", (made_with,))
        then = json.loads(execute("SELECT made_with FROM job").fetchone()[0])
        now = json.loads(made_with)
        if changed := sorted(k for k in {*then, *now} if then.get(k) != now.get(k)):
            told = f"{self.path} was begun with other {', '.join(changed)}: give those of then"
            raise ConfigurationError(f"{told}, another --output, or --fresh to ask and pay anew.")
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
                told = f"another process is at {self.path}: wait for it, or give another output."
            elif not isinstance(error, sqlite3.OperationalError) or "column" in str(error):
                told = f"{self.path} is no journal of a batch: give another --output."
            else:
                told = f"{self.path} cannot be written: {error}. What is in it is kept"
                raise LedgerError(f"{told}: run the command again when there is room.") from error
            raise ConfigurationError(told) from error


def check_output(path: Path) -> None:
    """A `ConfigurationError` where a file of this kind cannot be written."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigurationError(f"{path.name}: the output ends with .jsonl or .csv.")


def write_output(path: Path, rows: Iterable[Row], journal: Journal, *, prefix: str = "") -> int:
    """Write the rows of the input that are done, each with the columns that are added, whole or not
    at all; their number. In CSV columns are those of all rows; lists and truths are JSON."""
    check_output(path)
    draft, columns, written = path.with_name(f".{path.name}.{os.getpid()}"), dict[str, None](), 0
    how: Any = {"encoding": "utf-8", "errors": "surrogatepass", "newline": ""}
    added = {prefix + name: name for name in ADDED}
    try:
        with draft.open("w", **how) as file, TemporaryFile("w+", dir=path.parent, **how) as lines:
            for row in rows:
                record = journal.find(row.number)
                if record is None or record.key != row.key or record.status == "waiting":
                    continue
                told = {column: getattr(record, name) for column, name in added.items()}
                columns |= dict.fromkeys(row.columns)
                into = file if path.suffix == ".jsonl" else lines
                into.write(_json({**row.columns, **told}) + "\n")
                written += 1
            if lines.tell():
                table = csv.DictWriter(file, dict.fromkeys([*columns, *added]))
                table.writeheader()
                lines.seek(0)
                for line in lines:
                    table.writerow({n: _cell(value) for n, value in json.loads(line).items()})
        draft.replace(path)
    except OSError as error:
        why = f"{path} cannot be written: {error.strerror}. The answers are in {journal.path}"
        raise LedgerError(f"{why}: run the command again, and it is made of them.") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return written


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda other: str(_cell(other)))


def _cell(value: object) -> object:
    if isinstance(value, bool | list | dict):
        return _json(value)
    return format(value, "f") if isinstance(value, Decimal) else value
