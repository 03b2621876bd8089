"""Traces and metrics, through the real SDK with exporters in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from watched import QUESTION, WAYS, down, large, small, watched

from cascade import Cascade
from cascade.agents import Caller, Task
from cascade.errors import ConfigurationError, ModelUnavailableError, RealRequestForbiddenError
from cascade.integrations.opentelemetry import MOST_REMEMBERED, Telemetry
from cascade.ledger import MemoryLedger, Recorder
from cascade.observing import Observers
from cascade.oversight.audits import Audits
from cascade.policies import Situation
from cascade.state import Decision, LedgerEntry, Run
from cascade.testing import ScriptedModel, forbid_real_requests, reply


class House:
    """Telemetry that writes into memory."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.telemetry = Telemetry(
            tracer_provider=self.tracers, meter_provider=self.meters, **options
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def trees(self) -> list[str]:
        """Each trace as indented names, with `!` where a span is in error."""
        return [
            "\n".join(self._branch(span, 0))
            for span in self.spans
            if span.parent is None or span.parent.span_id not in self._ids()
        ]

    def _ids(self) -> set[int]:
        return {span.context.span_id for span in self.spans}

    def _branch(self, span: ReadableSpan, depth: int) -> Iterator[str]:
        failed = span.status.status_code is StatusCode.ERROR
        yield "  " * depth + span.name + (" !" if failed else "")
        for child in self.spans:
            if child.parent is not None and child.parent.span_id == span.context.span_id:
                assert child.context.trace_id == span.context.trace_id
                yield from self._branch(child, depth + 1)

    def metric(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Points of a metric by the values of their attributes, sorted by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        points = [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]
        return {
            tuple(value for _, value in sorted(dict(point.attributes or {}).items())): point
            for point in points
        }


@pytest.fixture
def house(caplog: pytest.LogCaptureFixture) -> Iterator[House]:
    made = House()
    yield made
    assert "failed in" not in caplog.text
    assert "detach" not in caplog.text
    made.tracers.shutdown()
    made.meters.shutdown()


ACCEPTED = """\
invoke_agent cascade
  draft
    chat small-1
  self_check
  verify"""

ESCALATED = (
    ACCEPTED
    + """
  expert
    chat large-1"""
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("sure", "tree"), [(True, ACCEPTED), (False, ESCALATED)])
async def test_every_way_to_ask_makes_the_same_tree(
    house: House, way: str, sure: bool, tree: str
) -> None:
    await WAYS[way](watched(house.telemetry, sure=sure))
    assert house.trees() == [tree]


async def test_the_span_of_a_run_says_what_came_of_it(house: House) -> None:
    result = await watched(house.telemetry, sure=False, tags={"app": "shop"}).ainvoke(QUESTION)
    span = house.span("invoke_agent cascade")
    cost, saved = result.ledger.cost_usd, result.ledger.saved_usd
    assert cost is not None
    assert saved is not None
    assert span.kind is SpanKind.INTERNAL
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "agent-cascade",
        "gen_ai.agent.name": "cascade",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 3,
        "cascade.run_id": result.run_id,
        "cascade.tag.app": "shop",
        "cascade.outcome": "escalated",
        "cascade.tier": "large",
        "cascade.escalated": True,
        "cascade.confidence": result.confidence,
        "cascade.calibrated": False,
        "cascade.action": "escalate",
        "cascade.reason": result.decision.reason,
        "cascade.cost_usd": float(cost),
        "cascade.saved_usd": float(saved),
        "cascade.basis": "measured",
    }


async def test_the_span_of_a_call_follows_the_conventions(house: House) -> None:
    usage = reply("Canberra", probability=0.95)
    result = await watched(house.telemetry, first=ScriptedModel([usage], name="small-1")).ainvoke(
        QUESTION
    )
    span = house.span("chat small-1")
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "small-1",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 1,
        "cascade.run_id": result.run_id,
        "cascade.node": "draft",
        "cascade.tier": "small",
        "cascade.cost_usd": 0.000012,
        "cascade.saved_usd": -0.000012,
        "cascade.basis": "measured",
    }


async def test_the_span_of_a_node_has_its_money_and_its_decision(house: House) -> None:
    result = await watched(house.telemetry).ainvoke(QUESTION)
    draft, verify = house.span("draft").attributes or {}, house.span("verify").attributes or {}
    assert draft["cascade.cost_usd"] == 0.000012
    entry = result.ledger.entries[-1]
    assert entry.saved_usd is not None
    assert verify["cascade.action"] == "accept"
    assert verify["cascade.confidence"] == entry.confidence
    assert verify["cascade.reason"] == result.decision.reason
    assert verify["cascade.saved_usd"] == float(entry.saved_usd)
    assert verify["cascade.basis"] == "estimated"


