"""Entries in files that other programs read: JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.store.base import Stored
from cascade.state import LedgerEntry

Write = Callable[[Sequence[Stored]], None]

COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "tool_calls",
)
NUMBERS = ("latency_ms", "confidence", "audit_rate", "loss")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""How what a spreadsheet computes begins."""
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
COLUMNS = ("id", *LedgerEntry.model_fields, "tags")


@contextmanager
def open_export(path: Path) -> Generator[Write]:
    """A function that adds entries to a new file; its format is that of the file's ending."""
    formats = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in formats:
        raise ConfigurationError(
            f"{path}: the ending names the format; give one of {', '.join(formats)}."
        )
    with formats[path.suffix](path) as write:
        yield write


def _row(stored: Stored) -> dict[str, Any]:
    fields = stored.entry.model_dump(mode="json")
    return {"id": stored.id, **fields, "tags": dict(stored.tags)}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its mappings as JSON text, for formats without mappings of their own."""
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        for name, value in row.items()
    }


@contextmanager
def _jsonl(path: Path) -> Generator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda page: file.writelines(
            json.dumps(_row(stored), ensure_ascii=False) + "\n" for stored in page
        )


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with the apostrophe that makes it text:
    models name tools, clients name tags, and opening a file must not run what they say.
    """
    if isinstance(value, str) and value[:1] in FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


@contextmanager
def _csv(path: Path) -> Generator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        yield lambda page: table.writerows(
            {name: _cell(value) for name, value in _flat(_row(stored)).items()} for stored in page
        )


@contextmanager
def _parquet(path: Path) -> Generator[Write]:
    if find_spec("pyarrow") is None:
        raise MissingDependencyError(
            f'{path}: Parquet needs pyarrow: pip install "agent-cascade[parquet]", or export to '
            ".csv or .jsonl."
        )
    pa: Any = import_module("pyarrow")  # without types
    pq: Any = import_module("pyarrow.parquet")

    types = dict.fromkeys(COLUMNS, pa.string())
    types |= dict.fromkeys(COUNTS, pa.int64())
    types |= dict.fromkeys(NUMBERS, pa.float64())
    types |= {"calibrated": pa.bool_(), "at": pa.timestamp("us", tz="UTC")}
    types["tags"] = pa.map_(pa.string(), pa.string())
    schema = pa.schema(list(types.items()))

    def row(stored: Stored) -> dict[str, Any]:
        kept = {"at": stored.entry.at, "tags": list(stored.tags.items())}
        return {**_flat(_row(stored)), **kept}

    with pq.ParquetWriter(path, schema) as file:
        yield lambda page: file.write_table(pa.Table.from_pylist(list(map(row, page)), schema))
