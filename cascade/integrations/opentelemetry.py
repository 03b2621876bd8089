"""Traces and metrics through OpenTelemetry (`pip install agent-cascade[otel]`).

    cascade = Cascade(…, observers=[Telemetry()])

    invoke_agent cascade            one span per run
    ├─ draft                        one per node and attempt
    │  └─ chat qwen2.5:3b           one per model call, kind CLIENT
    ├─ self_check
    ├─ verify
    └─ expert
       └─ chat gpt-5.1

Only the API is needed here; which SDK and exporter receive the data is the application's choice.
"""

from __future__ import annotations

from collections import OrderedDict
from contextvars import Token
from typing import Any

from cascade.errors import MissingDependencyError
from cascade.integrations.genai import (
    answered_attributes,
    call_attributes,
    ended_attributes,
    known,
    messages_json,
    metric_attributes,
    money_attributes,
    node_attributes,
    run_attributes,
)
from cascade.integrations.totals import run_facts
from cascade.observing import ObservedCall, ObservedNode, ObservedRun, Observer, TierEvent
from cascade.state import LedgerEntry

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "Telemetry needs opentelemetry-api: pip install 'agent-cascade[otel]'."
    ) from error

MOST_REMEMBERED = 10_000
"""Runs whose spans later work, such as an audit, can still be linked to."""

TOKEN_BUCKETS = [float(4**power) for power in range(14)]
DURATION_BUCKETS = [0.01 * 2**power for power in range(14)]
"""Both as the conventions advise."""


