"""Metrics as Prometheus reads them: the text exposition, parsed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from watched import QUESTION, WAYS, down, small, watched

from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.ledger import Recorder
from cascade.observing import Observers
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel, reply


class Shop:
    """Metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(self.registry)

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """Values by label values, in the order of the labels' names."""
        text = generate_latest(self.registry).decode()
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def record(self, **values: Any) -> None:
        recorder = Recorder(observers=Observers([self.metrics], "shop"))
        recorder.record(LedgerEntry(run_id="r", **values))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_ask_is_one_request(shop: Shop, way: str) -> None:
    await WAYS[way](watched(shop.metrics, sure=False, name="shop"))
    assert shop.samples("cascade_requests_total") == {("shop", "escalated", "large"): 1}
    assert shop.samples("cascade_request_seconds_count") == {("shop", "escalated"): 1}


async def test_money_is_that_of_the_ledger(shop: Shop) -> None:
    cascade = watched(shop.metrics, name="shop")
    view = (await cascade.ainvoke(QUESTION)).ledger
    costs = shop.samples("cascade_cost_usd_total")
    assert set(costs) == {("measured", "shop", "draft", "small")}
    assert sum(costs.values()) == pytest.approx(float(view.cost_usd or 0))
    gained, lost = shop.samples("cascade_gained_usd_total"), shop.samples("cascade_lost_usd_total")
    assert set(gained) == {("estimated", "shop", "verify", "small")}
    assert set(lost) == {("measured", "shop", "draft", "small")}
    saved = sum(gained.values()) - sum(lost.values())
    assert saved == pytest.approx(float(view.saved_usd or 0))


async def test_tokens_calls_and_confidence_are_counted(shop: Shop) -> None:
    await watched(shop.metrics, sure=False, name="shop").ainvoke(QUESTION)
    assert shop.samples("cascade_tokens_total") == {
        ("shop", "input", "small"): 10,
        ("shop", "output", "small"): 1,
        ("shop", "input", "large"): 10,
        ("shop", "output", "large"): 2,
    }
    assert shop.samples("cascade_call_seconds_count") == {
        ("shop", "draft", "ok", "small"): 1,
        ("shop", "expert", "ok", "large"): 1,
    }
    buckets = shop.samples("cascade_confidence_bucket")
    assert buckets[("false", "shop", "0.2")] == 0
    assert buckets[("false", "shop", "0.4")] == 1


async def test_a_failed_run_and_its_calls_are_counted(shop: Shop) -> None:
    broken = ScriptedModel([down()], name="small-1")
    with pytest.raises(ModelUnavailableError):
        await watched(shop.metrics, first=broken, second=broken).ainvoke(QUESTION)
    assert shop.samples("cascade_requests_total") == {("cascade", "failed", ""): 1}
    assert shop.samples("cascade_call_seconds_count") == {
        ("cascade", "draft", "failed", "small"): 3,
        ("cascade", "expert", "failed", "large"): 3,
    }


async def test_an_unknown_cost_is_counted_apart(shop: Shop) -> None:
    second = ScriptedModel([reply("?", input_tokens=None, output_tokens=None)], name="large-1")
    await watched(shop.metrics, sure=False, second=second).ainvoke(QUESTION)
    unknown = shop.samples("cascade_unknown_cost_entries_total")
    assert unknown == {("cascade", "expert", "large"): 1}
    assert ("measured", "cascade", "expert", "large") not in shop.samples("cascade_cost_usd_total")


def test_a_correction_downwards_is_a_loss_and_no_counter_falls(shop: Shop) -> None:
    shop.record(node="audit", tier="small", saved_usd=Decimal("-0.25"), basis="estimated", loss=1.0)
    assert shop.samples("cascade_lost_usd_total") == {("estimated", "shop", "audit", "small"): 0.25}
    assert not shop.samples("cascade_gained_usd_total")


def test_audits_and_drift_are_counted(shop: Shop) -> None:
    nothing: dict[str, Any] = {"cost_usd": Decimal(0), "saved_usd": Decimal(0)}
    shop.record(node="audit", tier="large", model="openai:x", cost_usd=Decimal(1))
    shop.record(node="audit", tier="small", loss=0.0, **nothing)
    shop.record(node="audit", tier="small", note="nobody could compare", **nothing)
    shop.record(node="drift", signals={"alarm:harm": 1.0, "caution": 1.0}, **nothing)
    shop.record(node="drift", signals={"reset": 1.0}, **nothing)
    assert shop.samples("cascade_audits_total") == {("shop", "yes"): 1, ("shop", "no"): 1}
    assert shop.samples("cascade_drift_alarms_total") == {("shop", "harm"): 1}


async def test_several_cascades_share_one_set_of_metrics(shop: Shop) -> None:
    await watched(shop.metrics, name="a").abatch([QUESTION] * 3)
    await watched(shop.metrics, name="b").ainvoke(QUESTION)
    assert shop.samples("cascade_requests_total") == {
        ("a", "accepted", "small"): 3,
        ("b", "accepted", "small"): 1,
    }


def test_a_second_set_in_one_registry_says_what_to_do(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="the same PrometheusMetrics to all cascades"):
        PrometheusMetrics(shop.registry)


def test_the_default_is_the_clients_own_registry() -> None:
    metrics = PrometheusMetrics()
    try:
        assert b"cascade_requests_total" in generate_latest(REGISTRY)
    finally:
        for collector in vars(metrics).values():
            if isinstance(collector, MetricWrapperBase):
                REGISTRY.unregister(collector)


async def test_a_failure_of_an_observer_reaches_no_caller(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(shop.metrics, "run_ended", broken)
    result = await watched(shop.metrics, first=small()).ainvoke(QUESTION)
    assert result.answer == "Canberra"
    assert "PrometheusMetrics failed in run_ended" in caplog.text
    assert "the disk is full" in caplog.text
