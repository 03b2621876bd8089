"""What breakers, bulkheads and budgets do is seen in metrics, traces, logs and by observers."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from turning import Clock, Server, doubtful, down, house

from cascade import Cascade
from cascade.integrations.opentelemetry import Telemetry
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.observing import Observer, TierEvent
from cascade.resilience import Breaker, Bulkhead, Doors, Resilience, Retries

OPENS = Resilience(retries=None, breaker=Breaker(in_a_row=2), bulkhead=None)
FULL = Resilience(retries=None, breaker=None, bulkhead=Bulkhead(most=1, waiting=0))


class Heard(Observer):
    """Every event of a tier."""

    def __init__(self) -> None:
        self.events: list[TierEvent] = []

    def tier_event(self, event: TierEvent) -> None:
        self.events.append(event)

    def of(self, tier: str) -> list[str]:
        return [event.kind for event in self.events if event.tier == tier]


async def outage_and_return(*observers: Observer) -> None:
    """Two failures, one call that is not sent, and one that finds it well again."""
    large, clock = Server(down), Clock()
    cascade = house(large, OPENS, clock, observers=observers, name="shop")
    for n in range(3):
        await cascade.ainvoke(str(n))
    large.error, clock.now = None, clock.now + 2
    await cascade.ainvoke("?")


async def a_full_bulkhead(*observers: Observer) -> None:
    large = Server()
    cascade = house(large, FULL, observers=observers, name="shop")
    door = cascade.doors.of("large", cascade.tiers[1].model)
    passage = await door.enter()
    await cascade.ainvoke("?")
    passage.end()


async def two_retries_and_one_refused(*observers: Observer) -> None:
    settings = Resilience(Retries(attempts=5, share=0, reserve=2), None, None)
    await house(Server(down), settings, observers=observers, name="shop").ainvoke("?")


async def test_observers_hear_of_each_state_and_of_what_it_did() -> None:
    heard = Heard()
    await outage_and_return(heard)
    assert heard.of("small") == ["breaker_closed"]
    assert heard.of("large") == [
        "breaker_closed",  # as it was found
        "breaker_opened",
        "not_sent",
        "breaker_half_open",
        "breaker_closed",
    ]
    found, opened, *_ = [event for event in heard.events if event.tier == "large"]
    assert found.why == ""
    assert (opened.cascade, opened.model) == ("shop", "scripted:large")
    assert opened.why == "2 calls have failed one after the other; it is tried again in 2 s"
    assert opened.within is not None
    assert opened.within.name == "expert"


async def test_observers_hear_of_a_full_bulkhead_and_of_retries() -> None:
    heard = Heard()
    await a_full_bulkhead(heard)
    assert heard.of("large") == ["no_place"]
    heard.events.clear()
    await two_retries_and_one_refused(heard)
    assert heard.of("large") == ["retried", "retried", "retry_refused"]


async def test_whoever_shares_a_server_hears_of_its_breaker_and_not_of_others_calls() -> None:
    class Addressed(Server):
        server = "http://127.0.0.1:1/v1"

    mine, theirs = Heard(), Heard()
    doors = Doors(OPENS, clock=Clock())
    other = Cascade(doubtful(), Addressed(), resilience=doors, observers=[theirs], name="b")
    await other.ainvoke("?")
    cascade = Cascade(doubtful(), Addressed(down), resilience=doors, observers=[mine], name="a")
    for n in range(3):
        await cascade.ainvoke(str(n))
    assert mine.of("large") == ["breaker_closed", "breaker_opened", "not_sent"]
    assert theirs.of("large") == ["breaker_closed", "breaker_opened"]
    opened = theirs.events[-1]
    assert (opened.cascade, opened.within) == ("b", None)


async def test_a_cascade_that_is_made_later_finds_the_breaker_open_and_shows_it() -> None:
    class Addressed(Server):
        server = "http://127.0.0.1:1/v1"

    doors = Doors(OPENS, clock=Clock())
    first = Cascade(doubtful(), Addressed(down), resilience=doors)
    for n in range(3):
        await first.ainvoke(str(n))
    shop = CollectorRegistry()
    metrics = PrometheusMetrics(shop)
    second = Cascade(doubtful(), Addressed(), resilience=doors, observers=[metrics], name="b")
    await second.ainvoke("?")
    where = {"cascade": "b", "tier": "large"}
    assert shop.get_sample_value("cascade_breaker_state", where) == 2
    changed = "cascade_breaker_changes_total"
    assert shop.get_sample_value(changed, {**where, "state": "open"}) is None


async def test_prometheus_shows_states_changes_and_what_was_not_sent() -> None:
    shop = CollectorRegistry()
    metrics = PrometheusMetrics(shop)
    await outage_and_return(metrics)
    await a_full_bulkhead(metrics)
    await two_retries_and_one_refused(metrics)

    def value(name: str, **labels: str) -> float | None:
        return shop.get_sample_value(name, {"cascade": "shop", "tier": "large", **labels})

    assert value("cascade_breaker_state") == 0
    for state in ("open", "half_open", "closed"):
        assert value("cascade_breaker_changes_total", state=state) == 1
    assert value("cascade_not_sent_total", reason="breaker") == 1
    assert value("cascade_not_sent_total", reason="bulkhead") == 1
    assert value("cascade_retries_total", granted="yes") == 2
    assert value("cascade_retries_total", granted="no") == 1
    # What was not sent is no call.
    assert value("cascade_call_seconds_count", node="expert", outcome="ok") == 1
    assert value("cascade_call_seconds_count", node="expert", outcome="failed") == 2 + 3


async def test_traces_have_each_change_as_an_event_of_the_node_that_met_it() -> None:
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    await outage_and_return(Telemetry(tracer_provider=tracers))

    def events(span: ReadableSpan) -> list[str]:
        return [event.name for event in span.events if event.name.startswith("cascade.tier.")]

    experts = [span for span in exporter.get_finished_spans() if span.name == "expert"]
    assert [events(span) for span in experts] == [
        [],
        ["cascade.tier.breaker_opened"],
        ["cascade.tier.not_sent"],
        ["cascade.tier.breaker_half_open", "cascade.tier.breaker_closed"],
    ]
    (opened,) = [e for e in experts[1].events if e.name == "cascade.tier.breaker_opened"]
    assert dict(opened.attributes or {}) == {
        "cascade.tier": "large",
        "gen_ai.request.model": "large",
        "cascade.reason": "2 calls have failed one after the other; it is tried again in 2 s",
    }


async def test_the_log_has_a_line_for_each_state(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cascade"):
        await outage_and_return()
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "breaker" in r.getMessage()]
    lines = [(level, said.partition("breaker is ")[2]) for level, said in told]
    assert [line for line in lines if line[1] and "was not asked" not in line[1]] == [
        (
            "WARNING",
            "open: 2 calls have failed one after the other; it is tried again in 2 s",
        ),
        ("INFO", "half-open: one call tries it"),
        ("INFO", "closed: the call that tried it succeeded"),
    ]
