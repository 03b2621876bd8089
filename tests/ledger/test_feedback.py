"""Verdicts of people as ledger entries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from cascade.ledger.feedback import Feedback, judge_of, said_wrong
from cascade.state import LedgerEntry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def say(said: list[LedgerEntry], **fields: Any) -> LedgerEntry | None:
    given = {"run_id": "r", "at": NOON + timedelta(minutes=len(said)), **fields}
    entry = Feedback(**given).entry(said)
    if entry is not None:
        said.append(entry)
    return entry


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({"correct": True}, 0.0),
        ({"correct": False}, 1.0),
        ({"score": 0.4}, 1.0),
        ({"score": 0.5}, 0.0),
        ({"correct": True, "score": 0.1}, 0.0),
    ],
)
def test_a_verdict_is_an_entry_that_costs_nothing(fields: dict[str, Any], loss: float) -> None:
    entry = say([], comment="you fool", by="ann@example.com", **fields)
    assert entry is not None
    assert (entry.node, entry.loss, entry.cost_usd, entry.saved_usd) == ("feedback", loss, 0, 0)
    assert "ann" not in entry.model_dump_json()
    assert "fool" not in entry.model_dump_json()
    assert say([], comment="nice") is say([], key="tone", correct=False) is None


def test_another_verdict_of_the_same_person_replaces_the_first() -> None:
    said: list[LedgerEntry] = []
    assert say(said, correct=False) is not None
    assert say(said, correct=False) is None
    assert say(said, correct=True, at=NOON - timedelta(days=1)) is None, "it is older"
    assert say(said, correct=True) is not None
    assert said_wrong(said) is False
    assert len({entry.id for entry in said}) == len(said) == 2


def test_people_who_differ_leave_it_open_and_a_verdict_can_be_taken_back() -> None:
    said: list[LedgerEntry] = [LedgerEntry(run_id="r", node="draft")]
    assert (said_wrong(said), judge_of(said[0])) == (None, None)
    say(said, correct=False, by="ann")
    assert said_wrong(said) is True
    say(said, correct=True, by="bob")
    assert said_wrong(said) is None
    say(said, comment="never mind", by="bob")
    assert said_wrong(said) is True


@pytest.mark.parametrize(
    "fields", [{}, {"score": 2}, {"score": float("nan")}, {"correct": True, "run_id": ""}]
)
def test_a_verdict_that_says_nothing_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Feedback(**{"run_id": "r", **fields})
    assert Feedback(run_id="r", key="stars", score=5).wrong is None