async def test_a_self_check_by_a_call_is_a_call_below_its_node(house: House) -> None:
    wordless = ScriptedModel(["Canberra", "True"], name="small-1")
    await watched(house.telemetry, first=wordless).ainvoke(QUESTION)
    assert "  self_check\n    chat small-1" in house.trees()[0]


async def test_a_retried_node_is_a_span_per_attempt(house: House) -> None:
    first = small(failures=[down("small")])
    await watched(house.telemetry, first=first).ainvoke(QUESTION)
    assert house.trees() == [
        ACCEPTED.replace(
            "  draft\n    chat small-1", "  draft !\n    chat small-1 !\n  draft\n    chat small-1"
        )
    ]
    failed = next(span for span in house.spans if span.name == "draft")
    assert failed.attributes is not None
    assert failed.attributes["cascade.retried"] is True
    assert failed.attributes["error.type"] == "ModelUnavailableError"


async def test_a_run_that_fails_ends_in_error(house: House) -> None:
    cascade = watched(
        house.telemetry,
        first=ScriptedModel([down("small")], name="small-1"),
        second=ScriptedModel([down()], name="large-1"),
    )
    with pytest.raises(ModelUnavailableError):
        await cascade.ainvoke(QUESTION)
    (tree,) = house.trees()
    assert tree.startswith("invoke_agent cascade !\n  draft !\n    chat small-1 !")
    attributes = house.span("invoke_agent cascade").attributes or {}
    assert attributes["error.type"] == "ModelUnavailableError"
    assert attributes["cascade.outcome"] == "failed"
    assert "cascade.tier" not in attributes


async def test_a_degraded_run_is_no_error(house: House) -> None:
    second = ScriptedModel([down()], name="large-1")
    await watched(house.telemetry, sure=False, second=second).ainvoke(QUESTION)
    span = house.span("invoke_agent cascade")
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["cascade.outcome"] == "degraded"


async def test_a_cancelled_run_is_ended(house: House) -> None:
    task = asyncio.create_task(watched(house.telemetry, first=small(delay_s=30)).ainvoke(QUESTION))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.trees() == ["invoke_agent cascade !\n  draft !\n    chat small-1 !"]
    assert (house.span("chat small-1").attributes or {})["error.type"] == "CancelledError"


async def test_runs_of_a_batch_do_not_mix(house: House) -> None:
    def answer(request: Any) -> Any:
        return reply(str(request.messages[-1].text), probability=0.95)

    first = ScriptedModel(answer, name="small-1", delay_s=0.005, returns_logprobs=True)
    results = await watched(house.telemetry, first=first).abatch([str(i) for i in range(40)])
    assert house.trees() == [ACCEPTED] * 40
    assert len({span.context.trace_id for span in house.spans}) == 40
    by_trace: dict[int, set[Any]] = {}
    for span in house.spans:
        found = (span.attributes or {})["cascade.run_id"]
        by_trace.setdefault(span.context.trace_id, set()).add(found)
    assert sorted(by_trace.values()) == sorted({result.run_id} for result in results)


async def test_a_run_stands_below_the_span_of_the_caller(house: House) -> None:
    with house.tracers.get_tracer("app").start_as_current_span("request"):
        await watched(house.telemetry).ainvoke(QUESTION)
        watched(house.telemetry).invoke(QUESTION)
    (tree,) = house.trees()
    assert tree.splitlines()[:2] == ["request", "  invoke_agent cascade"]
    assert tree.count("invoke_agent") == 2


async def test_what_a_client_traces_stands_below_its_call(house: House) -> None:
    def answer(_: Any) -> Any:
        house.tracers.get_tracer("http").start_span("POST").end()
        return reply("Canberra", probability=0.95)

    first = ScriptedModel(answer, name="small-1", returns_logprobs=True)
    await watched(house.telemetry, first=first).ainvoke(QUESTION)
    assert "    chat small-1\n      POST\n" in house.trees()[0]


async def test_an_event_that_is_no_part_of_the_run_does_not_describe_the_node(house: House) -> None:
    """What a watcher writes down while the verifier is at work belongs to no run."""
    observers = Observers([house.telemetry])
    with observers.node("verify", "run-1", [], {}):
        observers.recorded(LedgerEntry(run_id="run-1", node="verify", action="accept", note="yes"))
        observers.recorded(LedgerEntry(run_id="mode-7", node="mode", note="live"))
    observers.finish()
    assert (house.span("verify").attributes or {})["cascade.reason"] == "yes"


