"""Standard outlets: OpenTelemetry, Prometheus and structured logs, each in a module of its own.

    from cascade.integrations.opentelemetry import Telemetry
    from cascade.integrations.prometheus import PrometheusMetrics
    from cascade.integrations.logs import JsonFormatter, RunLog

    cascade = Cascade("ollama:qwen2.5:3b", "openai:gpt-5.1", observers=[Telemetry()])

Nothing of them is imported unless asked for. LangSmith needs none of them: it sees a cascade
through LangChain's callbacks.
"""
