"""What all agents share: which run they work on, and how they ask a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import Runtime

from cascade._clock import steady_time
from cascade.agents.border import check_may_ask, stayed
from cascade.agents.deadline import Deadline as Deadline  # noqa: PLC0414 - found here as well
from cascade.agents.entries import Accounts, Call, Reviewed, not_sent_entry
from cascade.agents.retrying import judge
from cascade.agents.sending import Watcher, observed, send
from cascade.errors import (
    CascadeError,
    DeadlineError,
    LocalOnlyError,
    ModelError,
    ModelTimeoutError,
    NotSentError,
)
from cascade.ledger import Recorder, Texts, texts_of
from cascade.models import Request
from cascade.observing import ObservedCall
from cascade.policies import ToolRisks
from cascade.resilience import OFF, Door, Doors, Passage, is_outage
from cascade.state import CascadeState, Completion, Run
from cascade.tiers import OpenTier, door_to

HEDGE = "hedge"
"""Node of the entry of a large call that was sent beside a draft and whose answer is not used."""

DRAFT_ALTERNATIVES = 2
"""Alternatives per token that a draft asks for: enough for the top-2 margin, small to send."""

LABELS = "request_labels"
"""Key of `config["configurable"]`: parameters that change no answer, such as OpenAI's `user`. They
go with every request of the run and belong to no task: each user would be a graph of his own."""

AgentRuntime = Runtime[Any]
"""LangGraph's runtime; the agents need no context of the user's."""


@dataclass(frozen=True, slots=True)
class Task:
    """What every question of a cascade has in common.

    Attributes:
        tools: tools that the answer may call, in OpenAI format.
        schema: JSON schema that the answer must satisfy.
        tool_choice: `auto`, `none`, `required` or a tool's name; None leaves it to the provider.
        stop: texts that end the answer.
        temperature: instead of the tiers' own.
        max_tokens: instead of the tiers' own.
        timeout_s: seconds per call, instead of the tiers' own.
        seed: None leaves it to the provider.
        top_logprobs: with the answer come the log-probabilities of its tokens, where its tier has
            them, with so many alternatives to each; None for none.
        extra: parameters that go to every provider as they are.
        risks: what the tools can do, and what a draft has to show that calls them.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None
    tool_choice: str | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    timeout_s: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    risks: ToolRisks = field(default_factory=ToolRisks)

    def for_check(self) -> Task:
        """What a check of an answer keeps: a plain question, as patient as the answer was."""
        return Task(timeout_s=self.timeout_s)

    def request(
        self, tier: OpenTier, messages: Sequence[BaseMessage], *, top_logprobs: int = 0
    ) -> Request:
        """The request that puts the conversation to a tier.

        With `top_logprobs` it asks for log-probabilities, where the tier returns them.
        """
        settings = tier.settings
        alternatives = max(top_logprobs, self.top_logprobs or 0)
        asks = top_logprobs > 0 or self.top_logprobs is not None
        logprobs = asks and tier.model.returns_logprobs
        tools, choice = self._tools_for(tier)
        return Request(
            messages=tuple(messages),
            max_tokens=self.max_tokens or settings.max_tokens,
            temperature=settings.temperature if self.temperature is None else self.temperature,
            stop=self.stop,
            seed=self.seed,
            logprobs=logprobs,
            top_logprobs=alternatives if logprobs else 0,
            tools=tools,
            tool_choice=choice,
            schema=self.schema,
            timeout_s=self.timeout_s or settings.timeout_s,
            extra={**self.extra, **_labels()},
        )

    def _tools_for(self, tier: OpenTier) -> tuple[tuple[Mapping[str, Any], ...], str | None]:
        """Tools and choice; a model that cannot be made to call one is offered what it should.

        Whether it did is checked with the draft.
        """
        choice = self.tool_choice
        if tier.model.forces_tools or choice in (None, "auto", "none"):
            return self.tools, choice
        named = tuple(tool for tool in self.tools if tool["function"]["name"] == choice)
        return named or self.tools, None


def _labels() -> Mapping[str, Any]:
    configurable = (var_child_runnable_config.get() or {}).get("configurable", {})
    labels: Mapping[str, Any] = configurable.get(LABELS) or {}
    return labels