async def test_a_cascade_in_a_graph_of_the_users_is_traced(house: House) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", watched(house.telemetry, sure=False, name="helper").graph)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t-1"}}
    for _ in range(2):
        await graph.ainvoke({"messages": [("user", QUESTION)]}, config)  # type: ignore[call-overload]
    tree = ESCALATED.replace("cascade", "helper", 1)
    assert house.trees() == [tree, tree]
    conversations = {
        (span.attributes or {})["gen_ai.conversation.id"]
        for span in house.spans
        if "invoke" in span.name
    }
    assert conversations == {"t-1"}


class Asks:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="it always asks")


async def test_a_run_that_waits_for_a_person_is_two_traces(house: House) -> None:
    cascade = watched(house.telemetry, policy=Asks())
    graph: Any = cascade.build_graph().compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({"messages": [("user", QUESTION)]}, config)
    await graph.ainvoke(Command(resume="accept"), config)
    assert house.trees() == [ACCEPTED + "\n  ask", "invoke_agent cascade\n  ask"]
    before, after = (s.attributes or {} for s in house.spans if s.name == "invoke_agent cascade")
    assert before["cascade.run_id"] == after["cascade.run_id"]
    assert (before["cascade.outcome"], after["cascade.outcome"]) == ("interrupted", "accepted")
    waiting = next(span for span in house.spans if span.name == "ask")
    assert (waiting.attributes or {})["cascade.interrupted"] is True
    assert waiting.status.status_code is StatusCode.UNSET


async def test_work_after_the_reply_is_a_trace_of_its_own_linked_to_its_run(house: House) -> None:
    observers = Observers([house.telemetry])
    caller = Caller(Recorder(observers=observers))
    cascade = watched(house.telemetry)
    result = await cascade.ainvoke(QUESTION)
    tier, run = cascade.tiers[-1], Run(result.run_id, "")
    request = Task().request(tier, [])
    with observers.work_after("audit", run.id):
        await caller.ask(tier, request, "audit", run)
    await caller.ask(tier, request, "audit", run)
    assert house.trees() == [ACCEPTED, "audit\n  chat large-1", "chat large-1"]
    of_run = house.span("invoke_agent cascade").context
    linked = [span for span in house.spans if span.links]
    assert [span.name for span in linked] == ["audit", "chat large-1"]
    assert {link.context.span_id for span in linked for link in span.links} == {of_run.span_id}
    audit = house.span("audit").attributes or {}
    assert audit["cascade.cost_usd"] == -audit["cascade.saved_usd"] > 0  # type: ignore[operator]


async def test_an_audit_is_a_trace_linked_to_its_run(house: House) -> None:
    number = small(0.95, "4")
    same = ScriptedModel(["4"], name="large-1")
    audits = Audits(rate=1.0, compare="numeric")
    options: Any = {"first": number, "second": same, "audit_rate": audits}
    async with watched(house.telemetry, ledger=MemoryLedger(), **options) as cascade:
        await cascade.ainvoke("2 + 2?")
    assert house.trees() == [ACCEPTED, "audit\n  chat large-1"]
    audit = house.span("audit")
    (link,) = audit.links
    assert link.context.span_id == house.span("invoke_agent cascade").context.span_id
    assert (audit.attributes or {})["cascade.loss"] == 0


async def test_a_shadow_draft_is_a_trace_linked_to_its_run(house: House) -> None:
    options: Any = {"ledger": MemoryLedger(), "mode": "shadow"}
    async with watched(house.telemetry, **options) as cascade:
        result = await cascade.ainvoke(QUESTION)
    run, beside = house.trees()
    assert run.endswith("  expert\n    chat large-1")
    assert beside == "shadow\n  chat small-1"
    drafted = house.span("chat small-1").attributes or {}
    assert drafted["cascade.run_id"] == result.run_id
    assert drafted["cascade.cost_usd"] == -drafted["cascade.saved_usd"] > 0  # type: ignore[operator]
    assert set(house.metric("cascade.requests")) == {("cascade", "escalated", "large")}


async def test_finished_runs_are_forgotten_in_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.integrations.opentelemetry.MOST_REMEMBERED", 3)
    await watched(house.telemetry).abatch([QUESTION] * 10)
    assert len(house.telemetry._runs) == 3 < MOST_REMEMBERED
    assert not house.telemetry._spans
    assert not house.telemetry._attached


async def test_questions_and_answers_are_in_no_span_unless_asked_for() -> None:
    quiet, open_ = House(), House(capture_content=True)
    await watched(quiet.telemetry, open_.telemetry, sure=False).ainvoke(QUESTION)
    written = " ".join(str(dict(span.attributes or {})) for span in quiet.spans)
    assert "Australia" not in written
    assert "ACT" not in written
    call = open_.span("chat large-1").attributes or {}
    asked, answered = (
        json.loads(str(call[f"gen_ai.{name}.messages"])) for name in ("input", "output")
    )
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": QUESTION}]}]
    assert answered == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "Canberra, ACT"}],
            "finish_reason": "stop",
        }
    ]
    run = open_.span("invoke_agent cascade").attributes or {}
    assert json.loads(str(run["gen_ai.input.messages"])) == asked
    assert json.loads(str(run["gen_ai.output.messages"])) == answered


