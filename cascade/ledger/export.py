"""Files of ledger entries for other programs: JSON lines and CSV."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError
from cascade.state import LedgerEntry

Tagged = tuple[LedgerEntry, Mapping[str, str]]
"""An entry with its tags."""

DECISION = ("action", "confidence", "calibrated", "audit_rate", "signals")
"""Parts of the decision that have columns of their own."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def flat_row(entry: LedgerEntry, tags: Mapping[str, str]) -> dict[str, Any]:
    """An entry for another program: flat, but for signals and tags; without the note of a call
    that failed, which may quote a server's address and words."""
    row = entry.model_dump(mode="json", exclude={"decision", "baseline_range"})
    if entry.outcome in ("failed", "cancelled"):
        row["note"] = ""
    low, high = entry.baseline_range or (None, None)
    row["baseline_low_usd"] = None if low is None else str(low)
    row["baseline_high_usd"] = None if high is None else str(high)
    decision = {} if entry.decision is None else entry.decision.model_dump(mode="json")
    return {**row, **{name: decision.get(name) for name in DECISION}, "tags": dict(tags)}


@contextmanager
def open_export(path: Path) -> Generator[Callable[[Sequence[Tagged]], None]]:
    """A function that adds entries to a new file, `.jsonl` or `.csv` by its ending."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigurationError(f"{path}: the ending names the format; give one of .jsonl, .csv.")
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(flat_row(LedgerEntry(run_id="", node=""), {})))
        if path.suffix == ".csv":
            table.writeheader()

        def add(page: Sequence[Tagged]) -> None:
            for row in (flat_row(*each) for each in page):
                if path.suffix == ".csv":
                    table.writerow({name: _cell(value) for name, value in row.items()})
                else:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield add


def _cell(value: Any) -> Any:
    """A value of CSV; a text that a spreadsheet would take for a formula has the apostrophe that
    makes it text: models name tools, and opening a file must not run what they say."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
