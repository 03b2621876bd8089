"""A person approves of an irreversible call that the last tier makes.

The answer waits in the state: asking a person in the node that asked the model would pay for the
model again when the run is resumed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.errors import NodeError
from langgraph.graph import END
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, finished
from cascade.agents.entries import free_entry
from cascade.agents.moves import abstain, answer
from cascade.agents.person import OwnAnswer, ask
from cascade.agents.showing import shows_answers
from cascade.agents.steps import for_once
from cascade.events import Retracted, Token
from cascade.ledger import Recorder
from cascade.policies import ToolRisks
from cascade.state import CascadeState, Completion, Decision, StateUpdate

NODE = "approve"
"""The node in which a person is asked."""

# Checked by the engine: what does not match is not saved, and the person can be asked again.
_REPLY: Any = Literal["accept", "reject"] | OwnAnswer

Agent = Callable[[CascadeState, AgentRuntime], Awaitable["StateUpdate | Command[str]"]]
OnError = Callable[..., Awaitable[Command[str]]]


@dataclass(frozen=True, slots=True)
class Proposing:
    """The expert, whose irreversible calls go to a person first.

    Args:
        expert: answers.
        risks: of the tools.
    """

    expert: Agent
    risks: ToolRisks

    async def __call__(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> StateUpdate | Command[str]:
        """What the expert does, or its answer as a proposal."""
        result = await self.expert(state, runtime)
        return result if isinstance(result, Command) else self._proposed(state, result)

    def _proposed(self, state: CascadeState, result: StateUpdate) -> StateUpdate | Command[str]:
        message: AIMessage = result["messages"][-1]
        if self.risks.irreversible_among([call["name"] for call in message.tool_calls]) is None:
            return result
        update = {key: value for key, value in result.items() if key != "messages"}
        # The run goes on: its question is the last message, as it was.
        run = replace(result["run"], question_id=state["messages"][-1].id or "")
        return Command(goto=NODE, update=update | {"run": run, "proposal": message})

    async def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """As the expert's, where whatever answers instead of it is a proposal as well. An
        irreversible draft that was not accepted never comes back.
        """
        on_error: OnError = self.expert.on_error  # type: ignore[attr-defined]
        found = await on_error(state, runtime, error)
        if found.goto != END or not found.update:
            return found
        update: Any = found.update
        proposed = self._proposed(state, update)
        return proposed if isinstance(proposed, Command) else found


@dataclass(frozen=True, slots=True)
class Approver:
    """Shows an irreversible call to a person through LangGraph's interrupt.

    Resume with `Command(resume="accept")`, `"reject"`, or `{"answer": "…"}`.
    """

    risks: ToolRisks
    recorder: Recorder

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> Command[str]:
        """Wait for the person, then end the run with the answer, with theirs, or without one.

        Raises:
            InputError: the answer of the person is none of the three.
        """
        run, decision, message = state["run"], state["decision"], state.get("proposal")
        assert message is not None, "there is a proposal to ask about"
        tool = self.risks.irreversible_among([call["name"] for call in message.tool_calls])
        said = self._ask(state, message, f"{tool} is irreversible")
        done = {"accept": "approved of", "reject": "rejected"}
        what = "answered instead of" if isinstance(said, OwnAnswer) else done[said]
        note = f"a person {what} the call of {tool}, which is irreversible"
        tier = message.response_metadata.get("tier")
        entry = free_entry(run, "ask", tier, note)
        # Executed again after a crash, the same answer is one entry.
        self.recorder.record(entry.model_copy(update={"attempt_id": f"{NODE}-{run.id}"}))
        decided = decision.model_copy(update={"reason": f"{decision.reason}; {note}", "once": True})
        approved = [for_once(message)]
        update: StateUpdate = {"run": finished(run), "decision": decided, "messages": approved}
        if isinstance(said, OwnAnswer):
            own = Completion(text=said.answer, model="person")
            update["messages"] = [answer(run, own, "person")]
        elif said == "reject":
            update = abstain(run, decided.model_copy(update={"action": "abstain"}))
        if said != "accept" and shows_answers():
            runtime.stream_writer(Retracted(note))
            if isinstance(said, OwnAnswer):
                runtime.stream_writer(Token(said.answer, "person"))
        entries = self.recorder.take(run.id)
        return Command(goto=END, update=update | {"proposal": None, "ledger": entries})

    def _ask(
        self, state: CascadeState, message: AIMessage, reason: str
    ) -> Literal["accept", "reject"] | OwnAnswer:
        decision: Decision = state["decision"]
        calls = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
        question = {
            "question": str(state["messages"][-1].text),
            "answer": str(message.text),
            "calls": calls,
            "tier": message.response_metadata.get("tier"),
            "reason": f"{decision.reason}; {reason}",
        }
        reply: Literal["accept", "reject"] | OwnAnswer = ask(
            question, _REPLY, "'accept', 'reject' or {'answer': '…'}"
        )
        return reply


def add_expert(
    expert: Agent,
    risks: ToolRisks,
    recorder: Recorder,
    add: Callable[..., None],
    ways: Sequence[str] = (),
) -> None:
    """The node of the expert, and that of the person who has to approve of its calls, if any.

    Args:
        expert: answers.
        risks: of the tools.
        recorder: of the ledger.
        add: adds a node by its name, its agent and where that goes.
        ways: where the expert goes but to the end.
    """
    if risks.irreversible == "escalate":
        add("expert", expert, END, *ways)
        return
    add("expert", Proposing(expert, risks), END, NODE, *ways)
    add(NODE, Approver(risks, recorder), END)
