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

# From a small model beside the processor to a large one that thinks; and finer near thresholds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1)
_seconds, _shares = partial(Histogram, buckets=_SECONDS), partial(Histogram, buckets=_SHARES)

METRICS: dict[str, tuple[Any, str, str]] = {
    "requests": (Counter, "outcome tier", "Requests by how they ended."),
    "request_seconds": (_seconds, "outcome", "Seconds per request."),
    "call_seconds": (_seconds, "node tier outcome", "Seconds per model call."),
    "confidence": (_shares, "calibrated", "Confidence in the last judged draft of a request."),
    "entries": (Counter, "node tier outcome", "Ledger entries, also of audits."),
    "unknown_cost_entries": (Counter, "node tier", "Ledger entries of unknown cost, in no sum."),
    "tokens": (Counter, "tier kind", "Tokens; input has cached and cache_write, output reasoning."),
    "cost_usd": (Counter, "node tier basis", "US dollars spent."),
    "gained_usd": (Counter, "node tier basis", "US dollars saved."),
    "lost_usd": (Counter, "node tier basis", "US dollars lost."),
}
"""By name, after `cascade_`: labels after that of the cascade, and what it tells."""


class PrometheusMetrics(RunObserver):
    """Counters and histograms of what cascades do; one object serves any number of them.

    Args:
        registry: where the metrics are registered; by default prometheus-client's own.

    Raises:
        ConfigurationError: the registry has these metrics already.
        MissingDependencyError: (on import) prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        try:
            self._metrics = {
                name: make(f"cascade_{name}", about, ["cascade", *of.split()], registry=registry)
                for name, (make, of, about) in METRICS.items()
            }
        except ValueError as error:
            raise ConfigurationError(
                f"this registry has metrics of a cascade already ({error}): give the same "
                "PrometheusMetrics to all cascades; the label `cascade` tells them apart."
            ) from error

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """Count the request."""
        name, outcome, metrics = record.cascade, record.outcome, self._metrics
        metrics["requests"].labels(name, outcome, record.tier or "").inc()
        metrics["request_seconds"].labels(name, outcome).observe(record.latency_ms / 1000)
        if record.confidence is not None:
            sure = metrics["confidence"].labels(name, str(record.calibrated).lower())
            sure.observe(record.confidence)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count what the entry says."""
        place, metrics = (cascade, entry.node, entry.tier or ""), self._metrics
        metrics["entries"].labels(*place, entry.outcome).inc()
        if entry.model is not None:
            metrics["call_seconds"].labels(*place, entry.outcome).observe(entry.latency_ms / 1000)
        if entry.cost_usd is None:
            metrics["unknown_cost_entries"].labels(*place).inc()
        elif entry.cost_usd:
            metrics["cost_usd"].labels(*place, entry.cost_basis).inc(float(entry.cost_usd))
        if entry.saved_usd:
            counter = metrics["gained_usd" if entry.saved_usd > 0 else "lost_usd"]
            counter.labels(*place, entry.basis).inc(float(abs(entry.saved_usd)))
        for kind in ("input", "output", "cached", "cache_write", "reasoning"):
            if tokens := getattr(entry, f"{kind}_tokens"):
                metrics["tokens"].labels(cascade, entry.tier or "", kind).inc(tokens)
