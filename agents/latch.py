"""The latch: after repeated trouble the steps of a conversation go straight to the large model.

A pure rule over the steps so far, oldest first: no clock, no memory of its own. It closes at one
threshold and opens at another: a single accepted draft after trouble opens nothing, and a single
rejected one closes nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

from langchain_core.messages import BaseMessage
from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, current_run
from cascade.agents.border import may_ask
from cascade.agents.outlook import Outlook
from cascade.agents.steps import Outcome, Step, steps_of
from cascade.errors import ConfigurationError, ModelError
from cascade.state import CascadeState, StateUpdate

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a latch stands after some steps.

    Attributes:
        latched: whether it is closed.
        recent: of the last drafts while it is open, which were in trouble.
        straight: steps without a draft since it closed, or since a draft was tried in vain.
        good: drafts in a row that were tried while it is closed, and accepted.
        why: what closed it.
    """

    latched: bool = False
    recent: tuple[bool, ...] = ()
    straight: int = 0
    good: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Latch:
    """When the steps of one conversation go straight to the large model, and until when.

    It closes when `after` of the last `window` drafts were in trouble: escalated, invalid, failed,
    or a call of the same tools as before that brought nothing new. The next `hold` steps are then
    not drafted. After them a draft is tried: where it is accepted, the next step is drafted too,
    and `release_after` of them in a row open the latch; one that is not holds it for `hold` more.

    Args:
        after: drafts in trouble that close it.
        window: among so many of the last drafts.
        hold: steps without a draft before one is tried.
        release_after: accepted drafts in a row that open it.

    Raises:
        ConfigurationError: a number is not 1 or more, or `after` is more than `window`.
    """

    after: int = 2
    window: int = 4
    hold: int = 3
    release_after: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"Latch({field.name}={value!r}): give 1 or more.")
        if self.after > self.window:
            raise ConfigurationError(
                f"Latch(after={self.after}, window={self.window}): of {self.window} drafts "
                f"{self.after} cannot be in trouble. Give after ≤ window."
            )

    def standing(self, outcomes: Iterable[Outcome]) -> Standing:
        """Where it stands after these steps."""
        return reduce(self.then, outcomes, Standing())

    def then(self, before: Standing, outcome: Outcome) -> Standing:
        """Where it stands after one more step."""
        if not before.latched:
            return before if outcome == "straight" else self._open(before, outcome)
        if outcome == "straight":
            # Between tries this counts for nothing: who went on without a draft was told to.
            waits = min(before.straight + 1, self.hold)
            return Standing(latched=True, straight=waits, good=before.good, why=before.why)
        if outcome == "trouble":
            return Standing(latched=True, why="a draft was tried again, in vain")
        good = before.good + 1
        if good >= self.release_after:
            return Standing()
        return Standing(latched=True, straight=self.hold, good=good, why=before.why)

    def _open(self, before: Standing, outcome: Outcome) -> Standing:
        recent = (*before.recent, outcome == "trouble")[-self.window :]
        if sum(recent) < self.after:
            return Standing(recent=recent)
        why = f"{sum(recent)} of the last {len(recent)} drafts of this conversation were in trouble"
        return Standing(latched=True, why=why)


def read_latch(given: bool | Latch, n_tiers: int, escalation_budget: float | None) -> Latch | None:
    """The latch that was asked for; None for none.

    Args:
        given: as `Cascade` takes it.
        n_tiers: how many tiers may answer.
        escalation_budget: promised share of escalations, if any.

    Raises:
        ConfigurationError: it is no latch, or cannot go with the rest.
    """
    if given is False:
        return None
    latch = Latch() if given is True else given
    if not isinstance(latch, Latch):
        raise ConfigurationError(f"latch={given!r}: give True, False or Latch(after=…, window=…).")
    if n_tiers < 2:
        raise ConfigurationError(
            "latch: there is only one tier that may answer, so there is nothing to go straight to."
        )
    if escalation_budget is not None:
        raise ConfigurationError(
            f"escalation_budget={escalation_budget} promises a share of escalations, and a latch "
            "escalates steps on top of it. Give one of them."
        )
    return latch


@dataclass(frozen=True, slots=True)
class Latching:
    """Applies a latch to conversations.

    Args:
        latch: the rule.
        outlook: the tiers, and what they are expected to cost.
    """

    latch: Latch
    outlook: Outlook

    def why(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why the next step goes straight to the large model; None where it is drafted.

        Args:
            messages: the conversation, its last message being the question.
        """
        steps = steps_of(messages, [tier.name for tier in self.outlook.tiers])
        now = self.latch.standing(step.outcome for step in steps)
        if not now.latched:
            return None
        if now.good == 0 and now.straight < self.latch.hold:
            return (
                f"latched: {now.why}; step {now.straight + 1} of {self.latch.hold} before a draft "
                "is tried"
            )
        dear = self._too_dear(steps, messages)
        return None if dear is None else f"latched: {now.why}; no draft is tried: {dear}"

    def _too_dear(self, steps: Sequence[Step], messages: Sequence[BaseMessage]) -> str | None:
        """Why going back would cost more than staying, whatever the drafts are worth."""
        found = self.outlook.going_back(messages, steps, self.latch.window)
        if found is None or found.back_usd < found.stay_usd:
            return None
        return (
            f"{self.latch.window} drafts from a cold prompt cache would cost "
            f"${_short(found.back_usd)}, as many answers from a warm one ${_short(found.stay_usd)}"
        )


Agent = Callable[[CascadeState, AgentRuntime], Awaitable["StateUpdate | Command[str]"]]
OnError = Callable[..., Awaitable[Command[str]]]


@dataclass(frozen=True, slots=True)
class Undrafted:
    """The expert, whose latched steps are drafted after all while the large model is down.

    A step that was drafted has its draft to fall back on; a latched one would have nothing.
    """

    expert: Agent
    latching: Latching

    async def __call__(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> StateUpdate | Command[str]:
        """What the expert does."""
        return await self.expert(state, runtime)

    async def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """As the expert's; where that comes to the draft, what was to go straight is drafted."""
        run, failure = current_run(state, runtime), error.error
        down = isinstance(failure, ModelError) and failure.circumstantial
        straight = down and not run.asked and not run.shadow and state.get("draft") is None
        straight = straight and may_ask(run, self.latching.outlook.tiers[0])
        undrafted: Command[str] | None = None
        if straight and self.latching.why(state["messages"]) is not None:
            run = replace(run, tier=0, asked=(self.latching.outlook.tiers[-1].name,))
            undrafted = Command(goto="draft", update={"run": run})
        on_error: OnError = self.expert.on_error  # type: ignore[attr-defined]
        found = await on_error(state, runtime, error, undrafted)
        if found is undrafted:
            logger.warning("a latched step is drafted after all: %s", failure)
        return found


def looked_after(expert: Agent, latching: Latching | None) -> tuple[Agent, tuple[str, ...]]:
    """The expert with its latched steps looked after, and where it may go besides."""
    return (expert, ()) if latching is None else (Undrafted(expert, latching), ("draft",))


def _short(amount: object) -> str:
    value = float(str(amount))
    digits = 6 if value == 0 else max(6, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
