"""Prometheus metrics of cascades (extra `prometheus`). Labels come from the set-up or from short
lists, so that time series are few. A saving is the difference of what was gained and lost."""

from __future__ import annotations

from functools import partial
from typing import Any

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.integrations.logs import RunObserver, RunRecord
from cascade.ledger.entries import LedgerEntry
from cascade.run import Run

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"{error}: in a clone, pip install '.[prometheus]'.") from error

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
"""Buckets of durations: from a small model beside the processor to a large one that thinks."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)
"""Buckets of confidence, finer at the end where thresholds are."""


class PrometheusMetrics(RunObserver):
    """Counters and histograms of what cascades do; one object serves any number of them.

    Args:
        registry: where the metrics are registered; by default prometheus-client's own.

    Raises:
        ConfigurationError: the registry has these metrics already.
        MissingDependencyError: (on import) prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__()

        def make(kind: Any, name: str, labels: str, about: str, **more: Any) -> Any:
            names = ("cascade", *labels.split())
            return kind(f"cascade_{name}", about, names, registry=registry, **more)

        count, seconds = partial(make, Counter), partial(make, Histogram, buckets=SECONDS)
        try:
            self._requests = count("requests", "outcome tier", "Requests by how they ended.")
        except ValueError as error:
            raise ConfigurationError(
                "this registry has the metrics of a cascade already: give the same "
                "PrometheusMetrics to all cascades; the label `cascade` tells them apart."
            ) from error
        self._seconds = seconds("request_seconds", "outcome", "Seconds per request.")
        self._calls = seconds("call_seconds", "node tier outcome", "Seconds per model call.")
        about = "Confidence in the last judged draft of a request."
        self._confidence = make(Histogram, "confidence", "calibrated", about, buckets=SHARES)
        self._entries = count("entries", "node tier outcome", "Ledger entries, also of audits.")
        about = "Ledger entries of unknown cost, which no sum contains."
        self._unknown = count("unknown_cost_entries", "node tier", about)
        about = "Tokens; cached and cache_write are part of input, reasoning of output."
        self._tokens = count("tokens", "tier kind", about)
        self._cost = count("cost_usd", "node tier basis", "US dollars spent.")
        self._gained = count("gained_usd", "node tier basis", "US dollars saved.")
        self._lost = count("lost_usd", "node tier basis", "US dollars lost.")

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """Count the request."""
        name, outcome = record.cascade, record.outcome
        self._requests.labels(name, outcome, record.tier or "").inc()
        self._seconds.labels(name, outcome).observe(record.latency_ms / 1000)
        if record.confidence is not None:
            sure = self._confidence.labels(name, str(record.calibrated).lower())
            sure.observe(record.confidence)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count what the entry says."""
        place = (cascade, entry.node, entry.tier or "")
        self._entries.labels(*place, entry.outcome).inc()
        if entry.model is not None:
            self._calls.labels(*place, entry.outcome).observe(entry.latency_ms / 1000)
        if entry.cost_usd is None:
            self._unknown.labels(*place).inc()
        elif entry.cost_usd:
            self._cost.labels(*place, entry.cost_basis).inc(float(entry.cost_usd))
        if entry.saved_usd:
            counter = self._gained if entry.saved_usd > 0 else self._lost
            counter.labels(*place, entry.basis).inc(float(abs(entry.saved_usd)))
        for kind in ("input", "output", "cached", "cache_write", "reasoning"):
            if tokens := getattr(entry, f"{kind}_tokens"):
                self._tokens.labels(cascade, entry.tier or "", kind).inc(tokens)
