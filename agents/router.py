"""The router chooses, before anything is drafted, which tier answers first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langchain_core.messages import BaseMessage
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, current_run
from cascade.agents.entries import free_entry
from cascade.errors import ConfigurationError
from cascade.ledger import Recorder
from cascade.state import CascadeState, Decision, StateUpdate
from cascade.tiers import OpenTier

Route = Callable[[Sequence[BaseMessage]], "str | Awaitable[str | None] | None"]
"""Takes the conversation and names the tier that answers first; None drafts as usual."""


@dataclass(frozen=True, slots=True)
class Router:
    """Sends a question to the tier that a rule of the user's names."""

    route: Route
    tiers: tuple[OpenTier, ...]
    recorder: Recorder

    async def __call__(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> Command[Literal["draft", "expert"]]:
        """Go to `draft` or straight to `expert`.

        Raises:
            ConfigurationError: the rule named a tier that does not exist.
        """
        run = current_run(state, runtime)
        name = self.route(state["messages"])
        if inspect.isawaitable(name):
            name = await name
        names = [tier.name for tier in self.tiers]
        if name is not None and name not in names:
            raise ConfigurationError(
                f"the router named the tier {name!r}; there are: {', '.join(names)}"
            )
        index = 0 if name is None else names.index(name)
        last = index == len(names) - 1
        self.recorder.record(free_entry(run, "route", names[index]))
        update: StateUpdate = {
            "run": replace(run, tier=index),
            "draft": None,
            "assessment": None,
            "degraded": False,
            "ledger": self.recorder.take(run.id),
        }
        if last:
            update["decision"] = Decision(
                action="escalate", reason=f"the router sent it straight to {name}"
            )
        return Command(goto="expert" if last else "draft", update=update)
