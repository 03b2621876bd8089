"""What looks on: records of runs, the log, OpenTelemetry, Prometheus."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from prometheus_client import CollectorRegistry

from cascade import Cascade, MemoryLedger, tagged
from cascade.errors import BadRequestError, ConfigurationError, ModelUnavailableError
from cascade.integrations.logs import RunLog, RunObserver, RunRecord
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.middleware import Audits, Cache, Retries, ToolRisks
from cascade.testing import ScriptedModel, reply
from tests.acceptance.traced import Traced

Q = "What is the capital of Australia?"
ASKED: Any = {"messages": [HumanMessage(Q)]}
THREAD: Any = {"configurable": {"thread_id": "t"}}
Pair = Callable[..., Cascade]
SURE, UNSURE = reply("Canberra", probability=0.95), reply("Sydney", probability=0.3)
REFUSED = BadRequestError("no", model="scripted:small")
DOWN = ModelUnavailableError("down", model="scripted:large")
CALL: Any = {"name": "delete", "args": {"path": "a"}, "id": "1"}


class Watching(RunObserver):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[RunRecord] = []

    def ended(self, record: RunRecord, run: Any, error: BaseException | None) -> None:
        self.records.append(record)


# --- records


@pytest.mark.parametrize(
    ("draft", "large", "options", "outcome", "tier"),
    [
        (UNSURE, ScriptedModel([DOWN]), {}, "degraded", "small"),
        (UNSURE, ScriptedModel("x", local=False), {"local_only": "abstain"}, "abstained", None),
    ],
)
def test_a_record_says_how_a_run_ended(
    pair: Pair, draft: Any, large: Any, options: Any, outcome: str, tier: str | None
) -> None:
    watching = Watching()
    cascade = pair(draft, large, middleware=[watching, Retries(attempts=1)], name="it", **options)
    result = cascade.invoke(Q)
    (record,) = watching.records
    assert (record.cascade, record.run_id) == ("it", result.run_id)
    assert (record.outcome, record.tier) == (outcome, tier)
    assert (record.cost_usd, record.saved_usd) == (result.ledger.cost_usd, result.ledger.saved_usd)
    assert (record.confidence, record.calibrated) == (result.confidence, False)
    assert record.error_type is None


def test_a_failed_run_has_a_record_with_what_it_has_spent(pair: Pair) -> None:
    watching = Watching()
    large = ScriptedModel([REFUSED], name="large")
    with pytest.raises(BadRequestError):
        pair("", large, middleware=[watching]).invoke(Q)
    (record,) = watching.records
    assert (record.outcome, record.error_type) == ("failed", "BadRequestError")
    assert record.cost_usd == Decimal("0.00001")
    assert record.tier is record.confidence is None


async def test_a_cancelled_run_has_a_record_of_unknown_cost(pair: Pair) -> None:
    watching = Watching()
    large = ScriptedModel("x", delay_s=60)
    asking = asyncio.create_task(pair(UNSURE, large, middleware=[watching]).ainvoke(Q))
    while not large.requests:  # noqa: ASYNC110
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    (record,) = watching.records
    assert (record.outcome, record.cost_usd, record.basis) == ("cancelled", None, "unknown")


def test_a_hit_of_the_cache_is_seen_as_one(pair: Pair) -> None:
    watching = Watching()
    cascade = pair(SURE, middleware=[watching, Cache(InMemoryCache())])
    cascade.batch([Q])
    cascade.invoke(Q)
    assert [record.outcome for record in watching.records] == ["accepted", "cached"]


async def test_a_run_that_waits_for_a_person_is_seen_twice(pair: Pair) -> None:
    watching, call = Watching(), reply("", tool_calls=[CALL])
    risks = ToolRisks({"delete": "irreversible"}, irreversible="ask")
    tool: Any = {"type": "function", "function": {"name": "delete", "parameters": {}}}
    cascade = pair(call, call, middleware=[watching, risks], tools=[tool])
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(ASKED, THREAD)
    assert [record.outcome for record in watching.records] == ["interrupted"]
    await graph.ainvoke(Command(resume="accept"), THREAD)
    assert [record.outcome for record in watching.records] == ["interrupted", "escalated"]
    assert len({record.run_id for record in watching.records}) == 1


async def test_an_interrupt_of_the_users_is_no_end(pair: Pair) -> None:
    watching = Watching()

    def verifier(question: str, answer: str) -> bool:
        return bool(interrupt("right?"))

    cascade = pair(SURE, verifier=verifier, middleware=[watching])
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(ASKED, THREAD)
    assert watching.records == []
    await graph.ainvoke(Command(resume=True), THREAD)
    assert [record.outcome for record in watching.records] == ["accepted"]


# --- the log


def test_a_failure_is_a_warning_and_a_log_that_is_off_says_nothing(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("mine")
    cascade = pair(ScriptedModel([REFUSED, SURE]), middleware=[RunLog(log)])
    with caplog.at_level(logging.WARNING, "mine"), pytest.raises(BadRequestError):
        cascade.invoke(Q)
    assert [(r.levelname, vars(r)["outcome"]) for r in caplog.records] == [("WARNING", "failed")]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mine"):
        cascade.invoke(Q)
    assert caplog.records == []


# --- OpenTelemetry


@pytest.mark.parametrize("how", ["loop", "graph"])
async def test_a_run_is_a_tree_of_its_steps_and_calls(pair: Pair, how: str) -> None:
    traced = Traced()
    cascade = pair(UNSURE, middleware=[traced.observer], name="it")
    if how == "loop":
        await cascade.ainvoke(Q)
    else:
        await cascade.graph.ainvoke(ASKED)
    steps = dict.fromkeys(["router", "draft", "self_check", "verify", "expert"], "invoke_agent it")
    calls = {"chat small": "draft", "chat large": "expert"}
    assert traced.tree() == {"invoke_agent it": None, **steps, **calls}


def test_spans_say_what_was_decided_and_what_it_cost(pair: Pair) -> None:
    traced = Traced()
    draft = ScriptedModel([SURE], name="small")
    with tagged(user="eva"):
        pair(draft, middleware=[traced.observer]).invoke(
            Q, THREAD, tags={"team": "a"}, max_tokens=5, temperature=0.5
        )
    root = dict(traced.spans("invoke_agent")[0].attributes or {})
    assert (root["gen_ai.conversation.id"], root["cascade.tag.team"]) == ("t", "a")
    verify = dict(traced.spans("verify")[0].attributes or {})
    assert (verify["cascade.action"], verify["cascade.calibrated"]) == ("accept", False)
    call = dict(traced.spans("chat")[0].attributes or {})
    asked = [call[f"gen_ai.request.{name}"] for name in ("model", "max_tokens", "temperature")]
    assert asked == ["small", 5, 0.5]
    used = [call[f"gen_ai.usage.{name}_tokens"] for name in ("input", "output")]
    assert (call["gen_ai.operation.name"], used) == ("chat", [10, 1])
    assert call["gen_ai.provider.name"] == "scripted"
    assert call["gen_ai.response.finish_reasons"] == ("stop",)
    for name, basis in (("draft", "measured"), ("chat", "measured"), ("verify", "estimated")):
        told = dict(traced.spans(name)[0].attributes or {})
        assert told["cascade.basis"] == basis
        assert told["cascade.cost_usd"] == pytest.approx(0 if name == "verify" else 12e-6)


async def test_an_audit_is_a_trace_of_its_own_with_the_id_of_its_run(pair: Pair) -> None:
    traced = Traced()
    middleware = [traced.observer, Audits(1.0)]
    async with pair(SURE, middleware=middleware, ledger=MemoryLedger()) as cascade:
        result = await cascade.ainvoke(Q)
    (audit,) = traced.spans("audit")
    told: Any = dict(audit.attributes or {})
    assert (audit.parent, told["cascade.run_id"]) == (None, result.run_id)
    assert told["cascade.saved_usd"] == -told["cascade.cost_usd"] < 0
    assert traced.tree()["chat large"] == "audit"


def test_texts_are_in_the_form_of_the_conventions(pair: Pair) -> None:
    traced = Traced(capture_content=True)
    asked = [
        HumanMessage(Q),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("gone", tool_call_id="1"),
    ]
    pair(SURE, middleware=[traced.observer]).invoke(asked)
    told = dict(traced.spans("chat")[0].attributes or {})
    parts = [(m["role"], m["parts"][0]["type"]) for m in json.loads(told["gen_ai.input.messages"])]
    assert parts == [("user", "text"), ("assistant", "tool_call"), ("tool", "tool_call_response")]
    (answer,) = json.loads(told["gen_ai.output.messages"])
    assert (answer["parts"][0]["content"], answer["finish_reason"]) == ("Canberra", "stop")


# --- Prometheus


def test_a_registry_takes_the_metrics_once() -> None:
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    with pytest.raises(ConfigurationError, match="same PrometheusMetrics"):
        PrometheusMetrics(registry)
