"""Audits that outlive their process, in a real file of SQLite and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import RetryPolicy

from cascade import Audits, Cascade, LedgerError, Price, Tier
from cascade.agents.base import Task
from cascade.agents.leftovers import MOST_CALLS, Leftover, is_result, pending_of
from cascade.agents.watching import Case
from cascade.errors import ModelUnavailableError
from cascade.graph import is_retryable
from cascade.ledger import Pending
from cascade.ledger.draws import drawn
from cascade.ledger.store import Selection, Store, open_store
from cascade.models import Request
from cascade.state import Assessment, Completion, Decision, Draft, LedgerEntry, Run
from cascade.testing import ScriptedModel, reply

NOW = timedelta()
AT_ONCE = RetryPolicy(initial_interval=0.0, max_attempts=3, retry_on=is_retryable)
C_L = Decimal("0.0022")

KILLED = """
import asyncio, sys
from cascade import Audits, Cascade, Price, Tier
from cascade.ledger import tagged
from cascade.ledger.store import open_store
from cascade.testing import ScriptedModel, reply

small = Tier(ScriptedModel([reply("Sydney", probability=0.9)]), price=Price(input=1, output=2))
large = Tier(ScriptedModel("Canberra", delay_s=600), price=Price(input=100, output=200))

async def main():
    store = open_store(sys.argv[1], texts=sys.argv[2])
    cascade = Cascade(small, large, audit_rate=1.0, ledger=store)
    with tagged(user="42"):
        result = await cascade.ainvoke("What is the capital of Australia?")
    while not [a for a in await store.unfinished() if a.node == "audit"]:
        await asyncio.sleep(0.01)
    print(result.answer, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def ask_and_kill(url: str, texts: str = "pending") -> None:
    """A process that is killed when its reply is there and its audit is under way."""
    command = [sys.executable, "-c", KILLED, url, texts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "Sydney\n"
        finally:
            os.kill(process.pid, signal.SIGKILL)


def made(store: Store, large: ScriptedModel | None = None, **more: Any) -> Cascade:
    model = large or ScriptedModel([reply("Canberra", input_tokens=20)])
    return Cascade(
        Tier(ScriptedModel([reply("Sydney", probability=0.9)]), price=Price(input=1, output=2)),
        Tier(model, price=Price(input=100, output=200)),
        **{"audit_rate": 1.0, "ledger": store, "retry_policy": AT_ONCE, **more},
    )


def down(_request: Request) -> Exception:
    return ModelUnavailableError("nobody listens", model="scripted:large", billed=False)


async def of_node(store: Store, node: str) -> list[LedgerEntry]:
    return await store.query(Selection(node=node))


async def leftover(url: str, *, age: timedelta = NOW, **changes: Any) -> str:
    """A pending audit of a process that has died, without the process; returns its run."""
    question = HumanMessage("?", id="q")
    draft = Draft("small", reply("Sydney", probability=0.9))
    decision = Decision(action="accept", reason="sure")
    run = Run("dead", "q")
    case = Case(run, [question], draft, Assessment(), decision, 1.0, Decimal("0.0012"))
    pending = pending_of(case, "small=scripted:scripted > large=scripted:scripted")
    async with open_store(url, texts="pending") as store:
        store.put_pending(replace(pending, at=pending.at - age, **changes))
    return run.id


async def unclaim(store: Store, audit: Pending) -> None:
    """As if it had been claimed so long ago that the claim has lapsed."""
    store.drop_pending(audit.run_id)
    await store.flush()
    store.put_pending(audit)


async def test_an_audit_survives_a_kill(url: str) -> None:
    await asyncio.to_thread(ask_and_kill, url)
    async with open_store(url, texts="pending") as store:
        assert len(await store.pending()) == 1
        assert not [entry for entry in await of_node(store, "audit") if is_result(entry)]
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 1
            await cascade.audits_done()
            assert await cascade.resume_audits(NOW) == 0
        call, found = await of_node(store, "audit")
        assert (found.loss, found.large_usd) == (1.0, C_L)
        entries = await store.query(Selection(run_id=found.run_id))
        costs = sum((entry.cost_usd or Decimal(0) for entry in entries), Decimal(0))
        saved = sum((entry.saved_usd or Decimal(0) for entry in entries), Decimal(0))
        assert saved == found.large_usd - costs
        tagged = await store.query(Selection(tags={"user": "42"}))
        assert {call.attempt_id, found.attempt_id} <= {entry.attempt_id for entry in tagged}
        # The call that the kill interrupted may have been paid for: it is not forgotten.
        assert [attempt.node for attempt in await store.unfinished()] == ["audit"]
        assert await store.pending() == []


async def test_where_no_texts_are_kept_a_killed_audit_is_lost_and_seen_to_be(url: str) -> None:
    await asyncio.to_thread(ask_and_kill, url, "none")
    async with open_store(url, texts="pending") as store:
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        (verify,) = await of_node(store, "verify")
        assert drawn(verify.run_id, verify.audit_rate)
        assert await of_node(store, "audit") == []


async def test_leftovers_are_taken_on_with_the_first_question(url: str) -> None:
    run_id = await leftover(url, age=timedelta(hours=1))
    async with open_store(url, texts="pending") as store:
        async with made(store, audit_rate=Audits(rate=1e-9)) as cascade:
            await cascade.ainvoke("?")
            await cascade.audits_done()
        assert [e.run_id for e in await of_node(store, "audit") if is_result(e)] == [run_id]


async def test_what_another_process_may_still_be_at_is_left_to_it(url: str) -> None:
    await leftover(url)
    async with open_store(url, texts="pending") as store, made(store) as cascade:
        assert await cascade.resume_audits() == 0
        assert len(await store.pending()) == 1


async def test_a_done_audit_leaves_no_text_behind(url: str) -> None:
    async with open_store(url, texts="pending") as store:
        async with made(store) as cascade:
            await cascade.ainvoke("?")
        assert await store.pending() == []


async def test_an_audit_that_failed_is_tried_again_until_it_is_given_up(url: str) -> None:
    await leftover(url)
    async with open_store(url, texts="pending") as store:
        for failed in range(3, MOST_CALLS + 1, 3):
            async with made(store, ScriptedModel(down)) as cascade:
                (audit,) = await store.pending()
                await unclaim(store, audit)
                assert await cascade.resume_audits(NOW) == 1
            assert len(await of_node(store, "audit")) == failed
            assert len(await store.pending()) == 1
        (audit,) = await store.pending()
        await unclaim(store, audit)
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        assert await store.pending() == []


async def test_an_audit_that_has_its_result_is_not_done_again(url: str) -> None:
    run_id = await leftover(url)
    async with open_store(url, texts="pending") as store:
        store.append([LedgerEntry(run_id=run_id, node="audit", large_usd=C_L, loss=0.0)])
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        assert len(await of_node(store, "audit")) == 1
        assert await store.pending() == []


async def test_the_audits_of_another_cascade_are_left_to_it(url: str) -> None:
    await leftover(url)
    async with open_store(url, texts="pending") as store:
        other = Tier(ScriptedModel("Canberra", name="other"), price=Price(input=1, output=1))
        small = Tier(ScriptedModel([reply("Sydney", probability=0.9)]))
        async with Cascade(small, other, audit_rate=1.0, ledger=store) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 1


@pytest.mark.parametrize("payload", ["{}", "no JSON: Sydney", '{"cascade": ["Sydney"]}'])
async def test_what_cannot_be_read_is_dropped_and_said(
    url: str, payload: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(url, texts="pending") as store:
        store.put_pending(Pending(run_id="x", payload=payload))
        async with made(store) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        assert await store.pending() == []
    assert "cannot be read" in caplog.text
    assert "Sydney" not in caplog.text


async def test_what_the_budget_cannot_pay_stays_pending(url: str) -> None:
    await leftover(url)
    async with open_store(url, texts="pending") as store:
        store.append([LedgerEntry(run_id="before", node="audit", cost_usd=Decimal(1))])
        async with made(store, audit_rate=Audits(rate=1.0, daily_usd=1)) as cascade:
            assert await cascade.resume_audits(NOW) == 0
        (audit,) = await store.pending()
        await unclaim(store, audit)
        async with made(store, audit_rate=Audits(rate=1.0, daily_usd=2)) as cascade:
            assert await cascade.resume_audits(NOW) == 1


async def test_two_processes_at_the_same_audit_leave_one_result(url: str) -> None:
    opened, asked = threading.Event(), threading.Event()

    class Blocked(ScriptedModel):
        async def _complete(self, request: Request) -> Completion:
            asked.set()
            await asyncio.to_thread(opened.wait, 20)
            return await super()._complete(request)

    async with open_store(url, texts="pending") as store, open_store(url) as another:
        slow = made(store, Blocked([reply("Canberra", input_tokens=20)]))
        try:
            await slow.ainvoke("?")
            assert await asyncio.to_thread(asked.wait, 5)
            async with open_store(url, texts="pending") as third, made(third) as quick:
                assert await quick.resume_audits(NOW) == 1
        finally:
            opened.set()
        await slow.aclose()
        await store.flush()
        entries = await of_node(another, "audit")
        assert sum(is_result(entry) for entry in entries) == 1
        assert sum(entry.cost_usd == C_L for entry in entries) == 2


async def test_a_full_queue_costs_the_survival_and_not_the_reply(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_self: Store, _pending: Pending) -> None:
        raise LedgerError("the queue is full")

    async with open_store(url, texts="pending") as store:
        monkeypatch.setattr(Store, "put_pending", full)
        async with made(store) as cascade:
            assert (await cascade.ainvoke("?")).answer == "Sydney"
        assert len(await of_node(store, "audit")) == 2
    assert "will not survive a crash" in caplog.text


def test_what_is_no_json_is_left_out_of_what_is_written_down() -> None:
    message = HumanMessage("2 + 2?", id="1", additional_kwargs={("no", "key"): 1, "kept": 2})
    draft, assessment = Draft("small", reply("4")), Assessment(signals={}, confidence=0.9)
    decision = Decision(action="accept", reason="sure")
    case = Case(Run("r", "1"), [message], draft, assessment, decision, 0.5)
    back = Leftover.model_validate_json(pending_of(case, "me").payload).case
    assert back.messages[0].additional_kwargs == {"kept": 2}


def test_a_case_comes_back_as_it_was_written_down() -> None:
    class Artifact:
        pass

    messages = [
        HumanMessage("What is 2 + 2?", id="1"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2}, "id": "c"}], id="2"),
        ToolMessage("4", tool_call_id="c", artifact=Artifact(), id="3"),
        HumanMessage([{"type": "text", "text": "Sure?"}], id="4"),
    ]
    draft = reply("", probability=None, tool_calls=[{"name": "f", "args": {"x": [1]}, "id": "d"}])
    case = Case(
        Run("r", "4", 1, 5.0),
        messages,
        Draft("small", draft),
        Assessment(signals={"mean": -0.5}, confidence=0.9, taken=("p_true",), interval=(0.8, 1.0)),
        Decision(action="accept", reason="sure", expected_cost_accept_usd=Decimal("0.1")),
        0.25,
        Decimal("0.000000000000123"),
        Task(tools=({"type": "function"},), schema={"type": "object"}, stop=("x",), seed=1),
    )
    back = Leftover.model_validate_json(pending_of(case, "me").payload).case
    assert isinstance(back.messages[2], ToolMessage)
    plain = [message.model_copy(update={"artifact": None}) for message in back.messages]
    assert plain == [message.model_copy(update={"artifact": None}) for message in messages]
    assert replace(back, messages=()) == replace(case, messages=())
