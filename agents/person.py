"""A person decides about a draft. The node does nothing else: an interrupt runs it twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from langgraph.config import get_config
from langgraph.types import Command, interrupt
from pydantic import ValidationError

from cascade._clock import steady_time
from cascade.agents.base import AgentRuntime
from cascade.agents.border import may_ask, noted
from cascade.agents.entries import free_entry
from cascade.agents.moves import abstain, accept, escalate, within
from cascade.agents.outlook import Outlook
from cascade.agents.showing import shows_answers
from cascade.errors import InputError
from cascade.events import Token
from cascade.ledger import Recorder
from cascade.state import CascadeState, Completion, Decision, Draft, Record
from cascade.tiers import OpenTier

REPLIED = "cascade_replied"
"""Key of a run's `config["configurable"]`: the index of a tier, and what a person said of its
draft whom the graph around this one asked."""


CAN_ASK = "cascade_can_ask"
"""Key of a run's `config["configurable"]`: True where the graph around this one asks a person for
it, and waits."""


class OwnAnswer(Record):
    """A person's own answer, in place of the draft."""

    answer: str


Reply = Literal["accept", "escalate"] | OwnAnswer
"""What a person may say about a draft."""

# Checked by the engine: what does not match is not saved, and the person can be asked again.
_REPLY: Any = Reply


def ask_person(question: str, draft: Draft, decision: Decision) -> Reply:
    """Show a draft to a person, through the interrupt of the graph that this is called in.

    Raises:
        InputError: the answer of the person is none of the three.
    """
    shown = {
        "question": question,
        "draft": draft.completion.transcript,
        "confidence": decision.confidence,
        "reason": decision.reason,
    }
    reply: Reply = ask(shown, _REPLY, "'accept', 'escalate' or {'answer': '…'}")
    return reply


def ask(shown: Mapping[str, Any], replies: Any, allowed: str) -> Any:
    """Interrupt the graph that this is called in, until somebody has replied to what is shown.

    Args:
        shown: what the person sees.
        replies: the type of what may be said; what does not match it is not saved.
        allowed: the same in words, for the error.

    Raises:
        InputError: the reply is none of them.
    """
    try:
        return interrupt(shown, response_schema=replies)
    except ValidationError as error:
        said = error.errors()[0]["input"]
        raise InputError(f"resumed with {said!r}: resume with {allowed}.") from error


@dataclass(frozen=True, slots=True)
class Person:
    """Shows a draft to a person through LangGraph's interrupt.

    Resume with `Command(resume="accept")`, `"escalate"`, or `{"answer": "…"}`.
    """

    tiers: tuple[OpenTier, ...]
    recorder: Recorder
    outlook: Outlook

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> Command[str]:
        """Wait for the person, then go to END or to the next tier.

        Raises:
            InputError: the answer of the person is none of the three.
        """
        run, draft, decision = state["run"], state["draft"], state["decision"]
        assert draft is not None, "there is a draft to ask about"
        # What a person takes is no time of the run: its deadline begins anew.
        run = replace(run, begun_at=steady_time())
        tier, answer = get_config().get("configurable", {}).get(REPLIED, (None, "accept"))
        if tier != run.tier:
            answer = ask_person(str(state["messages"][-1].text), draft, decision)
        said = "accept" if isinstance(answer, OwnAnswer) else answer
        note = "a person answered" if isinstance(answer, OwnAnswer) else f"a person said {answer}"
        once = said == "accept"
        decided = decision.model_copy(update={"action": said, "reason": note, "once": once})
        assessment = state.get("assessment")
        usable = assessment is None or assessment.objection is None
        # Asked because the large model is down: not asking it was no choice, and saves nothing.
        down = state.get("degraded", False)
        decided = within(run, self.tiers, decided, usable=usable)
        earns = may_ask(run, self.tiers[-1])
        note = decided.reason if earns else noted(decided.reason, self.tiers[-1])
        entry = free_entry(run, "ask", draft.tier, note)
        # Executed again after a crash, the same answer earns its baseline once.
        mark = f"ask-{run.id}-{run.tier}"
        entry = entry.model_copy(update={"action": decided.action, "attempt_id": mark})
        if isinstance(answer, OwnAnswer):
            # A person's time has no price here, so an answer of theirs claims no saving.
            draft = Draft("person", Completion(text=answer.answer, model="person"))
            entry = entry.model_copy(update={"action": "ask"})
        elif answer == "accept" and earns and not down:
            baseline = self.outlook.earned(draft, Decimal(0), state["messages"])
            entry = entry.model_copy(update=baseline)
        self.recorder.record(entry)
        entries = self.recorder.take(run.id)
        if decided.action == "escalate":
            return escalate(run, self.tiers, decided, ledger=entries)
        update = abstain(run, decided)
        if decided.action == "accept":
            update = accept(run, draft, decided, degraded=down or said == "escalate")
            if shows_answers():
                runtime.stream_writer(Token(draft.completion.text, draft.tier))
        return Command(goto="__end__", update=update | {"ledger": entries})
