"""Row 19: OpenTelemetry, Prometheus, logs."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from cascade import Cascade, CascadeError, MemoryLedger
from cascade.integrations.logs import RunLog
from cascade.integrations.opentelemetry import Telemetry
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.ledger import tagged
from tests.acceptance import setups
from tests.acceptance.setups import WAYS, ask, tries
from tests.acceptance.traced import Traced
from tests.acceptance.upstream import Answer, Upstream, failure

QUESTION = "What is the capital of Australia?"
WANTED = {"title": "City", "type": "object", "properties": {"city": {"type": "integer"}}}


def pair(upstream: Upstream, *middleware: Any, p: float = 0.4, **options: Any) -> Cascade:
    return setups.pair(upstream, p, *middleware, name="support", tokens=(10, 1), **options)


# --- OpenTelemetry


@pytest.mark.parametrize(
    ("p", "outcome", "tier"), [(0.95, "accepted", "small"), (0.4, "escalated", "large")]
)
def test_a_run_is_a_trace_of_its_calls_with_what_it_cost_and_saved(
    upstream: Upstream, p: float, outcome: str, tier: str
) -> None:
    traced = Traced()
    with pair(upstream, traced.observer, p=p) as cascade:
        result = cascade.invoke(QUESTION)
    (root,), calls = traced.spans("invoke_agent support"), traced.spans("chat ")
    said = dict(root.attributes or {})
    assert (said["cascade.run_id"], said["cascade.outcome"]) == (result.run_id, outcome)
    assert said["cascade.tier"] == tier
    assert said["cascade.cost_usd"] == pytest.approx(float(result.ledger.cost_usd or 0))
    assert said["cascade.saved_usd"] == pytest.approx(float(result.ledger.saved_usd or 0))
    assert said["cascade.basis"] == ("estimated" if tier == "small" else "measured")
    assert [span.name for span in calls] == ["chat small", "chat large"][: 1 + result.escalated]
    assert {span.kind for span in calls} == {SpanKind.CLIENT}


def test_what_nobody_knows_is_left_out_and_never_zero(upstream: Upstream) -> None:
    traced = Traced()
    tiers = upstream.tier("small"), upstream.tier("large")
    with Cascade(*tiers, middleware=[traced.observer]) as cascade:
        cascade.invoke(QUESTION)
    for span in [*traced.spans("invoke_agent"), *traced.spans("chat")]:
        assert "cascade.cost_usd" not in (span.attributes or {})


@pytest.mark.parametrize("capture", [False, True])
def test_no_question_and_no_answer_is_in_a_trace_unless_asked_for(
    upstream: Upstream, capture: bool
) -> None:
    traced = Traced(**({"capture_content": True} if capture else {}))
    with pair(upstream, traced.observer) as cascade:
        cascade.invoke(QUESTION)
    said = " ".join(str(dict(span.attributes or {})) for span in traced.spans())
    assert ("capital of Australia" in said, "large: " in said) == (capture, capture)


def _quotes(question: str, answer: str) -> bool:
    raise ValueError(answer)


@pytest.mark.parametrize(
    ("small", "options"),
    [
        (failure(503, f"boom at http://upstream.host/v1 org-abcdef12: {QUESTION}"), {}),
        (Answer('{"city": "Sydney, Australia"}'), {"response_format": WANTED}),
        (Answer("Sydney, Australia"), {"verifier": _quotes}),
    ],
    ids=["a server's words", "a broken schema", "a verifier that quotes"],
)
def test_what_went_wrong_is_told_without_words_and_places(
    upstream: Upstream, small: Answer, options: Any
) -> None:
    traced, store = Traced(), MemoryLedger()
    upstream.says("small", small)
    how = {"ledger": store, "middleware": [traced.observer, tries(1)], **options}
    with Cascade(upstream.tier("small"), upstream.tier("large"), **how) as cascade:
        upstream.says("large", '{"city": 1}')
        cascade.invoke(QUESTION)
    told = " ".join(f"{span.attributes} {span.status.description}" for span in traced.spans())
    for word in ("Australia", "upstream.host", "127.0.0.1", "org-abcdef12"):
        assert word not in told
    assert "Australia" not in "".join(entry.note for entry in store.entries)


def test_a_failure_is_an_error_of_its_span(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer, tries(1)) as cascade:
        for name in ("small", "large"):
            upstream.says(name, failure(400))
        with pytest.raises(CascadeError):
            cascade.invoke(QUESTION)
    failed = [*traced.spans("invoke_agent"), *traced.spans("chat")]
    assert {span.status.status_code for span in failed} == {StatusCode.ERROR}


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_of_asking_is_a_trace_below_the_callers_span(
    upstream: Upstream, way: str
) -> None:
    traced = Traced()
    async with pair(upstream, traced.observer) as cascade:
        with traced.provider.get_tracer("mine").start_as_current_span("request") as mine:
            await ask(cascade, way, QUESTION)
    (root,) = traced.spans("invoke_agent")
    assert root.parent is not None
    assert root.parent.span_id == mine.get_span_context().span_id
    assert len(traced.spans("chat")) == 2


def test_metrics_count_tokens_and_requests(upstream: Upstream) -> None:
    traced = Traced()
    with pair(upstream, traced.observer) as cascade:
        cascade.invoke(QUESTION)
    data = traced.reader.get_metrics_data()
    assert data is not None
    ((metrics,),) = [[s.metrics for s in each.scope_metrics] for each in data.resource_metrics]
    found: dict[str, Any] = {metric.name: metric.data.data_points for metric in metrics}
    assert sum(point.sum for point in found["gen_ai.client.token.usage"]) == 22
    assert sum(point.count for point in found["gen_ai.client.operation.duration"]) == 2
    (requests,) = found["cascade.requests"]
    assert (requests.value, requests.attributes["cascade.outcome"]) == (1, "escalated")


def test_an_observer_that_raises_harms_nobody(upstream: Upstream) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *given: Any, **more: Any) -> Any:
            return object()  # which starts no span

    observer = Telemetry(tracer_provider=Broken())
    with pair(upstream, observer, p=0.95) as cascade:
        assert cascade.invoke(QUESTION).tier == "small"


# --- Prometheus and logs


def test_prometheus_counts_what_is_in_the_ledger_and_makes_no_series_of_users(
    upstream: Upstream,
) -> None:
    registry = CollectorRegistry()
    observer = PrometheusMetrics(registry)

    def samples() -> dict[tuple[Any, ...], float]:
        every = [sample for metric in registry.collect() for sample in metric.samples]
        return {(s.name, *sorted(s.labels.items())): s.value for s in every}

    with pair(upstream, observer) as cascade, tagged(user="ada"):
        results = [cascade.invoke(QUESTION)]
        before = set(samples())
        results += [cascade.invoke(f"{QUESTION} {i}") for i in range(3)]
    found = samples()
    assert set(found) == before
    assert "ada" not in str(found)
    spent = sum(value for (name, *_), value in found.items() if name == "cascade_cost_usd_total")
    total = sum((result.ledger.cost_usd or Decimal(0) for result in results), Decimal(0))
    assert spent == pytest.approx(float(total))

    def value(name: str, cascade: str = "support", **labels: str) -> float | None:
        return registry.get_sample_value(f"cascade_{name}", {"cascade": cascade, **labels})

    assert value("requests_total", outcome="escalated", tier="large") == 4
    assert value("confidence_sum", calibrated="false") == pytest.approx(4 * 0.4)
    call = {"node": "expert", "tier": "large", "outcome": "ok"}
    assert value("call_seconds_count", **call) == value("entries_total", **call) == 4
    assert value("tokens_total", tier="small", kind="input") == 40
    draft = {"node": "draft", "tier": "small"}
    cost = value("cost_usd_total", basis="measured", **draft)
    assert cost == value("lost_usd_total", basis="measured", **draft) == pytest.approx(5.6e-6)
    unpriced = Cascade(
        tiers=[upstream.tier("small", name="small")], middleware=[observer], name="other"
    )
    unpriced.invoke(QUESTION)
    own = {"cascade": "other", "node": "expert", "tier": "small"}
    assert value("unknown_cost_entries_total", **own) == 1


def test_a_run_is_one_record_of_the_log_without_a_word_of_it(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    observer = RunLog(logging.getLogger("cascade.runs"))
    caplog.set_level(logging.INFO, "cascade.runs")
    with tagged(team="search"), pair(upstream, observer) as cascade:
        cascade.invoke(QUESTION, tags={"user": "ada"})
    (record,) = [vars(each) for each in caplog.records if each.name == "cascade.runs"]
    assert (record["outcome"], record["tier"]) == ("escalated", "large")
    assert record["tags"] == {"team": "search", "user": "ada"}
    assert "Australia" not in str(record)
