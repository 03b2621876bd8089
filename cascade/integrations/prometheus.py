"""Prometheus metrics of cascades (extra `prometheus`).

    metrics = PrometheusMetrics()
    cascade = Cascade(…, name="support", middleware=[metrics])

All label values come from the set-up (names of cascades, tiers, nodes) or from short fixed lists,
so the number of time series is bounded. A saving can be negative, and a counter must not fall:
there is one counter of what was gained and one of what was lost.
"""

from __future__ import annotations

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.integrations.logs import RunObserver, RunRecord
from cascade.run import Run
from cascade.state import LedgerEntry

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "metrics for Prometheus need prometheus-client: in a clone, pip install '.[prometheus]'."
    ) from error

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
"""Buckets of durations: from a small model beside the processor to a large one that thinks."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)
"""Buckets of confidence, finer at the end where thresholds are."""

TOKENS = ("input", "output", "cached", "cache_write", "reasoning")
"""Kinds of tokens; those cached and written to a cache are input, those of reasoning output."""


class PrometheusMetrics(RunObserver):
    """Counters and histograms of what cascades do; one object serves any number of them.

    - `cascade_requests_total{cascade,outcome,tier}` and `cascade_request_seconds{cascade,outcome}`
    - `cascade_confidence{cascade,calibrated}`: of the last judged draft of each request
    - `cascade_call_seconds{cascade,node,tier,outcome}`
    - `cascade_entries_total{cascade,node,tier,outcome}`: ledger entries, so also cache hits
      (node `cache`), audits, alarms of the watch for drift (`drift`)
    - `cascade_tokens_total{cascade,tier,kind}`
    - `cascade_cost_usd_total{cascade,node,tier,basis}`
    - `cascade_gained_usd_total` and `cascade_lost_usd_total{cascade,node,tier,basis}`: the saving
      is their difference
    - `cascade_unknown_cost_entries_total{cascade,node,tier}`: entries that no sum contains

    Args:
        registry: where the metrics are registered; by default prometheus-client's own.

    Raises:
        ConfigurationError: the registry has these metrics already.
        MissingDependencyError: (on import) prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, name: str = "prometheus") -> None:
        super().__init__(name)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"cascade_{name}", about, ("cascade", *labels), registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            names = ("cascade", *labels)
            return Histogram(f"cascade_{name}", about, names, registry=registry, buckets=buckets)

        money, call = ("node", "tier", "basis"), ("node", "tier", "outcome")
        try:
            self._requests = counter("requests", "Requests by how they ended.", "outcome", "tier")
        except ValueError as error:
            raise ConfigurationError(
                "this registry has the metrics of a cascade already: give the same "
                "PrometheusMetrics to all cascades; the label `cascade` tells them apart."
            ) from error
        self._seconds = histogram("request_seconds", "Seconds per request.", SECONDS, "outcome")
        about = "Confidence in the last judged draft."
        self._confidence = histogram("confidence", about, SHARES, "calibrated")
        self._call_seconds = histogram("call_seconds", "Seconds per model call.", SECONDS, *call)
        self._entries = counter("entries", "Ledger entries.", *call)
        self._tokens = counter("tokens", "Tokens as providers counted them.", "tier", "kind")
        self._cost = counter("cost_usd", "US dollars spent.", *money)
        self._gained = counter("gained_usd", "US dollars saved against large-only.", *money)
        self._lost = counter("lost_usd", "US dollars lost against large-only.", *money)
        about = "Ledger entries of unknown cost."
        self._unknown = counter("unknown_cost_entries", about, "node", "tier")

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """Count the request."""
        name, outcome = record.cascade, record.outcome
        self._requests.labels(name, outcome, record.tier or "").inc()
        self._seconds.labels(name, outcome).observe(record.latency_ms / 1000)
        if record.confidence is not None:
            calibrated = str(record.calibrated).lower()
            self._confidence.labels(name, calibrated).observe(record.confidence)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count money, tokens and time of a ledger entry."""
        tier = entry.tier or ""
        call = (cascade, entry.node, tier, entry.outcome)
        self._entries.labels(*call).inc()
        if entry.model is not None:
            self._call_seconds.labels(*call).observe(entry.latency_ms / 1000)
        if entry.cost_usd is None:
            self._unknown.labels(cascade, entry.node, tier).inc()
        elif entry.cost_usd:
            labels = (cascade, entry.node, tier, entry.cost_basis)
            self._cost.labels(*labels).inc(float(entry.cost_usd))
        if entry.saved_usd:
            counter = self._gained if entry.saved_usd > 0 else self._lost
            labels = (cascade, entry.node, tier, entry.basis)
            counter.labels(*labels).inc(float(abs(entry.saved_usd)))
        for kind in TOKENS:
            if tokens := getattr(entry, f"{kind}_tokens"):
                self._tokens.labels(cascade, tier, kind).inc(tokens)
