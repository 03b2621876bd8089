"""A calibration that becomes void while a cascade runs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade
from cascade.agents import Task
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.errors import ModelUnavailableError
from cascade.ledger import MemoryLedger
from cascade.models.base import file_sha256
from cascade.oversight import validity
from cascade.setup import open_pair_or_tiers, task_hash
from cascade.state import Certificate
from cascade.testing import ScriptedModel
from tests.confidence.drafts import drafts, made


class Weighed(ScriptedModel):
    """A model whose weights can be changed."""

    weights: str | Exception = "a" * 20

    async def digest(self) -> str | None:
        if isinstance(self.weights, Exception):
            raise self.weights
        return self.weights


@lru_cache
def fitted() -> Calibration:
    return made(drafts(100), (("logprobs", 0),))


def models(**small: Any) -> tuple[Weighed, ScriptedModel]:
    return Weighed(["draft"], logprobs=0.95, name="small", **small), ScriptedModel(
        ["right"], name="large"
    )


def calibration(small: Weighed, large: ScriptedModel, **changes: Any) -> Calibration:
    tiers = open_pair_or_tiers(small, large, ())
    changes = {
        "small": ModelIdentity(name=small.name, digest="a" * 20),
        "large": ModelIdentity(name=large.name),
        "task_hash": task_hash(Task(), tiers[0]),
        **changes,
    }
    return fitted().model_copy(update=changes)


def cascade(small: Weighed, large: ScriptedModel, **others: Any) -> Cascade:
    others = {"calibrator": calibration(small, large), **others}
    others.setdefault("escalation_budget", 0.0 if "max_harm" not in others else None)
    return Cascade(small, large, **others)


async def again(asked: Cascade) -> str:
    """One more answer, after which the weights are looked at."""
    result = await asked.ainvoke("?")
    await asked.audits_done()
    return result.answer


@pytest.fixture
def _each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "CHECK_EVERY", 1)


@pytest.mark.usefixtures("_each_time")
async def test_other_weights_end_the_calibration_until_the_old_ones_are_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small, large = models()
    store = MemoryLedger()
    asked = cascade(small, large, ledger=store)
    assert await again(asked) == "draft"
    small.weights = "b" * 20
    assert await again(asked) == "draft"  # no reply waits for the look
    assert [await again(asked) for _ in range(2)] == ["right", "right"]
    result = await asked.ainvoke("?")
    await asked.audits_done()
    assert (result.answer, result.calibrated) == ("right", False)
    assert "the weights of scripted:small have changed" in result.decision.reason
    small.weights = "a" * 20
    assert await again(asked) == "right"
    assert await again(asked) == "draft"
    found = [entry.note for entry in store.entries if entry.node == "drift"]
    assert len(found) == 2
    assert found[0].startswith("no draft is accepted: the weights of scripted:small have changed")
    assert found[1] == "the calibration holds again"
    assert found[0] in caplog.text


@pytest.mark.usefixtures("_each_time")
async def test_with_a_watch_for_drift_it_is_an_alarm_with_its_reaction() -> None:
    small, large = models()
    asked = cascade(small, large, drift="large_only")
    await again(asked)
    small.weights = "b" * 20
    await again(asked)
    assert asked.drift is not None
    (alarm,) = asked.drift.alarms
    assert (alarm.kind, alarm.chart, alarm.caution) == ("calibration", "calibration", "large_only")
    before = len(small.requests)
    assert await again(asked) == "right"
    assert len(small.requests) == before


@pytest.mark.usefixtures("_each_time")
async def test_weights_that_cannot_be_looked_at_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small, large = models()
    asked = cascade(small, large)
    await again(asked)
    small.weights = ModelUnavailableError("down", model="scripted:small")
    assert [await again(asked) for _ in range(2)] == ["draft", "draft"]
    assert "could not be checked: down" in caplog.text
    small.weights = "b" * 20
    assert [await again(asked) for _ in range(2)] == ["draft", "right"]


@pytest.mark.usefixtures("_each_time")
async def test_a_file_of_weights_that_is_written_anew_is_seen(tmp_path: Path) -> None:
    class Filed(Weighed):
        async def digest(self) -> str | None:
            assert self.weights_path is not None
            return file_sha256(self.weights_path)

    small, large = Filed(["draft"], logprobs=0.95, name="small"), ScriptedModel("right")
    small.weights_path = tmp_path / "weights.gguf"
    small.weights_path.write_bytes(b"one")
    made_for = ModelIdentity(name=small.name, digest=file_sha256(small.weights_path))
    made = calibration(small, large).model_copy(update={"small": made_for, "large": None})
    asked = cascade(small, large, calibrator=made)
    assert [await again(asked) for _ in range(2)] == ["draft", "draft"]
    small.weights_path.unlink()
    assert [await again(asked) for _ in range(2)] == ["draft", "draft"]  # replaced just now?
    small.weights_path.write_bytes(b"two")
    assert [await again(asked) for _ in range(2)] == ["draft", "right"]


async def test_weights_are_looked_at_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "CHECK_EVERY", 5)
    small, large = models()
    asked = cascade(small, large)
    await again(asked)
    small.weights = "b" * 20
    assert [await again(asked) for _ in range(5)] == ["draft"] * 4 + ["right"]


async def test_they_are_looked_at_after_some_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "CHECK_EVERY_S", 0.0)
    small, large = models()
    asked = cascade(small, large)
    await again(asked)
    small.weights = "b" * 20
    assert [await again(asked) for _ in range(2)] == ["draft", "right"]


async def test_a_certificate_ends_in_the_middle_of_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small, large = models()
    until = datetime.now(UTC) + timedelta(hours=1)
    certificate = Certificate(
        threshold=0.01,
        max_harm=0.1,
        delta=0.1,
        n=100,
        errors=1,
        coverage=0.9,
        bound=0.1,
        valid_until=until,
    )
    made = calibration(small, large, certificates=(certificate,))
    store = MemoryLedger()
    asked = cascade(small, large, calibrator=made, max_harm=0.1, ledger=store)
    assert await again(asked) == "draft"

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return until if tz else until.replace(tzinfo=None)

    monkeypatch.setattr(validity, "datetime", Later)
    with caplog.at_level(logging.WARNING):
        assert [await again(asked) for _ in range(3)] == ["right"] * 3
    (found,) = [entry.note for entry in store.entries if entry.node == "drift"]
    ended = f"the certificate ended on {until:%Y-%m-%d %H:%M} UTC"
    assert found == f"no draft is accepted: {ended}: calibrate again"
    assert caplog.text.count("the certificate ended") == 1


async def test_paid_signals_are_still_planned_with_the_calibration() -> None:
    """The watch stands before the calibration and hands on all that it knows."""
    small, large = models()
    made = calibration(small, large)
    watch = cascade(small, large, calibrator=made)._oversight.calibrators["small"]
    assert watch.signals == made.signals == ("logprobs",)
    assert watch.outlook(0.5, ("logprobs",)) == made.outlook(0.5, ("logprobs",))
