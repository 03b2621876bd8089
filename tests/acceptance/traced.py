"""OpenTelemetry with an exporter of the test's own."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade.integrations.opentelemetry import Telemetry


class Traced:
    """An observer, and what it told."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider, meters = TracerProvider(), MeterProvider([self.reader])
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        providers = {"tracer_provider": self.provider, "meter_provider": meters}
        self.observer = Telemetry(**providers, **options)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        found = sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
        return [span for span in found if span.name.startswith(name)]

    def tree(self) -> dict[str, str | None]:
        """The name of each span with that of the one above it."""
        names = {span.context.span_id: span.name for span in self.spans() if span.context}
        return {s.name: s.parent and names[s.parent.span_id] for s in self.spans()}
