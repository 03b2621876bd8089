"""The output of a job: each row as it came, its answer beside it, in the order of the input."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs.journal import Journal, Record
from cascade.jobs.rows import Row, arrow, kind_of

COLUMNS = (
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
"""What is put beside a row."""

PARQUET_ROWS = 4096

Put = Callable[[Mapping[str, Any]], None]


def write_output(
    path: Path,
    rows: Iterable[Row],
    journal: Journal,
    *,
    prefix: str = "",
    run_ids: bool = False,
) -> int:
    """Write the rows that are done, whole or not at all.

    Args:
        path: `.jsonl`, `.csv` or `.parquet`.
        rows: the input, once more.
        journal: what became of them.
        prefix: before the names of the columns that are added.
        run_ids: add `run_id`, by which a row's entries are found in the ledger.

    Returns:
        How many rows were written. A row that was not asked, or waits, is left out.

    Raises:
        ConfigurationError: the input has a column of the same name.
        LedgerError: it cannot be written.
    """
    added = [*COLUMNS, *(("run_id",) if run_ids else ())]
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    written = 0
    try:
        with _WRITERS[kind_of(path)](draft) as put:
            for row in rows:
                record = journal.find(row.number)
                if record is None or record.key != row.key or record.status == "waiting":
                    continue
                check_columns(row.columns, prefix)
                put({**row.columns, **_beside(record, added, prefix)})
                written += 1
        draft.replace(path)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be written: {error.strerror}. The answers are in {journal.path}: run "
            "the same command again, and it is made of them."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return written


def check_columns(columns: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse an input whose columns would be overwritten.

    Raises:
        ConfigurationError: it has one of these names.
    """
    for name in COLUMNS:
        if prefix + name in columns:
            raise ConfigurationError(
                f"the input has a column {prefix + name!r} already: give the new ones another "
                "name, --prefix cascade_."
            )


def _beside(record: Record, added: Iterable[str], prefix: str) -> dict[str, Any]:
    return {prefix + name: getattr(record, name) for name in added}


@contextmanager
def _jsonl(path: Path) -> Iterator[Put]:
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:

        def put(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")

        yield put


@contextmanager
def _csv(path: Path) -> Iterator[Put]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None

        def put(row: Mapping[str, Any]) -> None:
            nonlocal writer
            if writer is None:
                writer = csv.DictWriter(file, list(row), extrasaction="ignore")
                writer.writeheader()
            writer.writerow({name: _cell(value) for name, value in row.items()})

        yield put


@contextmanager
def _parquet(path: Path) -> Iterator[Put]:
    pa, parquet = arrow(path)
    kept: list[dict[str, Any]] = []
    writer: Any = None

    def write() -> None:
        nonlocal writer
        try:
            if writer is None:
                writer = parquet.ParquetWriter(path, _schema(pa, pa.Table.from_pylist(kept).schema))
            writer.write_table(pa.Table.from_pylist(kept, schema=writer.schema))
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"the rows do not fit into the columns of a Parquet file: {error}. Write .jsonl."
            ) from error
        kept.clear()

    def put(row: Mapping[str, Any]) -> None:
        kept.append({k: str(v) if isinstance(v, Decimal) else v for k, v in row.items()})
        if len(kept) >= PARQUET_ROWS:
            write()

    try:
        yield put
        if kept or writer is None:
            write()
    finally:
        if writer is not None:
            writer.close()


def _schema(pa: Any, found: Any) -> Any:
    """Of the first rows; a column without a value there may hold text, numbers or truths later."""
    truths = ("calibrated", "escalated", "degraded")
    for number, column in enumerate(found):
        if pa.types.is_null(column.type):
            name = column.name
            kind = pa.bool_() if name.endswith(truths) else pa.string()
            kind = pa.float64() if name.endswith("confidence") else kind
            found = found.set(number, pa.field(name, kind))
    return found


def _plain(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _cell(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=_plain)
    return value


_WRITERS = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
