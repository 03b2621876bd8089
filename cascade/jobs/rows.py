"""Questions from files: JSON lines, CSV or Parquet, one file or a folder, read row by row."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError, ConfigurationError, InputError, MissingDependencyError
from cascade.questions import Question, to_messages

QUESTION_COLUMNS = ("messages", "question", "prompt")
"""Where a question is looked for, in this order."""

KINDS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}

PARQUET_ROWS = 1024
"""Rows read at once: a file of any size takes the memory of so many."""


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

    A row that cannot be read or asked is a row with a `problem`; it does not stop the others.

    Args:
        path: `.jsonl`, `.ndjson`, `.csv` or `.parquet`, or a folder of such files.
        column: which one holds the question; by default the first of `QUESTION_COLUMNS`.
        system: a system message to put before each question that is a text.

    Raises:
        ConfigurationError: a file cannot be read, or has no column with questions.
        MissingDependencyError: Parquet without pyarrow.
    """
    number = 0
    for file in files_of(path):
        for columns in _READERS[kind_of(file)](file):
            if isinstance(columns, str):
                yield Row(number, {}, problem=columns)
            else:
                yield _row(number, columns, column, system)
            number += 1


def first_row(path: Path, column: str | None = None) -> Row:
    """The first row that can be read, to see whether the file is one of questions at all.

    Raises:
        ConfigurationError: there is none, or it has no column for a question.
    """
    first = next((row for row in read_rows(path, column) if row.columns), None)
    if first is None:
        raise ConfigurationError(f"{path} has no row that can be read.")
    wanted = (column,) if column else QUESTION_COLUMNS
    if not any(name in first.columns for name in wanted):
        raise ConfigurationError(
            f"{path} has no column {' or '.join(wanted)}: it has {', '.join(first.columns)}. "
            "Name the one with the questions, --column NAME."
        )
    return first


def count_rows(path: Path) -> int:
    """How many rows there are, for a progress bar; reads the files once, but no question.

    Raises:
        ConfigurationError: a file cannot be read.
        MissingDependencyError: Parquet without pyarrow.
    """
    return sum(_COUNTERS.get(kind_of(file), _count)(file) for file in files_of(path))


def files_of(path: Path) -> list[Path]:
    """The files that a path stands for.

    Raises:
        ConfigurationError: there is none, or none of a kind that can be read.
    """
    if path.is_dir():
        found = sorted(f for f in path.iterdir() if f.suffix in KINDS and f.is_file())
        if not found:
            raise ConfigurationError(f"{path} has no file that ends with {', '.join(KINDS)}.")
        if len({kind_of(file) for file in found}) > 1:
            raise ConfigurationError(
                f"{path} has files of several kinds ({found[0].name}, …, {found[-1].name}): their "
                "columns would differ. Give one kind a folder."
            )
        return found
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist.")
    kind_of(path)
    return [path]


def kind_of(path: Path) -> str:
    """`jsonl`, `csv` or `parquet`, by the name's end.

    Raises:
        ConfigurationError: it ends with something else.
    """
    try:
        return KINDS[path.suffix]
    except KeyError:
        raise ConfigurationError(
            f"{path.name}: a file of rows ends with {', '.join(KINDS)}."
        ) from None


def _row(number: int, columns: Mapping[str, Any], column: str | None, system: str | None) -> Row:
    names = (column,) if column else QUESTION_COLUMNS
    name = next((name for name in names if columns.get(name) not in (None, "")), None)
    if name is None:
        return Row(number, columns, problem=_missing(columns, names))
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


def _missing(columns: Mapping[str, Any], names: tuple[str, ...]) -> str:
    empty = [name for name in names if name in columns]
    if empty:
        return f"{empty[0]} is empty."
    return f"there is no column {' or '.join(names)}: this row has {', '.join(map(str, columns))}."


def _jsonl(path: Path) -> Iterator[dict[str, Any] | str]:
    with _opened(path) as file:
        for line in file:
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                yield f"the line is no JSON: {error}"
                continue
            yield value if isinstance(value, dict) else f"the line is no JSON object: {value!r:.80}"


def _csv(path: Path) -> Iterator[dict[str, Any] | str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_names(path, reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    names = len(reader.fieldnames or ())
                    yield f"line {reader.line_num} has not the {names} columns of the first one."
                else:
                    yield row
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 (byte {error.start}): convert it first, iconv -f latin1 -t utf-8."
        ) from error
    except csv.Error as error:
        raise ConfigurationError(f"{path} is no CSV: {error}.") from error


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"{path} has the column {', '.join(twice)} more than once: of the cells of a row only "
            "the last would be kept. Give each column a name of its own."
        )


def _parquet(path: Path) -> Iterator[dict[str, Any] | str]:
    with _opened(path) as file:
        for batch in _parquet_file(path, file).iter_batches(PARQUET_ROWS):
            yield from batch.to_pylist()


def _parquet_file(path: Path, file: Any) -> Any:
    pa, parquet = arrow(path)
    try:
        return parquet.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error


def arrow(path: Path) -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`, which have no types.

    Raises:
        MissingDependencyError: they are not installed.
    """
    if find_spec("pyarrow") is None:
        raise MissingDependencyError(
            f"{path}: Parquet needs pyarrow: install the extra `parquet`, or use .jsonl."
        )
    return import_module("pyarrow"), import_module("pyarrow.parquet")


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CascadeError:
    return ConfigurationError(f"{path} cannot be read: {error.strerror}.")


def _count_lines(path: Path) -> int:
    with _opened(path) as file:
        return sum(1 for line in file if line.strip())


def _count_parquet(path: Path) -> int:
    with _opened(path) as file:
        return int(_parquet_file(path, file).metadata.num_rows)


def _count(path: Path) -> int:
    return sum(1 for _ in _READERS[kind_of(path)](path))


_READERS = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
_COUNTERS = {"jsonl": _count_lines, "parquet": _count_parquet}
