"""Row 19: OpenTelemetry, Prometheus, logs."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from cascade import Cascade, CascadeError, Price
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Upstream, failure

CHEAP, DEAR = Price(input="0.1", output="0.4"), Price(input="1.25", output=10)
QUESTION = "What is the capital of Australia?"


class Traced:
    """Telemetry with an exporter of the test's own."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = TracerProvider(), MeterProvider([self.reader])
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = edition.integration("Telemetry")(
            tracer_provider=tracers, meter_provider=meters, **options
        )

    def spans(self, name: str = "") -> list[ReadableSpan]:
        found = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        return [span for span in found if span.name.startswith(name)]

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric.data.data_points
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def pair(upstream: Upstream, observer: Any, p: float = 0.4, **options: Any) -> Cascade:
    upstream.says("small", Answer("Sydney", p=p, tokens=(10, 1)))
    upstream.says("large", Answer("Canberra", tokens=(10, 1)))
    small, large = upstream.tier("small", price=CHEAP), upstream.tier("large", price=DEAR)
    return edition.cascade(small, large, observers=[observer], name="support", **options)


# --- OpenTelemetry


def test_a_run_is_a_trace_of_its_nodes_and_calls(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer) as cascade:
        result = cascade.invoke(QUESTION)
    (root,) = traced.spans("invoke_agent support")
    assert root.attributes is not None
    assert root.attributes["cascade.run_id"] == result.run_id
    calls = traced.spans("chat ")
    assert [span.name for span in calls] == ["chat small", "chat large"]
    assert {span.kind for span in calls} == {SpanKind.CLIENT}
    assert {span.context.trace_id for span in traced.spans()} == {root.context.trace_id}
    parents = {span.context.span_id: span for span in traced.spans()}
    for call in calls:
        above = call
        while above.parent is not None:
            above = parents[above.parent.span_id]
        assert above is root


def test_the_spans_of_calls_follow_the_conventions_for_generative_ai(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer) as cascade:
        cascade.invoke(QUESTION)
    attributes = dict(traced.spans("chat small")[0].attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "small"
    assert attributes["gen_ai.usage.input_tokens"] == 10
    assert attributes["gen_ai.usage.output_tokens"] == 1
    assert attributes["cascade.cost_usd"] == pytest.approx(0.0000014)


@pytest.mark.parametrize(
    ("p", "outcome", "tier"), [(0.95, "accepted", "small"), (0.4, "escalated", "large")]
)
def test_the_run_says_how_it_ended_and_what_it_cost(
    upstream: Upstream, p: float, outcome: str, tier: str
) -> None:
    traced = Traced()
    with pair(upstream, traced.observer, p) as cascade:
        result = cascade.invoke(QUESTION)
    attributes = dict(traced.spans("invoke_agent")[0].attributes or {})
    assert (attributes["cascade.outcome"], attributes["cascade.tier"]) == (outcome, tier)
    assert attributes["cascade.cost_usd"] == pytest.approx(float(result.ledger.cost_usd or 0))
    assert attributes["cascade.saved_usd"] == pytest.approx(float(result.ledger.saved_usd or 0))
    assert attributes["cascade.basis"] == ("estimated" if tier == "small" else "measured")


def test_what_nobody_knows_is_left_out_and_never_zero(upstream: Upstream) -> None:
    traced = Traced()
    upstream.says("small", "Canberra")
    small, large = upstream.tier("small"), upstream.tier("large")
    with edition.cascade(small, large, observers=[traced.observer]) as cascade:
        cascade.invoke(QUESTION)
    for span in traced.spans():
        if span.name.startswith(("invoke_agent", "chat")):
            assert "cascade.cost_usd" not in (span.attributes or {})


def test_no_question_and_no_answer_is_in_a_trace_unless_asked_for(upstream: Upstream) -> None:
    for capture in (False, True):
        traced = Traced(**({"capture_content": True} if capture else {}))
        with pair(upstream, traced.observer) as cascade:
            cascade.invoke(QUESTION)
        said = " ".join(str(dict(span.attributes or {})) for span in traced.spans())
        assert ("capital of Australia" in said, "Canberra" in said) == (capture, capture)


def test_a_failure_is_an_error_of_its_span(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer, retries=1) as cascade:
        upstream.says("small", failure(400))
        upstream.says("large", failure(400))
        with pytest.raises(CascadeError):
            cascade.invoke(QUESTION)
    assert {span.status.status_code for span in traced.spans("chat")} == {StatusCode.ERROR}
    (root,) = traced.spans("invoke_agent")
    assert root.status.status_code == StatusCode.ERROR


async def test_a_trace_goes_on_below_the_callers_span(upstream: Upstream) -> None:
    traced = Traced()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(traced.exporter))
    async with pair(upstream, traced.observer) as cascade:
        with provider.get_tracer("mine").start_as_current_span("request") as mine:
            await cascade.ainvoke(QUESTION)
    (root,) = traced.spans("invoke_agent")
    assert root.parent is not None
    assert root.parent.span_id == mine.get_span_context().span_id


