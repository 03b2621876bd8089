"""Traces and metrics through OpenTelemetry (extra `otel`).

    cascade = Cascade(…, middleware=[Telemetry()])

    invoke_agent cascade            one span per run
    ├─ draft                        one per step
    │  └─ chat qwen2.5:3b           one per attempt of a call, kind CLIENT
    ├─ self_check
    ├─ verify
    └─ expert
       └─ chat gpt-5.1

Names follow the semantic conventions for generative AI, version 1.41 (spans, agent spans,
metrics), https://opentelemetry.io/docs/specs/semconv/gen-ai/. Only the API is needed here; which
SDK and exporter receive the data is the application's choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.errors import MissingDependencyError, is_control_flow
from cascade.integrations.logs import RunObserver, RunRecord, harmless
from cascade.ledger.export import failures, plain_reason
from cascade.ledger.view import LedgerView
from cascade.middleware import Advance, Ask
from cascade.middleware.background import tags_of
from cascade.run import Call, CascadeRuntime, Run
from cascade.state import Completion, LedgerEntry

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
    from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "Telemetry needs opentelemetry-api: in a clone, pip install '.[otel]'."
    ) from error

MOST_OPEN = 10_000
"""Spans of runs that are open at once: a graph may be left between two nodes."""

_PROVIDERS = {
    "azure_openai": "azure.ai.openai",
    **dict.fromkeys(("bedrock", "bedrock_converse"), "aws.bedrock"),
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""Our prefixes → the well-known values of `gen_ai.provider.name`, where they differ."""

_ROLES = {"human": "user", "ai": "assistant"}

_entries: ContextVar[list[LedgerEntry] | None] = ContextVar("entries_of_a_call", default=None)