def current_run(state: CascadeState, runtime: AgentRuntime) -> Run:
    """The run that the state is in, or a new one when the last message is a new question.

    The id of a new run is that of the checkpoint from which its first node starts: retries of
    the node and its error handler see the same one.
    """
    question_id = state["messages"][-1].id or ""
    run = state.get("run")
    if run is not None and run.question_id == question_id:
        return run
    info = runtime.execution_info
    run_id = info.checkpoint_id if info else question_id
    # What had to stay here before is part of the conversation, and stays with all that follows.
    stays = (run.local_only if run else None) or stayed(state["messages"])
    return Run(id=run_id, question_id=question_id, begun_at=steady_time(), local_only=stays)


def finished(run: Run) -> Run:
    """The run with its question answered: whatever comes next begins another."""
    return replace(run, question_id="")


def attempt_of(runtime: AgentRuntime) -> int:
    """Which attempt of its node this is, from 1."""
    return runtime.execution_info.node_attempt if runtime.execution_info else 1


_NOT_ASKED = (DeadlineError, LocalOnlyError, NotSentError)
"""What a model is not to blame for, nor to praise: it was not asked."""


class Held(Protocol):
    """A call that was sent before anybody knew whether its answer is needed."""

    @property
    def used(self) -> bool:
        """Whether its answer is the answer."""
        ...

    async def settled(self) -> None:
        """The answer is there; return once it is known whether it is used."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Asks models and sees to it that each attempt is in the ledger, whatever becomes of it.

    Attributes:
        doors: what stands before each tier; by default nothing does.
        waits: whether attempts and the waits between them are those of the doors' settings.
    """

    recorder: Recorder
    max_attempts: int = 1
    deadline: Deadline = field(default_factory=Deadline)
    clock: Callable[[], float] = field(default=time.perf_counter)
    accounts: Accounts = field(default_factory=Accounts)
    doors: Doors = field(default_factory=lambda: Doors(OFF))
    waits: bool = False

    async def ask(
        self,
        tier: OpenTier,
        request: Request,
        node: str,
        run: Run,
        *,
        attempt: int = 1,
        is_baseline: bool = False,
        on_text: Callable[[str], None] | None = None,
        watch: Watcher | None = None,
        held: Held | None = None,
        review: Reviewed | None = None,
    ) -> Completion:
        """Ask once; the call's ledger entry is with the recorder, however it ends.

        Args:
            tier: whom to ask.
            request: what to ask.
            node: the node of the ledger entry.
            run: the run of the ledger entry.
            attempt: which attempt this is; before another one follows, it is waited for that.
            is_baseline: this answer is what the cascade is compared with: it earns what the
                large model alone would have paid for it, as a rule its own cost.
            on_text: receives the answer's text piece by piece while it arrives.
            watch: may stop the answer; its entry then holds what was paid until then.
            held: says once the answer is there whether it is used. It is in the ledger from then
                on: under its node and as the baseline if it is, else as a hedge.
            review: the answer approves of a draft or corrects it, and its baseline is an estimate.

        Raises:
            LocalOnlyError: the question must not go to this tier. Nothing was sent, and there is
                no entry.
            NotSentError: the tier is to be left alone, or has no place. Nothing was sent, and an
                entry says so.
            ModelError: the call failed; its entry is in the ledger.
        """
        check_may_ask(run, tier)
        door = door_to(self.doors, tier)
        asking = node if held is None or held.used else HEDGE
        passage = await self._enter(door, request, asking, run, attempt)
        try:
            model = tier.model.name
            begin = partial(self.recorder.begin, run.id, node, tier.name, model)
            earlier = tier.model.sent
            attempt_id = earlier.attempt_id if earlier else None
            attempt_id = attempt_id or await self.deadline.begun(begin, run, model)
            call = observed(self.recorder.observers, tier, request, node, run)
            sent = Call(tier, request, node, run, attempt_id, self.clock(), on_text)
            sent.sent_at = earlier.at if earlier else sent.sent_at
            last = is_baseline or review is not None
            sending = self._send(sent, call, door, passage, attempt, watch, held, last=last)
            completion = await sending
        finally:
            passage.end()
        latency_ms = completion.latency_ms or (self.clock() - sent.begun) * 1000
        answer = partial(self._book, sent, completion, latency_ms, call, watch, review)
        if held is None:
            answer(is_baseline=is_baseline)
            return completion
        try:
            await held.settled()
        finally:
            sent.node = node if held.used else HEDGE
            answer(is_baseline=is_baseline and held.used)
        return completion

    async def _enter(
        self, door: Door, request: Request, node: str, run: Run, attempt: int
    ) -> Passage:
        try:
            return await door.enter(
                first=attempt == 1,
                left_s=self.deadline.left_s(run),
                lasts_s=request.timeout_s,
                usual_s=self.deadline.careful_s(door.tier),
            )
        except NotSentError as error:
            self.recorder.record(not_sent_entry(run, node, door.tier, error))
            raise

    async def _send(
        self,
        sent: Call,
        call: ObservedCall | None,
        door: Door,
        passage: Passage,
        attempt: int,
        watch: Watcher | None,
        held: Held | None,
        *,
        last: bool,
    ) -> Completion:
        """Send a call. If that fails, it is in the ledger, and waited until another may follow."""
        tier, run, hear = sent.tier, sent.run, None
        if sent.on_text is not None or watch is not None:
            hear = sent.hear
        request = sent.request
        try:
            request = self.deadline.bound(request, run, tier.model.name, last=last)
            completion = await send(tier, request, sent.node, hear, watch)
        except ModelError as error:
            passage.end(failed=self._has_failed(sent, request, error))
            again = judge(
                error,
                attempt,
                door=door,
                deadline=self.deadline,
                run=run,
                attempts=self.max_attempts,
                waits=self.waits,
            )
            self._record_failure(sent, error, call, held, again.note)
            if again.wait_s > 0:
                await asyncio.sleep(again.wait_s)
            if again.error is error:
                raise
            raise again.error from error
        except CascadeError as error:
            # nothing was sent: requests are forbidden, a recording has no answer
            self.recorder.withdraw(sent.attempt_id)
            self.recorder.observers.call_ended(call, None, error)
            raise
        except BaseException as error:
            self._record_failure(sent, error, call, held)
            raise
        passage.end(failed=False)
        return completion

    def _has_failed(self, sent: Call, bound: Request, error: ModelError) -> bool | None:
        """Whether a failed call says that the server has failed; None where it says nothing."""
        if isinstance(error, ModelTimeoutError) and bound.timeout_s != sent.request.timeout_s:
            # A deadline ended it: that counts where it left as much time as calls usually take.
            usual_s = self.deadline.careful_s(sent.tier.name)
            if usual_s is not None and (bound.timeout_s or 0.0) < usual_s:
                return None
        return None if isinstance(error, _NOT_ASKED) else is_outage(error)

    def _book(
        self,
        sent: Call,
        completion: Completion,
        latency_ms: float,
        call: ObservedCall | None,
        watch: Watcher | None,
        review: Reviewed | None,
        *,
        is_baseline: bool,
    ) -> None:
        if watch is not None and watch.reason is not None:
            made = self.accounts.stopped(sent, completion, latency_ms, watch.reason)
        else:
            if not completion.cached:  # nobody was asked
                short = review is not None and review.approves(completion)
                self.deadline.saw(sent.tier.name, latency_ms / 1000, short=short)
            made = self.accounts.answered(
                sent, completion, latency_ms, is_baseline=is_baseline, review=review
            )
        entry = self.recorder.record(made, self._texts(sent.request, completion))
        self.recorder.observers.call_ended(call, entry, completion)

    def _record_failure(
        self,
        sent: Call,
        error: BaseException,
        call: ObservedCall | None,
        held: Held | None,
        note: str = "",
    ) -> None:
        latency_ms = (self.clock() - sent.begun) * 1000
        if held is not None and not held.used:
            sent.node = HEDGE
        entry = self.accounts.failed(sent, error, latency_ms)
        if note:
            entry = entry.model_copy(update={"note": f"{entry.note.rstrip('.')}. {note}"})
        entry = self.recorder.record(entry, self._texts(sent.request))
        self.recorder.observers.call_ended(call, entry, error)

    def _texts(self, request: Request, completion: Completion | None = None) -> Texts | None:
        """What was asked and answered, where a store wants at least its hashes."""
        if self.recorder.store is None:
            return None
        return texts_of(request.messages, completion)
