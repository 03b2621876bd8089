"""The gate before the first node: whether a draft or the large model answers a question first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langgraph.config import get_config
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, current_run
from cascade.state import CascadeState, Completion, Decision, Run, StateUpdate

FIRST = "shadow: the large model answers first, a draft is made beside it"


@dataclass(frozen=True, slots=True)
class Answered:
    """What the large model answered to a question that nobody drafted.

    Attributes:
        messages: the conversation, its last message being the question.
        large_usd: what the large model alone costs for this request, None where unknown.
    """

    run: Run
    messages: Sequence[BaseMessage]
    completion: Completion
    large_usd: Decimal | None


class Beside(Protocol):
    """Lets the small model draft after the large one has answered."""

    def takes(self, key: str) -> bool:
        """Whether the large model answers first; `key` is the thread's id, or the run's."""
        ...

    def answered(self, answered: Answered) -> None:
        """The large model has answered. Called from the event loop: must not block."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """Stands before the first agent, and sends some questions straight to the expert.

    Args:
        first: the agent behind it.
        beside: says which questions.
        last: index of the last tier.
        on_error: that of the first agent.
    """

    first: Callable[[CascadeState, AgentRuntime], Awaitable[StateUpdate | Command[str]]]
    beside: Beside
    last: int
    on_error: Any = None

    async def __call__(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> StateUpdate | Command[str]:
        """Go to `expert`, or do what the first agent does."""
        run = current_run(state, runtime)
        if run is state.get("run"):
            return await self.first(state, runtime)  # the run has begun: its draft goes on
        thread = get_config().get("configurable", {}).get("thread_id")
        if not self.beside.takes(run.id if thread is None else str(thread)):
            return await self.first(state, runtime)
        update: StateUpdate = {
            "run": replace(run, tier=self.last, shadow=True),
            "draft": None,
            "assessment": None,
            "degraded": False,
            "decision": Decision(action="escalate", reason=FIRST),
        }
        return Command(goto="expert", update=update)
