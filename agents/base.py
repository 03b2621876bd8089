"""What all agents share: which run they work on, and how they ask a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import Runtime

from cascade.agents.border import check_may_ask, stayed
from cascade.agents.entries import Accounts, Call, Reviewed
from cascade.agents.sending import Watcher, observed, send
from cascade.errors import (
    CascadeError,
    DeadlineError,
    ModelError,
    RateLimitError,
)
from cascade.ledger import Recorder, Texts, texts_of
from cascade.models import Request
from cascade.observing import ObservedCall
from cascade.policies import ToolRisks
from cascade.state import CascadeState, Completion, Run
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.agents.hedging import Hedging

MAX_WAIT_S = 60.0
"""A provider that asks to wait longer than this is treated as down."""

WAY_BACK = 0.02
"""Of the time that a large call may take under a deadline, kept back for answering without it."""

LAST_TRY = 0.05
"""Of a deadline: what fails in its last part so long is not tried again."""

HEDGE = "hedge"
"""Node of the entry of a large call that was sent beside a draft and whose answer is not used."""

LATENCY_WEIGHT = 0.2
"""Of the newest call in a tier's expected latency: it follows a change within about ten calls."""

DEVIATIONS = 2.0
"""Mean deviations above a tier's mean latency that a careful expectation takes; a first call
counts as its own mean with half of it as deviation (RFC 6298, which takes four)."""

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
    return Run(id=run_id, question_id=question_id, begun_at=time.time(), local_only=stays)


def finished(run: Run) -> Run:
    """The run with its question answered: whatever comes next begins another."""
    return replace(run, question_id="")


def attempt_of(runtime: AgentRuntime) -> int:
    """Which attempt of its node this is, from 1."""
    return runtime.execution_info.node_attempt if runtime.execution_info else 1


@dataclass(frozen=True, slots=True)
class Deadline:
    """How much time a run has, and how long tiers were seen to take.

    Args:
        seconds: from the beginning of a run to its answer; None for no deadline.
        hedging: has the large model asked beside a draft where time is short; None for never.
    """

    seconds: float | None = None
    hedging: Hedging | None = None
    _seen_s: dict[str, float] = field(default_factory=dict)
    _off_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, given: float | Deadline | None) -> Deadline:
        """The same, where only the seconds may be known."""
        return given if isinstance(given, Deadline) else cls(given)

    def left_s(self, run: Run) -> float | None:
        """Seconds until the deadline of a run, negative when it has passed."""
        return None if self.seconds is None else run.begun_at + self.seconds - time.time()

    def expected_s(self, tier: str) -> float | None:
        """How long a tier takes, as an exponential mean of its calls; None before the first."""
        return self._seen_s.get(tier)

    def careful_s(self, tier: str) -> float | None:
        """What most calls of a tier stay below: its mean and `DEVIATIONS` mean deviations."""
        usual = self.expected_s(tier)
        return None if usual is None else usual + DEVIATIONS * self._off_s[tier]

    def saw(self, tier: str, seconds: float, *, short: bool = False) -> None:
        """Learn from a finished call; from a `short` answer, as a word of approval, only that
        others do not take less.
        """
        if short and seconds < self._seen_s.get(tier, 0.0):
            return
        before = self._seen_s.get(tier, seconds)
        off = self._off_s.get(tier, seconds / 2)
        if tier in self._seen_s:
            off += LATENCY_WEIGHT * (abs(seconds - before) - off)
        self._off_s[tier] = off
        self._seen_s[tier] = before + LATENCY_WEIGHT * (seconds - before)

    def check_retry(self, error: ModelError, run: Run) -> None:
        """Stop at a failure that could only be tried again when it is too late.

        Raises:
            DeadlineError: the time that is left is over, or over before the provider is ready.
        """
        left = self.left_s(run)
        if left is None or not error.retryable:
            return
        wanted = error.retry_after or 0.0 if isinstance(error, RateLimitError) else 0.0
        too_late = self.seconds is not None and left <= LAST_TRY * self.seconds
        if too_late or left <= wanted:
            when = "is near." if left > 0 else "has passed."
            raise DeadlineError(
                f"{error} It is not tried again: the deadline of {self.seconds} s "
                + (when if left <= 0 or too_late else f"comes before its {wanted} s are over."),
                model=error.model,
                billed=error.billed,
            ) from error

    def bound(self, request: Request, run: Run, model: str, *, last: bool = False) -> Request:
        """The request with no more time than the run has.

        The `last` one leaves a moment for the way back: when it takes all of its time, there may
        be a draft to answer with.

        Raises:
            DeadlineError: it has none.
        """
        left = self.left_s(run)
        if left is None:
            return request
        if left <= 0:
            raise DeadlineError(
                f"{model} was not asked: the deadline of {self.seconds} s has passed.",
                model=model,
                billed=False,
            )
        left *= 1 - WAY_BACK if last else 1
        return replace(request, timeout_s=min(left, request.timeout_s or left))


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
    """Asks models and sees to it that each attempt is in the ledger, whatever becomes of it."""

    recorder: Recorder
    max_attempts: int = 1
    deadline: Deadline = field(default_factory=Deadline)
    clock: Callable[[], float] = field(default=time.perf_counter)
    accounts: Accounts = field(default_factory=Accounts)

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
            attempt: which attempt this is; before another one follows, a `Retry-After` is kept.
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
            ModelError: the call failed; its entry is in the ledger.
        """
        check_may_ask(run, tier)
        attempt_id = await self.recorder.begin(run.id, node, tier.name, tier.model.name)
        call = observed(self.recorder.observers, tier, request, node, run)
        sent = Call(tier, request, node, run, attempt_id, self.clock(), on_text)
        try:
            last = is_baseline or review is not None
            request = self.deadline.bound(request, run, tier.model.name, last=last)
            completion = await send(
                tier, request, node, sent.hear if on_text or watch else None, watch
            )
        except ModelError as error:
            self._record_failure(sent, error, call, held)
            self.deadline.check_retry(error, run)
            await self._wait(error, attempt)
            raise
        except CascadeError as error:
            # nothing was sent: requests are forbidden, a recording has no answer
            self.recorder.withdraw(attempt_id)
            self.recorder.observers.call_ended(call, None, error)
            raise
        except BaseException as error:
            self._record_failure(sent, error, call, held)
            raise
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
    ) -> None:
        latency_ms = (self.clock() - sent.begun) * 1000
        if held is not None and not held.used:
            sent.node = HEDGE
        entry = self.recorder.record(
            self.accounts.failed(sent, error, latency_ms), self._texts(sent.request)
        )
        self.recorder.observers.call_ended(call, entry, error)

    def _texts(self, request: Request, completion: Completion | None = None) -> Texts | None:
        """What was asked and answered, where a store wants at least its hashes."""
        if self.recorder.store is None:
            return None
        return texts_of(request.messages, completion)

    async def _wait(self, error: ModelError, attempt: int) -> None:
        if not isinstance(error, RateLimitError) or attempt >= self.max_attempts:
            return
        if error.retry_after and error.retry_after <= MAX_WAIT_S:
            await asyncio.sleep(error.retry_after)
