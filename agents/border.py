"""The border of this machine: which questions must not cross it, and what becomes of them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.config import get_config

from cascade.confidence.signals import Signal
from cascade.errors import ConfigurationError, InputError, LocalOnlyError
from cascade.state import CascadeState, Run, Stay
from cascade.tiers import OpenTier, open_tier

LOCAL_ONLY = "local_only"
"""Key of a run's `config["configurable"]`: the question has to stay on this machine."""

STAYS = "must not be asked: the question has to stay on this machine"

LocalOnly = bool | Stay
"""Whether questions stay on this machine, and what becomes of those that no tier on it is good
enough for; True is `answer`."""

Private = Callable[[Sequence[BaseMessage]], LocalOnly | Awaitable[LocalOnly]]
"""Takes the conversation and says whether it has to stay on this machine."""


def read_local_only(given: object, what: str, shown: str = "") -> Stay | None:
    """What becomes of the question; None where it may leave.

    Args:
        given: what was said.
        what: where it was said, for the error.
        shown: in place of what was said, where that must not be shown.

    Raises:
        ConfigurationError: it is none of what may be said.
    """
    if given is None or given is False:
        return None
    if given is True or given == "answer":
        return "answer"
    if given == "abstain":
        return "abstain"
    raise ConfigurationError(
        f"{what} is {shown or repr(given)}: give True, False, 'answer' or 'abstain'."
    )


def mark(run: Run) -> dict[str, Any]:
    """What the answer of a run has in its metadata, so that its conversation stays here too."""
    return {} if run.local_only is None else {LOCAL_ONLY: run.local_only}


def stayed(messages: Sequence[BaseMessage]) -> Stay | None:
    """What the answers of a conversation say: whether an earlier question of it had to stay."""
    said = (m.response_metadata.get(LOCAL_ONLY) for m in messages if isinstance(m, AIMessage))
    stays = {stay for stay in said if stay in get_args(Stay)}
    return None if not stays else "abstain" if "abstain" in stays else "answer"


def may_ask(run: Run, tier: OpenTier) -> bool:
    """Whether the question of a run may go to a tier."""
    return run.local_only is None or tier.local


def noted(note: str, large: OpenTier) -> str:
    """The note of a decision, in whose entry no baseline is earned: the large model was no choice,
    so nothing is saved by not asking it.
    """
    return note if STAYS in note else f"{note}; {large.name} {STAYS}"


def check_may_ask(run: Run, tier: OpenTier) -> None:
    """Let no question through that has to stay.

    Raises:
        LocalOnlyError: the question may not go to this tier.
    """
    if not may_ask(run, tier):
        raise LocalOnlyError(
            f"{tier.model.name} was not asked: the question has to stay on this machine.",
            model=tier.model.name,
            billed=False,
        )


def asked_to_stay() -> Stay | None:
    """What the configuration of the present run says.

    Raises:
        InputError: it says something that has no meaning.
    """
    given = (get_config().get("configurable") or {}).get(LOCAL_ONLY)
    try:
        return read_local_only(given, f'config["configurable"]["{LOCAL_ONLY}"]')
    except ConfigurationError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Border:
    """Says which runs stay on this machine.

    Args:
        always: what becomes of questions that no tier here is good enough for, where none may
            leave; None where some may.
        private: a rule of the user's.
        promised: something is promised of accepted drafts, so that no other one is an answer.
    """

    always: Stay | None = None
    private: Private | None = None
    promised: bool = False

    @property
    def looks(self) -> bool:
        """Whether each question has to pass here."""
        return self.always is not None or self.private is not None

    async def inspect(self, run: Run, messages: Sequence[BaseMessage]) -> tuple[Stay | None, str]:
        """Whether a run stays here, and why.

        Raises:
            ConfigurationError: the user's rule said something that has no meaning.
            InputError: the configuration of the run did.
        """
        said: dict[str, Stay | None] = {
            "the cascade is local only": self.always,
            "the call is local only": asked_to_stay(),
            "an earlier question had to stay": run.local_only,
        }
        given: dict[str, Stay] = {why: stay for why, stay in said.items() if stay is not None}
        if not given and self.private is not None:
            answer: Any = self.private(messages)
            answer = await answer if inspect.isawaitable(answer) else answer
            # Not the answer itself: it may quote the conversation.
            kind = f"a value of type {type(answer).__name__}"
            stay = read_local_only(answer, "what private=… returned", kind)
            return (None, "not private") if stay is None else (self._careful(stay), "private")
        if not given:
            return None, ""
        return self._careful(*given.values()), next(iter(given))

    def helpers(self, signals: Sequence[Signal]) -> dict[str, OpenTier]:
        """The models that signals ask besides that of the draft, by the signal.

        Raises:
            ConfigurationError: nothing may leave this machine, and one of them is elsewhere.
        """
        found = {s.name: open_tier(s.model, s.name) for s in signals if s.model is not None}
        for name, helper in found.items():
            if self.always is not None and not helper.local:
                raise ConfigurationError(
                    f"local_only: the signal {name!r} asks {helper.model.name}, which is not on "
                    "this machine. Leave it out, give it a model that is, or say "
                    "Tier(…, local=True)."
                )
        return found

    def mark(self, state: CascadeState) -> CascadeState:
        """The state with its run staying here from now on, where the present call says so.

        A run that is resumed may be told so only then.
        """
        run, asked = state.get("run"), asked_to_stay()
        if run is None or asked is None or run.local_only is not None:
            return state
        return {**state, "run": replace(run, local_only=self._careful(asked))}

    def _careful(self, *stays: Stay) -> Stay:
        return "abstain" if self.promised or "abstain" in stays else "answer"


def nearest(run: Run, tiers: Sequence[OpenTier], wanted: int, first: int = 0) -> int | None:
    """The tier to ask instead of the wanted one, where that must not be asked; None for none.

    The next larger one that may be asked, else the largest.

    Args:
        run: whose question it is.
        tiers: from small to large.
        wanted: index of the tier that would be asked.
        first: index of the first that comes into question.
    """
    allowed = [i for i in range(first, len(tiers)) if may_ask(run, tiers[i])]
    return next((i for i in allowed if i >= wanted), allowed[-1] if allowed else None)