class Telemetry(Observer):
    """Makes spans of runs, nodes and model calls, and metrics of tokens, time and money.

    Metrics: `gen_ai.client.token.usage`, `gen_ai.client.operation.duration`, and, in US dollars by
    `cascade.name`, `cascade.tier`, `cascade.node` and `cascade.basis`, `cascade.cost` and
    `cascade.saved` (which can fall); `cascade.unknown_cost_entries`, and `cascade.requests` by
    `cascade.outcome`. Unknown figures are left out, never written as zero.

    What a circuit breaker, a bulkhead or a retry budget did is an event of the node's span,
    `cascade.tier.breaker_opened` and so on.

    Work after the reply (audits) is a trace of its own, linked to the span of its run.

    Args:
        tracer_provider: by default the global one.
        meter_provider: by default the global one.
        capture_content: also record questions and answers, as `gen_ai.input.messages` and
            `gen_ai.output.messages`.

    Raises:
        MissingDependencyError: (on import) opentelemetry-api is not installed.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        capture_content: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer("agent-cascade", tracer_provider=tracer_provider)
        self._capture_content = capture_content
        self._spans: dict[ObservedRun | ObservedNode | ObservedCall, Span] = {}
        self._attached: dict[ObservedNode | ObservedCall, Token[contexts.Context]] = {}
        self._runs: OrderedDict[str, SpanContext] = OrderedDict()
        meter = metrics.get_meter("agent-cascade", meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._requests = meter.create_counter("cascade.requests", "{request}", "Finished runs.")
        self._cost = meter.create_counter("cascade.cost", "{USD}", "Dollars spent.")
        self._saved = meter.create_up_down_counter(
            "cascade.saved", "{USD}", "Dollars saved against the large model alone."
        )
        self._unknown = meter.create_counter(
            "cascade.unknown_cost_entries", "{entry}", "Ledger entries of unknown cost."
        )

    def run_began(self, run: ObservedRun) -> None:
        """Start the run's span, below the caller's."""
        attributes = run_attributes(run)
        if self._capture_content:
            attributes["gen_ai.input.messages"] = messages_json(run.messages)
        span = self._tracer.start_span(f"invoke_agent {run.cascade}", attributes=attributes)
        self._spans[run] = span
        self._runs[run.id] = span.get_span_context()
        while len(self._runs) > MOST_REMEMBERED:
            self._runs.popitem(last=False)

    def run_ended(self, run: ObservedRun) -> None:
        """End the run's span, and count the run."""
        facts = run_facts(run)
        span = self._spans.pop(run)
        span.set_attributes(ended_attributes(run, facts))
        if self._capture_content and run.ending and run.ending.answer is not None:
            answer = run.ending.answer
            reason = answer.response_metadata.get("finish_reason") or "stop"
            span.set_attribute("gen_ai.output.messages", messages_json([answer], reason))
        _end(span, run.error)
        counted = {
            "cascade.name": run.cascade,
            "cascade.outcome": facts["outcome"],
            "cascade.tier": facts["tier"],
        }
        self._requests.add(1, known(counted))

    def node_began(self, node: ObservedNode) -> None:
        """Start the node's span and make it the current one."""
        attributes = known({"cascade.run_id": node.run_id, "cascade.node": node.name})
        if node.run is None:
            span = self._start_after(node.name, node.run_id, attributes=attributes)
        else:
            parent = trace.set_span_in_context(self._spans[node.run])
            span = self._tracer.start_span(node.name, parent, attributes=attributes)
        self._spans[node] = span
        self._attached[node] = contexts.attach(trace.set_span_in_context(span))

    def node_ended(self, node: ObservedNode) -> None:
        """End the node's span."""
        contexts.detach(self._attached.pop(node))
        span = self._spans.pop(node)
        span.set_attributes(node_attributes(node))
        if node.retried:
            span.set_attribute("cascade.retried", True)
        if node.interrupted:
            span.set_attribute("cascade.interrupted", True)
        _end(span, node.error)

    def call_began(self, call: ObservedCall) -> None:
        """Start the call's span and make it the current one."""
        attributes = call_attributes(call)
        if self._capture_content:
            attributes["gen_ai.input.messages"] = messages_json(call.messages)
        name, asked = f"chat {call.model}", SpanKind.CLIENT
        if call.within is not None:
            span = self._tracer.start_span(name, kind=asked, attributes=attributes)
        else:
            span = self._start_after(name, call.run_id, kind=asked, attributes=attributes)
        self._spans[call] = span
        self._attached[call] = contexts.attach(trace.set_span_in_context(span))

    def call_ended(self, call: ObservedCall) -> None:
        """End the call's span; count tokens and time."""
        contexts.detach(self._attached.pop(call))
        span, completion = self._spans.pop(call), call.completion
        if call.entry is not None:
            span.set_attributes(money_attributes(call.entry))
        counted = metric_attributes(call)
        if completion is not None:
            span.set_attributes(answered_attributes(completion))
            counted["gen_ai.response.model"] = completion.model
            if self._capture_content:
                answer = completion.to_message(call.tier)
                reason = completion.finish_reason or "stop"
                span.set_attribute("gen_ai.output.messages", messages_json([answer], reason))
            usage = completion.usage
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                if tokens is not None:
                    self._tokens.record(tokens, {**counted, "gen_ai.token.type": kind})
        _end(span, call.error)
        if call.entry is not None:
            if call.error is not None:
                counted["error.type"] = type(call.error).__name__
            self._duration.record(call.seconds, counted)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count the money of an entry."""
        where = {
            "cascade.name": cascade,
            "cascade.node": entry.node,
            "cascade.tier": entry.tier or "",
        }
        if entry.cost_usd is None:
            self._unknown.add(1, where)
        elif entry.cost_usd:
            self._cost.add(float(entry.cost_usd), {**where, "cascade.basis": entry.cost_basis})
        if entry.saved_usd:
            self._saved.add(float(entry.saved_usd), {**where, "cascade.basis": entry.basis})

    def tier_event(self, event: TierEvent) -> None:
        """Add an event to the span of the node in which it happened."""
        span = None if event.within is None else self._spans.get(event.within)
        if span is not None and event.why:
            attributes = {
                "cascade.tier": event.tier,
                "gen_ai.request.model": event.model.partition(":")[2],
                "cascade.reason": event.why,
            }
            span.add_event(f"cascade.tier.{event.kind}", attributes)

    def _start_after(self, name: str, run_id: str, **kwargs: Any) -> Span:
        """A span of a trace of its own, linked to that of its run."""
        run_span = self._runs.get(run_id)
        links = [] if run_span is None else [Link(run_span)]
        return self._tracer.start_span(name, contexts.Context(), links=links, **kwargs)


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()
