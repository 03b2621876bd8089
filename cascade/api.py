"""The cascade as a user holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.cache.base import BaseCache
from langgraph.types import RetryPolicy

from cascade._closing import Closing
from cascade._portal import iterate_sync, run_sync
from cascade._together import iterate_in
from cascade.agents import Judge, Route
from cascade.agents.border import LocalOnly, Private
from cascade.agents.fallback import Given, to_fallback
from cascade.agents.latch import Latch
from cascade.agents.recall import Caching
from cascade.agents.remembering import Remembers
from cascade.agents.shedding import Shedding
from cascade.agents.showing import Show, showing
from cascade.batches import Batches
from cascade.confidence.signals import SignalLike, to_signals
from cascade.errors import CascadeError, ModelError, PersonNeededError
from cascade.events import Event
from cascade.judging import Judged
from cascade.kinds import check_kinds
from cascade.ledger import LedgerStore, LedgerView, collect, collecting
from cascade.ledger.verdicts import LessonKeeper
from cascade.observing import Observer
from cascade.oversight import Audits, Drift, Reaction
from cascade.oversight.auditing import Auditing
from cascade.oversight.local import check_local_only
from cascade.oversight.shadow import Mode
from cascade.oversight.starting import Starting
from cascade.oversight.validity import check_weights
from cascade.oversight.warming import Warming
from cascade.pausing import Pausing
from cascade.policies import Policy, Risk, ToolRisks, tell_cost
from cascade.policies.reuse import Reuse, Wanted
from cascade.questions import Question, ResponseFormat, to_messages, to_task
from cascade.resilience import Doors, Resilience
from cascade.result import CascadeResult, read_result
from cascade.setup import (
    check_abort,
    check_calibration,
    choose_hedging,
    choose_policy,
    choose_reuse,
    choose_signals,
    load_calibration,
    open_pair_or_tiers,
)
from cascade.state import CascadeInput, LedgerEntry
from cascade.tiers import ModelLike
from cascade.varying import Varying
from cascade.walking import Walk

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration
    from cascade.integrations.chat_model import CascadeChatModel

logger = logging.getLogger("cascade")

USUAL = Resilience()
"""What stands around each call, where nobody says."""


class Cascade(Varying, Batches, Pausing, Judged, Starting, Warming, Auditing, Closing):
    """A small model drafts, its confidence is checked, a large model answers what is doubtful.

    Args:
        small: the model that drafts: `provider:name`, a `Tier`, or a LangChain chat model.
        large: the model that answers what the draft is not good enough for.
        tiers: more than two models instead, from small to large.
        price_of_error: dollars that a wrong answer costs you; escalation is then weighed
            against it. Needs a token price on every tier but the first.
        max_harm: bound on P(accepted and wrong) per request; needs a calibration with a
            certificate for it.
        escalation_budget: share of requests that may be escalated; needs a calibration.
        policy: decides about drafts, instead of the three above.
        signals: what the self-check takes: names (`logprobs`, `p_true`, `verbalised`, …),
            signals, or your own functions `(question, answer) → value`. By default log-probs,
            which are free, where the tier returns them, else `p_true`, one more call.
        calibrator: a calibration or its file, made by `cascade calibrate`: confidence is then a
            probability. It is refused when it was made for other models, tools or settings.
        verifier: your own judge, `(question, answer) → bool | float | Verdict`, also async.
        router: your own rule, `messages → tier name | None`, asked before anything is drafted.
        response_format: pydantic model or JSON schema; a draft that breaks it is escalated.
        tools: tools the answer may call; a call that breaks its schema is escalated.
        tool_risks: tools by name as `read`, `write` or `irreversible`, or `ToolRisks(…)`. A draft
            that calls an irreversible one is accepted only at a calibrated confidence of 0.99.
            Tools can be marked themselves, too (`metadata`, `extras`).
        deadline: seconds for a whole run. What would be escalated is accepted when the large
            model cannot answer in time, and no call gets more time than is left.
        abort: stop a draft while it is written, once the policy cannot accept it any more: True,
            or with a calibration the share of acceptable drafts that may be lost by it, such as
            0.01. What was paid until then is in the ledger, and the escalation starts at once.
        hedge: ask the large model beside the draft where a deadline leaves no time to ask it after:
            True, or the seconds it is taken to need before it was seen. What is not needed is
            cancelled; what was paid for it is in the ledger. Needs a deadline.
        reuse: show the large model the escalated draft, to approve it in a word or to correct it:
            `"correct"`, or the file of a comparison made by `cascade evaluate --reuse`, by which
            it is shown those drafts that this is expected to cost less for.
        audit_rate: share of accepted drafts that the large model is asked about as well, after
            the reply; or `Audits(…)`, which also says how they are compared and what a day of
            them may cost. Needs a ledger.
        ledger: a store that receives each entry the moment it arises.
        tags: of every ledger entry, such as `{"app": "support"}`; `tagged(user=…)` and a run's
            `config["metadata"]["ledger_tags"]` add to them.
        mode: `live`; `shadow`, in which the large model answers everything and the small one
            drafts beside it, after the reply; or `canary`, a share of requests live and the rest
            in shadow. `cascade.mode = "live"` changes it while the cascade runs.
        canary_share: of requests that are live in the mode `canary`; by `thread_id` where one is
            given, so that a conversation stays where it is.
        drift: watch signals, escalations and audits, and react to an alarm: `"warn"`, `"audit"`
            more, `"tighten"`, `"large_only"`, or `Drift(…)` with a reaction for each kind. The
            ledger remembers it; `cascade.drift.reset()` ends it.
        local_only: True, or what becomes of a question that no tier on this machine is good enough
            for: `"answer"` (True) it with the draft, marked as degraded, or `"abstain"`. Then no
            way leads to a tier that is elsewhere. A run's `config["configurable"]["local_only"]`
            says it of one question.
        private: your own rule, `messages → bool`, also async, for each question. There is one
            ready, `cascade.privacy.looks_personal`.
        latch: after repeated trouble with the drafts of a conversation, ask the large model
            straight, and try a draft again later: True, or `cascade.Latch(…)`.
        cache: a cache of LangGraph's (`InMemoryCache`, `SqliteCache`, …), or `Caching(…)`, which
            also says for how long. A question that was answered before, by the same models and
            the same policy, is answered from it; stopgaps and rejected drafts are never kept.
        observers: who looks on: `Telemetry`, `PrometheusMetrics`, `RunLog` of
            `cascade.integrations`, or your own `cascade.observing.Observer`.
        lessons: keeps what the large model answered in the small one's place, and what users say of
            answers: `cascade.teaching.Lessons(store)`. Nothing is kept without it.
        memory: shows the small model lessons as examples, where they are known to help:
            `cascade.teaching.memory.Memory(store)`. It needs `lessons` and audits.
        resilience: what stands around each call to a model: retries with full jitter and a budget,
            a circuit breaker, a bulkhead. `Resilience(breaker=Breaker(open_s=5), bulkhead=None)`;
            None for nothing of it. One `Doors(…)` given to several cascades lets those that ask
            the same server share what they know of it.
        retry_policy: LangGraph's retries for the nodes that call models, instead of attempts and
            waits of `resilience`; its retry budget holds all the same.
        fallback: what follows where the large model cannot be had, one step or several in order:
            another large model, such as `Tier("openai:…")`; `"draft"`, the best usable one, marked
            as degraded; `"queue"` or `Queue(seconds=…)`, waiting until it is back; `"ask"`, a
            person decides about the draft; `"fail"`, the error. By default the draft, else the
            error.
        shedding: leave out work under pressure, audits first, then shadow drafts, then paid
            signals, never the answer: True, or `Shedding(…)`, which says what pressure is.
        name: name of the graph.

    Raises:
        ConfigurationError: something in the set-up cannot work; the message says what.
    """

    def __init__(  # noqa: PLR0913 - the contract's options
        self,
        small: ModelLike | None = None,
        large: ModelLike | None = None,
        *,
        tiers: Sequence[ModelLike] = (),
        price_of_error: float | None = None,
        max_harm: float | None = None,
        escalation_budget: float | None = None,
        policy: Policy | None = None,
        signals: Sequence[SignalLike] = (),
        calibrator: str | Path | Calibration | None = None,
        verifier: Judge | None = None,
        router: Route | None = None,
        response_format: ResponseFormat | None = None,
        tools: Sequence[Any] = (),
        tool_risks: ToolRisks | Mapping[str, Risk] | None = None,
        deadline: float | None = None,
        abort: bool | float = False,
        hedge: bool | float = False,
        reuse: Wanted | Reuse | str | Path | None = None,
        audit_rate: float | Audits | None = None,
        ledger: LedgerStore | None = None,
        tags: Mapping[str, str] | None = None,
        mode: Mode = "live",
        canary_share: float = 0.1,
        drift: Drift | Reaction | None = None,
        local_only: LocalOnly = False,
        private: Private | None = None,
        latch: bool | Latch = False,
        cache: BaseCache[Any] | Caching | None = None,
        observers: Sequence[Observer] = (),
        lessons: LessonKeeper | None = None,
        memory: Remembers | None = None,
        resilience: Resilience | Doors | None = USUAL,
        retry_policy: RetryPolicy | None = None,
        fallback: Given | None = None,
        shedding: bool | Shedding = False,
        name: str = "cascade",
    ) -> None:
        self.options = {option: value for option, value in locals().items() if option != "self"}
        check_kinds(self.options)
        self.name = name
        self.tiers = open_pair_or_tiers(small, large, tiers, local_only)
        self.calibration = load_calibration(calibrator)
        self.policy = choose_policy(
            self.tiers,
            self.calibration,
            policy=policy,
            price_of_error=price_of_error,
            max_harm=max_harm,
            escalation_budget=escalation_budget,
            deadline=deadline,
        )
        self.task = to_task(tools, response_format, tool_risks)
        self.signals = choose_signals(signals, self.calibration)
        self._signals_without_calibration = to_signals(signals)
        if self.calibration is not None:
            check_calibration(self.calibration, self.tiers, self.task)
        check_abort(abort, self.tiers, self.calibration, self.signals, verifier, tools)
        self._hedging = choose_hedging(hedge, self.tiers, deadline, local_only)
        self._reuse = choose_reuse(reuse, self.tiers, local_only)
        self._fallback = to_fallback(fallback, self.tiers, deadline, local_only)
        self._response_format = response_format
        self._warned = False
        check_local_only(self.options, self.tiers, self.policy)
        self._set_up(tags or {})

    def as_chat_model(self, **settings: Any) -> CascadeChatModel:
        """The cascade as a LangChain chat model.

        Args:
            settings: of `CascadeChatModel`, such as `temperature` or `disable_streaming`.
        """
        from cascade.integrations.chat_model import CascadeChatModel  # noqa: PLC0415 - stands above

        return CascadeChatModel(cascade=self, **settings)

    async def ainvoke(
        self, question: Question, config: RunnableConfig | None = None
    ) -> CascadeResult:
        """Ask one question.

        Raises:
            InputError: the question is empty or cannot be read.
            ModelError: no tier could answer; `error.ledger` holds what was spent.
        """
        messages = to_messages(question)
        await self._ready()
        with collecting() as entries, self._failing(entries):
            given = CascadeInput(messages=messages)
            state = await self._way(config).ainvoke(given, config)
            return self._result(state, entries)

    async def astream(
        self,
        question: Question,
        config: RunnableConfig | None = None,
        *,
        show: Show = "verified",
    ) -> AsyncGenerator[Event | CascadeResult]:
        """Ask one question and watch: decisions, then tokens, at last the `CascadeResult`.

        `show` is `verified`: no word before the decision; `optimistic`: drafts at once, as
        `Provisional`, and `Retracted` where one is rejected; or `final`: only the result. Raises
        as `ainvoke` does.
        """
        config = showing(show, config)
        if show == "final":
            yield await self.ainvoke(question, config)
            return
        messages = to_messages(question)
        await self._ready()
        given = CascadeInput(messages=messages)
        async with aclosing(self._run(self._way(config), given, config)) as events:
            async for event in events:
                yield event

    async def _run(
        self, graph: Any, given: Any, config: RunnableConfig | None
    ) -> AsyncGenerator[Event | CascadeResult]:
        """The events of a run of this graph: of a question, or of a run that goes on."""
        context = copy_context()
        entries = context.run(collect)
        events: Any
        if isinstance(graph, Walk):
            events = graph.astream(given, config, context)
        else:
            both = graph.astream(given, config, stream_mode=["custom", "values"])
            events = iterate_in(context, both)
        state: Any = None
        with self._failing(entries):
            async with aclosing(events) as steps:
                async for mode, value in steps:
                    if mode == "custom":
                        yield value
                    else:
                        state = value
            yield self._result(state, entries)

    def invoke(self, question: Question, config: RunnableConfig | None = None) -> CascadeResult:
        """`ainvoke` for synchronous callers, also inside a running event loop."""
        return run_sync(self.ainvoke(question, config))

    def stream(
        self,
        question: Question,
        config: RunnableConfig | None = None,
        *,
        show: Show = "verified",
    ) -> Generator[Event | CascadeResult]:
        """`astream` for synchronous callers."""
        return iterate_sync(self.astream(question, config, show=show))

    def build_graph(self) -> Any:
        """The uncompiled graph of this cascade, to be rewired or compiled with a checkpointer."""
        return self._builder

    async def aclose(self) -> None:
        """Finish audits that are under way, then close connections and free local models.

        The cascade may be used again afterwards.
        """
        await self.afinish()
        for keeper in (self.options["lessons"], self.options["memory"]):
            if keeper is not None:
                await keeper.aclose()
        for tier in (*self.tiers, *self._fallback.tiers):
            await tier.model.aclose()

    def close(self) -> None:
        """`aclose` for synchronous callers: `with Cascade(…) as cascade` ends with it."""
        run_sync(self.aclose())

    def __repr__(self) -> str:
        chain = " → ".join(f"{tier.name} ({tier.model.name})" for tier in self.tiers)
        return f"Cascade({chain}, {self.policy!r})"

    async def _ready(self) -> None:
        """Refuse a calibration of other weights, before the first question that can be checked."""
        await self._oversight.ready()
        if self.calibration is None or self._checked.is_set():
            return
        try:
            await check_weights(self.calibration, self.tiers, self.task)
        except ModelError as error:
            if not error.circumstantial:
                raise
            # The question will meet the same failure and go on; the next one is checked again.
            logger.warning("%s: the calibration could not be checked: %s", self.name, error)
            return
        self._checked.set()

    def _result(
        self, state: Any, entries: list[LedgerEntry], *, learns: bool = True
    ) -> CascadeResult:
        if "__interrupt__" in state:
            raise PersonNeededError(
                "a person is asked, by the policy or the fallback, which needs a checkpointer: use "
                "cascade.build_graph().compile(checkpointer=…) and resume it with Command, or "
                "as_chat_model() in a graph that has one.",
                state,
            )
        result = read_result(state, self.tiers[0].name, self._response_format)
        if learns and not state["run"].shadow:
            # Of a run that went on, what it had cost before is paid.
            self._paid(LedgerView(e for e in entries if e.run_id == result.run_id))
        if not result.calibrated and result.confidence is not None and not self._warned:
            self._warned = True
            logger.info(
                "%s: confidence is an uncalibrated score; it orders answers but is no probability. "
                "`cascade calibrate` makes one of it from 50 to 300 examples.",
                self.name,
            )
        return result

    def _paid(self, ledger: LedgerView) -> None:
        tell_cost(self.policy, ledger.known_cost_usd + ledger.assumed_usd)

    @contextmanager
    def _failing(self, entries: list[LedgerEntry], *, learns: bool = True) -> Iterator[None]:
        """A run that fails or is cancelled says what it spent, and its policy learns that. Nothing
        that it had under way outlives its caller."""
        try:
            yield
        except (CascadeError, asyncio.CancelledError) as error:
            ledger = LedgerView(entries)
            if learns:
                self._paid(ledger)
            if isinstance(error, CascadeError):
                error.ledger = ledger
            raise
        finally:
            if self._hedging is not None:
                self._hedging.release({entry.run_id for entry in entries})