@pytest.mark.parametrize("way", ["stream", "batch", "graph", "chat"])
async def test_each_way_of_asking_is_seen(upstream: Upstream, way: str) -> None:
    traced = Traced()
    async with pair(upstream, traced.observer) as cascade:
        match way:
            case "stream":
                _ = [event async for event in cascade.astream(QUESTION)]
            case "batch":
                await cascade.abatch([QUESTION])
            case "graph":
                await cascade.graph.ainvoke({"messages": [("human", QUESTION)]})
            case _:
                await cascade.as_chat_model().ainvoke(QUESTION)
    assert len(traced.spans("invoke_agent")) == 1
    assert len(traced.spans("chat")) == 2


def test_metrics_count_tokens_and_requests(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer) as cascade:
        cascade.invoke(QUESTION)
    found = traced.metrics()
    assert sum(point.sum for point in found["gen_ai.client.token.usage"]) == 22
    assert sum(point.count for point in found["gen_ai.client.operation.duration"]) == 2
    (requests,) = found["cascade.requests"]
    assert (requests.value, requests.attributes["cascade.outcome"]) == (1, "escalated")


# --- Prometheus


def test_prometheus_counts_what_is_in_the_ledger(upstream: Upstream) -> None:
    registry = CollectorRegistry()
    with pair(upstream, edition.integration("PrometheusMetrics")(registry)) as cascade:
        escalated = cascade.invoke(QUESTION)
        upstream.says("small", Answer("Canberra", p=0.95, tokens=(10, 1)))
        accepted = cascade.invoke(QUESTION)

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(name, {"cascade": "support", **labels})
        assert found is not None, name
        return found

    assert value("cascade_requests_total", outcome="escalated", tier="large") == 1
    assert value("cascade_requests_total", outcome="accepted", tier="small") == 1
    spent = [
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "cascade_cost_usd_total"
    ]
    total = sum((r.ledger.cost_usd or Decimal(0) for r in (escalated, accepted)), Decimal(0))
    assert sum(spent) == pytest.approx(float(total))
    assert value("cascade_tokens_total", tier="small", kind="input") == 20


def test_prometheus_counts_unknown_costs_apart(upstream: Upstream) -> None:
    registry = CollectorRegistry()
    observer = edition.integration("PrometheusMetrics")(registry)
    upstream.says("small", "Canberra")
    small, large = upstream.tier("small"), upstream.tier("large")
    with edition.cascade(small, large, observers=[observer], name="support") as cascade:
        cascade.invoke(QUESTION)
    samples = {s.name: s.value for m in registry.collect() for s in m.samples if s.labels}
    assert samples["cascade_unknown_cost_entries_total"] >= 1
    assert samples.get("cascade_cost_usd_total", 0) == 0


def test_no_users_tag_and_no_run_makes_a_time_series(upstream: Upstream) -> None:
    registry = CollectorRegistry()
    observer = edition.integration("PrometheusMetrics")(registry)
    with pair(upstream, observer, tags={"user": "ada"}, cache=InMemoryCache()) as cascade:
        cascade.invoke(QUESTION)
        before = {
            (s.name, *sorted(s.labels.items())) for m in registry.collect() for s in m.samples
        }
        for i in range(5):
            cascade.invoke(f"{QUESTION} {i}")
        after = {(s.name, *sorted(s.labels.items())) for m in registry.collect() for s in m.samples}
    assert after == before
    assert "ada" not in str(after)


# --- logs


def test_a_run_is_one_record_of_the_log_without_a_word_of_it(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    observer = edition.integration("RunLog")(logging.getLogger("cascade.runs"))
    with caplog.at_level(logging.INFO, "cascade.runs"), pair(upstream, observer) as cascade:
        cascade.invoke(QUESTION)
    (record,) = [record for record in caplog.records if record.name == "cascade.runs"]
    fields = vars(record)
    assert (fields["outcome"], fields["tier"]) == ("escalated", "large")
    assert "Australia" not in f"{record.getMessage()} {fields}"


def test_an_observer_that_raises_harms_nobody(upstream: Upstream) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *given: Any, **more: Any) -> Any:
            tracer = super().get_tracer(*given, **more)
            tracer.start_span = self.broken  # type: ignore[method-assign]
            return tracer

        def broken(self, *given: Any, **more: Any) -> Any:
            raise ZeroDivisionError

    observer = edition.integration("Telemetry")(tracer_provider=Broken())
    with pair(upstream, observer) as cascade:
        assert cascade.invoke(QUESTION).answer == "Canberra"
