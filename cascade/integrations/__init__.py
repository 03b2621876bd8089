"""A cascade in LangChain's models and agents, in traces, metrics and logs; loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.integrations.agent_tier import AgentTier as AgentTier
    from cascade.integrations.agent_tier import AgentVerifier as AgentVerifier
    from cascade.integrations.langchain import CascadeChatModel as CascadeChatModel
    from cascade.integrations.langchain import CascadeDecisionModel as CascadeDecisionModel
    from cascade.integrations.langchain import DecisionSignal as DecisionSignal
    from cascade.integrations.langchain import DecisionVerifier as DecisionVerifier
    from cascade.integrations.logs import RunLog as RunLog
    from cascade.integrations.opentelemetry import Telemetry as Telemetry
    from cascade.integrations.prometheus import PrometheusMetrics as PrometheusMetrics

__getattr__ = lazily(
    __name__,
    {
        "agent_tier": "AgentTier AgentVerifier",
        "langchain": "CascadeChatModel CascadeDecisionModel DecisionSignal DecisionVerifier",
        "logs": "RunLog",
        "opentelemetry": "Telemetry",
        "prometheus": "PrometheusMetrics",
    },
)
