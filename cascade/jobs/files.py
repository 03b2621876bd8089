"""Files of a job: questions in, and each row as it was, with its answer beside it, out."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError, InputError, LedgerError
from cascade.evaluation.recordings import KINDS, QUESTIONS, read_table
from cascade.jobs.journal import Journal
from cascade.questions import Question, to_messages

OF_RESULT = ("answer", "tier", "confidence", "calibrated", "escalated", "degraded")
ADDED = (*OF_RESULT, "cost_usd", "saved_usd", "saved_basis", "error")
"""Columns of the output beside those of a row."""


@dataclass(frozen=True, slots=True)
class Row:
    """Row of the input: its place, from 0, over all files, what it holds, and the question; or a
    problem, for which it cannot be asked."""

    number: int
    columns: Mapping[str, Any]
    question: Question | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        """Tells this question from another in its place; a changed row is asked again."""
        said = json.dumps([self.question, self.problem], sort_keys=True, default=str)
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def read_rows(path: Path, column: str | None = None, system: str | None = None) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder in the order of their names. A row without a
    question is a row with a `problem`; `system` goes before each question that is a text."""
    names = (column,) if column else QUESTIONS
    every = (columns for file in _files(path) for columns in read_table(file))
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
        except (ValueError, InputError) as error:
            yield Row(number, columns, problem=f"{name}: {error}")
        else:
            yield Row(number, columns, question)


def check_rows(path: Path, column: str | None = None, *, prefix: str = "") -> list[str]:
    """Read all rows before any is asked; of each that cannot be, which it is and why. A
    `ConfigurationError` where columns are missing, or there are some of those to be added."""
    found: dict[str, None] = {}
    problems = []
    for row in read_rows(path, column):
        found |= dict.fromkeys(row.columns)
        if row.problem is not None:
            problems.append(f"row {row.number + 1}: {row.problem.rstrip('.')}")
    wanted = (column,) if column else QUESTIONS
    if not found.keys() & set(wanted):
        raise ConfigurationError(
            f"{path} has no column {' or '.join(wanted)}: it has {', '.join(found) or 'no rows'}. "
            "Name the one with the questions, --column NAME."
        )
    for name in ADDED:
        if prefix + name in found:
            raise ConfigurationError(
                f"the input has a column {prefix + name!r} already: give the new ones another "
                "name, --prefix cascade_."
            )
    return problems


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(f for f in path.iterdir() if f.suffix in KINDS and f.is_file())
    if not found:
        raise ConfigurationError(f"{path} has no file that ends with {', '.join(KINDS)}.")
    if len({KINDS[file.suffix] for file in found}) > 1:
        raise ConfigurationError(f"{path} has files of several kinds, whose columns would differ.")
    return found


def check_output(path: Path) -> None:
    """Refuse a file of a kind that cannot be written, with a `ConfigurationError`."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigurationError(f"{path.name}: the output ends with .jsonl or .csv.")


def write_output(path: Path, rows: Iterable[Row], journal: Journal, *, prefix: str = "") -> int:
    """Write the rows of the input that are done, whole or not at all, with the columns that are
    added; their number. A row that was not asked, or waits, is left out. In CSV the columns are
    those of the first row, and lists and truths are JSON."""
    check_output(path)
    draft, written, table = path.with_name(f".{path.name}.{os.getpid()}"), 0, None
    try:
        with draft.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            for row in rows:
                record = journal.find(row.number)
                if record is None or record.key != row.key or record.status == "waiting":
                    continue
                written += 1
                told = {**row.columns, **{prefix + name: getattr(record, name) for name in ADDED}}
                if path.suffix == ".jsonl":
                    file.write(_json(told) + "\n")
                    continue
                if table is None:
                    table = csv.DictWriter(file, list(told), extrasaction="ignore")
                    table.writeheader()
                table.writerow({name: _cell(value) for name, value in told.items()})
        draft.replace(path)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be written: {error.strerror}. The answers are in {journal.path}: run "
            "the same command again, and it is made of them."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return written


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _cell(value: object) -> object:
    if isinstance(value, bool | list | dict):
        return _json(value)
    return _plain(value) if isinstance(value, Decimal) else value


def _plain(value: object) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)
