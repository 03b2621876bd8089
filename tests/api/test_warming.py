"""A cascade that is made ready before its first question."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from cascade import Cascade
from cascade.errors import ModelUnavailableError, RealRequestForbiddenError
from cascade.ledger.store import open_store
from cascade.testing import ScriptedModel


class Warm(ScriptedModel):
    """Counts how often it was made ready, or fails at that."""

    times = 0
    failure: Exception | None = None

    async def warm(self) -> None:
        self.times += 1
        if self.failure is not None:
            raise self.failure


async def test_every_tier_and_the_ledger_are_made_ready(tmp_path: Path) -> None:
    small, large = Warm(["yes"]), Warm(["yes"])
    async with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        cascade = Cascade(small, large, ledger=store)
        await cascade.awarm()
        assert (small.times, large.times) == (1, 1)
        file = sqlite3.connect(tmp_path / "ledger.db")
        assert file.execute("SELECT count(*) FROM ledger_entries").fetchone() == (0,)
        assert file.execute("SELECT count(*) FROM ledger_attempts").fetchone() == (0,)
        file.close()


async def test_what_cannot_be_had_is_told_and_the_rest_is_made_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small, large = Warm(["yes"]), Warm(["yes"])
    small.failure = ModelUnavailableError("nobody answers", model="m")
    with caplog.at_level(logging.WARNING, "cascade"):
        await Cascade(small, large).awarm()
    assert large.times == 1
    assert "is not warm: nobody answers" in caplog.text


async def test_a_ledger_that_cannot_be_opened_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}")
    with caplog.at_level(logging.WARNING, "cascade"):
        await Cascade(Warm(["yes"]), Warm(["yes"]), ledger=store).awarm()
    assert "is not warm: the ledger" in caplog.text


def test_a_synchronous_caller_warms_the_loop_that_will_ask() -> None:
    small = Warm(["yes"])
    cascade = Cascade(small, Warm(["yes"]))
    cascade.warm()
    assert small.times == 1


@pytest.mark.parametrize("failure", [RealRequestForbiddenError("no"), RuntimeError("a bug")])
async def test_other_failures_are_raised(failure: Exception) -> None:
    small = Warm(["yes"])
    small.failure = failure
    with pytest.raises(type(failure)):
        await Cascade(small, Warm(["yes"])).awarm()