class Telemetry(RunObserver):
    """Spans of runs, steps and model calls, and metrics of calls.

    Metrics: `gen_ai.client.token.usage`, `gen_ai.client.operation.duration`, and `cascade.requests`
    by `cascade.outcome`. Dollars spent and saved, with their basis, are on the spans
    (`PrometheusMetrics` counts them). Unknown figures are left out, never written as zero.

    Work after the reply (audits) is a trace of its own, with the `cascade.run_id` of its run.

    Args:
        tracer_provider: by default the global one.
        meter_provider: by default the global one.
        capture_content: also record questions and answers, as `gen_ai.input.messages` and
            `gen_ai.output.messages`, and the words of errors, which may quote them.

    Raises:
        MissingDependencyError: (on import) opentelemetry-api is not installed.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        capture_content: bool = False,
        name: str = "telemetry",
    ) -> None:
        super().__init__(name)
        self._tracer = trace.get_tracer("agent-cascade", tracer_provider=tracer_provider)
        self._capture_content = capture_content
        self._open: dict[str, Span] = {}
        meter = metrics.get_meter("agent-cascade", meter_provider=meter_provider)

        def histogram(name: str, unit: str, about: str, buckets: list[float]) -> metrics.Histogram:
            advised = {"explicit_bucket_boundaries_advisory": buckets}  # by the conventions
            return meter.create_histogram(f"gen_ai.client.{name}", unit, about, **advised)

        about, buckets = "Input and output tokens.", [float(4**power) for power in range(14)]
        self._tokens = histogram("token.usage", "{token}", about, buckets)
        about, buckets = "Duration of a call.", [0.01 * 2**power for power in range(14)]
        self._duration = histogram("operation.duration", "s", about, buckets)
        self._requests = meter.create_counter("cascade.requests", "{request}", "Finished runs.")

    # --- runs and their steps

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """A span for the step, below that of its run."""

        async def within(run: Run, runtime: CascadeRuntime) -> None:
            step = "router" if run.step == "begin" else run.step
            with self._in_span(partial(self._step, step, run, runtime)) as span:
                await handler(run, runtime)
                if step == "verify":
                    span.set_attributes(self._decided(run))

        await super().wrap_step(run, runtime, within)

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """End the run's span, and count the run."""
        span = self._open.pop(run.id, INVALID_SPAN)
        told = ("outcome", "tier", "escalated", "cost_usd", "saved_usd", "basis")
        span.set_attributes(_known({name: getattr(record, name) for name in told}, "cascade."))
        for name in ("input_tokens", "output_tokens"):
            counts = [getattr(entry, name) for entry in run.entries if entry.model is not None]
            if counts and None not in counts:
                span.set_attribute(f"gen_ai.usage.{name}", sum(counts))
        span.set_attributes(self._decided(run))
        if run.step == "end" and run.draft is not None:
            span.set_attributes(self._quoted("output", run.draft))
        self._fail(span, error)
        span.end()
        where = {"cascade.name": record.cascade, "cascade.outcome": record.outcome}
        self._requests.add(1, _known({**where, "cascade.tier": record.tier}))

    def _step(self, step: str, run: Run, runtime: CascadeRuntime) -> Span:
        parent = contexts.Context()
        if run.kind == "answer":
            if run.id not in self._open:
                self._open[run.id] = self._begun(run, runtime)
            parent = trace.set_span_in_context(self._open[run.id])
            if len(self._open) > MOST_OPEN:
                self._open.pop(next(iter(self._open))).end()
        attributes = {"cascade.run_id": run.id, "cascade.node": step}
        return self._tracer.start_span(step, parent, attributes=attributes)

    def _begun(self, run: Run, runtime: CascadeRuntime) -> Span:
        name = runtime.kernel.parts.name
        configurable = (runtime.config or {}).get("configurable") or {}
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "agent-cascade",
            "gen_ai.agent.name": name,
            "gen_ai.conversation.id": configurable.get("thread_id"),
            "cascade.run_id": run.id,
            **{f"cascade.tag.{key}": value for key, value in tags_of(run).items()},
            **self._quoted("input", run.messages),
        }
        return self._tracer.start_span(f"invoke_agent {name}", attributes=_known(attributes))

    def _decided(self, run: Run) -> dict[str, Any]:
        decision = run.decision
        if decision is None:
            return {}
        judged, reason = run.assessment or decision, decision.reason
        if not self._capture_content:
            reason = plain_reason(reason, failures(run.entries))
        told: dict[str, Any] = {"action": decision.action, "reason": reason}
        if judged.confidence is not None:
            told |= {"confidence": judged.confidence, "calibrated": judged.calibrated}
        return _known(told, "cascade.")

    # --- calls

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """A span for the attempt, with what its ledger entries say."""
        entries: list[LedgerEntry] = []
        token, model = _entries.set(entries), call.tier.model
        labels: dict[str, Any] = {  # of metrics: only what has few values
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDERS.get(model.provider, model.provider),
            "gen_ai.request.model": model.model,
        }
        try:
            with self._in_span(partial(self._call, call, labels)) as span:
                try:
                    completion = await handler(call)
                    with harmless():
                        self._answered(span, labels, completion)
                except BaseException as error:
                    labels["error.type"] = type(error).__name__
                    raise
                finally:
                    with harmless():
                        self._booked(span, labels, entries)
                return completion
        finally:
            _entries.reset(token)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Keep an entry for the span of its call."""
        if (asking := _entries.get()) is not None and entry.model is not None:
            asking.append(entry)

    def _call(self, call: Call, labels: dict[str, Any]) -> Span:
        attributes = {
            **labels,
            "gen_ai.request.max_tokens": call.request.max_tokens,
            "gen_ai.request.temperature": call.request.temperature,
            "cascade.run_id": call.run.id,
            "cascade.node": call.node,
            "cascade.tier": call.tier.name,
            **self._quoted("input", call.request.messages),
        }
        name = f"chat {call.tier.model.model}"
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_known(attributes))

    def _answered(self, span: Span, labels: dict[str, Any], said: Completion) -> None:
        usage, reason = said.usage, said.finish_reason
        labels["gen_ai.response.model"] = said.model
        told = {
            "response.model": said.model,
            "response.finish_reasons": reason and [reason],
            "usage.input_tokens": usage.input_tokens,
            "usage.output_tokens": usage.output_tokens,
            "usage.cache_read.input_tokens": usage.cached_tokens,
            "usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
        span.set_attributes(_known(told, "gen_ai.") | self._quoted("output", said))
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind})

    def _booked(self, span: Span, labels: dict[str, Any], entries: Sequence[LedgerEntry]) -> None:
        if entries:
            ledger = LedgerView(entries)
            money = {"cost_usd": ledger.cost_usd, "saved_usd": ledger.saved_usd}
            span.set_attributes(_known({**money, "basis": ledger.saved_basis}, "cascade."))
        for entry in entries:
            self._duration.record(entry.latency_ms / 1000, labels)

    # --- spans

    @contextmanager
    def _in_span(self, start: Callable[[], Span]) -> Iterator[Span]:
        """A span that is the current one; one that goes nowhere where it cannot be started."""
        span: Span = INVALID_SPAN
        with harmless():
            span = start()
        plain = {"record_exception": False, "set_status_on_exception": False}
        with trace.use_span(span, end_on_exit=True, **plain):
            try:
                yield span
            except BaseException as error:
                self._fail(span, error)
                raise

    def _fail(self, span: Span, error: BaseException | None) -> None:
        if error is None or (isinstance(error, Exception) and is_control_flow(error)):
            return
        span.set_attribute("error.type", type(error).__name__)
        # The words of errors quote servers, questions and answers.
        span.set_status(StatusCode.ERROR, str(error) if self._capture_content else None)

    def _quoted(
        self, kind: Literal["input", "output"], said: Sequence[BaseMessage] | Completion
    ) -> dict[str, str]:
        """Question or answer, where texts are to be recorded."""
        if not self._capture_content:
            return {}
        if isinstance(said, Completion):
            told = messages_json([said.to_message(said.tier)], said.finish_reason or "stop")
        else:
            told = messages_json(said)
        return {f"gen_ai.{kind}.messages": told}


def _known(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The attributes that have a value; OpenTelemetry has no decimals, so money is a float."""
    known = {f"{prefix}{key}": value for key, value in values.items() if value is not None}
    return {key: float(v) if isinstance(v, Decimal) else v for key, v in known.items()}


def messages_json(messages: Sequence[BaseMessage], finish_reason: str | None = None) -> str:
    """Messages in the form of `gen_ai.input.messages` and `gen_ai.output.messages`."""
    written = []
    for message in messages:
        text = str(message.text)
        parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
        if isinstance(message, ToolMessage):
            kind = "tool_call_response"
            parts = [{"type": kind, "id": message.tool_call_id, "response": text}]
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            named = {"id": call["id"], "name": call["name"], "arguments": call["args"]}
            parts.append({"type": "tool_call", **named})
        one: dict[str, Any] = {"role": _ROLES.get(message.type, message.type), "parts": parts}
        written.append(one | ({} if finish_reason is None else {"finish_reason": finish_reason}))
    return json.dumps(written, ensure_ascii=False)
