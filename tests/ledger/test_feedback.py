"""Verdicts of people as ledger entries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cascade.errors import InputError
from cascade.ledger.base import MemoryLedger
from cascade.ledger.feedback import Feedback, keep_feedback, to_feedback
from tests.ledger.samples import entry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({"correct": True}, 0.0),
        ({"correct": False}, 1.0),
        ({"score": 0.4}, 1.0),
        ({"score": 0.5}, 0.0),
        ({"correct": True, "score": 0.1}, 0.0),
        ({"comment": "nice"}, None),
        ({"key": "tone", "correct": False}, None),
    ],
)
def test_a_verdict_is_free_and_holds_no_words(fields: dict[str, Any], loss: float | None) -> None:
    said = Feedback(run_id="r", by="ann@example.com", **{"comment": "you fool", **fields})
    found = said.entry([])
    if loss is None:
        assert found is None
        return
    assert (found.node, found.loss, found.cost_usd, found.saved_usd) == ("feedback", loss, 0, 0)
    assert "ann" not in found.model_dump_json()
    assert "fool" not in found.model_dump_json()


async def test_another_verdict_of_the_same_person_replaces_the_first() -> None:
    store = MemoryLedger()
    store.append([entry("r")])

    async def say(minute: int, **fields: Any) -> bool:
        given = {"run_id": "r", "at": NOON + timedelta(minutes=minute), **fields}
        return await keep_feedback(to_feedback(given), store, [])

    assert await say(1, correct=False)
    assert not await say(2, correct=False)
    assert not await say(0, correct=True), "it is older"
    assert await say(3, correct=True)
    assert await say(3, correct=False, by="bob")
    assert [e.loss for e in store.entries] == [None, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"run_id": "r"}, "it says nothing"),
        ({"run_id": "r", "score": 7}, "score=7"),
        ({"run_id": "r", "score": float("nan")}, "score"),
        ({"run_id": "", "correct": True}, "run_id"),
    ],
)
def test_a_verdict_without_meaning_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        to_feedback(said)
