"""Structured logs: one record per run, and a formatter that writes records as JSON lines.

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("cascade").addHandler(handler)
    logging.getLogger("cascade").setLevel(logging.INFO)
    cascade = Cascade(…, observers=[RunLog()])

No question, answer or error message is in the records of `RunLog`.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cascade._printable import printable
from cascade.integrations.totals import run_facts
from cascade.observing import ObservedRun, Observer

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest came with `extra`."""


class RunLog(Observer):
    """Logs each run when it ends: INFO, or WARNING where it failed or was degraded.

    The record's `extra` fields: `cascade`, `run_id`, `outcome`, `tier`, `escalated`,
    `confidence`, `calibrated`, `cost_usd`, `saved_usd`, `basis`, `latency_ms`, `tags`,
    `error_type`; None where there is nothing to say or nobody knows. Money is `Decimal`.

    Args:
        logger: where to; by default the logger `cascade`.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("cascade")

    def run_ended(self, run: ObservedRun) -> None:
        """Log the run."""
        bad = run.outcome in ("failed", "degraded")
        level = logging.WARNING if bad else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        facts: dict[str, Any] = dict(run_facts(run))
        facts["tags"] = dict(run.tags)
        by = f" by {facts['tier']}" if facts["tier"] else ""
        self._logger.log(
            level, "%s: run %s %s%s", run.cascade, run.id, run.outcome, by, extra=facts
        )


class TextFormatter(logging.Formatter):
    """Writes each record as text that begins at the edge, and all its further lines set in: what
    others have named or said forges no record, and moves no cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return printable(super().format(record), keep="\n").replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object: `time`, `level`, `logger`, `message`, its `extra`
    fields, and `exception` with the traceback where there is one.

    `time` is UTC in ISO 8601. Decimals become numbers; what JSON has no form for, text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if _is_extra(key)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # JSON escapes what ends a line or begins a sequence for a terminal, but for a few.
        return printable(json.dumps(line, default=_plain, ensure_ascii=False), form="json")


def _is_extra(key: str) -> bool:
    # Libraries mark the records of all with names of their own (Ray: `_ray_timestamp_ns`).
    return key not in _STANDARD and not key.startswith("_")


def _plain(value: object) -> float | str:
    return float(value) if isinstance(value, Decimal) else str(value)
