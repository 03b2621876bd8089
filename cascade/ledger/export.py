"""Files of ledger entries for other programs: JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.state import LedgerEntry

DECISION = ("action", "confidence", "calibrated", "audit_rate", "signals")
"""Parts of the decision that have columns of their own."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")

Add = Callable[[Sequence[dict[str, Any]]], object]
"""Adds rows to a file."""


def flat_row(entry: LedgerEntry, tags: Mapping[str, str], *, notes: bool) -> dict[str, Any]:
    """An entry for another program: flat, but for signals and tags.

    Amounts are decimal text, times UTC. Without `notes` those of failed calls are left out: they
    may quote a server's address and words.
    """
    row = entry.model_dump(mode="json", exclude={"decision", "baseline_range"})
    if not notes and entry.outcome in ("failed", "cancelled"):
        row["note"] = ""
    low, high = entry.baseline_range or (None, None)
    row["baseline_low_usd"] = None if low is None else str(low)
    row["baseline_high_usd"] = None if high is None else str(high)
    decision = {} if entry.decision is None else entry.decision.model_dump(mode="json")
    return {**row, **{name: decision.get(name) for name in DECISION}, "tags": dict(tags)}


@contextmanager
def open_export(path: Path) -> Generator[Add]:
    """A function that adds rows to a new file; the ending names the format.

    Raises:
        ConfigurationError: the name has none of these endings.
        MissingDependencyError: Parquet without pyarrow.
    """
    formats = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in formats:
        raise ConfigurationError(
            f"{path}: the ending names the format; give one of {', '.join(formats)}."
        )
    columns = list(flat_row(LedgerEntry(run_id="", node=""), {}, notes=False))
    with formats[path.suffix](path, columns) as add:
        yield add


@contextmanager
def _jsonl(path: Path, columns: Sequence[str]) -> Generator[Add]:
    del columns
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(
            json.dumps(row, ensure_ascii=False) + "\n" for row in rows
        )


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Generator[Add]:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        yield lambda rows: table.writerows(
            {name: _cell(value) for name, value in _texts(row).items()} for row in rows
        )


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Generator[Add]:
    if find_spec("pyarrow") is None:
        raise MissingDependencyError(
            f'{path}: Parquet needs pyarrow: pip install "agent-cascade[parquet]", or export to '
            ".csv or .jsonl."
        )
    pa: Any = import_module("pyarrow")  # without types
    types = {name: pa.int64() if "_tokens" in name else pa.string() for name in columns}
    numbers = ("latency_ms", "loss", "confidence", "audit_rate")
    types |= dict.fromkeys(numbers, pa.float64()) | {"calibrated": pa.bool_()}
    schema = pa.schema(list((types | {"at": pa.timestamp("us", tz="UTC")}).items()))

    def row_of(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**_texts(row), "at": datetime.fromisoformat(row["at"])}

    with import_module("pyarrow.parquet").ParquetWriter(path, schema) as file:
        yield lambda rows: file.write_table(pa.Table.from_pylist(list(map(row_of, rows)), schema))


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its mappings as JSON text."""
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        for name, value in row.items()
    }


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with the apostrophe that makes it text:
    models name tools, clients name tags, and opening a file must not run what they say.
    """
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
