"""A cascade in what others have built: LangChain's models and agents, and the outlets of operators.

Names load on first use, with the packages that they need: `langchain`, `opentelemetry-api` or
`prometheus-client`.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "AgentTier": "agent_tier",
    "CascadeChatModel": "chat_model",
    "CascadeDecisionModel": "decisions",
    "DecisionSignal": "decisions",
    "DecisionVerifier": "decisions",
    "PrometheusMetrics": "prometheus",
    "RunLog": "logs",
    "Telemetry": "opentelemetry",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cascade.integrations' has no attribute {name!r}")
    return getattr(import_module(f"cascade.integrations.{_HOMES[name]}"), name)
