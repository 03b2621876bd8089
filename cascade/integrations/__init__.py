"""A cascade in what others have built: LangChain's models and agents, and the outlets of operators.

Names load on first use, with the packages that they need: `langchain`, `opentelemetry-api` or
`prometheus-client`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.integrations.agent_tier import AgentTier as AgentTier
    from cascade.integrations.chat_model import CascadeChatModel as CascadeChatModel
    from cascade.integrations.decisions import CascadeDecisionModel as CascadeDecisionModel
    from cascade.integrations.decisions import DecisionSignal as DecisionSignal
    from cascade.integrations.decisions import DecisionVerifier as DecisionVerifier
    from cascade.integrations.logs import RunLog as RunLog
    from cascade.integrations.opentelemetry import Telemetry as Telemetry
    from cascade.integrations.prometheus import PrometheusMetrics as PrometheusMetrics

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
