"""Traces and metrics through OpenTelemetry (extra `otel`), with the names of the conventions for
generative AI, version 1.41, https://opentelemetry.io/docs/specs/semconv/gen-ai/."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.errors import MissingDependencyError, is_control_flow
from cascade.integrations.logs import RunObserver, RunRecord, harmless
from cascade.ledger.entries import LedgerEntry, LedgerView, failures, plain_reason
from cascade.middleware import Advance, Ask
from cascade.middleware.background import tags_of
from cascade.run import Call, CascadeRuntime, Run
from cascade.state import Completion

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"{error}: in a clone, pip install '.[otel]'.") from error

_PROVIDERS = {
    "azure_openai": "azure.ai.openai",
    **dict.fromkeys(("bedrock", "bedrock_converse"), "aws.bedrock"),
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
}
"""Our prefixes → the well-known values of `gen_ai.provider.name`, where they differ."""

_within: ContextVar[tuple[dict[str, LedgerEntry], ...]] = ContextVar("entries_of_spans", default=())
"""For each open span, the entries that arise within it, by id: several objects may hear them."""


class Telemetry(RunObserver):
    """Spans of runs (`invoke_agent NAME`), below them of steps (`draft`, `verify`), and below these
    of attempts of calls (`chat MODEL`); and metrics: `gen_ai.client.token.usage`,
    `gen_ai.client.operation.duration`, `cascade.requests`.

    Dollars spent and saved, with their basis, are on all spans; unknown figures are left out, never
    zero. Work after the reply (audits) is a trace of its own, with the `cascade.run_id` of its run.

    Args:
        tracer_provider, meter_provider: of the application; by default the global ones.
        capture_content: also record what models are asked and answer (`gen_ai.input.messages`,
            `gen_ai.output.messages`), and the words of errors, which may quote it.

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
        self._open: dict[str, Span] = {}
        meter = metrics.get_meter("agent-cascade", meter_provider=meter_provider)
        tokens, seconds = [4.0**n for n in range(14)], [0.01 * 2**n for n in range(14)]
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=tokens
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=seconds
        )
        self._requests = meter.create_counter("cascade.requests", "{request}")

    # --- runs and their steps

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """A span for the step, below that of its run."""
        step = "router" if run.step == "begin" else run.step
        with self._in_span(run, lambda: self._step(step, run, runtime)) as span:
            await super().wrap_step(run, runtime, handler)
            if step == "verify":
                span.set_attributes(_known(_decided(run), "cascade."))

    def _step(self, step: str, run: Run, runtime: CascadeRuntime) -> Span:
        name, parent = runtime.kernel.parts.name, Context()
        if run.kind == "answer" and run.id not in self._open:
            configurable = (runtime.config or {}).get("configurable") or {}
            told = {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.provider.name": "agent-cascade",
                "gen_ai.agent.name": name,
                "gen_ai.conversation.id": configurable.get("thread_id"),
                "cascade.run_id": run.id,
                **{f"cascade.tag.{key}": value for key, value in tags_of(run).items()},
            }
            whole = self._tracer.start_span(f"invoke_agent {name}", attributes=_known(told))
            self._open[run.id] = whole
            if len(self._open) > 10_000:  # a graph may be left between two nodes
                self._open.pop(next(iter(self._open))).end()
        if run.kind == "answer":
            parent = trace.set_span_in_context(self._open[run.id])
        of_step = {"cascade.run_id": run.id, "cascade.node": step}
        return self._tracer.start_span(step, parent, attributes=of_step)

    def ended(self, record: RunRecord, run: Run, error: BaseException | None) -> None:
        """End the run's span, and count the run."""
        span = self._open.pop(run.id, INVALID_SPAN)
        told = {name: getattr(record, name) for name in ("cost_usd", "saved_usd", "basis")}
        outcome = {"outcome": record.outcome, "tier": record.tier}
        span.set_attributes(_known({**told, **outcome, **_decided(run)}, "cascade."))
        self._fail(span, error)
        span.end()
        self._requests.add(1, _known({"name": record.cascade, **outcome}, "cascade."))

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Keep an entry for the spans that are open, and count the call."""
        for entries in _within.get():
            entries[entry.id] = entry
        if entry.model is None:
            return
        labels = _of_model(entry.model)  # only what has few values
        if entry.outcome != "ok":
            failed = entry.outcome == "failed"  # the note begins with the kind of error
            labels["error.type"] = entry.note.partition(":")[0] if failed else entry.outcome
        self._duration.record(entry.latency_ms / 1000, labels)
        for kind, tokens in (("input", entry.input_tokens), ("output", entry.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind})

    # --- calls

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """A span for the attempt."""
        model, request = call.tier.model, call.request
        asked = {
            **_of_model(model.name),
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.input.messages": self._quoted(request.messages),
            "cascade.run_id": call.run.id,
            "cascade.node": call.node,
            "cascade.tier": call.tier.name,
        }
        how: Any = {"kind": SpanKind.CLIENT, "attributes": _known(asked)}
        name = f"chat {model.model}"
        with self._in_span(call.run, lambda: self._tracer.start_span(name, **how)) as span:
            said = await handler(call)
            usage, reason = said.usage, said.finish_reason
            told = {
                "response.model": said.model,
                "response.finish_reasons": reason and [reason],
                "usage.input_tokens": usage.input_tokens,
                "usage.output_tokens": usage.output_tokens,
                "usage.cache_read.input_tokens": usage.cached_tokens,
                "usage.cache_creation.input_tokens": usage.cache_write_tokens,
                "usage.reasoning.output_tokens": usage.reasoning_tokens,
            }
            with harmless():
                answer = self._quoted([said.to_message("")], finish_reason=reason or "stop")
                span.set_attributes(_known({**told, "output.messages": answer}, "gen_ai."))
            return said

    # --- spans

    @contextmanager
    def _in_span(self, run: Run, start: Callable[[], Span]) -> Iterator[Span]:
        """A span that is the current one, with what the run spends within it; one that goes nowhere
        where it cannot be started."""
        span: Span = INVALID_SPAN
        entries: dict[str, LedgerEntry] = {}
        token = _within.set((*_within.get(), entries))
        with harmless():
            span = start()
        with trace.use_span(span, True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except BaseException as error:
                self._fail(span, error)
                raise
            finally:
                _within.reset(token)
                # A verifier may have asked another cascade.
                own = LedgerView(entry for entry in entries.values() if entry.run_id == run.id)
                if own.entries:
                    usd = {"cost_usd": own.cost_usd, "saved_usd": own.saved_usd}
                    span.set_attributes(_known({**usd, "basis": own.saved_basis}, "cascade."))

    def _fail(self, span: Span, error: BaseException | None) -> None:
        if error is not None and not is_control_flow(error):
            span.set_attribute("error.type", type(error).__name__)
            # The words of errors quote servers, questions and answers.
            span.set_status(StatusCode.ERROR, str(error) if self._capture_content else None)

    def _quoted(self, messages: Sequence[BaseMessage], **more: str) -> str | None:
        """Messages in the form of the conventions, where texts are to be recorded."""
        if not self._capture_content:
            return None
        written = [{**_in_parts(message), **more} for message in messages]
        return json.dumps(written, ensure_ascii=False, default=str)


def _of_model(name: str) -> dict[str, Any]:
    provider, _, model = name.partition(":")
    told = {"provider.name": _PROVIDERS.get(provider, provider), "request.model": model}
    return _known({"operation.name": "chat", **told}, "gen_ai.")


def _known(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The attributes that have a value; OpenTelemetry has no decimals, so money is a float."""
    known = {f"{prefix}{key}": value for key, value in values.items() if value is not None}
    return {key: float(v) if isinstance(v, Decimal) else v for key, v in known.items()}


def _decided(run: Run) -> dict[str, Any]:
    if run.decision is None:
        return {}
    judged, reason = run.assessment or run.decision, run.decision.reason
    told = {"action": run.decision.action, "reason": plain_reason(reason, failures(run.entries))}
    return {**told, "confidence": judged.confidence, "calibrated": judged.calibrated}


def _in_parts(message: BaseMessage) -> dict[str, Any]:
    text, role = str(message.text), {"human": "user", "ai": "assistant"}
    parts: list[dict[str, Any]] = [{"type": "text", "content": text}] if text else []
    if isinstance(message, ToolMessage):
        parts = [{"type": "tool_call_response", "id": message.tool_call_id, "response": text}]
    for call in message.tool_calls if isinstance(message, AIMessage) else ():
        named = {"id": call["id"], "name": call["name"], "arguments": call["args"]}
        parts.append({"type": "tool_call", **named})
    return {"role": role.get(message.type, message.type), "parts": parts}
