"""What looking on costs per request: CPU time of a whole run, with and without observers.

    python benchmarks/telemetry_overhead.py [--requests 400] [--rounds 7]

The models answer at once, so that the cascade itself is all that is measured. Rounds of all
set-ups alternate; the median over rounds is printed, and the difference to no observers. Without
observers the hooks themselves are too cheap for that and are timed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import statistics
import time
import timeit
from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from cascade import Cascade, Price, Tier
from cascade.agents import Task
from cascade.agents.sending import annotate, observed
from cascade.integrations.logs import JsonFormatter, RunLog
from cascade.integrations.opentelemetry import Telemetry
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.observing import Observer, Observers
from cascade.state import Run
from cascade.testing import ScriptedModel, reply


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def telemetry() -> Telemetry:
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    return Telemetry(
        tracer_provider=tracers, meter_provider=MeterProvider([InMemoryMetricReader()])
    )


def run_log() -> RunLog:
    logger = logging.Logger("runs", logging.INFO)
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    return RunLog(logger)


SET_UPS: dict[str, Callable[[], list[Observer]]] = {
    "no observers": list,
    "an observer that does nothing": lambda: [Observer()],
    "RunLog, JSON": lambda: [run_log()],
    "PrometheusMetrics": lambda: [PrometheusMetrics(CollectorRegistry())],
    "Telemetry, no SDK": lambda: [Telemetry()],
    "Telemetry, SDK, batch export": lambda: [telemetry()],
}


def made(observers: list[Observer]) -> Cascade:
    small = ScriptedModel([reply("Canberra", probability=0.3)])
    price = Price(input="1", output="2")
    return Cascade(
        Tier(small, price=price), Tier(ScriptedModel(["ACT"]), price=price), observers=observers
    )


async def seconds(cascade: Cascade, requests: int) -> float:
    """CPU seconds per request; each is escalated: four nodes, two calls."""
    begun = time.process_time()
    for _ in range(requests):
        await cascade.ainvoke("Capital of Australia?")
    return (time.process_time() - begun) / requests


async def measure(requests: int, rounds: int) -> None:
    cascades = {name: made(observers()) for name, observers in SET_UPS.items()}
    found: dict[str, list[float]] = {name: [] for name in cascades}
    for _ in range(rounds + 1):
        for name, cascade in cascades.items():
            found[name].append(await seconds(cascade, requests))
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}
    base = medians["no observers"]
    print(f"{'set-up':<32}{'µs per request':>16}{'more':>10}")
    for name, median in medians.items():
        print(f"{name:<32}{median * 1e6:>16.0f}{(median - base) * 1e6:>+10.0f}")


def hooks() -> None:
    """The hooks of a request that nobody looks at: four nodes, two calls, one end."""
    observers, run = Observers(), Run("run", "question")
    tier = made([]).tiers[0]
    request, config = Task().request(tier, []), RunnableConfig(callbacks=None)
    nothing = reply("")

    def once() -> None:
        for _ in range(4):
            bool(observers)
        for _ in range(2):
            call = observed(observers, tier, request, "draft", run)
            observers.call_ended(call, None, nothing)
        for _ in range(6):
            bool(observers)  # one per ledger entry
        annotate(config, dict)

    n = 20_000
    fastest = min(timeit.repeat(once, number=n, repeat=5)) / n
    print(f"hooks without observers: {fastest * 1e6:.1f} µs per request")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    hooks()
    asyncio.run(measure(asked.requests, asked.rounds))


if __name__ == "__main__":
    main()
