"""The cascade as a user holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy

from cascade._portal import iterate_sync, run_sync
from cascade._together import iterate_in, together
from cascade.agents import Judge, Route
from cascade.agents.expert import STREAM_TOKENS
from cascade.confidence.signals import SignalLike
from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.events import Event
from cascade.graph import DEFAULT_RETRY, build_graph
from cascade.ledger import LedgerStore, LedgerView, Recorder, collect, collecting
from cascade.observing import Observer, Observers
from cascade.oversight import oversee
from cascade.policies import Policy, tell_cost
from cascade.questions import Question, ResponseFormat, to_messages, to_task
from cascade.result import CascadeResult, read_result
from cascade.setup import (
    check_calibration,
    choose_policy,
    choose_signals,
    load_calibration,
    open_pair_or_tiers,
)
from cascade.state import CascadeInput, CascadeState, LedgerEntry
from cascade.tiers import ModelLike

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

BATCH_CONCURRENCY = 16
"""Questions of a batch that are under way at once, unless the caller says otherwise."""

logger = logging.getLogger("cascade")


class Cascade:
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
        deadline: seconds for a whole run. What would be escalated is accepted when the large
            model cannot answer in time, and no call gets more time than is left.
        ledger: a store that receives each entry the moment it arises.
        tags: of every ledger entry, such as `{"app": "support"}`; `tagged(user=…)` and a run's
            `config["metadata"]["ledger_tags"]` add to them.
        observers: who looks on: `Telemetry`, `PrometheusMetrics`, `RunLog` of
            `cascade.integrations`, or your own `cascade.observing.Observer`.
        retry_policy: LangGraph's retries for the nodes that call models.
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
        deadline: float | None = None,
        ledger: LedgerStore | None = None,
        tags: Mapping[str, str] | None = None,
        observers: Sequence[Observer] = (),
        retry_policy: RetryPolicy = DEFAULT_RETRY,
        name: str = "cascade",
    ) -> None:
        self.name = name
        self.tiers = open_pair_or_tiers(small, large, tiers)
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
        self.task = to_task(tools, response_format)
        self.signals = choose_signals(signals, self.calibration)
        if self.calibration is not None:
            check_calibration(self.calibration, self.tiers, self.task)
        self._response_format = response_format
        self._warned = False
        self._checked = self.calibration is None
        self._oversight = oversee(
            self.tiers, self.policy, Recorder(ledger, Observers(observers, name))
        )
        self._builder = build_graph(
            self.tiers,
            self._oversight.policy,
            recorder=self._oversight.recorder,
            task=self.task,
            signals=self.signals,
            calibrators={self.tiers[0].name: self.calibration} if self.calibration else {},
            judge=verifier,
            route=router,
            deadline_s=deadline,
            retry_policy=retry_policy,
            outlook=self._oversight.outlook,
            watchers=self._oversight.watchers,
            tags=tags or {},
        )
        self.graph: CompiledStateGraph[CascadeState, None, CascadeInput, CascadeState] = (
            self._builder.compile(name=name)
        )

    async def ainvoke(
        self, question: Question, config: RunnableConfig | None = None
    ) -> CascadeResult:
        """Ask one question.

        Raises:
            InputError: the question is empty or cannot be read.
            ModelError: no tier could answer; `error.ledger` holds what was spent.
        """
        messages = to_messages(question)
        await self._check_calibration()
        with collecting() as entries, _ledger_on_error(entries):
            state = await self.graph.ainvoke(CascadeInput(messages=messages), config)
            return self._result(state)

    async def astream(
        self, question: Question, config: RunnableConfig | None = None
    ) -> AsyncGenerator[Event | CascadeResult]:
        """Ask one question and watch: decisions, then tokens, at last the `CascadeResult`.

        A rejected draft is never shown. Raises as `ainvoke` does.
        """
        messages = to_messages(question)
        await self._check_calibration()
        asked = config or {}
        configurable = {**asked.get("configurable", {}), STREAM_TOKENS: True}
        config = RunnableConfig(**{**asked, "configurable": configurable})
        events: Any = self.graph.astream(
            CascadeInput(messages=messages), config, stream_mode=["custom", "values"]
        )
        context = copy_context()
        entries = context.run(collect)
        state: Any = None
        with _ledger_on_error(entries):
            async with aclosing(iterate_in(context, events)) as steps:
                async for mode, value in steps:
                    if mode == "custom":
                        yield value
                    else:
                        state = value
            yield self._result(state)

    @overload
    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: Literal[False] = False,
    ) -> list[CascadeResult]: ...

    @overload
    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: bool,
    ) -> list[CascadeResult | BaseException]: ...

    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = BATCH_CONCURRENCY,
        return_exceptions: bool = False,
    ) -> list[CascadeResult] | list[CascadeResult | BaseException]:
        """Ask many questions at once; results come in the order of the questions.

        Args:
            questions: what to ask.
            config: LangChain's run configuration, for each of them.
            max_concurrency: how many are under way at the same time.
            return_exceptions: put errors into their places instead of raising the first,
                which stops all other questions.
        """
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency}: must be 1 or more.")
        free = asyncio.Semaphore(max_concurrency)

        async def ask(question: Question) -> CascadeResult:
            async with free:
                return await self.ainvoke(question, config)

        asking = (ask(question) for question in questions)
        if return_exceptions:
            return await asyncio.gather(*asking, return_exceptions=True)
        return await together(asking)

    def invoke(self, question: Question, config: RunnableConfig | None = None) -> CascadeResult:
        """`ainvoke` for synchronous callers, also inside a running event loop."""
        return run_sync(self.ainvoke(question, config))

    def stream(
        self, question: Question, config: RunnableConfig | None = None
    ) -> Generator[Event | CascadeResult]:
        """`astream` for synchronous callers."""
        return iterate_sync(self.astream(question, config))

    @overload
    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: Literal[False] = False,
    ) -> list[CascadeResult]: ...

    @overload
    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: bool,
    ) -> list[CascadeResult | BaseException]: ...

    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = BATCH_CONCURRENCY,
        return_exceptions: bool = False,
    ) -> list[CascadeResult] | list[CascadeResult | BaseException]:
        """`abatch` for synchronous callers."""
        return run_sync(
            self.abatch(
                questions,
                config,
                max_concurrency=max_concurrency,
                return_exceptions=return_exceptions,
            )
        )

    def build_graph(self) -> Any:
        """The uncompiled graph of this cascade, to be rewired or compiled with a checkpointer."""
        return self._builder

    async def aclose(self) -> None:
        """Finish audits that are under way, then close connections and free local models.

        The cascade may be used again afterwards.
        """
        await self._oversight.aclose()
        self._oversight.recorder.observers.finish()
        for tier in self.tiers:
            await tier.model.aclose()

    async def __aenter__(self) -> Cascade:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        chain = " → ".join(f"{tier.name} ({tier.model.name})" for tier in self.tiers)
        return f"Cascade({chain}, {self.policy!r})"

    async def _check_calibration(self) -> None:
        """Refuse a calibration of other weights, before the first question that can be checked."""
        if self._checked or self.calibration is None:
            return
        try:
            digests = [await tier.model.digest() for tier in (self.tiers[0], self.tiers[-1])]
        except ModelError as error:
            if not error.circumstantial:
                raise
            # The question will meet the same failure and go on; the next one is checked again.
            logger.warning("%s: the calibration could not be checked: %s", self.name, error)
            return
        check_calibration(self.calibration, self.tiers, self.task, *digests)
        self._checked = True

    def _result(self, state: Any) -> CascadeResult:
        if "__interrupt__" in state:
            raise ConfigurationError(
                "the policy asked a person, which needs a checkpointer: use "
                "cascade.build_graph().compile(checkpointer=…) and resume it with Command."
            )
        result = read_result(state, self.tiers[0].name, self._response_format)
        tell_cost(self.policy, result.ledger.known_cost_usd + result.ledger.assumed_usd)
        if not result.calibrated and result.confidence is not None and not self._warned:
            self._warned = True
            logger.info(
                "%s: confidence is an uncalibrated score; it orders answers but is no probability. "
                "`cascade calibrate` makes one of it from 50 to 300 examples.",
                self.name,
            )
        return result


@contextmanager
def _ledger_on_error(entries: list[LedgerEntry]) -> Iterator[None]:
    try:
        yield
    except CascadeError as error:
        error.ledger = LedgerView(entries)
        raise
