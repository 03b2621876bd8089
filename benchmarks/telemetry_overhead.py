"""What looking on costs per request: CPU of a whole run, with and without observers.

    python benchmarks/telemetry_overhead.py [--requests 400] [--rounds 7]

The models answer at once, so that the cascade itself is all that is measured. Each request is
escalated: four nodes, two calls. Rounds of all set-ups alternate; the median over the rounds is
printed, and the difference to no observers.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import statistics
import time
from collections.abc import Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from cascade import Cascade, CascadeMiddleware, Price, Tier
from cascade.integrations.logs import RunLog
from cascade.integrations.opentelemetry import Telemetry
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.testing import ScriptedModel, reply


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drop them."""
        return SpanExportResult.SUCCESS


def telemetry() -> Telemetry:
    """With the SDK, exported in batches."""
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()])
    return Telemetry(tracer_provider=tracers, meter_provider=meters)


def run_log() -> RunLog:
    """Lines into memory."""
    logger = logging.Logger("runs", logging.INFO)
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    return RunLog(logger)


def made(*middleware: CascadeMiddleware) -> Cascade:
    """A cascade that escalates each question."""
    price = Price(input="1", output="2")
    small = Tier(ScriptedModel([reply("Canberra", probability=0.3)]), price=price)
    return Cascade(small, Tier(ScriptedModel(["ACT"]), price=price), middleware=middleware)


async def measure(requests: int, rounds: int) -> None:
    """Print the table."""
    cascades = {
        "no observers": made(),
        "RunLog": made(run_log()),
        "PrometheusMetrics": made(PrometheusMetrics(CollectorRegistry())),
        "Telemetry, no SDK": made(Telemetry()),
        "Telemetry, SDK, batch export": made(telemetry()),
    }
    found: dict[str, list[float]] = {name: [] for name in cascades}
    for _ in range(rounds + 1):
        for name, cascade in cascades.items():
            begun = time.process_time()
            for _ in range(requests):
                await cascade.ainvoke("Capital of Australia?")
            found[name].append((time.process_time() - begun) / requests)
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}
    base = medians["no observers"]
    print(f"{'set-up':<32}{'µs per request':>16}{'more':>10}")
    for name, median in medians.items():
        print(f"{name:<32}{median * 1e6:>16.0f}{(median - base) * 1e6:>+10.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    asyncio.run(measure(given.requests, given.rounds))


if __name__ == "__main__":
    main()
