"""LangChain's chat model and middleware, and standard outlets: OpenTelemetry, Prometheus, logs.

    from cascade.integrations.chat_model import CascadeChatModel
    from cascade.integrations.middleware import CascadeMiddleware

    from cascade.integrations.opentelemetry import Telemetry
    from cascade.integrations.prometheus import PrometheusMetrics
    from cascade.integrations.logs import JsonFormatter, RunLog

    cascade = Cascade("ollama:qwen2.5:3b", "openai:gpt-5.1", observers=[Telemetry()])

Each is a module of its own, and none is imported unless asked for. LangSmith needs none of them:
it sees a cascade through LangChain's callbacks.
"""
