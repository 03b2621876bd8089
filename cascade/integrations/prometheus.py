"""Prometheus metrics of cascades (`pip install agent-cascade[prometheus]`).

    metrics = PrometheusMetrics()
    cascade = Cascade(…, name="support", observers=[metrics])

All label values come from the set-up (names of cascades, tiers, nodes) or from short fixed lists,
so the number of time series is bounded. A saving can be negative, and a counter must not fall:
there is one counter of what was gained and one of what was lost.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar, cast

from cascade.agents.leftovers import is_result
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.runs import FALLBACK, OUTAGE, SHED
from cascade.observing import ObservedCall, ObservedRun, Observer, TierEvent, TierEventKind
from cascade.oversight.drift_events import ALARM
from cascade.oversight.drift_events import NODE as DRIFT
from cascade.state import LedgerEntry

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "metrics for Prometheus need prometheus-client: pip install 'agent-cascade[prometheus]'."
    ) from error

M = TypeVar("M", Counter, Gauge, Histogram)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
"""Buckets of durations: from a small model beside the processor to a large one that thinks."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)
"""Buckets of confidence, finer at the end where thresholds are."""

_TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}

_BREAKER: dict[TierEventKind, tuple[str, int]] = {
    "breaker_closed": ("closed", 0),
    "breaker_half_open": ("half_open", 1),
    "breaker_opened": ("open", 2),
}
"""States of a circuit breaker: as a label, and as the value of a gauge."""

_NOT_SENT: dict[TierEventKind, str] = {"not_sent": "breaker", "no_place": "bulkhead"}
_GRANTED: dict[TierEventKind, str] = {"retried": "yes", "retry_refused": "no"}


