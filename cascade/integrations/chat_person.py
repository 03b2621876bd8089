"""A person is asked about a draft in the middle of a call of a chat model.

The graph around the call is interrupted, and its node is executed again when the person has
answered, with this call in it. Nothing is paid twice: the run as it stood is kept in the
checkpointer of that graph, in the thread of the conversation, and goes on from there. So it also
outlives the process, and is deleted with the thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import BaseMessage, messages_from_dict, messages_to_dict
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (  # a node has no other way to its checkpointer
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_RESUMING,
)
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphInterrupt
from langgraph.types import Command
from pydantic import ConfigDict, ValidationError

from cascade.agents.person import CAN_ASK, REPLIED, Reply, ask_person
from cascade.api import Cascade
from cascade.errors import ConfigurationError, PersonNeededError
from cascade.events import Event
from cascade.integrations.chat_run import RunManager, outside_of_runs
from cascade.result import CascadeResult, read_result
from cascade.state import (
    CHECKPOINT_TYPES,
    Assessment,
    CascadeState,
    Decision,
    Draft,
    LedgerEntry,
    Record,
    Run,
)

KEPT = "kept"
"""The one channel of the checkpoints that are written here."""


class Kept(Record):
    """A run that waits for a person, or one that has ended after a person answered.

    Attributes:
        times: how many answers of the person are taken until the one about its draft.
        answer: its last message, once it has ended; None while it waits, and where it abstained.
    """

    # A log-prob may be minus infinity, which JSON has no number for.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    times: int
    run: Run
    draft: Draft | None
    assessment: Assessment | None
    decision: Decision
    degraded: bool
    ledger: tuple[LedgerEntry, ...]
    answer: dict[str, Any] | None = None

    @classmethod
    def of(cls, state: CascadeState, times: int) -> Kept:
        """What is kept of a state; the conversation comes again with the call."""
        return cls(
            times=times,
            run=state["run"],
            draft=state.get("draft"),
            assessment=state.get("assessment"),
            decision=state["decision"],
            degraded=state.get("degraded", False),
            ledger=tuple(state["ledger"]),
        )

    def ended_with(self, result: CascadeResult) -> Kept:
        """The same run with its result."""
        return Kept(
            times=self.times,
            run=replace(self.run, question_id="", tier=int(result.escalated)),
            draft=self.draft,
            assessment=Assessment(confidence=result.confidence, calibrated=result.calibrated),
            decision=result.decision,
            degraded=result.degraded,
            ledger=tuple(result.ledger),
            answer=None if result.abstained else messages_to_dict([result.message])[0],
        )

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return not self.run.question_id

    def state(self, messages: Sequence[BaseMessage]) -> CascadeState:
        """The state in which the run goes on.

        Args:
            messages: the conversation.
        """
        *before, last = messages
        asked = [*before, last.model_copy(update={"id": self.run.question_id or None})]
        answered = messages_from_dict([self.answer]) if self.answer is not None else []
        return CascadeState(
            messages=[*asked, *answered],  # type: ignore[list-item]
            run=self.run,
            draft=self.draft,
            assessment=self.assessment,
            decision=self.decision,
            degraded=self.degraded,
            ledger=list(self.ledger),
        )


@dataclass(slots=True)
class Surroundings:
    """The graph around a call, which can ask a person and wait.

    Attributes:
        saver: its checkpointer.
        place: where this call's run is kept there.
        resumed: whether the node that the call is in may have been executed before.
        waits: whether the call is a synchronous one, as the checkpointer may know no others.
        heard: how many answers of the person were taken in this execution.
    """

    saver: BaseCheckpointSaver[Any]
    place: RunnableConfig
    resumed: bool
    waits: bool
    heard: int = field(default=0)

    async def kept(self) -> Kept | None:
        """The run of this call in an earlier execution of its node; None where it has none."""
        if not self.resumed:
            return None
        saver, place = self.saver, self.place
        if self.waits:
            found = await asyncio.to_thread(saver.get_tuple, place)
        else:
            found = await saver.aget_tuple(place)
        return None if found is None else _read(found.checkpoint["channel_values"])

    async def keep(self, kept: Kept) -> None:
        """Keep a run, in place of what was kept before."""
        version = self.saver.get_next_version(None, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {KEPT: kept.model_dump_json()}
        checkpoint["channel_versions"] = {KEPT: version}
        # A later one of the same place has the later id, and is the one that is found.
        said = {"source": "update", "step": kept.times}
        given: Any = (self.place, checkpoint, said, {KEPT: version})
        if self.waits:
            await asyncio.to_thread(self.saver.put, *given)
        else:
            await self.saver.aput(*given)

    def ask(self, kept: Kept, question: str) -> Reply:
        """What the person says of a draft that was shown in an earlier execution.

        LangGraph gives answers in the order of the questions, so that earlier ones are taken first.

        Raises:
            GraphInterrupt: nobody has said anything yet.
            InputError: it was none of what may be said.
        """
        assert kept.draft is not None, "there is a draft to ask about"
        while True:
            reply = ask_person(question, kept.draft, kept.decision)
            self.heard += 1
            if self.heard >= kept.times:
                return reply

    async def wait(self, state: CascadeState, question: str) -> NoReturn:
        """Keep a run, and interrupt the graph to show its draft.

        The draft is new in this execution: what a person has said before was not about it. That
        there is such a thing at all means that the node did something else than the last time.

        Raises:
            GraphInterrupt: always.
        """
        kept = Kept.of(state, times=0)
        assert kept.draft is not None, "there is a draft to ask about"
        while True:
            try:
                ask_person(question, kept.draft, kept.decision)
            except GraphInterrupt:
                await self.keep(kept.model_copy(update={"times": self.heard + 1}))
                raise
            self.heard += 1


def surroundings(
    run_manager: RunManager | None, cascade: Cascade, question: BaseMessage
) -> Surroundings | None:
    """The graph around a call; None where there is none that can be resumed.

    Args:
        run_manager: of the call.
        cascade: that is called.
        question: the last message of what it is asked.
    """
    around = (var_child_runnable_config.get() or {}).get("configurable", {})
    saver, thread = around.get(CONFIG_KEY_CHECKPOINTER), around.get("thread_id")
    if not isinstance(saver, BaseCheckpointSaver) or thread is None:
        return None
    # The node's namespace has the id of its task, which is the same when it is executed again.
    namespace = f"{around.get('checkpoint_ns', '')}|cascade:{_place(cascade, question)}"
    return Surroundings(
        saver=saver,
        place=RunnableConfig(configurable={"thread_id": thread, "checkpoint_ns": namespace}),
        resumed=bool(around.get(CONFIG_KEY_RESUMING)),
        waits=isinstance(run_manager, CallbackManagerForLLMRun),
    )


def _read(values: Mapping[str, Any]) -> Kept:
    try:
        return Kept.model_validate_json(values[KEPT])
    except (KeyError, ValidationError) as error:
        raise ConfigurationError(
            "a run that waits for a person was kept by another version of cascade and cannot be "
            "read: go on with that version, or ask the question anew in the thread."
        ) from error


def _place(cascade: Cascade, question: BaseMessage) -> str:
    """Tells this call from others in the same node, whenever that is executed.

    By its last message and the models: the rest of a prompt (the time, what is remembered of a
    user) may be another one when the node is executed again.
    """
    models = [cascade.name, *(tier.model.name for tier in cascade.tiers)]
    text = json.dumps([models, question.type, question.content], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


async def with_person(
    cascade: Cascade,
    asked: Sequence[BaseMessage],
    config: RunnableConfig,
    person: Surroundings | None,
) -> AsyncGenerator[Event | CascadeResult]:
    """The events of a run; where it asks a person, the graph around it is interrupted.

    Args:
        cascade: that answers.
        asked: the conversation.
        config: of its run.
        person: the graph around it, or none.

    Raises:
        GraphInterrupt: a person is asked and has not answered yet.
        PersonNeededError: a person is to be asked, and there is no graph that could wait.
    """
    question = str(asked[-1].text)
    if person is not None:
        config = {**config, "configurable": {**config.get("configurable", {}), CAN_ASK: True}}
    kept = None if person is None else await person.kept()
    if kept is None or person is None:
        events = cascade.astream(list(asked), config)
    elif kept.ended:
        person.ask(kept, question)  # so that the next call's question gets the next answer
        yield read_result(kept.state(asked), cascade.tiers[0].name, None)
        return
    else:
        events = _going_on(cascade, asked, config, person.ask(kept, question), kept)
    try:
        async with aclosing(_apart(events)) as steps:
            async for event in steps:
                if isinstance(event, CascadeResult) and person is not None and kept is not None:
                    await person.keep(kept.ended_with(event))
                yield event
    except PersonNeededError as error:
        if person is None:
            raise
        await person.wait(error.state, question)


async def _going_on(
    cascade: Cascade,
    asked: Sequence[BaseMessage],
    config: RunnableConfig,
    reply: Reply,
    kept: Kept,
) -> AsyncGenerator[Event | CascadeResult]:
    """The rest of a run after the person's answer."""
    # LangGraph goes on in the middle of a graph only from a checkpoint.
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    graph = cascade.build_graph().compile(checkpointer=saver, name=cascade.name)
    replied = {**config.get("configurable", {}), REPLIED: (kept.run.tier, reply)}
    config = {**config, "configurable": replied}
    await graph.aupdate_state(config, kept.state(asked), as_node="verify")
    there: Command[str] = Command(goto="ask")
    events = cascade._run(graph, there, config)  # noqa: SLF001 - of the same house
    async with aclosing(events):
        async for event in events:
            yield event


async def _apart(
    events: AsyncGenerator[Event | CascadeResult],
) -> AsyncGenerator[Event | CascadeResult]:
    """The events of a run of its own: none of the run around it."""
    async with aclosing(events):
        # All that it computes, it computes in a copy of the context of its first step.
        with outside_of_runs():
            event = await anext(events, None)
        while event is not None:
            yield event
            event = await anext(events, None)
