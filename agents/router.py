"""The router says, before anything is drafted, which tier answers first and which ones may."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from langchain_core.messages import BaseMessage
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, current_run
from cascade.agents.border import Border, may_ask, nearest
from cascade.agents.entries import free_entry
from cascade.agents.gate import Beside, straight
from cascade.agents.latch import Latching
from cascade.agents.recall import Recall
from cascade.errors import ConfigurationError
from cascade.ledger import Recorder
from cascade.state import CascadeState, Decision, Run, StateUpdate
from cascade.tiers import OpenTier

Route = Callable[[Sequence[BaseMessage]], "str | Awaitable[str | None] | None"]
"""Takes the conversation and names the tier that answers first; None drafts as usual."""


@dataclass(frozen=True, slots=True)
class Router:
    """Keeps questions here that must not leave, and sends the others where a rule says.

    What it found is in the state before a model is asked, so that neither a failure nor a restart
    makes a question of another kind of it.

    Args:
        route: the user's rule, or none.
        tiers: from small to large.
        recorder: of the ledger.
        border: says which questions stay here.
        beside: says which questions the large model answers first.
        recall: knows answers that were given before.
        latching: says which steps of a conversation are not drafted, unless the rule names a tier.
    """

    route: Route | None
    tiers: tuple[OpenTier, ...]
    recorder: Recorder
    border: Border = field(default_factory=Border)
    beside: Beside | None = None
    recall: Recall | None = None
    latching: Latching | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> Command[str]:
        """Go to `draft` or straight to `expert`, or to the end with an answer that is known.

        Raises:
            ConfigurationError: the rule named a tier that does not exist, or the question has to
                stay on this machine and no tier is there.
        """
        messages = state["messages"]
        run = current_run(state, runtime)
        stays, why = await self.border.inspect(run, messages)
        run = replace(run, local_only=stays)
        if self.beside is not None:
            shadow = straight(run, self.tiers, self.beside)
            if shadow is not None:
                return shadow
        known = await self.recall.find(run, messages, runtime) if self.recall else None
        if known is not None:
            return known
        named = await self._named(messages)
        latched = self.latching.why(messages) if self.latching and named is None else None
        wanted = len(self.tiers) - 1 if latched else named or 0
        index = self._allowed(run, wanted, why)
        name, last = self.tiers[index].name, index == len(self.tiers) - 1
        notes = [] if not why else [f"{why}: stays on this machine" if stays else why]
        if latched:
            notes.append(latched if index == wanted else f"{latched}; {self._instead(wanted)}")
        if named is not None and index != named:
            notes.append(f"the router named {self._instead(named)}")
        self.recorder.record(free_entry(run, "route", name, "; ".join(notes)))
        update: StateUpdate = {
            "run": replace(run, tier=index),
            "draft": None,
            "assessment": None,
            "degraded": False,
            "ledger": self.recorder.take(run.id),
        }
        if last:
            by = "the router sent it" if named == index else "it went"
            reason = latched or f"{by} straight to {name}"
            update["decision"] = Decision(action="escalate", reason=reason)
        return Command(goto="expert" if last else "draft", update=update)

    async def _named(self, messages: Sequence[BaseMessage]) -> int | None:
        """The index of the tier that the user's rule names."""
        name = None if self.route is None else self.route(messages)
        if inspect.isawaitable(name):
            name = await name
        names = [tier.name for tier in self.tiers]
        if name is not None and name not in names:
            raise ConfigurationError(
                f"the router named the tier {name!r}; there are: {', '.join(names)}"
            )
        return None if name is None else names.index(name)

    def _instead(self, wanted: int) -> str:
        return f"{self.tiers[wanted].name}, which must not be asked"

    def _allowed(self, run: Run, wanted: int, why: str) -> int:
        """The tier that was wanted, or the best one that may be asked instead."""
        if may_ask(run, self.tiers[wanted]):
            return wanted
        found = nearest(run, self.tiers, wanted)
        if found is None:
            there = ", ".join(f"{tier.name} ({tier.model.name})" for tier in self.tiers)
            raise ConfigurationError(
                f"{why}, but no tier is on this machine: {there}. Give a tier that is, such as "
                "'ollama:qwen2.5:3b', or say Tier(…, local=True) of one that it may go to."
            )
        return found
