"""The gate before the first node: whether a draft or the large model answers a question first,
and whether the question has to stay on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langgraph.config import get_config
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, current_run
from cascade.agents.border import asked_to_stay, may_ask
from cascade.agents.latch import Latching
from cascade.agents.recall import Recall
from cascade.state import CascadeState, Completion, Decision, Run, StateUpdate
from cascade.tiers import OpenTier

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


def straight(run: Run, tiers: Sequence[OpenTier], beside: Beside) -> Command[str] | None:
    """The way of a run whose question the large model answers first; None where it does not.

    Args:
        run: which has just begun.
        tiers: from small to large.
        beside: says which questions.
    """
    thread = get_config().get("configurable", {}).get("thread_id")
    if not may_ask(run, tiers[-1]) or not beside.takes(run.id if thread is None else str(thread)):
        return None
    update: StateUpdate = {
        "run": replace(run, tier=len(tiers) - 1, shadow=True),
        "draft": None,
        "assessment": None,
        "degraded": False,
        "decision": Decision(action="escalate", reason=FIRST),
    }
    return Command(goto="expert", update=update)


@dataclass(frozen=True, slots=True)
class Gate:
    """Stands before the first agent, and sends some questions another way.

    One that has to stay on this machine goes to the router, which sees to that; where the large
    model answers first, the question goes straight to the expert; and one whose answer is known
    is answered.

    Args:
        first: the agent behind it.
        tiers: from small to large.
        beside: says which questions the large model answers first.
        on_error: that of the first agent.
        recall: knows answers that were given before.
        latching: says which steps of a conversation are not drafted; the router sends them.
    """

    first: Callable[[CascadeState, AgentRuntime], Awaitable[StateUpdate | Command[str]]]
    tiers: tuple[OpenTier, ...]
    beside: Beside | None = None
    on_error: Any = None
    recall: Recall | None = None
    latching: Latching | None = None

    async def __call__(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> StateUpdate | Command[str]:
        """Go to `route`, to `expert` or to the end, or do what the first agent does."""
        run = current_run(state, runtime)
        if run is state.get("run"):
            return await self.first(state, runtime)  # the run has begun: its draft goes on
        stays = run.local_only is not None or asked_to_stay() is not None
        if stays or (self.latching is not None and self.latching.why(state["messages"])):
            return Command(goto="route", update={"run": run})
        shadow = None if self.beside is None else straight(run, self.tiers, self.beside)
        if shadow is not None:
            return shadow
        known = await self.recall.find(run, state["messages"], runtime) if self.recall else None
        return await self.first(state, runtime) if known is None else known
