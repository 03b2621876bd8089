"""A person decides about a draft. The node does nothing else: an interrupt runs it twice."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph.types import Command, interrupt

from cascade.agents.base import AgentRuntime, free_entry
from cascade.agents.moves import accept, escalate
from cascade.errors import InputError
from cascade.ledger import Recorder
from cascade.state import CascadeState, Completion, Draft
from cascade.tiers import OpenTier


@dataclass(frozen=True, slots=True)
class Person:
    """Shows a draft to a person through LangGraph's interrupt.

    Resume with `Command(resume="accept")`, `"escalate"`, or `{"answer": "…"}`.
    """

    tiers: tuple[OpenTier, ...]
    recorder: Recorder

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> Command[str]:
        """Wait for the person, then go to END or to the next tier.

        Raises:
            InputError: the answer of the person is none of the three.
        """
        run, draft, decision = state["run"], state["draft"], state["decision"]
        assert draft is not None, "there is a draft to ask about"
        answer = interrupt(
            {
                "question": str(state["messages"][-1].text),
                "draft": draft.completion.text,
                "confidence": decision.confidence,
                "reason": decision.reason,
            }
        )
        entry = free_entry(run, "ask", draft.tier, f"a person said {answer}")
        match answer:
            case "accept":
                pass
            case "escalate":
                self.recorder.record(entry)
                return escalate(run, self.tiers, decision, ledger=self.recorder.take(run.id))
            case {"answer": str(text)}:
                draft = Draft("person", Completion(text=text, model="person"))
            case _:
                raise InputError(
                    f"resumed with {answer!r}: resume with 'accept', 'escalate' or "
                    "{'answer': '…'}."
                )
        self.recorder.record(entry)
        decided = decision.model_copy(update={"action": "accept", "reason": entry.note})
        update = accept(run, draft, decided) | {"ledger": self.recorder.take(run.id)}
        return Command(goto="__end__", update=update)
