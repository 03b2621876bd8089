"""The output of a job: each row as it came, its answer beside it, in the order of the input."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs.journal import Journal
from cascade.jobs.rows import ADDED, Row

Put = Callable[[Mapping[str, Any]], object]


def check_output(path: Path) -> None:
    """Refuse a file of a kind that cannot be written.

    Raises:
        ConfigurationError: its name ends with something else than `.jsonl` or `.csv`.
    """
    if path.suffix not in _WRITERS:
        raise ConfigurationError(f"{path.name}: the output ends with {' or '.join(_WRITERS)}.")


def write_output(path: Path, rows: Iterable[Row], journal: Journal, *, prefix: str = "") -> int:
    """Write the rows that are done, whole or not at all.

    Args:
        path: `.jsonl` or `.csv`.
        rows: the input, once more.
        journal: what became of them.
        prefix: before the names of the columns that are added.

    Returns:
        How many rows were written. A row that was not asked, or waits, is left out.

    Raises:
        ConfigurationError: the file is of another kind.
        LedgerError: it cannot be written.
    """
    check_output(path)
    draft, written = path.with_name(f".{path.name}.{os.getpid()}"), 0
    try:
        with draft.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            put = _WRITERS[path.suffix](file)
            for row in rows:
                record = journal.find(row.number)
                if record is None or record.key != row.key or record.status == "waiting":
                    continue
                put({**row.columns, **{prefix + name: getattr(record, name) for name in ADDED}})
                written += 1
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


def _jsonl(file: IO[str]) -> Put:
    return lambda row: file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def _csv(file: IO[str]) -> Put:
    """A writer of rows that have the columns of the first; lists and truths are JSON."""
    writer: Any = None

    def put(row: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = csv.DictWriter(file, list(row), extrasaction="ignore")
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})

    return put


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return _plain(value) if isinstance(value, Decimal) else value


def _plain(value: Any) -> str:
    return format(value, "f") if isinstance(value, Decimal) else str(value)


_WRITERS: Mapping[str, Callable[[IO[str]], Put]] = {".jsonl": _jsonl, ".csv": _csv}
