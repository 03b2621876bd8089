"""One record per run, and JSON lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from watched import QUESTION, WAYS, down, watched

from cascade import Cascade
from cascade.errors import ModelUnavailableError
from cascade.integrations.logs import JsonFormatter, RunLog
from cascade.testing import ScriptedModel


class Lines:
    """A logger that writes JSON lines into memory."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(JsonFormatter())
        self.logger = logging.Logger("runs", logging.INFO)
        self.logger.addHandler(handler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._stream.getvalue().splitlines())

    def __str__(self) -> str:
        return self._stream.getvalue()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_ask_logs_one_line(lines: Lines, way: str) -> None:
    await WAYS[way](watched(RunLog(lines.logger)))
    (line,) = lines
    assert (line["outcome"], line["tier"], line["escalated"]) == ("accepted", "small", False)


async def test_the_line_has_the_figures_of_the_run(lines: Lines) -> None:
    cascade = watched(RunLog(lines.logger), sure=False, name="shop", tags={"app": "web"})
    result = await cascade.ainvoke(QUESTION, {"metadata": {"ledger_tags": {"user": "42"}}})
    (line,) = lines
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert 0 < line.pop("latency_ms") < 10_000
    assert line == {
        "level": "INFO",
        "logger": "runs",
        "message": f"shop: run {result.run_id} escalated by large",
        "cascade": "shop",
        "run_id": result.run_id,
        "outcome": "escalated",
        "tier": "large",
        "escalated": True,
        "confidence": result.confidence,
        "calibrated": False,
        "cost_usd": float(result.ledger.cost_usd or 0),
        "saved_usd": float(result.ledger.saved_usd or 0),
        "basis": "measured",
        "error_type": None,
        "tags": {"app": "web", "user": "42"},
    }


async def test_no_text_of_question_answer_or_error_is_logged(lines: Lines) -> None:
    broken = ScriptedModel([down("secret-server")], name="large-1")
    cascade = watched(RunLog(lines.logger), sure=False, second=broken)
    await cascade.ainvoke(QUESTION)
    await watched(RunLog(lines.logger), sure=False).ainvoke(QUESTION)
    for text in ("Australia", "Canberra", "ACT", "secret", "server"):
        assert text not in str(lines)


async def test_a_failure_is_a_warning_with_its_type(lines: Lines) -> None:
    broken = ScriptedModel([down()], name="small-1")
    with pytest.raises(ModelUnavailableError):
        await watched(RunLog(lines.logger), first=broken, second=broken).ainvoke(QUESTION)
    (line,) = lines
    assert (line["level"], line["outcome"]) == ("WARNING", "failed")
    assert (line["error_type"], line["tier"]) == ("ModelUnavailableError", None)


async def test_the_logger_is_cascade_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cascade"):
        result = await watched(RunLog()).ainvoke(QUESTION)
    (record,) = (record for record in caplog.records if hasattr(record, "run_id"))
    assert (record.name, record.levelno) == ("cascade", logging.INFO)
    assert vars(record)["cost_usd"] == result.ledger.cost_usd
    assert isinstance(vars(record)["cost_usd"], Decimal)


async def test_nothing_is_made_of_a_run_where_nobody_logs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "cascade"):
        await watched(RunLog()).ainvoke(QUESTION)
    assert not caplog.records


def test_any_record_becomes_a_line_of_json(lines: Lines) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        lines.logger.warning(
            "%s went\nwrong", "ünï", exc_info=sys.exc_info(), extra={"at": Cascade, "_mark": 1}
        )
    (line,) = lines
    assert "_mark" not in line, "a library's own"
    assert line["message"] == "ünï went\nwrong"
    assert line["exception"].endswith("ValueError: no")
    assert line["at"] == str(Cascade)
    assert str(lines).count("\n") == 1