class PrometheusMetrics(Observer):
    """Counts what cascades do; one object serves any number of them.

    - `cascade_requests_total{cascade,outcome,tier}` and `cascade_request_seconds{cascade,outcome}`
    - `cascade_confidence{cascade,calibrated}`: of the last judged draft of each request
    - `cascade_call_seconds{cascade,node,tier,outcome}`
    - `cascade_tokens_total{cascade,tier,kind}`: `cached` and `cache_write` are part of `input`,
      `reasoning` is part of `output`
    - `cascade_cost_usd_total{cascade,node,tier,basis}`
    - `cascade_gained_usd_total` and `cascade_lost_usd_total{cascade,node,tier,basis}`: the saving
      is their difference
    - `cascade_unknown_cost_entries_total{cascade,node,tier}`: entries that no sum contains
    - `cascade_audits_total{cascade,compared}`: finished audits
    - `cascade_drift_alarms_total{cascade,chart}`: alarms of the watch for drift
    - `cascade_outages_total{cascade,tier}`: questions that went on as that tier was down
    - `cascade_fallbacks_total{cascade,step}`: steps that led on as the large model was down
    - `cascade_shed_total{cascade,kind}`: work that was left out under pressure
    - `cascade_breaker_state{cascade,tier}`: 0 closed, 1 half-open, 2 open; and
      `cascade_breaker_changes_total{cascade,tier,state}`
    - `cascade_not_sent_total{cascade,tier,reason}`: calls that a `breaker` or a `bulkhead` refused
    - `cascade_retries_total{cascade,tier,granted}`: failed calls that were sent again, `yes`, or
      were not since the retry budget was used up, `no`

    Args:
        registry: where the metrics are registered; by default prometheus-client's own.

    Raises:
        ConfigurationError: the registry has these metrics already.
        MissingDependencyError: (on import) prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        try:
            self._register(registry)
        except ValueError as error:
            raise ConfigurationError(
                "this registry has the metrics of a cascade already: give the same "
                "PrometheusMetrics to all cascades; the label `cascade` tells them apart."
            ) from error

    def _register(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"cascade_{name}", about, ("cascade", *labels), registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            names = ("cascade", *labels)
            return Histogram(f"cascade_{name}", about, names, registry=registry, buckets=buckets)

        # A series is looked up once for each set of labels: `labels` checks and locks every time.
        self._series: dict[tuple[Any, ...], Any] = {}
        money = ("node", "tier", "basis")
        self._requests = counter("requests", "Requests by how they ended.", "outcome", "tier")
        self._request_s = histogram("request_seconds", "Seconds per request.", SECONDS, "outcome")
        self._confidence = histogram(
            "confidence", "Confidence in the last judged draft.", SHARES, "calibrated"
        )
        self._call_s = histogram(
            "call_seconds", "Seconds per model call.", SECONDS, "node", "tier", "outcome"
        )
        self._tokens = counter("tokens", "Tokens as providers counted them.", "tier", "kind")
        self._cost = counter("cost_usd", "US dollars spent.", *money)
        self._gained = counter("gained_usd", "US dollars saved against large-only.", *money)
        self._lost = counter("lost_usd", "US dollars lost against large-only.", *money)
        self._unknown = counter(
            "unknown_cost_entries", "Ledger entries of unknown cost.", "node", "tier"
        )
        self._audits = counter("audits", "Finished audits.", "compared")
        self._alarms = counter("drift_alarms", "Alarms of the watch for drift.", "chart")
        self._outages = counter("outages", "Questions that went on, a tier being down.", "tier")
        self._marked = {
            FALLBACK: counter("fallbacks", "Steps that led on, the large one being down.", "step"),
            SHED: counter("shed", "Work that was left out under pressure.", "kind"),
        }
        self._breaker = Gauge(
            "cascade_breaker_state",
            "Circuit breakers: 0 closed, 1 half-open, 2 open.",
            ("cascade", "tier"),
            registry=registry,
        )
        self._changes = counter("breaker_changes", "New states of breakers.", "tier", "state")
        self._not_sent = counter("not_sent", "Calls that were not sent.", "tier", "reason")
        self._retries = counter("retries", "Failed calls, sent again or not.", "tier", "granted")

    def _of(self, metric: M, *labels: str) -> M:
        """The series of a metric with these labels; they are from short lists, so that few are
        kept."""
        key = (metric, *labels)
        if key not in self._series:
            self._series[key] = metric.labels(*labels)
        return cast(M, self._series[key])  # what was made of a metric is of its kind

    def run_ended(self, run: ObservedRun) -> None:
        """Count the request."""
        ending, outcome = run.ending, str(run.outcome)
        tier = (ending.tier if ending else None) or ""
        self._of(self._requests, run.cascade, outcome, tier).inc()
        self._of(self._request_s, run.cascade, outcome).observe(run.seconds)
        if ending is not None and ending.confidence is not None:
            calibrated = str(ending.calibrated).lower()
            self._of(self._confidence, run.cascade, calibrated).observe(ending.confidence)

    def call_ended(self, call: ObservedCall) -> None:
        """Time the call."""
        if call.entry is not None:
            labels = (call.cascade, call.node, call.tier, call.entry.outcome)
            self._of(self._call_s, *labels).observe(call.seconds)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count money, tokens and events of a ledger entry."""
        tier = entry.tier or ""
        if entry.cost_usd is None:
            self._of(self._unknown, cascade, entry.node, tier).inc()
        elif entry.cost_usd:
            self._of(self._cost, cascade, entry.node, tier, entry.cost_basis).inc(
                float(entry.cost_usd)
            )
        if entry.saved_usd:
            counter = self._gained if entry.saved_usd > Decimal(0) else self._lost
            labels = (cascade, entry.node, tier, entry.basis)
            self._of(counter, *labels).inc(float(abs(entry.saved_usd)))
        for kind, name in _TOKENS.items():
            tokens = getattr(entry, name)
            if tokens:
                self._of(self._tokens, cascade, tier, kind).inc(tokens)
        if is_result(entry):
            compared = "no" if entry.loss is None else "yes"
            self._of(self._audits, cascade, compared).inc()
        if entry.node == OUTAGE:
            self._of(self._outages, cascade, tier).inc()
        for name in entry.signals or {}:
            if entry.node in self._marked:
                self._of(self._marked[entry.node], cascade, name).inc()
            if entry.node == DRIFT and name.startswith(ALARM):
                self._of(self._alarms, cascade, name.removeprefix(ALARM)).inc()

    def tier_event(self, event: TierEvent) -> None:
        """Count what a circuit breaker, a bulkhead or a retry budget did."""
        where = (event.cascade, event.tier)
        if event.kind in _BREAKER:
            state, value = _BREAKER[event.kind]
            self._of(self._breaker, *where).set(value)
            if event.why:  # a cascade that meets a tier finds a state, which is no change
                self._of(self._changes, *where, state).inc()
        elif event.kind in _NOT_SENT:
            self._of(self._not_sent, *where, _NOT_SENT[event.kind]).inc()
        else:
            self._of(self._retries, *where, _GRANTED[event.kind]).inc()