async def test_tool_calls_are_written_as_the_conventions_have_them() -> None:
    house = House(capture_content=True)
    call: Any = {"name": "clock", "args": {"zone": "UTC"}, "id": "c1", "type": "tool_call"}
    conversation = [
        ("user", "What time is it?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("12:00", tool_call_id="c1"),
    ]
    await watched(house.telemetry).ainvoke(conversation)
    asked = json.loads(str((house.span("chat small-1").attributes or {})["gen_ai.input.messages"]))
    assert [part for message in asked[1:] for part in message["parts"]] == [
        {"type": "tool_call", "id": "c1", "name": "clock", "arguments": {"zone": "UTC"}},
        {"type": "tool_call_response", "id": "c1", "response": "12:00"},
    ]


async def test_metrics_of_tokens_time_and_money(house: House) -> None:
    cascade = watched(house.telemetry, sure=False, name="shop")
    result = await cascade.ainvoke(QUESTION)
    tokens = house.metric("gen_ai.client.token.usage")
    assert {(key[2], key[-1]): point.sum for key, point in tokens.items()} == {
        ("small-1", "input"): 10,
        ("small-1", "output"): 1,
        ("large-1", "input"): 10,
        ("large-1", "output"): 2,
    }
    assert next(iter(tokens.values())).explicit_bounds[:3] == (1, 4, 16)
    durations = house.metric("gen_ai.client.operation.duration")
    assert sum(point.count for point in durations.values()) == 2
    cost, saved = house.metric("cascade.cost"), house.metric("cascade.saved")
    assert {key[1:] for key in cost} == {("shop", "draft", "small"), ("shop", "expert", "large")}
    assert sum(p.value for p in cost.values()) == pytest.approx(float(result.ledger.cost_usd or 0))
    assert sum(p.value for p in saved.values()) == pytest.approx(
        float(result.ledger.saved_usd or 0)
    )
    assert {key: p.value for key, p in house.metric("cascade.requests").items()} == {
        ("shop", "escalated", "large"): 1
    }


async def test_a_failed_call_is_timed_with_its_error(house: House) -> None:
    await watched(house.telemetry, first=small(failures=[down("small")])).ainvoke(QUESTION)
    durations = house.metric("gen_ai.client.operation.duration")
    failed = [point for key, point in durations.items() if "ModelUnavailableError" in key]
    assert [point.count for point in failed] == [1]


async def test_unknown_cost_is_counted_and_never_a_zero(house: House) -> None:
    second = ScriptedModel([reply("?", input_tokens=None, output_tokens=None)], name="large-1")
    await watched(house.telemetry, sure=False, second=second).ainvoke(QUESTION)
    assert set(house.metric("cascade.unknown_cost_entries")) == {("cascade", "expert", "large")}
    span = house.span("invoke_agent cascade").attributes or {}
    assert "cascade.cost_usd" not in span
    assert "gen_ai.usage.input_tokens" not in span
    assert span["cascade.basis"] == "unknown"


async def test_the_global_providers_are_the_default() -> None:
    telemetry = Telemetry()
    await watched(telemetry).ainvoke(QUESTION)
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert not telemetry._spans


async def test_one_telemetry_serves_several_cascades(house: House) -> None:
    await asyncio.gather(
        watched(house.telemetry, name="a").ainvoke(QUESTION),
        watched(house.telemetry, name="b", sure=False).ainvoke(QUESTION),
    )
    assert sorted(tree.splitlines()[0] for tree in house.trees()) == [
        "invoke_agent a",
        "invoke_agent b",
    ]


async def test_a_request_that_is_not_sent_is_a_call_in_error(house: House) -> None:
    class Real(ScriptedModel):
        real = True

    first = Real([reply("x", probability=0.9)], name="small-1")
    with forbid_real_requests(), pytest.raises(RealRequestForbiddenError):
        await watched(house.telemetry, first=first).ainvoke(QUESTION)
    assert "    chat small-1 !" in house.trees()[0]
    assert not house.telemetry._spans


def test_a_cascade_is_observed_by_observers_only() -> None:
    with pytest.raises(ConfigurationError, match=r"observers=\['otel'\].*cascade\.observing"):
        Cascade(small(), large(), observers=["otel"])  # type: ignore[list-item]
