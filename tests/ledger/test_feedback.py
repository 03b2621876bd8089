"""Verdicts of people as ledger entries."""

from __future__ import annotations

from typing import Any

import pytest

from cascade.errors import InputError
from cascade.ledger.base import MemoryLedger
from cascade.ledger.feedback import Feedback, keep_feedback
from tests.ledger.samples import entry


class Keeper:
    """Middleware that keeps verdicts."""

    async def keep_feedback(self, feedback: Feedback) -> bool | None:
        return False


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
async def test_a_verdict_is_free_and_holds_no_words(
    fields: dict[str, Any], loss: float | None
) -> None:
    store = MemoryLedger()
    store.append([entry("r")])
    said = {"run_id": "r", "by": "ann@example.com", "comment": "you fool", **fields}
    assert await keep_feedback(said, store, [Keeper()]) is (loss is not None)
    for found in store.entries[1:]:
        assert (found.node, found.loss, found.cost_usd, found.saved_usd) == ("feedback", loss, 0, 0)
        assert "ann" not in found.model_dump_json()
        assert "fool" not in found.model_dump_json()


async def test_another_verdict_of_the_same_person_replaces_the_first() -> None:
    store = MemoryLedger()
    store.append([entry("r")])

    async def say(**fields: Any) -> bool:
        return await keep_feedback({"run_id": "r", **fields}, store, [Keeper()])

    assert await say(correct=False)
    assert not await say(correct=False)
    assert not await say(key="tone", correct=True)
    assert await say(correct=True)
    assert await say(comment="I cannot tell any more")
    assert await say(correct=False, by="bob")
    assert [e.loss for e in store.entries] == [None, 1.0, 0.0, None, 1.0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"run_id": "r"}, "is empty"),
        ({"run_id": "r", "score": 7}, "score=7"),
        ({"run_id": "r", "score": float("nan")}, "score"),
        ({"run_id": "", "correct": True}, "run_id"),
    ],
)
async def test_a_verdict_without_meaning_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        await keep_feedback(said, MemoryLedger(), [])
