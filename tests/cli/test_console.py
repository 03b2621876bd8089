"""What all commands share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.cli.checks import Check
from cascade.cli.console import err, out, print_json
from cascade.state import Decision


def test_records_become_json_without_losing_a_digit(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "money": Decimal("1E-7"),
            "at": datetime(2026, 1, 2, tzinfo=UTC),
            "path": Path("a/b"),
            "record": Decision(action="accept", reason="ß"),
            "data": Check("x", "ok", "y"),
        }
    )
    text = capsys.readouterr().out
    assert "ß" in text
    document = json.loads(text)
    assert document["money"] == "0.0000001"
    assert document["at"] == "2026-01-02T00:00:00+00:00"
    assert document["path"] == "a/b"
    assert document["record"]["action"] == "accept"
    assert document["data"] == {"name": "x", "status": "ok", "found": "y", "to_do": ""}


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON: object"):
        print_json(object())


@pytest.mark.parametrize("console", [out, err])
def test_the_middle_of_a_model_string_is_no_emoji(console: object) -> None:
    assert not console._emoji  # type: ignore[attr-defined]
