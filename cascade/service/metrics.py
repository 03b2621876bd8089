"""`/metrics`: what cascades do, and what the gateway does with requests, for Prometheus."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade.integrations.prometheus import SECONDS, PrometheusMetrics
from cascade.service.faults import fault_of

if TYPE_CHECKING:
    from cascade.service.service import Service

logger = logging.getLogger("cascade")

UNROUTED = "unrouted"
"""The route of requests that met none: their paths are anybody's, and would be series for ever."""


class Metrics:
    """The metrics of one service, in a registry of its own.

    - those of `cascade.integrations.prometheus.PrometheusMetrics`
    - `cascade_http_requests_total{route,method,status}` and `cascade_http_request_seconds{route}`:
      to the end of the answer, also of a stream
    - `cascade_http_open`: requests that are not answered to their end yet
    - `cascade_gate_running{model}`, `cascade_gate_waiting{model}`, `cascade_gate_refused_total`,
      `cascade_gate_pressure{model}`: 1 where all places are taken, 2 where the queue is full
    - `cascade_tier_running{model,tier}`, `cascade_tier_waiting{model,tier}`: calls that have a
      place in the tier's bulkhead, and that wait for one
    - `cascade_retry_budget{model,tier}`: retries that the tier's budget would allow now
    - `cascade_reloads_total{cascade,result}`, `cascade_calibration_stale{cascade}`: 1 while a
      newer calibration cannot be loaded
    - `cascade_ledger_waiting`, `cascade_ledger_lost_total`: entries that are not written yet, and
      those that are in the log instead
    - `cascade_lessons_lost_total`: lessons that could not be kept
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self.cascades = PrometheusMetrics(self.registry)
        self.requests = Counter(
            "cascade_http_requests",
            "HTTP requests",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "cascade_http_request_seconds",
            "Seconds to the end of the answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.open = Gauge(
            "cascade_http_open", "Requests not answered to their end", registry=self.registry
        )

    def watch(self, service: Service) -> None:
        """Show gates, loading of calibrations and what is kept, as they are when asked."""
        self.registry.register(_State(service))

    def answered(self, route: str, method: str, status: str, seconds: float) -> None:
        """Count a request that has ended."""
        series = self._series.get((route, method, status))
        if series is None:  # `labels` checks and locks every time
            series = (self.requests.labels(route, method, status), self.seconds.labels(route))
            self._series[route, method, status] = series
        series[0].inc()
        series[1].observe(seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


def tell_unexpected(path: str, error: BaseException) -> None:
    """Log where an error came from, without its words: they may be a prompt or a key."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with %s at\n%s", path, type(error).__name__, frames)


class _State(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """What is true at this moment."""
        running = GaugeMetricFamily("cascade_gate_running", "Requests that run", labels=["model"])
        waiting = GaugeMetricFamily("cascade_gate_waiting", "Requests that wait", labels=["model"])
        refused = CounterMetricFamily("cascade_gate_refused", "Answered 429", labels=["model"])
        pressure = GaugeMetricFamily("cascade_gate_pressure", "Places and queue", labels=["model"])
        for name, served in self._service.served.items():
            pressure.add_metric([name], served.gate.pressure())
            running.add_metric([name], served.gate.running)
            waiting.add_metric([name], served.gate.waiting)
            refused.add_metric([name], served.gate.refused)
        yield from (running, waiting, refused, pressure)
        yield from self._tiers()
        reloads = CounterMetricFamily(
            "cascade_reloads", "Loadings of calibrations", labels=["cascade", "result"]
        )
        for (name, result), count in self._service.reloads.counts.items():
            reloads.add_metric([name, result], count)
        stale = GaugeMetricFamily(
            "cascade_calibration_stale", "Whether a newer one cannot be loaded", labels=["cascade"]
        )
        for name, last in self._service.reloads.last.items():
            stale.add_metric([name], last.problem is not None)
        yield from (reloads, stale)
        yield from self._kept()

    def _tiers(self) -> Iterator[Metric]:
        labels = ["model", "tier"]
        running = GaugeMetricFamily("cascade_tier_running", "Calls under way", labels=labels)
        waiting = GaugeMetricFamily("cascade_tier_waiting", "Calls that wait", labels=labels)
        budget = GaugeMetricFamily("cascade_retry_budget", "Retries allowed now", labels=labels)
        for name, served in self._service.served.items():
            for tier, state in served.cascade.tier_states().items():
                if state.running is not None:
                    running.add_metric([name, tier], state.running)
                    waiting.add_metric([name, tier], state.waiting)
                if state.retries_left is not None:
                    budget.add_metric([name, tier], state.retries_left)
        yield from (running, waiting, budget)

    def _kept(self) -> Iterator[Metric]:
        store, lessons = self._service.store, self._service.lessons
        if store is not None:
            waiting, lost = store.waiting, store.lost
            yield GaugeMetricFamily("cascade_ledger_waiting", "Entries not written yet", waiting)
            yield CounterMetricFamily("cascade_ledger_lost", "Entries in the log instead", lost)
        if lessons is not None:
            lost = lessons.lost
            yield CounterMetricFamily("cascade_lessons_lost", "Lessons that were not kept", lost)


class Measured:
    """Counts and times each request of an application, to the end of its answer; and keeps what
    an unexpected error says out of the log and the answer, as it may quote a request.

    Args:
        app: the application.
        metrics: where to.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), "none"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self._metrics.open.inc()
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - nobody above may show its words
            tell_unexpected(scope["path"], error)
            if status != "none":
                raise RuntimeError("an answer broke off; the log says where") from None
            fault = fault_of(RuntimeError())
            await JSONResponse(fault.body(scope["path"]), fault.status)(scope, receive, sending)
        finally:
            self._metrics.open.dec()
            # A method is what the client says; only those that a route knows are labels.
            route = getattr(scope.get("route"), "path", UNROUTED)
            method = scope["method"] if route != UNROUTED else ""
            self._metrics.answered(route, method, status, time.perf_counter() - began)
