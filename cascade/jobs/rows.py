"""Questions from files: JSON lines, CSV or Parquet, one file or a folder, read row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError, InputError
from cascade.evaluation.recordings import KINDS, QUESTIONS, read_table
from cascade.questions import Question, to_messages

ADDED = (
    "answer",
    "tier",
    "confidence",
    "calibrated",
    "escalated",
    "degraded",
    "cost_usd",
    "saved_usd",
    "saved_basis",
    "error",
)
"""Columns of the output beside those of a row."""


@dataclass(frozen=True, slots=True)
class Row:
    """Row of the input.

    Attributes:
        number: its place, from 0, over all files.
        columns: what it holds.
        question: what to ask; None where the row has a problem.
        problem: why it cannot be asked; None where it can.
    """

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
    """The rows of a file, or of all files of a folder in the order of their names.

    A row without a question is a row with a `problem`; it does not stop the others.

    Args:
        path: `.jsonl`, `.ndjson`, `.csv` or `.parquet`, or a folder of such files.
        column: which one holds the question; by default `messages`, `question` or `prompt`.
        system: a system message to put before each question that is a text.

    Raises:
        ConfigurationError: a file cannot be read.
        MissingDependencyError: Parquet without pyarrow.
    """
    number = 0
    for file in _files(path):
        for columns in read_table(file):
            yield _row(number, columns, (column,) if column else QUESTIONS, system)
            number += 1


def check_rows(path: Path, column: str | None = None, *, prefix: str = "") -> list[str]:
    """Read all rows before any is asked.

    Args:
        path, column: as of `read_rows`.
        prefix: before the names of the columns that are to be added.

    Returns:
        Of each row that cannot be asked, which it is and why.

    Raises:
        ConfigurationError: a file cannot be read, has no column of questions, or one of those that
            are to be added.
    """
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
        raise ConfigurationError(
            f"{path} has files of several kinds ({found[0].name}, …, {found[-1].name}): their "
            "columns would differ. Give one kind a folder."
        )
    return found


def _row(
    number: int, columns: Mapping[str, Any], names: tuple[str, ...], system: str | None
) -> Row:
    name = next((name for name in names if columns.get(name) not in (None, "")), None)
    if name is None:
        return Row(number, columns, problem=f"there is nothing in {' or '.join(names)}.")
    question = columns[name]
    try:
        if isinstance(question, str) and name == "messages":
            question = json.loads(question)
        if isinstance(question, str) and system:
            question = [("system", system), ("human", question)]
        to_messages(question)
    except (ValueError, InputError) as error:
        return Row(number, columns, problem=f"{name}: {error}")
    return Row(number, columns, question)
