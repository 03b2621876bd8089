"""Audits as a user sees them: after the reply, in the ledger, at the rate that was said."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import RetryPolicy

from cascade import Audits, Cascade, ConfigurationError, LedgerError, MemoryLedger, Price, Tier
from cascade.agents.auditor import Auditor
from cascade.agents.leftovers import is_result
from cascade.errors import AuthenticationError, ModelUnavailableError
from cascade.graph import is_retryable
from cascade.ledger import tagged
from cascade.ledger.draws import drawn
from cascade.ledger.judges import DISAGREED
from cascade.ledger.runs import runs_of
from cascade.ledger.store import open_store
from cascade.models import Request
from cascade.result import CascadeResult
from cascade.state import Completion, LedgerEntry
from cascade.testing import ScriptedModel, reply

# A draft of 10 + 1 tokens at $1 and $2 per 1M; an answer of 20 + 1 tokens at $100 and $200.
C_S, C_L = Decimal("0.000012"), Decimal("0.0022")
B = Decimal("0.0012")

AT_ONCE = RetryPolicy(initial_interval=0.0, max_attempts=3, retry_on=is_retryable)


def small(text: str = "Sydney", probability: float = 0.9) -> Tier:
    return Tier(
        ScriptedModel([reply(text, probability=probability)]), price=Price(input=1, output=2)
    )


def large(*answers: Any, failures: tuple[Exception, ...] = ()) -> Tier:
    given = list(answers) or [reply("Canberra", input_tokens=20)]
    model = ScriptedModel(given[0] if callable(given[0]) else given, failures=failures)
    return Tier(model, price=Price(input=100, output=200))


def down() -> ModelUnavailableError:
    return ModelUnavailableError("nobody listens", model="scripted:large")


def made(
    audit_rate: float | Audits | None = 1.0, tiers: tuple[Tier, Tier] | None = None, **more: Any
) -> tuple[Cascade, MemoryLedger]:
    ledger = MemoryLedger()
    first, last = tiers or (small(), large())
    options = {"retry_policy": AT_ONCE, "ledger": ledger, **more}
    return Cascade(first, last, audit_rate=audit_rate, **options), options["ledger"]


def audits(ledger: MemoryLedger) -> list[LedgerEntry]:
    return [entry for entry in ledger.entries if entry.node == "audit"]


def results(ledger: MemoryLedger) -> list[LedgerEntry]:
    return [entry for entry in ledger.entries if is_result(entry)]


def saved(ledger: MemoryLedger) -> Decimal:
    return sum((entry.saved_usd for entry in ledger.entries if entry.saved_usd), Decimal(0))


async def test_a_decision_that_is_executed_again_earns_its_baseline_once() -> None:
    async with open_store("memory://") as store:
        cascade, _ = made(None, ledger=store)
        graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "1"}}
        await graph.ainvoke({"messages": [("user", "?")]}, thread)  # type: ignore[typeddict-item]
        states = [state async for state in graph.aget_state_history(thread)]
        before: Any = next(state.config for state in states if state.next == ("verify",))
        await graph.ainvoke(None, before)
        accepted = [entry for entry in await store.query() if entry.action == "accept"]
    assert [entry.saved_usd for entry in accepted] == [B]


@pytest.mark.parametrize("method", ["audit_rate", "judged"])
def test_an_auditor_that_fails_breaks_no_reply(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Auditor, method, broken)
    cascade, ledger = made()
    with cascade:
        assert cascade.invoke("?").answer == "Sydney"
    assert "Auditor failed" in caplog.text
    assert audits(ledger) == []


class Gate:
    """A large model that answers only once it is let."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked = threading.Event()

    def tier(self) -> Tier:
        gate = self

        class Blocked(ScriptedModel):
            async def _complete(self, request: Request) -> Completion:
                gate.asked.set()
                await asyncio.to_thread(gate.opened.wait, 20)
                return await super()._complete(request)

        return Tier(
            Blocked([reply("Canberra", input_tokens=20)]), price=Price(input=100, output=200)
        )

    @contextmanager
    def open_at_last(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.opened.set()


# After the reply ------------------------------------------------------------------------------


async def test_the_reply_does_not_wait_for_the_audit() -> None:
    gate = Gate()
    cascade, ledger = made(tiers=(small(), gate.tier()))
    with gate.open_at_last():
        result = await asyncio.wait_for(cascade.ainvoke("?"), 5)
        assert result.answer == "Sydney"
        assert await asyncio.to_thread(gate.asked.wait, 5)
        assert audits(ledger) == []
    await cascade.aclose()
    assert len(audits(ledger)) == 2


def test_an_audit_stands_in_the_ledger_as_call_and_result() -> None:
    cascade, ledger = made()
    with cascade:
        result = cascade.invoke("?")
    assert [entry.node for entry in result.ledger.entries] == ["draft", "self_check", "verify"]
    verify = next(entry for entry in ledger.entries if entry.node == "verify")
    assert (verify.action, verify.audit_rate, verify.baseline_usd) == ("accept", 1.0, B)
    call, found = audits(ledger)
    assert (call.tier, call.model, call.cost_usd, call.saved_usd) == (
        "large",
        "scripted:scripted",
        C_L,
        -C_L,
    )
    assert (found.tier, found.model, found.cost_usd) == ("small", None, 0)
    assert (found.large_usd, found.loss) == (C_L, 1.0)
    assert found.baseline_usd == found.saved_usd == C_L - B
    assert (found.basis, found.cost_basis) == ("estimated", "measured")
    # B_true − costs, to the last decimal.
    assert saved(ledger) == C_L - C_S - C_L
    run = next(iter(runs_of((entry, {}) for entry in ledger.entries).values()))
    assert run.audited
    assert run.large_usd == C_L


def test_what_was_escalated_is_not_audited() -> None:
    cascade, ledger = made(tiers=(small(probability=0.2), large()))
    with cascade:
        assert cascade.invoke("?").escalated
    assert audits(ledger) == []


def test_a_degraded_answer_is_not_audited() -> None:
    failing = large(lambda _request: down())
    cascade, ledger = made(tiers=(small(probability=0.2), failing))
    with cascade:
        assert cascade.invoke("?").degraded
    assert audits(ledger) == []


async def test_two_hundred_requests_are_audited_as_often_as_the_rate_says() -> None:
    def answer(request: Request) -> Completion:
        n = int(str(request.messages[-1].text))
        return reply("Canberra " * (n % 7 + 1), input_tokens=20 + n)

    cascade, ledger = made(0.2, tiers=(small(), large(answer)))
    async with cascade:
        await cascade.abatch([str(n) for n in range(200)])
        await cascade.audits_done()
    runs = runs_of((entry, {}) for entry in ledger.entries)
    audited = [run for run in runs.values() if run.audited]
    # Binomial: 40 ± 5 standard deviations.
    assert abs(len(audited) - 40) < 5 * (200 * 0.2 * 0.8) ** 0.5
    assert len(runs) == 200
    for run in runs.values():
        assert run.audited == drawn(run.run_id, 0.2)
    for run in audited:
        costs = sum((entry.cost_usd or Decimal(0) for entry in run.entries), Decimal(0))
        gains = sum((entry.saved_usd or Decimal(0) for entry in run.entries), Decimal(0))
        assert run.large_usd is not None
        assert gains == run.large_usd - costs


async def ask_by_stream(cascade: Cascade) -> CascadeResult:
    *_, last = [event async for event in cascade.astream("?")]
    assert isinstance(last, CascadeResult)
    return last


PATHS: dict[str, Callable[[Cascade], Any]] = {
    "invoke": lambda cascade: asyncio.to_thread(cascade.invoke, "?"),
    "ainvoke": lambda cascade: cascade.ainvoke("?"),
    "astream": ask_by_stream,
    "stream": lambda cascade: asyncio.to_thread(lambda: list(cascade.stream("?"))),
    "batch": lambda cascade: asyncio.to_thread(cascade.batch, ["?"]),
    "graph": lambda cascade: cascade.graph.ainvoke({"messages": [("user", "?")]}),
}


@pytest.mark.parametrize("path", PATHS)
async def test_every_way_of_asking_is_audited(path: str) -> None:
    cascade, ledger = made()
    await PATHS[path](cascade)
    await cascade.aclose()
    assert len(results(ledger)) == 1


async def test_a_request_that_is_cancelled_is_not_audited() -> None:
    slow = Tier(
        ScriptedModel([reply("Sydney", probability=0.9)], delay_s=5), price=Price(input=1, output=2)
    )
    cascade, ledger = made(tiers=(slow, large()))
    asking = asyncio.create_task(cascade.ainvoke("?"))
    await asyncio.sleep(0.2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await cascade.aclose()
    assert audits(ledger) == []


async def test_an_audit_outlives_the_request_that_is_cancelled_after_its_decision() -> None:
    gate = Gate()
    cascade, ledger = made(tiers=(small(), gate.tier()))
    with gate.open_at_last():
        asking = asyncio.create_task(cascade.ainvoke("?"))
        assert await asyncio.to_thread(gate.asked.wait, 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await cascade.aclose()
    assert len(results(ledger)) == 1


def test_an_audit_outlives_the_callers_event_loop() -> None:
    gate = Gate()
    cascade, ledger = made(tiers=(small(), gate.tier()))
    with gate.open_at_last():
        asyncio.run(cascade.ainvoke("?"))
    cascade.close()
    assert len(results(ledger)) == 1


def test_the_tags_of_a_run_are_those_of_its_audit() -> None:
    seen: list[dict[str, str]] = []

    class Tagged(MemoryLedger):
        def append(self, entries: Any) -> None:
            from cascade.ledger.tags import current_tags  # noqa: PLC0415

            kept = list(entries)
            seen.extend(dict(current_tags()) for entry in kept if entry.node == "audit")
            super().append(kept)

    cascade, _ = made(ledger=Tagged(), tags={"app": "support"})
    with cascade, tagged(user="42"):
        cascade.invoke("?")
    assert seen == [{"app": "support", "user": "42"}] * 2


def test_a_node_that_runs_again_starts_no_second_audit() -> None:
    cascade, ledger = made()
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with cascade:
        asyncio.run(graph.ainvoke({"messages": [("user", "?")]}, config))
        before = [s for s in graph.get_state_history(config) if s.next == ("verify",)]
        asyncio.run(graph.ainvoke(None, before[0].config))
    assert sum(entry.node == "verify" for entry in ledger.entries) == 2
    assert len(results(ledger)) == 1


def test_the_audit_asks_the_same_as_the_large_model_would_have_been() -> None:
    expert, audited = large(), large()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    options: dict[str, Any] = {"tools": [tool]}
    question = [("system", "Be brief."), ("user", "Hello"), ("ai", "Hi"), ("user", "?")]
    with made(tiers=(small(probability=0.1), expert), **options)[0] as cascade:
        cascade.invoke(question)
    with made(tiers=(small(), audited), **options)[0] as cascade:
        cascade.invoke(question)
    (one,), (other,) = (tier.model.requests for tier in (expert, audited))  # type: ignore[union-attr]
    assert [(m.type, m.content) for m in one.messages] == [
        (m.type, m.content) for m in other.messages
    ]
    assert (one.tools, one.schema, one.max_tokens) == (other.tools, other.schema, other.max_tokens)


# What goes wrong ------------------------------------------------------------------------------


def test_a_large_model_that_comes_back_is_asked_again() -> None:
    cascade, ledger = made(tiers=(small(), large(failures=(down(), down()))))
    with cascade:
        cascade.invoke("?")
    *calls, found = audits(ledger)
    assert [call.outcome for call in calls] == ["failed", "failed", "ok"]
    assert found.loss == 1.0


def test_when_the_large_model_stays_away_there_is_no_result_and_the_spend_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cascade, ledger = made(tiers=(small(), large(lambda _request: down())))
    with cascade:
        assert cascade.invoke("?").answer == "Sydney"
    assert [entry.outcome for entry in audits(ledger)] == ["failed"] * 3
    assert results(ledger) == []
    assert "was not audited" in caplog.text


def test_a_wrong_key_is_not_tried_again() -> None:
    refused = AuthenticationError("401", model="scripted:large")
    cascade, ledger = made(tiers=(small(), large(lambda _request: refused)))
    with cascade:
        cascade.invoke("?")
    assert len(audits(ledger)) == 1


def test_an_unknown_draft_leaves_the_correction_unknown() -> None:
    drafts = ScriptedModel([reply("Sydney", probability=0.9, input_tokens=None)])
    cascade, ledger = made(tiers=(Tier(drafts, price=Price(input=1, output=2)), large()))
    with cascade:
        cascade.invoke("?")
    (found,) = results(ledger)
    assert (found.large_usd, found.loss) == (C_L, 1.0)
    assert (found.saved_usd, found.baseline_usd, found.basis) == (None, None, "unknown")


def test_without_the_large_models_usage_the_estimate_stands() -> None:
    cascade, ledger = made(tiers=(small(), large(reply("Canberra", input_tokens=None))))
    with cascade:
        cascade.invoke("?")
    (found,) = results(ledger)
    assert (found.large_usd, found.loss, found.saved_usd) == (None, 1.0, 0)
    assert "the estimate stands" in found.note


def test_audits_teach_how_long_the_large_models_answers_are() -> None:
    cascade, ledger = made(tiers=(small(), large(reply("word " * 50, input_tokens=10))))
    with cascade:
        for _ in range(20):
            cascade.invoke("?")
            asyncio.run(cascade.audits_done())
    estimates = [entry.baseline_usd for entry in ledger.entries if entry.node == "verify"]
    # 10 + 50 tokens at $100 and $200 per 1M; the first estimate is as long as the draft.
    assert (estimates[0], estimates[-1]) == (B, Decimal("0.011"))


# The judge ------------------------------------------------------------------------------------


LONG = "word " * 20


def judged(judge: Tier, **more: Any) -> MemoryLedger:
    options = Audits(rate=1.0, judge=judge, **more)
    cascade, ledger = made(options, tiers=(small(LONG), large(reply("other " * 20))))
    with cascade:
        cascade.invoke("?")
    return ledger


def test_what_the_judge_costs_counts_against_the_saving() -> None:
    judge = Tier(ScriptedModel("EQUAL"), price=Price(input=10, output=10))
    ledger = judged(judge, judge_repeat=1.0)
    call, *asked, found = audits(ledger)
    assert [(e.tier, e.cost_usd, e.saved_usd) for e in asked] == [
        ("judge", Decimal("0.00011"), Decimal("-0.00011"))
    ] * 2
    assert (found.loss, (found.signals or {})[DISAGREED]) == (0, 0)
    costs = sum((entry.cost_usd or Decimal(0) for entry in ledger.entries), Decimal(0))
    assert found.large_usd == call.cost_usd
    assert saved(ledger) == (call.cost_usd or 0) - costs
    (run,) = runs_of((entry, {}) for entry in ledger.entries).values()
    assert run.audit_call == call


def test_a_judge_that_is_down_leaves_the_loss_unknown_and_the_cost_known() -> None:
    judge = Tier(ScriptedModel(lambda _request: down()), price=Price(input=10, output=10))
    found = results(judged(judge))[0]
    assert found.loss is None
    assert found.large_usd is not None
    assert "the judge failed" in found.note


# The budget -----------------------------------------------------------------------------------


def test_a_daily_budget_is_not_exceeded_and_the_rest_could_not_be_audited() -> None:
    options = Audits(rate=1.0, daily_usd=float(3 * C_L))
    cascade, ledger = made(options)
    with cascade:
        for _ in range(30):
            cascade.invoke("?")
    spent = sum((entry.cost_usd or Decimal(0) for entry in audits(ledger)), Decimal(0))
    assert spent <= 3 * C_L
    rates = [entry.audit_rate for entry in ledger.entries if entry.node == "verify"]
    assert all(rate is None or 0 < rate <= 1 for rate in rates)


async def test_the_budget_survives_a_restart(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"

    async def ask(daily_usd: Decimal) -> list[float | None]:
        async with open_store(url) as store:
            options = Audits(rate=1.0, daily_usd=daily_usd)
            async with made(options, ledger=store)[0] as cascade:
                found = []
                for _ in range(3):
                    result = await cascade.ainvoke("?")
                    found.extend(e.audit_rate for e in result.ledger.entries if e.node == "verify")
                return found

    async with open_store(url) as store:
        store.append([LedgerEntry(run_id="before", node="audit", cost_usd=Decimal(1))])
    assert await ask(Decimal(1)) == [None] * 3
    rates = await ask(Decimal(1000))
    assert all(rate == 1.0 for rate in rates)


@pytest.mark.parametrize("error", [LedgerError("away"), OSError("away")])
async def test_a_ledger_that_cannot_be_read_costs_the_audits_and_not_the_replies(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(MemoryLedger):
        async def spent(self, node: str, since: Any) -> Any:
            raise error

    cascade, ledger = made(Audits(rate=1.0, daily_usd=1), ledger=Silent())
    async with cascade:
        assert (await cascade.ainvoke("?")).answer == "Sydney"
    assert "nothing is audited until" in caplog.text
    assert audits(ledger) == []


def test_an_audit_that_finds_no_place_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cascade, ledger = made(Audits(rate=1.0, daily_usd=1))
    told: list[tuple[str, float | None]] = []
    auditor = cascade._oversight.auditor
    assert auditor is not None
    auditor.on_audit.append(lambda run_id, loss: told.append((run_id, loss)))
    monkeypatch.setattr(auditor.background, "start", lambda _work: False)
    result = cascade.invoke("?")
    assert told == [(result.run_id, None)]
    assert "too many audits are waiting" in caplog.text
    monkeypatch.undo()
    cascade.close()
    assert audits(ledger) == []


def test_whoever_listens_is_told_of_every_draft_that_had_a_chance() -> None:
    cascade, ledger = made(0.5)
    told: dict[str, float | None] = {}
    auditor = cascade._oversight.auditor
    assert auditor is not None
    auditor.on_audit.append(told.__setitem__)
    with cascade:
        runs = [cascade.invoke("?").run_id for _ in range(20)]
    audited = {entry.run_id for entry in results(ledger)}
    assert told == {run_id: 1.0 if run_id in audited else None for run_id in runs}
    assert 0 < len(audited) < 20


# Set-up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": "often"}, "rate='often'"),
        ({"floor": 0}, "floor=0"),
        ({"judge_repeat": -0.1}, "judge_repeat=-0.1"),
        ({"allocation": "best"}, "'constant' or 'optimal'"),
        ({"compare": "fuzzy"}, "compare='fuzzy'"),
        ({"compare": "judge"}, "needs judge="),
        ({"compare": "exact", "judge": "openai:gpt-5.1"}, "asks no judge"),
        ({"daily_usd": 0}, "daily_usd=0"),
        ({"daily_usd": "much"}, "no amount"),
        ({"daily_usd": "nan"}, "no amount"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Audits(**options)


@pytest.mark.parametrize("rate", [True, "5%", -0.1])
def test_an_audit_rate_is_a_share(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"rate|Audits"):
        made(rate)


def test_audits_need_a_ledger_a_draft_and_for_a_budget_a_price() -> None:
    with pytest.raises(ConfigurationError, match="needs ledger="):
        Cascade(small(), large(), audit_rate=0.1)
    with pytest.raises(ConfigurationError, match="single tier"):
        Cascade(tiers=[large()], audit_rate=0.1, ledger=MemoryLedger())
    unpriced = Tier(ScriptedModel("Canberra"))
    with pytest.raises(ConfigurationError, match="cannot be kept"):
        made(Audits(daily_usd=1), tiers=(small(), unpriced))
    with pytest.raises(ConfigurationError, match="what judge"):
        made(Audits(daily_usd=1, judge=unpriced))


@pytest.mark.parametrize("rate", [None, 0, 0.0])
def test_without_a_rate_nothing_is_audited(rate: float | None) -> None:
    cascade, ledger = made(rate)
    with cascade:
        cascade.invoke("?")
        assert asyncio.run(cascade.resume_audits()) == 0
    assert [entry.audit_rate for entry in ledger.entries if entry.node == "verify"] == [None]
    assert audits(ledger) == []


def test_when_too_much_is_waiting_a_draft_could_not_be_audited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gate = Gate()
    cascade, ledger = made(tiers=(small(), gate.tier()))
    monkeypatch.setattr("cascade.agents.auditor.MOST_WAITING", 2)
    with gate.open_at_last():
        for _ in range(4):
            cascade.invoke("?")
    cascade.close()
    rates = [entry.audit_rate for entry in ledger.entries if entry.node == "verify"]
    assert rates == [1.0, 1.0, None, None]
    assert len(results(ledger)) == 2
