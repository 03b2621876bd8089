"""The watch for drift through `Cascade`: alarms, reactions, restarts, the ledger."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from cascade import Cascade
from cascade._background import Background
from cascade.agents.watching import Case
from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError
from cascade.ledger import MemoryLedger
from cascade.ledger.store import Selection, Store, open_store
from cascade.models import Request
from cascade.oversight import Alarm, Audits, Drift, DriftWatch, drift
from cascade.state import (
    Assessment,
    CascadeInput,
    Completion,
    Decision,
    Draft,
    LedgerEntry,
    Run,
)
from cascade.testing import ScriptedModel, reply

QUICK: dict[str, Any] = {"window": 20, "reference": 50}
"""So few that tests are short; the defaults are ten times as many."""


def as_asked(request: Request) -> Completion:
    """A draft with the probability that the question begins with."""
    return reply("draft", probability=float(str(request.messages[-1].text).split()[0]))


def cascade(options: Drift | str | None, **others: Any) -> Cascade:
    small = ScriptedModel(as_asked, name="small", returns_logprobs=True)
    large = ScriptedModel("right", name="large")
    return Cascade(small, large, drift=options, **others)  # type: ignore[arg-type]


def watch(asked: Cascade) -> DriftWatch:
    assert asked.drift is not None
    return asked.drift


async def ask(asked: Cascade, n: int, low: float, high: float, seed: int = 0) -> int:
    """So many questions with probabilities between these; returns how many drafts were accepted."""
    chance = random.Random(seed)
    accepted = 0
    for i in range(n):
        result = await asked.ainvoke(f"{chance.uniform(low, high):.4f} {i}?")
        accepted += result.answer == "draft"
    await asked.audits_done()
    return accepted


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[Store]:
    async with open_store(f"sqlite:///{folder}/ledger.db") as store:
        yield store


async def events(store: Store) -> list[LedgerEntry]:
    return await store.query(Selection(node="drift"))


# Alarms ---------------------------------------------------------------------------------------


async def test_a_shifted_confidence_gives_one_alarm_and_one_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Alarm] = []
    options = Drift(**QUICK, run_length=1e12, on_alarm=told.append)
    async with opened(tmp_path) as store, cascade(options, ledger=store) as asked:
        await ask(asked, 110, 0.82, 0.99)
        assert await events(store) == []
        with caplog.at_level(logging.WARNING, logger="cascade"):
            await ask(asked, 60, 0.81, 0.84)
        found = await events(store)
    charts = [alarm.chart for alarm in told]
    assert "uncalibrated score" in charts
    assert len(charts) == len(set(charts)) == len(found)
    assert told == watch(asked).alarms
    for alarm, entry in zip(told, found, strict=True):
        assert (alarm.kind, alarm.before, alarm.caution) in {
            ("signals", "normal", "audit"),
            ("signals", "audit", "audit"),
        }
        assert entry.note.startswith(alarm.text)
        assert alarm.text in caplog.text
        assert (entry.cost_usd, entry.saved_usd, entry.baseline_usd) == (Decimal(0),) * 3
        assert entry.signals is not None
        assert entry.signals[f"alarm:{alarm.chart}"] == 1.0
        assert entry.signals["psi"] == alarm.figures["psi"]
    assert found[0].note.endswith("caution: normal → audit")
    assert found[1].note.endswith("caution: audit already")


async def test_more_escalations_give_an_alarm() -> None:
    asked = cascade(Drift(**QUICK, signals="warn", alpha=1e-12))
    await ask(asked, 55, 0.85, 0.95)
    await ask(asked, 60, 0.5, 0.7)
    (found,) = [alarm for alarm in watch(asked).alarms if alarm.kind == "escalations"]
    assert "rose" in found.text
    assert watch(asked).caution == "audit"


@pytest.mark.parametrize("shown", ["draft", "right"])
async def test_harm_is_known_from_audits(shown: str) -> None:
    """The large model says something else than the drafts, or the same."""
    small = ScriptedModel(lambda _: reply(shown, probability=0.9), returns_logprobs=True)
    store = MemoryLedger()
    told: list[Alarm] = []
    asked = Cascade(
        small,
        ScriptedModel("right", name="large"),
        ledger=store,
        audit_rate=Audits(rate=0.5, compare="exact"),
        drift=Drift(max_harm=0.1, on_alarm=told.append),
    )
    for i in range(60):
        await asked.ainvoke(f"{i}?")
        await asked.audits_done()
    if shown == "right":
        assert told == []
        assert watch(asked).caution == "normal"
        return
    (alarm,) = told
    assert (alarm.kind, alarm.caution) == ("harm", "large_only")
    assert len([entry for entry in store.entries if entry.node == "drift"]) >= 1
    assert (await asked.ainvoke("?")).answer == "right"


async def test_a_callback_that_fails_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(alarm: Alarm) -> None:
        raise RuntimeError("pager is down")

    asked = cascade(replace(Drift.everywhere("audit"), on_alarm=broken))
    watch(asked).alarm("signals", "mine", "moved")
    assert (await asked.ainvoke("0.9 ?")).answer == "draft"
    await asked.aclose()
    assert "on_alarm failed" in caplog.text
    assert watch(asked).caution == "audit"


async def test_a_callback_may_be_async() -> None:
    told = []

    async def page(alarm: Alarm) -> None:
        told.append(alarm.chart)

    asked = cascade(Drift(on_alarm=page))
    watch(asked).alarm("signals", "mine", "moved")
    await asked.aclose()
    assert told == ["mine"]


# Reactions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reaction", "answers", "drafts"),
    [
        ("warn", ["draft", "draft"], 2),
        ("audit", ["draft", "draft"], 2),
        ("tighten", ["right", "draft"], 2),  # 0.85 with doubled odds of an error is 0.74
        ("large_only", ["right", "right"], 0),
    ],
)
async def test_a_reaction_changes_what_is_accepted(
    reaction: str, answers: list[str], drafts: int
) -> None:
    small = ScriptedModel(as_asked, name="small", returns_logprobs=True)
    asked = Cascade(small, ScriptedModel("right"), drift=reaction)  # type: ignore[arg-type]
    watch(asked).alarm("signals", "mine", "moved")
    found = [(await asked.ainvoke(f"{p} ?")).answer for p in (0.85, 0.95)]
    assert found == answers
    assert len(small.requests) == drafts


async def test_no_alarm_makes_a_cascade_less_careful() -> None:
    asked = cascade(Drift(harm="large_only", signals="audit", escalations="warn"))
    watch(asked).alarm("harm", "harm", "wrong")
    watch(asked).alarm("signals", "mine", "moved")
    watch(asked).alarm("escalations", "rate", "rose")
    assert [alarm.caution for alarm in watch(asked).alarms] == ["large_only"] * 3


async def test_audits_are_more_frequent_after_an_alarm() -> None:
    store = MemoryLedger()
    asked = cascade(Drift(audit_factor=3), ledger=store, audit_rate=0.1)
    await asked.ainvoke("0.9 ?")
    watch(asked).alarm("signals", "mine", "moved")
    await asked.ainvoke("0.9 ?")
    await asked.aclose()
    rates = [entry.audit_rate for entry in store.entries if entry.node == "verify"]
    assert rates == [pytest.approx(0.1), pytest.approx(0.3)]


async def test_a_router_of_the_users_goes_on_until_only_the_large_model_may_answer() -> None:
    async def later(messages: Sequence[BaseMessage]) -> str | None:
        return "large" if "hard" in str(messages[-1].text) else None

    for route in (later, lambda m: "large" if "hard" in str(m[-1].text) else None):
        asked = cascade("large_only", router=route)
        found = [(await asked.ainvoke(f"0.9 {word}?")).answer for word in ("hard", "easy")]
        assert found == ["right", "draft"]
        watch(asked).alarm("signals", "mine", "moved")
        assert (await asked.ainvoke("0.9 easy?")).answer == "right"


async def test_reset_ends_it_and_begins_anew() -> None:
    store = MemoryLedger()
    asked = cascade("large_only", ledger=store)
    watch(asked).alarm("signals", "mine", "moved")
    watch(asked).reset()
    assert (watch(asked).caution, watch(asked).alarms) == ("normal", [])
    assert (await asked.ainvoke("0.9 ?")).answer == "draft"
    watch(asked).alarm("signals", "mine", "moved again")
    await asked.aclose()
    found = [(e.note, (e.signals or {}).get("reset")) for e in store.entries if e.node == "drift"]
    assert found == [
        ("moved; caution: normal → large_only", None),
        ("reset from large_only", 1.0),
        ("moved again; caution: normal → large_only", None),
    ]


async def test_while_it_is_tightened_its_own_escalations_are_no_alarm() -> None:
    asked = cascade(Drift(**QUICK, harm="tighten", alpha=1e-12))
    await ask(asked, 55, 0.82, 0.88)
    watch(asked).alarm("harm", "harm", "wrong")
    assert await ask(asked, 60, 0.82, 0.88) == 0
    assert [alarm.kind for alarm in watch(asked).alarms] == ["harm"]


async def test_taking_one_more_signal_is_no_decision() -> None:
    asked = cascade(Drift(max_harm=0.1))
    draft = Draft("small", Completion("a", "small"))
    looks = Decision(action="observe", reason="may change that")
    watch(asked).judged(Case(Run("r", ""), (), draft, Assessment(confidence=0.5), looks))
    harm = watch(asked)._harm
    assert harm is not None
    assert harm.process.n == 0


async def test_where_too_much_waits_an_alarm_is_written_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryLedger()
    asked = cascade(Drift(on_alarm=print), ledger=store)
    monkeypatch.setattr(Background, "start", lambda *_: False)
    watch(asked).alarm("signals", "mine", "moved")
    assert [entry.note for entry in store.entries] == ["moved; caution: normal → audit"]
    assert "too much is waiting to call on_alarm" in caplog.text


# Restarts ---------------------------------------------------------------------------------------


async def test_a_restart_keeps_the_caution_and_repeats_no_alarm(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        watch(asked).alarm("signals", "mine", "moved")
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        assert (await asked.ainvoke("0.85 ?")).answer == "right"
        assert watch(asked).caution == "tighten"
        watch(asked).alarm("signals", "mine", "moved")
        await asked.aclose()
        assert len(await events(store)) == 1
        watch(asked).reset()
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        assert (await asked.ainvoke("0.85 ?")).answer == "draft"


async def test_the_graph_alone_reads_the_caution_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, cascade("large_only", ledger=store) as asked:
        watch(asked).alarm("signals", "mine", "moved")
    async with opened(tmp_path) as store:
        again = cascade("large_only", ledger=store)
        state = await again.graph.ainvoke(CascadeInput(messages=[HumanMessage("0.99 ?")]))
        assert state["messages"][-1].text == "right"
        await again.aclose()


async def test_cascades_on_one_ledger_are_told_apart_by_name_and_tags(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, cascade("tighten", ledger=store, name="a") as asked:
        watch(asked).alarm("signals", "mine", "moved")
        tagged = cascade("tighten", ledger=store, name="b", tags={"app": "x"})
        watch(tagged).alarm("signals", "mine", "moved")
        await tagged.aclose()
    async with opened(tmp_path) as store:
        for name, tags, answer in (
            ("a", {}, "right"),
            ("b", {"app": "x"}, "right"),
            ("b", {"app": "y"}, "draft"),
            ("c", {}, "draft"),
        ):
            other = cascade("tighten", ledger=store, name=name, tags=tags)
            assert (await other.ainvoke("0.85 ?")).answer == answer
            await other.aclose()


async def test_what_was_usual_is_read_from_the_ledger(tmp_path: Path) -> None:
    options = Drift(**QUICK, run_length=1e12)
    async with opened(tmp_path) as store, cascade(options, ledger=store) as asked:
        await ask(asked, 60, 0.82, 0.99)
    async with opened(tmp_path) as store, cascade(options, ledger=store) as asked:
        await ask(asked, 1, 0.82, 0.99)
        await ask(asked, 40, 0.81, 0.84)
        assert {alarm.kind for alarm in watch(asked).alarms} == {"signals"}


async def test_decisions_before_a_reset_are_usual_no_more(tmp_path: Path) -> None:
    options = Drift(**QUICK, run_length=1e12)
    async with opened(tmp_path) as store, cascade(options, ledger=store) as asked:
        await ask(asked, 60, 0.82, 0.99)
        watch(asked).reset()
    async with opened(tmp_path) as store, cascade(options, ledger=store) as asked:
        await ask(asked, 41, 0.81, 0.84)
        assert watch(asked).alarms == []


async def test_evidence_of_harm_outlives_the_process(tmp_path: Path) -> None:
    options = {
        "drift": Drift(max_harm=0.5, delta=1e-9),
        "audit_rate": Audits(rate=1.0, compare="exact"),
    }
    small = ScriptedModel(lambda _: reply("wrong", probability=0.9), returns_logprobs=True)
    grown = []
    for _ in range(3):
        async with (
            opened(tmp_path) as store,
            Cascade(small, ScriptedModel("right"), ledger=store, **options) as asked,  # type: ignore[arg-type]
        ):
            for i in range(10):
                await asked.ainvoke(f"{i}?")
            await asked.audits_done()
            harm = watch(asked)._harm
            assert harm is not None
            grown.append(harm.process.n)
    assert grown == [10, 20, 30]
    async with opened(tmp_path) as store:
        found = [entry.note.split(" log E")[0] for entry in await events(store)]
    assert found == [f"harm: after {n} requests" for n in (10, 20, 30)]


async def test_a_killed_process_loses_the_evidence_of_its_last_audits_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "SNAPSHOT_EVERY", 4)
    store = MemoryLedger()
    small = ScriptedModel("wrong", logprobs=0.9)
    asked = Cascade(
        small,
        ScriptedModel("right"),
        ledger=store,
        drift=Drift(max_harm=0.5, delta=1e-9),
        audit_rate=Audits(rate=1.0, compare="exact"),
    )
    for i in range(10):
        await asked.ainvoke(f"{i}?")
        await asked.audits_done()
    found = [e.signals["harm_n"] for e in store.entries if e.node == "drift" and e.signals]
    assert found == [4.0, 8.0]


@pytest.mark.parametrize("error", [LedgerError("away"), ValueError("away")])
async def test_a_ledger_that_cannot_be_read_holds_up_nobody(
    error: Exception,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        watch(asked).alarm("signals", "mine", "moved")
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:

        async def away(*_: Any, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(store, "query", away)
            assert (await asked.ainvoke("0.85 ?")).answer == "draft"
            assert "cannot be read: away" in caplog.text
        for _ in range(
            20
        ):  # a next question reads it; on a busy machine not all in its two seconds
            if (await asked.ainvoke("0.85 ?")).answer == "right":
                break
        else:
            raise AssertionError("nobody has read it")


async def test_a_caller_that_gives_up_does_not_end_the_reading_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        watch(asked).alarm("signals", "mine", "moved")
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        query, go_on = store.query, threading.Event()

        async def slow(*args: Any) -> list[LedgerEntry]:
            await asyncio.to_thread(go_on.wait)
            return await query(*args)

        monkeypatch.setattr(store, "query", slow)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked.ainvoke("0.85 ?"), 0.05)
        go_on.set()
        assert (await asked.ainvoke("0.85 ?")).answer == "right"


async def test_a_reset_while_the_ledger_is_read_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        watch(asked).alarm("signals", "mine", "moved")
    async with opened(tmp_path) as store, cascade("tighten", ledger=store) as asked:
        query, go_on = store.query, threading.Event()

        async def slow(*args: Any) -> list[LedgerEntry]:
            await asyncio.to_thread(go_on.wait)
            return await query(*args)

        monkeypatch.setattr(store, "query", slow)
        asking = asyncio.create_task(asked.ainvoke("0.85 ?"))
        await asyncio.sleep(0.05)
        watch(asked).reset()
        go_on.set()
        assert (await asking).answer == "draft"


# Set-up -------------------------------------------------------------------------------------


async def test_without_the_option_nothing_is_watched() -> None:
    store = MemoryLedger()
    asked = cascade(None, ledger=store)
    assert asked.drift is None
    assert asked._oversight.watchers == ()
    await asked.ainvoke("0.9 ?")
    assert "route" not in {entry.node for entry in store.entries}


@pytest.mark.parametrize("wrong", ["panic", 3])
def test_an_option_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"drift={wrong!r}"):
        cascade(wrong)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"harm": "panic"}, r"Drift\(harm='panic'\): give one of 'warn', 'audit'"),
        ({"window": 3}, r"Drift\(window=3\): at least 20"),
        ({"reference": 0}, r"Drift\(reference=0\): at least 50"),
        ({"alpha": 0.0}, r"Drift\(alpha=0.0\): a number between 0 and 1"),
        ({"max_harm": 5}, r"Drift\(max_harm=5\): a number between 0 and 1"),
        ({"audit_factor": float("nan")}, r"Drift\(audit_factor=nan\): at least 1"),
    ],
)
def test_a_value_that_cannot_work_is_named(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Drift(**wrong)


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="calibrate"):
        cascade("warn")


def test_a_synchronous_caller_is_served_too(tmp_path: Path) -> None:
    with open_store_sync(tmp_path) as asked:
        assert asked.invoke("0.85 ?").answer == "draft"
        watch(asked).alarm("signals", "mine", "moved")
        assert asked.invoke("0.85 ?").answer == "right"


def open_store_sync(folder: Path) -> Cascade:
    return cascade("tighten", ledger=open_store(f"sqlite:///{folder}/ledger.db"))
