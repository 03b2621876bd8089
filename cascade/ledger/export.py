"""Files of entries for other programs (JSON lines and CSV), and reasons that name no server."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cascade.errors import ConfigurationError
from cascade.ledger.entries import LedgerEntry

_DECISION = ("action", "confidence", "calibrated", "audit_rate", "signals")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def flat_row(entry: LedgerEntry, tags: Mapping[str, str]) -> dict[str, Any]:
    """An entry for another program: flat, but for signals and tags; without the note of a call
    that failed, which may quote a server's address and words, as a reason may in its end."""
    row = entry.model_dump(mode="json")
    row["note"] = "" if entry.outcome in _KINDS else plain_reason(entry.note, ())
    row["baseline_low_usd"], row["baseline_high_usd"] = row.pop("baseline_range") or (None, None)
    decision = row.pop("decision") or {}
    return row | {name: decision.get(name) for name in _DECISION} | {"tags": dict(tags)}


def write_entries(path: Path, found: Iterable[tuple[LedgerEntry, Mapping[str, str]]]) -> int:
    """Number of entries written to a new file, `.jsonl` or `.csv` by its ending."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigurationError(f"{path}: the ending names the format; give one of .jsonl, .csv.")
    n = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(flat_row(LedgerEntry(run_id="", node=""), {})))
        if path.suffix == ".csv":
            table.writeheader()
        for entry, tags in found:
            row, n = flat_row(entry, tags), n + 1
            if path.suffix == ".csv":
                table.writerow({name: _cell(value) for name, value in row.items()})
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return n


def _cell(value: Any) -> Any:
    """A value of CSV; a text that a spreadsheet would take for a formula has the apostrophe that
    makes it text: models name tools, and opening a file must not run what they say."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


# --- words

_KINDS = {"not_sent": "left alone after failures", "cancelled": "stopped", "failed": ""}
"""Outcomes of calls that came to nothing; a failed one's note begins with its error's class."""

_PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+"
    r"|\b(?:org|proj|acct|account|project|tenant|req|request)[-_]\w{6,}"
    r"|\b[\w.-]+@[\w.-]+\.\w+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|(?<![\w/])/(?:[\w.@-]+/)+[\w.@-]*|\b(?:sk|csk|key|pk)[-_][\w*-]{6,}",
    re.IGNORECASE,
)
_FAILED = re.compile(r"\b(?:failed: |could not be had: )")


def failures(entries: Iterable[LedgerEntry]) -> list[str]:
    """The tiers that failed, with how each did last."""
    came_to_nothing = [e for e in entries if e.tier and e.outcome in _KINDS]
    found = {e.tier: _KINDS[e.outcome] or e.note.partition(":")[0] for e in came_to_nothing}
    return [f"{tier}: {kind}" for tier, kind in found.items()]


def without_places(text: str) -> str:
    """A text without addresses, accounts, paths and keys."""
    return _PLACES.sub("[…]", text)


def plain_reason(reason: str, failed: Iterable[str]) -> str:
    """The reason of a decision, as it may leave the process: it may end in the words of an error,
    which quote a server, in whose place come those of `failures`."""
    kept, found = reason, _FAILED.search(reason)
    if found is not None:
        decided = reason[: found.start()].rpartition("; but ")[0]
        kept = "; ".join([*filter(None, [decided]), *(list(failed) or ["a tier failed"])])
    return without_places(kept)[:300]
